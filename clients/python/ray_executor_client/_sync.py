"""The blocking client."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Generic, Optional, TypeVar, cast

import httpx

from . import _flows, messages
from ._connect import Response, too_large
from ._flows import Action, Broken, Deadline, Emit, Flow, Open, Outcome, Pause, Post, Read
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


class Client:
    """Calls a ray-executor.

    ``url`` is the server's, for example ``http://localhost:8080``. ``token`` is
    sent as a bearer token; a function is called before each try, so that a
    token can be renewed. ``timeout`` is the number of seconds that a call may
    take, its retries included; each method takes another one. ``retries`` is
    how often a call is repeated, with growing random pauses or after the
    server's Retry-After, when the server is unavailable or a limit reached; a
    watch that is cut is resumed three times as often. ``max_response_bytes``
    limits a reply and an event of a watch. ``headers`` are sent with every
    request. ``http_client`` is used in place of a client of our own, for
    example with other certificates, and is not closed.

    A client keeps connections: use one for many calls, and close it, or use it
    in a ``with`` statement. Threads may share it. It starts no threads.

    Every call may raise a RayExecutorError; each method names those that are
    particular to it.
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
        http_client: Optional[httpx.Client] = None,
    ) -> None:
        Deadline(timeout)  # checked
        self._caller = caller(url, token, retries, max_response_bytes, headers)
        self._timeout = timeout
        self._http = httpx.Client() if http_client is None else http_client
        self._owned = http_client is None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        exc_type: Optional[type[BaseException]],
        exc: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._caller.url!r})"

    def close(self) -> None:
        """Closes the connections. Closing twice is fine."""
        if self._owned:
            self._http.close()

    def submit(  # noqa: PLR0913 - as many as a request has
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
    ) -> Deliberation:
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
        return self.submit_request(request, traceparent=traceparent, timeout=timeout)

    def submit_request(
        self,
        request: messages.ExecuteDeliberationRequest,
        *,
        traceparent: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> Deliberation:
        """Submits a whole request, as ``submit`` does. One without an id gets one."""
        sent = _flows.with_id(request)
        receipt = self._run(
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
        return Deliberation(self, receipt)

    def status(
        self, deliberation_id: str, *, timeout: Optional[float] = None
    ) -> messages.GetDeliberationStatusResponse:
        """Returns a deliberation's state and its results so far. Raises NotFound."""
        return self._run(_flows.status(self._caller, deliberation_id, self._deadline(timeout)))

    def wait(
        self, deliberation_id: str, *, timeout: Optional[float] = None
    ) -> messages.GetDeliberationStatusResponse:
        """Waits until a deliberation has ended, and returns its status.

        The status is ``completed``, ``failed`` or ``cancelled``. ``timeout`` is the
        seconds to wait for the end; None waits as long as it takes. Raises
        DeadlineExceeded, which is a TimeoutError, if it has not ended by then;
        and NotFound. The wait survives cuts and restarts of the server.
        """
        return self._run(_flows.wait(self._caller, deliberation_id, timeout, self._timeout))

    def watch(
        self, deliberation_id: str, *, after_sequence: int = 0, timeout: Optional[float] = None
    ) -> Watch[messages.WatchDeliberationResponse]:
        """Iterates over a deliberation's events, from the first one to its end.

        Each event comes once, in order: a watch that is cut is resumed behind
        the last event. ``after_sequence`` resumes behind an event that you have
        seen, by its ``sequence``. ``timeout`` is the seconds for the whole
        watch; None watches as long as it takes. Raises NotFound,
        DeadlineExceeded. Use it in a ``with`` statement to close the stream
        when you leave early.
        """
        return Watch(
            self._steps(
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
    ) -> Iterator[messages.DeliberationSummary]:
        """Iterates over the deliberations in the journal, newest first.

        ``state`` is one of queued, running, completed, failed, cancelled; ``pool``
        and ``task_id`` filter too, and ``labels``, which a deliberation must all
        have. Pages are read as they are needed: ``page_size``
        is their size, 1 to 200 (50 if not given), and ``timeout`` the seconds
        for each.
        """
        return self._steps(
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

    def list_page(
        self, request: messages.ListDeliberationsRequest, *, timeout: Optional[float] = None
    ) -> messages.ListDeliberationsResponse:
        """Returns one page of a list, with the token of the next one."""
        return self._run(
            _flows.call(
                self._caller,
                "ListDeliberations",
                request,
                messages.ListDeliberationsResponse,
                self._deadline(timeout),
            )
        )

    def cancel(
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
        return self._run(
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

    def stats(self, *, timeout: Optional[float] = None) -> messages.GetStatusResponse:
        """Returns the service's health, its counts in ``stats``, and its Ray clusters."""
        return self._run(
            _flows.call(
                self._caller,
                "GetStatus",
                messages.GetStatusRequest(include_stats=True),
                messages.GetStatusResponse,
                self._deadline(timeout),
            )
        )

    def jobs(self, *, timeout: Optional[float] = None) -> Jobs:
        """Returns the queued and running deliberations, oldest first, at most 1,000."""
        reply = self._run(
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

    def _run(self, flow: Flow[R]) -> R:
        steps = self._steps(flow)
        try:
            next(steps)
        except StopIteration as done:
            return cast("R", done.value)
        raise AssertionError("a call has no items")

    def _steps(self, flow: Flow[R]) -> Generator[Any, None, R]:
        """Carries out a flow's actions, and yields what it emits."""
        stream: Optional[_Stream] = None
        value: Outcome = None
        try:
            while True:
                try:
                    action: Action = flow.send(value)
                except StopIteration as done:
                    return cast("R", done.value)
                value = None
                if isinstance(action, Emit):
                    yield action.item
                elif isinstance(action, Pause):
                    time.sleep(action.seconds)
                elif isinstance(action, Read):
                    value = stream.read() if stream else b""
                elif isinstance(action, Open):
                    if stream:
                        stream.close()
                    stream = _Stream(self._http, self._request(action))
                    value = stream.open(self._caller.max_response_bytes, action.timeout)
                else:
                    opened = _Stream(self._http, self._request(action))
                    try:
                        value = opened.open(
                            self._caller.max_response_bytes, action.timeout, whole=True
                        )
                    finally:
                        opened.close()
        finally:
            flow.close()
            if stream:
                stream.close()

    def _request(self, action: Post) -> httpx.Request:
        return self._http.build_request(
            "POST",
            self._caller.url + action.path,
            headers=action.headers,
            content=action.body,
            timeout=timeouts(action.timeout),
        )


class _Stream:
    """One HTTP response, read piece by piece."""

    def __init__(self, http: httpx.Client, request: httpx.Request) -> None:
        self._http = http
        self._request = request
        self._response: Optional[httpx.Response] = None
        self._chunks: Iterator[bytes] = iter(())

    def open(self, limit: int, timeout: float, *, whole: bool = False) -> Outcome:
        """Sends the request; reads the body if ``whole``, and of every refusal."""
        end = time.monotonic() + timeout
        try:
            self._response = response = self._http.send(
                self._request, stream=True, follow_redirects=False
            )
            self._chunks = response.iter_raw()
            body = bytearray()
            if whole or response.status_code != 200:
                for chunk in self._chunks:
                    body += chunk
                    if len(body) > limit:
                        raise too_large(limit)
                    if time.monotonic() > end:
                        return Broken("the reply did not end in time")
        except httpx.TransportError as error:
            return broken(error)
        return Response(response.status_code, response.headers, bytes(body))

    def read(self) -> Outcome:
        try:
            return next(self._chunks, b"")
        except httpx.TransportError as error:
            return broken(error)

    def close(self) -> None:
        if self._response is not None:
            self._response.close()


class Watch(Generic[E]):
    """The events of a watch; an iterator that can be closed."""

    def __init__(self, events: Generator[E, None, Any]) -> None:
        self._events = events

    def __iter__(self) -> Watch[E]:
        return self

    def __next__(self) -> E:
        return next(self._events)

    def __enter__(self) -> Watch[E]:
        return self

    def __exit__(
        self,
        exc_type: Optional[type[BaseException]],
        exc: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the stream. Closing twice is fine."""
        self._events.close()


class Deliberation:
    """A deliberation that was accepted, and the calls about it."""

    def __init__(self, client: Client, receipt: messages.ExecuteDeliberationResponse) -> None:
        self._client = client
        self.receipt = receipt

    @property
    def id(self) -> str:
        """The deliberation's id."""
        return self.receipt.deliberation_id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    def wait(self, *, timeout: Optional[float] = None) -> messages.GetDeliberationStatusResponse:
        """Waits for the end; see Client.wait."""
        return self._client.wait(self.id, timeout=timeout)

    def status(self, *, timeout: Optional[float] = None) -> messages.GetDeliberationStatusResponse:
        """Returns the state and the results so far; see Client.status."""
        return self._client.status(self.id, timeout=timeout)

    def watch(
        self, *, after_sequence: int = 0, timeout: Optional[float] = None
    ) -> Watch[messages.WatchDeliberationResponse]:
        """Iterates over the events; see Client.watch."""
        return self._client.watch(self.id, after_sequence=after_sequence, timeout=timeout)

    def cancel(
        self, *, reason: str = "", timeout: Optional[float] = None
    ) -> messages.CancelDeliberationResponse:
        """Ends it; see Client.cancel."""
        return self._client.cancel(self.id, reason=reason, timeout=timeout)
