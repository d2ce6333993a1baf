"""The call of an OpenAI-compatible model server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Callable, Optional, Union

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.tracing import Trace
from yarl import URL

from .answers import SHORT_BYTES, Room
from .asking import Asking, Idle, Server
from .chat import Chat
from .completion import Answer, read_completion, read_refusal
from .endpoint import CallError, Endpoint, Endpoints
from .hosts import AllowedHosts, model_base
from .metrics import Metrics
from .reach import unreachable
from .response_format import FormatChecker, ResponseFormat
from .retry import Progress, Retrier

log = logging.getLogger(f"ray.serve.{__name__}")

# A proposal is text; more than this is a server gone wrong.
MAX_BODY_BYTES = 4 * 1024 * 1024
# The rest of a long answer must arrive within this: others wait for its room.
_LONG_S = 60.0
_MAX_ERROR_BODY_BYTES = 64 * 1024
_MAX_ERROR_CHARS = 500
# Below uvicorn's 5 s, vLLM's default: a connection that the server is about
# to close is not used again.
_KEEPALIVE_S = 3.0
_CONNECT_S = 10.0
_JSON = "application/json"


@contextlib.asynccontextmanager
async def _idle() -> AsyncIterator[None]:
    yield


@dataclass(frozen=True)
class Question:
    """One agent's call, and its bounds."""

    # The base URL and the model of each server, in the order in which they are asked.
    servers: Sequence[tuple[str, str]]
    # Called with the model for each try: the prompts are not held while it waits.
    chat: Callable[[str], Chat]
    # Whether its body is sent in chunks, as it is made.
    large: bool
    max_retries: int
    # On the loop's monotonic clock.
    deadline: float
    # Taken where the answer is long, and given back where it fails.
    room: Room
    # What the proposal must look like.
    form: Optional[ResponseFormat] = None
    # X-Request-Id of each try, but for its number.
    request_id: str = ""
    # The deliberation's trace context (W3C), where it has one.
    traceparent: str = ""


class ModelClient:
    """Calls models over shared connections; use it inside one event loop."""

    def __init__(
        self,
        hosts: AllowedHosts,
        api_key: str,
        *,
        retrier: Optional[Retrier] = None,
        max_body_bytes: int = MAX_BODY_BYTES,
        metrics: Optional[Metrics] = None,
    ) -> None:
        self._hosts = hosts
        self._endpoint = lru_cache(maxsize=256)(self._allowed)
        self._api_key = api_key
        self._retrier = retrier or Retrier()
        self._endpoints = Endpoints(self._retrier.now, self._retrier.sleep, metrics)
        self._max_body_bytes = max_body_bytes
        self._formats = FormatChecker()
        # Held by whoever makes a chunk of a large body.
        self._turn = asyncio.Lock()
        self._headers = {
            "Content-Type": _JSON,
            "Accept": _JSON,
            "Accept-Encoding": "identity",
        }
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._session = aiohttp.ClientSession(
            # The pools bound how many calls there are, the deadline how long one takes.
            connector=_Connector(self._endpoints, limit=0, keepalive_timeout=_KEEPALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            # A few bytes of gzip could be any number of an answer's.
            auto_decompress=False,
        )

    async def close(self) -> None:
        """Closes all connections, also those in use."""
        await self._formats.close()
        await self._session.close()

    def on_wait(self, changed: Callable[[], None]) -> None:
        """Has it called when agents begin or cease to wait for a server."""
        self._endpoints.changed = changed

    def awaited(self) -> list[tuple[str, str]]:
        """The servers that agents wait for, and why."""
        return self._endpoints.awaited()

    async def ask(self, question: Question, progress: Progress, idle: Idle = _idle) -> Answer:
        """Asks until there is an answer or no use in asking; raises CallError.

        It waits in `idle` for a server that is away. Cancelling closes the
        connection, by which vLLM stops generating.
        """
        servers = [self._server(*server, question, progress) for server in question.servers]
        number, answer = await Asking(
            servers, self._retrier, question.max_retries, question.deadline, progress, idle
        ).answer()
        if not number:
            return answer
        return replace(answer, metadata={**answer.metadata, "model": question.servers[number][1]})

    def _server(self, base_url: str, model: str, question: Question, progress: Progress) -> Server:
        try:
            url = self._endpoint(base_url)
        except CallError as error:
            return Server(Endpoint(""), _never, error=error)
        call = partial(self._call, url, model, question, progress)
        return Server(self._endpoints.at(_name(url)), call)

    async def answer_in(self, text: str, form: ResponseFormat) -> tuple[Optional[str], str]:
        """What a proposal votes for; or why for nothing."""
        return await self._formats.answer(form, text)

    def _allowed(self, base_url: str) -> URL:
        if not base_url:
            raise CallError("invalid_request", "no model server: neither request nor VLLM_URL")
        try:
            url = URL(model_base(base_url) + "/v1/chat/completions")
        except ValueError as error:
            raise CallError("invalid_request", f"vllm_url: {error}") from error
        if not self._hosts.covers(url):
            raise CallError(
                "host_not_allowed", f"host {url.host}:{url.port} is not covered by MODEL_HOSTS"
            )
        return url

    async def _call(self, url: URL, model: str, question: Question, progress: Progress) -> Answer:
        chat = question.chat(model)
        progress.calls += 1
        headers = {**self._headers, "X-Request-Id": f"{question.request_id}.{progress.calls}"}
        if question.traceparent:
            headers["traceparent"] = question.traceparent
        body: Union[bytes, AsyncIterator[bytes]]
        if question.large:
            headers["Content-Length"] = str(await chat.length(self._turn))
            body = chat.chunks(self._turn)
        else:
            body = chat.whole()
        progress.usage.requests += 1
        try:
            # One coroutine less while it waits than `async with` alone.
            async with await self._session.post(
                url, data=body, headers=headers, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise await self._refusal(response)
                body = self._scrub(await self._read(response, question.room))
                answer = read_completion(body, progress.usage)
            await self._check_form(answer, question.form)
            return answer
        except CallError as error:
            question.room.release()
            progress.usage.requests -= not error.sent
            error.text, error.why = self._clean(error.text), self._clean(error.why)
            log.debug("call of %s failed: %s", url.host, error.text)
            raise
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            question.room.release()
            failure = unreachable(error, _name(url)) or CallError(
                "connection", self._clean(_text(error)), retryable=True, broken=True
            )
            progress.usage.requests -= not failure.sent
            log.debug("call of %s failed: %s", url.host, failure.text)
            raise failure from error

    async def _read(self, response: aiohttp.ClientResponse, room: Room) -> bytes:
        """The body of an answer. The connection waits while a long one waits for room."""
        most = self._max_body_bytes
        # One whose length says that it is too long is not read at all.
        length = response.content_length or 0
        body = b"" if length > most else await _read_up_to(response, SHORT_BYTES)
        if len(body) > SHORT_BYTES:
            await room.take()
            body += await asyncio.wait_for(_read_up_to(response, most - len(body)), _LONG_S)
        if max(length, len(body)) > most:
            response.close()  # what is left is not wanted
            raise CallError("too_large", f"the answer exceeds {most} bytes")
        return body

    async def _check_form(self, answer: Answer, form: Optional[ResponseFormat]) -> None:
        if form is None:
            return
        misfit = await self._formats.check(form, answer.content)
        if misfit is not None:
            raise CallError(
                "schema", f"the proposal does not fit response_format: {misfit}", retryable=True
            )

    async def _refusal(self, response: aiohttp.ClientResponse) -> CallError:
        try:
            body = await _read_up_to(response, _MAX_ERROR_BODY_BYTES)
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError):
            body = b""  # the status alone says enough
        body = self._scrub(body)
        return read_refusal(response.status, response.reason or "", response.headers, body)

    def _scrub(self, body: bytes) -> bytes:
        """An answer without the key, before any part of it is cut."""
        key = self._api_key.encode()
        return body.replace(key, b"***") if key and key in body else body

    def _clean(self, text: str) -> str:
        """One bounded line without the key: it goes into the journal."""
        if self._api_key:
            text = text.replace(self._api_key, "***")
        text = " ".join(text.split())
        return text if len(text) <= _MAX_ERROR_CHARS else text[: _MAX_ERROR_CHARS - 1] + "…"


class _Connector(aiohttp.TCPConnector):
    """Opens only so many connections to a server at the same time."""

    def __init__(self, endpoints: Endpoints, *, limit: int, keepalive_timeout: float) -> None:
        super().__init__(limit=limit, keepalive_timeout=keepalive_timeout)
        self._endpoints = endpoints

    # What aiohttp's own connectors override, and no public place does as well:
    # here alone it is known that there is no connection to use again.
    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        endpoint = self._endpoints.at(_name(req.url))
        waits = endpoint.opening.locked()
        async with endpoint.opening:
            if waits and endpoint.left_alone:
                raise endpoint.refusal()
            return await super()._create_connection(req, traces, timeout)


async def _never() -> Answer:
    raise AssertionError("a server that must not be asked")


def _name(url: URL) -> str:
    return f"{url.host}:{url.port}"


def _text(error: BaseException) -> str:
    text = str(error)
    name = type(error).__name__
    return f"{name}: {text}" if text else name


async def _read_up_to(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body, or its first bytes, more than limit, where it is longer."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            break
    return b"".join(chunks)
