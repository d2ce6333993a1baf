"""The client for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import Any, Generic, Optional, TypeVar, cast

import httpx

from . import _flows, messages
from ._connect import Response, too_large
from ._flows import Action, Broken, Caller, Deadline, Emit, Flow, Open, Outcome, Pause, Post, Read
from ._options import (
    DEFAULT_MAX_RESPONSE_BYTES,
    DEFAULT_RETRIES,
    DEFAULT_TIMEOUT,
    Token,
    broken,
    caller,
    timeouts,
)
from ._requests import AnyAgent, submission

R = TypeVar("R")
E = TypeVar("E")
# In Client, list is a method.
Jobs = list[messages.JobInfo]


class AsyncClient:
    """Calls a ray-executor from asyncio; the same as Client, awaited.

    The arguments are those of Client; ``http_client`` is an httpx.AsyncClient.
    A client belongs to one event loop. Close it, or use it in an ``async with``
    statement.

    A submit that is cancelled may have been accepted: name a
    ``deliberation_id`` where you want to submit again.
    """

    def __init__(  # noqa: PLR0913 - settings, each with its name
        self,
        url: str,
        *,
        token: Token = None,
        timeout: float = DEFAULT_TIMEOUT,
        retries: int = DEFAULT_RETRIES,
        max_response_bytes: int = DEFAULT_MAX_RESPONSE_BYTES,
        headers: Optional[Mapping[str, str]] = None,
        http_client: Optional[httpx.AsyncClient] = None,
    ) -> None:
        Deadline(timeout)  # checked
        self._caller = caller(url, token, retries, max_response_bytes, headers)
        self._timeout = timeout
        self._http = httpx.AsyncClient() if http_client is None else http_client
        self._owned = http_client is None

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        exc_type: Optional[type[BaseException]],
        exc: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._caller.url!r})"

    async def close(self) -> None:
        """Closes the connections. Closing twice is fine."""
        if self._owned:
            await self._http.aclose()

    async def submit(  # noqa: PLR0913 - as many as a request has
        self,
        task_description: str,
        *,
        agents: Iterable[AnyAgent],
        task_id: Optional[str] = None,
        role: str = "DEV",
        deliberation_id: Optional[str] = None,
        pool: str = "",
        timeout_seconds: Optional[int] = None,
        max_retries: Optional[int] = None,
        metadata: Optional[Mapping[str, str]] = None,
        labels: Optional[Mapping[str, str]] = None,
        story_id: str = "",
        plan_id: str = "",
        model: str = "",
        vllm_url: str = "",
        sampling: Optional[messages.Sampling] = None,
        response_format: Optional[messages.ResponseFormat] = None,
        strategy: Optional[messages.Strategy] = None,
        traceparent: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> AsyncDeliberation:
        """Submits a task and returns once it is accepted: it will end exactly once.

        ``agents`` are 1 to 256 agents, or their ids. ``task_id`` is your name of the
        task, repeated in every event; the deliberation's id if you give none.
        ``role`` is that of agents which name none. ``deliberation_id`` makes
        your own repeats safe: the same request with the same id is the same
        deliberation. Without one the client chooses an id before the first try,
        so its retries are always safe. ``pool`` is the queue. ``timeout_seconds``
        bounds the deliberation, queueing included (300 if not given), and
        ``max_retries`` the retries of each agent's model call (3). ``metadata``
        has values for prompt templates, ``labels`` names for ``list``.
        ``model`` and ``vllm_url`` replace the operator's. ``traceparent`` is a W3C trace context.

        ``timeout`` is the seconds for this call, not for the deliberation.

        Raises InvalidArgument for a value out of range, Conflict if the id
        belongs to another request, TooLarge above 1 MiB, LimitReached.
        """
        request = submission(
            task_description,
            agents=agents,
            task_id=task_id,
            role=role,
            deliberation_id=deliberation_id,
            pool=pool,
            timeout_seconds=timeout_seconds,
            max_retries=max_retries,
            metadata=metadata,
            labels=labels,
            story_id=story_id,
            plan_id=plan_id,
            model=model,
            vllm_url=vllm_url,
            sampling=sampling,
            response_format=response_format,
            strategy=strategy,
        )
        return await self.submit_request(request, traceparent=traceparent, timeout=timeout)

    async def submit_request(
        self,
        request: messages.ExecuteDeliberationRequest,
        *,
        traceparent: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> AsyncDeliberation:
        """Submits a whole request, as ``submit`` does. One without an id gets one."""
        sent = _flows.with_id(request)
        receipt = await self._run(
            _flows.call(
                self._caller,
                "ExecuteDeliberation",
                sent,
                messages.ExecuteDeliberationResponse,
                self._deadline(timeout),
                deliberation_id=sent.deliberation_id,
                traceparent=traceparent,
            )
        )
        return AsyncDeliberation(self, receipt)

    async def status(
        self, deliberation_id: str, *, timeout: Optional[float] = None
    ) -> messages.GetDeliberationStatusResponse:
        """Returns a deliberation's state and its results so far. Raises NotFound."""
        return await self._run(
            _flows.status(self._caller, deliberation_id, self._deadline(timeout))
        )

    async def wait(
        self, deliberation_id: str, *, timeout: Optional[float] = None
    ) -> messages.GetDeliberationStatusResponse:
        """Waits until a deliberation has ended, and returns its status.

        The status is ``completed``, ``failed`` or ``cancelled``. ``timeout`` is the
        seconds to wait for the end; None waits as long as it takes. Raises
        DeadlineExceeded, which is a TimeoutError, if it has not ended by then;
        and NotFound. The wait survives cuts and restarts of the server.
        """
        return await self._run(_flows.wait(self._caller, deliberation_id, timeout, self._timeout))

    def watch(
        self, deliberation_id: str, *, after_sequence: int = 0, timeout: Optional[float] = None
    ) -> AsyncWatch[messages.WatchDeliberationResponse]:
        """Iterates over a deliberation's events, from the first one to its end.

        Each event comes once, in order: a watch that is cut is resumed behind
        the last event. ``after_sequence`` resumes behind an event that you have
        seen, by its ``sequence``. ``timeout`` is the seconds for the whole
        watch; None watches as long as it takes. Raises NotFound,
        DeadlineExceeded. Use it in an ``async with`` statement to close the stream
        when you leave early.
        """
        return AsyncWatch(
            self._running(
                _flows.watch(self._caller, deliberation_id, after_sequence, Deadline(timeout))
            )
        )

    def list(  # noqa: PLR0913 - as many as a list has
        self,
        *,
        state: str = "",
        pool: str = "",
        task_id: str = "",
        labels: Optional[Mapping[str, str]] = None,
        page_size: int = 0,
        timeout: Optional[float] = None,
    ) -> AsyncWatch[messages.DeliberationSummary]:
        """Iterates over the deliberations in the journal, newest first.

        ``state`` is one of queued, running, completed, failed, cancelled; ``pool``
        and ``task_id`` filter too, and ``labels``, which a deliberation must all
        have. Pages are read as they are needed: ``page_size``
        is their size, 1 to 200 (50 if not given), and ``timeout`` the seconds
        for each.
        """
        return AsyncWatch(
            self._running(
                _flows.pages(
                    self._caller,
                    messages.ListDeliberationsRequest(
                        state=state,
                        pool=pool,
                        task_id=task_id,
                        labels=[f"{key}={value}" for key, value in (labels or {}).items()],
                        page_size=page_size,
                    ),
                    self._timeout if timeout is None else timeout,
                )
            )
        )

    async def list_page(
        self, request: messages.ListDeliberationsRequest, *, timeout: Optional[float] = None
    ) -> messages.ListDeliberationsResponse:
        """Returns one page of a list, with the token of the next one."""
        return await self._run(
            _flows.call(
                self._caller,
                "ListDeliberations",
                request,
                messages.ListDeliberationsResponse,
                self._deadline(timeout),
            )
        )

    async def cancel(
        self,
        deliberation_id: str,
        *,
        reason: str = "",
        traceparent: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> messages.CancelDeliberationResponse:
        """Ends a deliberation that has not ended yet; repeating it is safe.

        The reply's status is the recorded end: ``cancelled``, or ``completed``
        or ``failed`` if that came first. Raises NotFound.
        """
        return await self._run(
            _flows.call(
                self._caller,
                "CancelDeliberation",
                messages.CancelDeliberationRequest(deliberation_id=deliberation_id, reason=reason),
                messages.CancelDeliberationResponse,
                self._deadline(timeout),
                deliberation_id=deliberation_id,
                traceparent=traceparent,
            )
        )

    async def stats(self, *, timeout: Optional[float] = None) -> messages.GetStatusResponse:
        """Returns the service's health, its counts in ``stats``, and its Ray clusters."""
        return await self._run(
            _flows.call(
                self._caller,
                "GetStatus",
                messages.GetStatusRequest(include_stats=True),
                messages.GetStatusResponse,
                self._deadline(timeout),
            )
        )

    async def jobs(self, *, timeout: Optional[float] = None) -> Jobs:
        """Returns the queued and running deliberations, oldest first, at most 1,000."""
        reply = await self._run(
            _flows.call(
                self._caller,
                "GetActiveJobs",
                messages.GetActiveJobsRequest(),
                messages.GetActiveJobsResponse,
                self._deadline(timeout),
            )
        )
        return [*reply.jobs]

    def _deadline(self, timeout: Optional[float]) -> Deadline:
        return Deadline(self._timeout if timeout is None else timeout)

    def _running(self, flow: Flow[R]) -> _Running[R]:
        return _Running(self._http, self._caller, flow)

    async def _run(self, flow: Flow[R]) -> R:
        running = self._running(flow)
        while await running.step():
            pass
        return cast("R", running.result)


class _Running(Generic[R]):
    """Carries out a flow's actions, and stops at each item that it emits."""

    def __init__(self, http: httpx.AsyncClient, caller: Caller, flow: Flow[R]) -> None:
        self._http = http
        self._caller = caller
        self._flow = flow
        self._stream: Optional[_Stream] = None
        self.item: Any = None
        self.result: Optional[R] = None

    async def step(self) -> bool:
        """Goes on to the next item; returns False at the end."""
        value: Outcome = None
        try:
            while True:
                action: Action = self._flow.send(value)
                value = None
                if isinstance(action, Emit):
                    self.item = action.item
                    return True
                if isinstance(action, Pause):
                    await asyncio.sleep(action.seconds)
                elif isinstance(action, Read):
                    value = await self._stream.read() if self._stream else b""
                else:
                    value = await self._post(action)
        except StopIteration as done:
            self.result = done.value
            await self.close()
            return False
        except BaseException:
            await self.close()
            raise

    async def _post(self, action: Post) -> Outcome:
        await self._close_stream()
        request = self._http.build_request(
            "POST",
            self._caller.url + action.path,
            headers=action.headers,
            content=action.body,
            timeout=timeouts(action.timeout),
        )
        self._stream = _Stream(self._http, request)
        whole = not isinstance(action, Open)
        outcome = await self._stream.open(
            self._caller.max_response_bytes, action.timeout, whole=whole
        )
        if whole:
            await self._close_stream()
        return outcome

    async def _close_stream(self) -> None:
        if self._stream:
            await self._stream.close()
            self._stream = None

    async def close(self) -> None:
        self._flow.close()
        await self._close_stream()


class _Stream:
    """One HTTP response, read piece by piece."""

    def __init__(self, http: httpx.AsyncClient, request: httpx.Request) -> None:
        self._http = http
        self._request = request
        self._response: Optional[httpx.Response] = None
        self._chunks: Optional[AsyncIterator[bytes]] = None

    async def open(self, limit: int, timeout: float, *, whole: bool) -> Outcome:
        """Sends the request; reads the body if ``whole``, and of every refusal."""
        end = time.monotonic() + timeout
        try:
            self._response = response = await self._http.send(
                self._request, stream=True, follow_redirects=False
            )
            self._chunks = response.aiter_raw()
            body = bytearray()
            if whole or response.status_code != 200:
                async for chunk in self._chunks:
                    body += chunk
                    if len(body) > limit:
                        raise too_large(limit)
                    if time.monotonic() > end:
                        return Broken("the reply did not end in time")
        except httpx.TransportError as error:
            return broken(error)
        return Response(response.status_code, response.headers, bytes(body))

    async def read(self) -> Outcome:
        """Reads the next bytes; none at the end."""
        if self._chunks is None:
            return b""
        try:
            return await self._chunks.__anext__()
        except StopAsyncIteration:
            return b""
        except httpx.TransportError as error:
            return broken(error)

    async def close(self) -> None:
        """Closes the response, and the connection unless the body was read to its end."""
        if self._response is not None:
            await self._response.aclose()


class AsyncWatch(Generic[E]):
    """The events of a watch, or the entries of a list; an iterator that can be closed."""

    def __init__(self, running: _Running[None]) -> None:
        self._running = running
        self._over = False

    def __aiter__(self) -> AsyncWatch[E]:
        return self

    async def __anext__(self) -> E:
        if self._over:
            raise StopAsyncIteration
        try:
            self._over = not await self._running.step()
        except BaseException:
            self._over = True
            raise
        if self._over:
            raise StopAsyncIteration
        return cast("E", self._running.item)

    async def __aenter__(self) -> AsyncWatch[E]:
        return self

    async def __aexit__(
        self,
        exc_type: Optional[type[BaseException]],
        exc: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the stream. Closing twice is fine."""
        self._over = True
        await self._running.close()


class AsyncDeliberation:
    """A deliberation that was accepted, and the calls about it."""

    def __init__(self, client: AsyncClient, receipt: messages.ExecuteDeliberationResponse) -> None:
        self._client = client
        self.receipt = receipt

    @property
    def id(self) -> str:
        """The deliberation's id."""
        return self.receipt.deliberation_id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    async def wait(
        self, *, timeout: Optional[float] = None
    ) -> messages.GetDeliberationStatusResponse:
        """Waits for the end; see AsyncClient.wait."""
        return await self._client.wait(self.id, timeout=timeout)

    async def status(
        self, *, timeout: Optional[float] = None
    ) -> messages.GetDeliberationStatusResponse:
        """Returns the state and the results so far; see AsyncClient.status."""
        return await self._client.status(self.id, timeout=timeout)

    def watch(
        self, *, after_sequence: int = 0, timeout: Optional[float] = None
    ) -> AsyncWatch[messages.WatchDeliberationResponse]:
        """Iterates over the events; see AsyncClient.watch."""
        return self._client.watch(self.id, after_sequence=after_sequence, timeout=timeout)

    async def cancel(
        self, *, reason: str = "", timeout: Optional[float] = None
    ) -> messages.CancelDeliberationResponse:
        """Ends it; see AsyncClient.cancel."""
        return await self._client.cancel(self.id, reason=reason, timeout=timeout)
