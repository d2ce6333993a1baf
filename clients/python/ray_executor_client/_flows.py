"""What the clients do, as generators without I/O.

A flow yields an action and is sent its outcome. Client and AsyncClient carry
out the same actions, each in its own way, so retries, deadlines, resumed
watches and paging exist once.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Callable, Generic, NamedTuple, Optional, TypeVar, Union

from google.protobuf.message import DecodeError, Message

from . import messages
from ._connect import (
    SERVICE,
    STREAM,
    UNARY,
    Frames,
    Response,
    end_of_stream,
    envelope,
    refusal,
)
from ._errors import (
    DeadlineExceeded,
    InternalError,
    LimitReached,
    NotFound,
    RayExecutorError,
    Unavailable,
    Unimplemented,
)
from ._requests import new_id

M = TypeVar("M", bound=Message)
R = TypeVar("R")
E = TypeVar("E")

ENDS = frozenset({"completed", "failed", "cancelled"})

# The first pause before a retry, and the longest, in seconds.
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 10.0
# How long one try may take, so that a dead connection does not use up the call.
_LONGEST_TRY = 20.0
# A stream has no heartbeat: after so many quiet seconds it is opened again,
# because a server that vanished says nothing either.
_QUIET = 60.0
# The shortest wait for a stream's next bytes, and so how late a deadline is.
_SHORTEST_READ = 0.2
# A deadline that is so close has passed: timers are not exact.
_OVER = 0.01
# A stream that lived so long shows that the server can be reached.
_LIVED = 5.0
# A watch tries so many times as often as a call: it survives a server's restart.
_WATCH_TRIES = 3
# Pauses between the questions where a server has no watch.
_POLL = (0.5, 5.0)


@dataclass(frozen=True)
class Post:
    """Sends a request and reads the response, all within ``timeout`` seconds."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    timeout: float


@dataclass(frozen=True)
class Open(Post):
    """Sends a request and returns the response without its body if it is 200."""


@dataclass(frozen=True)
class Read:
    """Reads the open stream's next bytes; none at its end."""


@dataclass(frozen=True)
class Pause:
    """Waits."""

    seconds: float


@dataclass(frozen=True)
class Emit(Generic[E]):
    """Hands an item to the caller."""

    item: E


class Broken(NamedTuple):
    """A request or a read that failed; ``quiet`` if only nothing came in time."""

    reason: str
    quiet: bool = False


Outcome = Union[Response, Broken, bytes, None]
Action = Union[Post, Open, Read, Pause, Emit[Any]]
Flow = Generator[Action, Outcome, R]


class Deadline:
    """When a call gives up; never, for None."""

    def __init__(self, seconds: Optional[float]) -> None:
        if seconds is not None and not seconds > 0:
            raise ValueError(f"timeout must be above 0 seconds, not {seconds}")
        self.seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def left(self, most: float) -> float:
        """Returns the seconds left, at most ``most``."""
        return most if self._end is None else min(most, self._end - time.monotonic())


@dataclass
class Caller:
    """What calls of one client have in common."""

    url: str
    retries: int
    max_response_bytes: int
    # Returns the headers of one try.
    headers: Callable[[], dict[str, str]]
    # Chooses a pause between two bounds.
    jitter: Callable[[float, float], float] = field(default=random.uniform)

    def pause(self, error: RayExecutorError, tries: int, allowed: int) -> Optional[float]:
        """Returns how long to wait before the next try; None where none may follow."""
        if tries > allowed or not isinstance(error, (Unavailable, LimitReached, DeadlineExceeded)):
            return None
        longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(tries - 1, 16))
        if error.retry_after is None:
            return self.jitter(longest / 2, longest)
        return error.retry_after + self.jitter(0, _FIRST_PAUSE)


def call(  # noqa: PLR0913 - what a call is
    caller: Caller,
    method: str,
    request: Message,
    reply: type[M],
    deadline: Deadline,
    *,
    deliberation_id: str = "",
    traceparent: Optional[str] = None,
) -> Flow[M]:
    """Calls a method; repeats it where that is safe and helps."""
    body = request.SerializeToString()
    path = SERVICE + method
    tries = 0
    while True:
        timeout = max(deadline.left(_LONGEST_TRY), 0.001)
        headers = caller.headers()
        headers["content-type"] = UNARY
        headers["connect-timeout-ms"] = str(int(timeout * 1000) or 1)
        if traceparent is not None:
            headers["traceparent"] = traceparent
        got = yield Post(path, headers, body, timeout)
        if isinstance(got, Response) and got.status == 200:
            return _parsed(reply, got.body)
        error = _failure(got, caller.url)
        error.deliberation_id = error.deliberation_id or deliberation_id
        tries += 1
        yield from _again(caller, error, tries, caller.retries, deadline)


def _again(
    caller: Caller, error: RayExecutorError, tries: int, allowed: int, deadline: Deadline
) -> Flow[None]:
    """Waits before the next try; raises the error where none may follow."""
    left = deadline.left(float("inf"))
    if left <= _OVER and isinstance(error, Unavailable):
        raise DeadlineExceeded(
            f"no reply within {deadline.seconds} seconds: {error.message}",
            field=error.field,
            deliberation_id=error.deliberation_id,
        ) from error
    pause = caller.pause(error, tries, allowed)
    if pause is None:
        raise error
    if pause >= left:
        # The error says when to come back; the deadline would only hide it.
        raise error
    yield Pause(pause)


def watch(
    caller: Caller, deliberation_id: str, after_sequence: int, deadline: Deadline
) -> Flow[None]:
    """Emits a deliberation's events until it ended; goes on after a cut."""
    seen = after_sequence
    tries = 0
    while True:
        opened = time.monotonic()
        stream = _stream(caller, deliberation_id, seen, deadline)
        value: Outcome = None
        while True:
            try:
                action = stream.send(value)
            except StopIteration as done:
                error: Optional[RayExecutorError] = done.value
                break
            if isinstance(action, Emit):
                seen = action.item.sequence
                tries = 0
            value = yield action
        if error is _DONE:
            return
        if deadline.left(1) <= 0:
            raise DeadlineExceeded(
                f"{deliberation_id} has not ended within {deadline.seconds} seconds",
                deliberation_id=deliberation_id,
            )
        if error is None:
            continue  # quiet, or close to the deadline
        error.deliberation_id = error.deliberation_id or deliberation_id
        if time.monotonic() - opened > _LIVED:
            tries = 0
        tries += 1
        yield from _again(caller, error, tries, caller.retries * _WATCH_TRIES, deadline)


# The good end of a stream.
_DONE = InternalError("ended")


def _stream(
    caller: Caller, deliberation_id: str, seen: int, deadline: Deadline
) -> Flow[Optional[RayExecutorError]]:
    """Reads one stream; returns _DONE, the error that cut it, or None to go on.

    A read's timeout is chosen when the stream is opened. It is half of what is
    left, and the stream is opened again when less is left than that: so no
    read outlasts the deadline, and few streams are opened.
    """
    request = messages.WatchDeliberationRequest(
        deliberation_id=deliberation_id, after_sequence=seen
    )
    headers = caller.headers()
    headers["content-type"] = STREAM
    timeout = max(deadline.left(2 * _QUIET) / 2, _SHORTEST_READ)
    body = envelope(request.SerializeToString())
    got = yield Open(SERVICE + "WatchDeliberation", headers, body, timeout)
    if not isinstance(got, Response) or got.status != 200:
        return _failure(got, caller.url)
    frames = Frames(caller.max_response_bytes)
    while True:
        chunk = yield Read()
        if isinstance(chunk, Broken):
            return None if chunk.quiet else _failure(chunk, caller.url)
        if not isinstance(chunk, bytes) or not chunk:
            return Unavailable("the stream was cut before its end")
        for frame in frames.feed(chunk):
            if frame.end:
                return end_of_stream(frame.data) or _DONE
            event = _parsed(messages.WatchDeliberationResponse, frame.data)
            yield Emit(event)
        if deadline.left(2 * _QUIET) < timeout:
            return None


def wait(
    caller: Caller, deliberation_id: str, timeout: Optional[float], call_timeout: float
) -> Flow[messages.GetDeliberationStatusResponse]:
    """Waits for the end and returns the status."""
    deadline = Deadline(timeout)
    sequence = 0
    poll = False
    pause = _POLL[0]
    while True:
        if not poll:
            events = watch(caller, deliberation_id, sequence, deadline)
            value: Outcome = None
            try:
                while True:
                    action = events.send(value)
                    if isinstance(action, Emit):
                        sequence = action.item.sequence
                        value = None
                    else:
                        value = yield action
            except StopIteration:
                pass
            except Unimplemented:
                poll = True  # AWS Lambda, for example, has no streams
        # The end has come: reading it is not cut short by the deadline.
        status = yield from call(
            caller,
            "GetDeliberationStatus",
            messages.GetDeliberationStatusRequest(deliberation_id=deliberation_id),
            messages.GetDeliberationStatusResponse,
            Deadline(call_timeout),
            deliberation_id=deliberation_id,
        )
        if status.status in ENDS:
            return status
        _found(status, deliberation_id)
        if deadline.left(pause) < pause:
            raise DeadlineExceeded(
                f"{deliberation_id} has not ended within {timeout} seconds: it is {status.status}",
                deliberation_id=deliberation_id,
            )
        yield Pause(pause)
        pause = min(2 * pause, _POLL[1])


def status(
    caller: Caller, deliberation_id: str, deadline: Deadline
) -> Flow[messages.GetDeliberationStatusResponse]:
    """Returns the status; an unknown id is NotFound."""
    reply = yield from call(
        caller,
        "GetDeliberationStatus",
        messages.GetDeliberationStatusRequest(deliberation_id=deliberation_id),
        messages.GetDeliberationStatusResponse,
        deadline,
        deliberation_id=deliberation_id,
    )
    _found(reply, deliberation_id)
    return reply


def pages(caller: Caller, request: messages.ListDeliberationsRequest, timeout: float) -> Flow[None]:
    """Emits each entry of all pages, newest first."""
    while True:
        page = yield from call(
            caller,
            "ListDeliberations",
            request,
            messages.ListDeliberationsResponse,
            Deadline(timeout),
        )
        for entry in page.deliberations:
            yield Emit(entry)
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _found(reply: messages.GetDeliberationStatusResponse, deliberation_id: str) -> None:
    if reply.status == "not_found":
        raise NotFound(
            f"there is no deliberation {deliberation_id}",
            field="deliberation_id",
            deliberation_id=deliberation_id,
        )


def _failure(got: Outcome, url: str) -> RayExecutorError:
    if isinstance(got, Response):
        return refusal(got, url)
    reason = got.reason if isinstance(got, Broken) else "no response"
    return Unavailable(f"{url} cannot be reached: {reason}", field="server")


def _parsed(reply: type[M], data: bytes) -> M:
    try:
        return reply.FromString(data)
    except DecodeError as error:
        raise InternalError(f"the reply is no {reply.__name__}") from error


def with_id(
    request: messages.ExecuteDeliberationRequest,
) -> messages.ExecuteDeliberationRequest:
    """Returns the request with an id; the caller's own is not changed."""
    if request.deliberation_id:
        return request
    sent = messages.ExecuteDeliberationRequest()
    sent.CopyFrom(request)
    sent.deliberation_id = new_id()
    return sent
