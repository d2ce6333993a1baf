"""Reads what an OpenAI-compatible server answers: a completion, or why there is none.

Servers, and the gateways before them, do not agree on the form of an error.
Each form here was seen: an error object with status 200, `choices: null`, a
login page, a stream that nobody asked for. The server's own text comes first in
an error, because a person reads it; it also decides whether a retry can help.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Optional

from .endpoint import CallError
from .retry import retry_after, retryable_status
from .usage import Usage

_MAX_ERROR_CHARS = 500
_MAX_REASON_CHARS = 100
_OK = 200
# What servers say of a prompt that is too long, and OpenAI's code for it.
_CONTEXT = ("maximum context length", "context_length_exceeded", "longer than the maximum model")
# Types of error objects that another try does not mend.
_FINAL = ("invalid", "badrequest", "notfound", "not_found", "auth", "permission", "validation")


@dataclass(frozen=True)
class Answer:
    """What a model said."""

    content: str
    reasoning: str
    # finish_reason, truncated, and token counts, where the server has them.
    metadata: Mapping[str, str]


def read_completion(body: bytes, usage: Usage) -> Answer:
    """Reads the body of a 200; raises CallError where it holds no proposal.

    Adds to the usage what the server counted, also where there is no proposal.
    """
    parsed = _parse(body)
    usage.add_reported(parsed.get("usage"))
    if parsed.get("error"):
        raise _failure(_OK, parsed["error"], {})
    choices = parsed.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        raise _bad("it has no choices")
    finish_reason = choice.get("finish_reason")
    if choice.get("error") or finish_reason == "error":
        raise _failure(_OK, choice.get("error") or "the model server reports an error", {})
    message = choice.get("message")
    if not isinstance(message, dict):
        raise _bad("its choice has no message")
    content = _content(message.get("content"))
    if not content.strip():
        raise CallError("empty_content", _why_empty(message, finish_reason))
    return Answer(content, _reasoning(message), _metadata(finish_reason, parsed.get("usage")))


def read_refusal(status: int, reason: str, headers: Mapping[str, str], body: bytes) -> CallError:
    """The failure that an answer with another status than 200 says."""
    if 300 <= status <= 399:
        return CallError("http_status", f"redirects are not followed (HTTP {status})")
    return _failure(status, read_error(body) or reason or "no reason given", headers)


def read_error(body: bytes) -> Any:
    """What the server says went wrong: OpenAI sends an object, others a string or plain text."""
    text = body.decode("utf-8", errors="replace").strip()
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return _page(text) or text
    if not isinstance(parsed, dict):
        return text
    # FastAPI sends `detail`, and some gateways a bare `message`.
    return parsed.get("error") or parsed.get("detail") or parsed.get("message") or text


def own_admission(error: Any, headers: Mapping[str, str]) -> bool:
    """Whether a 503 is from a server that works and has too much to do.

    vLLM (--max-num-queued-reqs) sends an error object of the type "Service
    Unavailable"; a proxy whose server is gone sends a page, or plain text.
    """
    if not isinstance(error, dict):
        return False
    kind = str(error.get("type")).casefold()
    if "unavailable" in kind or "overload" in kind:
        return True
    return "Retry-After" in headers and "type" in error and "internal" not in kind


def _failure(status: int, error: Any, headers: Mapping[str, str]) -> CallError:
    message = error.get("message") if isinstance(error, dict) else error
    text = message if isinstance(message, str) and message else json.dumps(error)
    where = f" (HTTP {status})"
    kind, code = "", status
    if isinstance(error, dict):
        kind = f"{error.get('type')} {error.get('code')}".casefold().replace(" ", "")
        code = _code(error.get("code"), status)
    if any(words in f"{text} {kind}".casefold() for words in _CONTEXT):
        return CallError("context_length", text + where)
    full = (code == 503 and own_admission(error, headers)) or (
        status == _OK and ("overload" in kind or "unavailable" in kind)
    )
    if status == _OK and code == _OK:
        retryable = not any(word in kind for word in _FINAL)
    else:
        retryable = retryable_status(code)
    return CallError(
        "overloaded" if full else "bad_response" if status == _OK else "http_status",
        text + where,
        retryable=retryable or full,
        retry_after=retry_after(headers) if retryable or full else None,
        broken=code >= 500 and code != 503,
        away=full or code == 503,
    )


def _code(code: Any, status: int) -> int:
    """The HTTP status that an error object names in a 200; gateways pass it on so."""
    if status != _OK:
        return status
    if isinstance(code, str) and code.isascii() and code.isdigit():
        code = int(code[:4])
    return code if isinstance(code, int) and 400 <= code <= 599 else status


def _parse(body: bytes) -> dict[str, Any]:
    text = body.decode("utf-8-sig", errors="replace").strip()
    if text.startswith(("data:", "event:", ": ")):
        return _joined(_events(text))
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        page = _page(text)
        raise _bad(page or f"{type(error).__name__}: {error}") from error
    if not isinstance(parsed, dict):
        raise _bad("it is no JSON object")
    return parsed


def _page(text: str) -> Optional[str]:
    """What a web page in place of an answer says, by its title."""
    if not text.startswith("<"):
        return None
    begin = text.casefold().find("<title>")
    title = text[begin + len("<title>") :].partition("<")[0].strip() if begin >= 0 else ""
    return f"a web page{f' ({title[:_MAX_REASON_CHARS]})' if title else ''}; is vllm_url right?"


def _events(text: str) -> Iterator[Any]:
    """The data of a stream of server-sent events."""
    for line in text.splitlines():
        field, _, data = line.partition(":")
        if field != "data" or data.strip() == "[DONE]":
            continue
        try:
            yield json.loads(data)
        except (ValueError, RecursionError) as error:
            raise _bad(f"a stream with an event that is no JSON: {error}") from error


def _joined(events: Iterator[Any]) -> dict[str, Any]:
    """The whole completion that the chunks of a stream make."""
    texts: dict[str, list[str]] = {"content": [], "reasoning": []}
    whole: dict[str, Any] = {}
    finish_reason = None
    for event in events:
        if not isinstance(event, dict):
            raise _bad("a stream with an event that is no JSON object")
        if event.get("error"):
            return {"error": event["error"]}
        whole["usage"] = event.get("usage") or whole.get("usage")
        choices = event.get("choices")
        for choice in choices[:1] if isinstance(choices, list) else ():
            delta = choice.get("delta") if isinstance(choice, dict) else None
            if not isinstance(delta, dict):
                raise _bad("a stream with a chunk that has no delta")
            texts["content"].append(_content(delta.get("content")))
            texts["reasoning"].append(_reasoning(delta))
            finish_reason = choice.get("finish_reason") or finish_reason
    if finish_reason is None:
        raise _bad("a stream that was not asked for, and that breaks off")
    message = {name: "".join(pieces) for name, pieces in texts.items()}
    return {**whole, "choices": [{"message": message, "finish_reason": finish_reason}]}


def _content(content: Any) -> str:
    """The text of a message: a string, or a list of parts of which the text counts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _bad("content is neither text nor a list of parts")
    texts = [part.get("text") if isinstance(part, dict) else part for part in content]
    return "".join(text for text in texts if isinstance(text, str))


def _why_empty(message: Mapping[str, Any], finish_reason: Any) -> str:
    refusal = message.get("refusal")
    if refusal and isinstance(refusal, str):
        return f"{refusal[:_MAX_ERROR_CHARS]} (the model refused)"
    why = "the model answered with empty content"
    if message.get("tool_calls"):
        why = "the model called tools, of which it has none, and wrote no content"
    elif _reasoning(message):
        why = "the model reasoned and wrote no content"
        if finish_reason == "length":
            why += "; a larger max_tokens leaves room for it"
    if isinstance(finish_reason, str):
        why += f" (finish_reason {finish_reason[:_MAX_REASON_CHARS]})"
    return why


def _reasoning(message: Mapping[str, Any]) -> str:
    for name in ("reasoning", "reasoning_content"):
        value = message.get(name)
        if value and isinstance(value, str):
            return value
    return ""


def _metadata(finish_reason: Any, usage: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    if isinstance(finish_reason, str):
        found["finish_reason"] = finish_reason[:_MAX_REASON_CHARS]
        if finish_reason == "length":
            found["truncated"] = "true"
    if isinstance(usage, dict):
        for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
            if isinstance(usage.get(name), int):
                found[name] = str(usage[name])
    return found


def _bad(why: str) -> CallError:
    return CallError("bad_response", f"not a chat completion: {why}"[:_MAX_ERROR_CHARS])
