"""The many forms in which servers answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ray_executor_worker.completion import Answer, read_completion, read_refusal
from ray_executor_worker.endpoint import CallError
from ray_executor_worker.retry import retry_after
from ray_executor_worker.usage import Usage

USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


def body(message: Any, finish_reason: Any = "stop", **more: Any) -> bytes:
    choice = {"message": message, "finish_reason": finish_reason}
    return json.dumps({"choices": [choice], **more}).encode()


def said(content: str, reasoning: str = "", **metadata: str) -> Answer:
    return Answer(content, reasoning, {"finish_reason": "stop", **metadata})


def stream(*events: Any, done: bool = True) -> bytes:
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    return "".join([": ping\n\n", *lines, "data: [DONE]\n\n" if done else ""]).encode()


def delta(finish_reason: Any = None, **message: Any) -> dict[str, Any]:
    return {"choices": [{"delta": message, "finish_reason": finish_reason}], "usage": None}


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        (body({"content": "yes"}), said("yes")),
        (b"\xef\xbb\xbf\n  " + body({"content": "yes"}), said("yes")),
        (body({"content": "yes"}, error=None), said("yes")),
        (
            body({"content": [{"type": "text", "text": "y"}, {"type": "image_url"}, "es"]}),
            said("yes"),
        ),
        (body({"content": "yes", "reasoning": "so"}), said("yes", "so")),
        (body({"content": "yes", "reasoning_content": "so", "reasoning": None}), said("yes", "so")),
        (body({"content": "yes"}, "length"), said("yes", finish_reason="length", truncated="true")),
        (
            stream(
                delta(role="assistant", content=""),
                delta(reasoning="s"),
                delta(reasoning="o"),
                delta(content="y"),
                delta("stop", content="es"),
                {"choices": [], "usage": USAGE},
            ),
            said("yes", "so", **{name: str(value) for name, value in USAGE.items()}),
        ),
    ],
)
def test_answers(answer: bytes, read: Answer) -> None:
    assert read_completion(answer, Usage()) == read


@pytest.mark.parametrize(
    ("answer", "error_type", "text", "retryable"),
    [
        (
            b'{"error": {"message": "boom", "type": "server_error"}}',
            "bad_response",
            "boom (HTTP 200)",
            True,
        ),
        (b'{"error": {"message": "slow down", "code": 429}}', "bad_response", "slow down", True),
        (b'{"error": {"message": "full", "type": "overloaded_error"}}', "overloaded", "full", True),
        (
            b'{"error": {"message": "no", "type": "invalid_request_error"}}',
            "bad_response",
            "no",
            False,
        ),
        (b'{"error": {"message": "no such", "code": "404"}}', "bad_response", "no such", False),
        (b'{"error": "boom"}', "bad_response", "boom", True),
        (b'\n\n   {"error": {"message": "late"}}', "bad_response", "late", True),
        (
            b'{"error": {"message": "maximum context length is 8 tokens", "code": 400}}',
            "context_length",
            "maximum context length",
            False,
        ),
        (b'{"choices": null}', "bad_response", "not a chat completion: it has no choices", False),
        (b'{"choices": []}', "bad_response", "not a chat completion: it has no choices", False),
        (b"{}", "bad_response", "not a chat completion: it has no choices", False),
        (
            b'{"choices": [{}]}',
            "bad_response",
            "not a chat completion: its choice has no mess",
            False,
        ),
        (b"[]", "bad_response", "not a chat completion: it is no JSON object", False),
        (b"", "bad_response", "not a chat completion: JSONDecodeError", False),
        (b"[" * 60_000, "bad_response", "not a chat completion: RecursionError", False),
        (
            b"<!doctype html><html><title>Sign in</title>",
            "bad_response",
            "not a chat completion: a web page (Sign in); is vllm_url right?",
            False,
        ),
        (body({"content": "half"}, "error"), "bad_response", "the model server reports", True),
        (body({"content": 7}), "bad_response", "not a chat completion: content is neither", False),
        (body({"content": None}), "empty_content", "the model answered with empty content", False),
        (body({"content": " "}, None), "empty_content", "the model answered with empty", False),
        (body({"refusal": "I cannot."}), "empty_content", "I cannot. (the model refused)", False),
        (
            body({"content": None, "tool_calls": [{}]}),
            "empty_content",
            "the model called to",
            False,
        ),
        (
            body({"content": None, "reasoning": "hm"}, "length"),
            "empty_content",
            "the model reasoned and wrote no content; a larger max_tokens",
            False,
        ),
        (
            stream(delta(content="y"), done=False),
            "bad_response",
            "not a chat completion: a str",
            False,
        ),
        (stream({"error": {"message": "boom"}}), "bad_response", "boom", True),
        (b'data: {"choices": ["x"]}\n\n', "bad_response", "not a chat completion: a st", False),
        (b'data: {"choices": {"a": 1}}\n\n', "bad_response", "not a chat completion: a st", False),
        (
            b'data: {"choices": [{"delta": "x"}]}\n\n',
            "bad_response",
            "not a chat completion: a stream with a chunk",
            False,
        ),
        (
            b'{"error": {"message": "full", "type": "Service Unavailable"}}',
            "overloaded",
            "full",
            True,
        ),
        (b"data: {\n\n", "bad_response", "not a chat completion: a stream with", False),
    ],
)
def test_what_is_no_answer(answer: bytes, error_type: str, text: str, retryable: bool) -> None:  # noqa: FBT001
    with pytest.raises(CallError) as failure:
        read_completion(answer, Usage())
    assert failure.value.text.startswith(text)
    assert (failure.value.error_type, failure.value.retryable) == (error_type, retryable)


@pytest.mark.parametrize(
    ("status", "answer", "error_type", "text", "retryable"),
    [
        (
            404,
            b'{"error": {"message": "no such model"}}',
            "http_status",
            "no such model (HTTP 404)",
            False,
        ),
        (500, b'{"detail": "boom"}', "http_status", "boom (HTTP 500)", True),
        (502, b"<html><title>Bad Gateway</title>", "http_status", "a web page (Bad Gateway)", True),
        (429, b"", "http_status", "reason (HTTP 429)", True),
        (307, b"", "http_status", "redirects are not followed (HTTP 307)", False),
        (
            503,
            b'{"error": {"message": "full", "type": "Service Unavailable"}}',
            "overloaded",
            "full",
            True,
        ),
        (
            400,
            b'{"error": {"message": "This model\'s maximum context length is 8.", "code": 400}}',
            "context_length",
            "This model's maximum",
            False,
        ),
        (
            400,
            b'{"error": {"message": "m", "code": "context_length_exceeded"}}',
            "context_length",
            "m",
            False,
        ),
    ],
)
def test_refusals(status: int, answer: bytes, error_type: str, text: str, retryable: bool) -> None:  # noqa: FBT001
    failure = read_refusal(status, "reason", {}, answer)
    assert failure.text.startswith(text)
    assert (failure.error_type, failure.retryable) == (error_type, retryable)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "4.5"}, 4.5),
        ({"Retry-After": "4"}, 4.0),
        ({"retry-after-ms": "250", "Retry-After": "9"}, 0.25),
        ({"retry-after-ms": "soon", "Retry-After": "9"}, 9.0),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds
