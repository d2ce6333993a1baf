"""When a failed call is tried again, and after how long."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Awaitable, Callable, Optional, TypeVar

from .endpoint import CallError, Endpoint
from .usage import Usage

T = TypeVar("T")

_STATUSES = frozenset({408, 409, 425, 429})


def retryable_status(status: int) -> bool:
    """Whether another try may mend what the status says."""
    return status in _STATUSES or 500 <= status <= 599


def retry_after(headers: Mapping[str, str], now: Optional[float] = None) -> Optional[float]:
    """Reads retry-after-ms, or Retry-After in seconds or as an HTTP date.

    Seconds may have a fraction. A date is read against the answer's own Date,
    where it has one: the two machines' clocks may differ.
    """
    if (milliseconds := _number(headers.get("retry-after-ms", ""))) is not None:
        return milliseconds / 1000
    value = headers.get("Retry-After", "").strip()
    if not value:
        return None
    if (seconds := _number(value)) is not None:
        return seconds
    until = _http_date(value)
    if until is None:
        return None
    sent = _http_date(headers.get("Date", ""))
    if sent is None:
        sent = time.time() if now is None else now
    return max(0.0, until - sent)


def _number(text: str) -> Optional[float]:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number < math.inf else None


def _http_date(value: str) -> Optional[float]:
    try:
        return parsedate_to_datetime(value).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError):
        return None


@dataclass(frozen=True)
class Backoff:
    """Exponential with full jitter, so that callers do not come back together."""

    base: float = 0.5
    cap: float = 30.0
    # Uniform over [0, x]; replaced in tests.
    jitter: Callable[[float], float] = field(default=lambda x: random.uniform(0, x))  # noqa: S311

    def wait(self, retry: int, retry_after: Optional[float] = None) -> float:
        """Seconds before the retry (from 1), on top of what the server asked for."""
        # The exponent is bounded: 2.0**1024 overflows.
        drawn = self.jitter(min(self.cap, self.base * 2.0 ** min(retry - 1, 32)))
        return drawn + (retry_after or 0.0)


def _ignore(_reason: str) -> None:
    pass


@dataclass
class Progress:
    """How far a call has come; reported when the deadline cuts it off."""

    # The first call of each server and its retries, not those after a wait.
    attempts: int = 0
    # All calls; each has an X-Request-Id of its own.
    calls: int = 0
    # Its text alone: an error holds on to all that was there when it was raised.
    last_error: str = ""
    # Of all its calls, those that failed included.
    usage: Usage = field(default_factory=Usage)
    # Called with the reason of each retry.
    retried: Callable[[str], None] = _ignore


@dataclass
class Tries:
    """How often one server was called, as its retries are counted."""

    made: int = 0
    # The server is away: the next call follows a wait, and is the same try.
    away: bool = False


@dataclass(frozen=True)
class Retrier:
    """Repeats a call while repeating can help and the deadline allows."""

    backoff: Backoff = field(default_factory=Backoff)
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def run(  # noqa: PLR0913 - a call and its bounds
        self,
        call: Callable[[], Awaitable[T]],
        *,
        endpoint: Endpoint,
        max_retries: int,
        deadline: float,
        progress: Progress,
        tries: Tries,
    ) -> T:
        """Calls up to 1 + max_retries times; raises the last CallError.

        It raises at once where the server is away: the caller waits and calls
        again, with the same tries. A call that the breaker refuses counts.
        Whoever cancels at the deadline also ends the wait for the retries' budget.
        """
        while True:
            if not tries.away:
                tries.made += 1
                progress.attempts += 1
            tries.away = False
            try:
                return await _call(call, endpoint)
            except CallError as error:
                progress.last_error = error.text
                if error.away and max_retries:
                    tries.away = True
                    raise
                if not error.retryable or tries.made > max_retries:
                    raise
                wait = self.backoff.wait(tries.made, error.retry_after)
                if self.now() + wait >= deadline:
                    raise CallError(
                        error.error_type,
                        f"{error.text} (no time left for another try before the deadline)",
                    ) from error
                progress.retried(error.error_type)
            await self.sleep(wait)
            await endpoint.budget.take()


async def _call(call: Callable[[], Awaitable[T]], endpoint: Endpoint) -> T:
    """Calls, in its turn and where the breaker lets it, and reports the outcome to the endpoint."""
    endpoint.users += 1
    try:
        async with endpoint.calls:
            probe = endpoint.admit()
            try:
                answer = await call()
            except CallError as error:
                if error.broken:
                    endpoint.failed(error, probe=probe)
                elif error.sent:
                    endpoint.refused()
                raise
            endpoint.succeeded()
            return answer
    finally:
        endpoint.users -= 1
