"""What is known of a model server: whether it answers, and how often to retry.

All agents of a replica that call one server share this, and nothing outlives
the replica. A *breaker* leaves a server alone that only fails; a *budget* has
retries wait for their turn, so that a server which struggles is not buried
under calls made again, and one that comes back is not run over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from typing import Awaitable, Callable, Literal, Optional

from .metrics import Metrics

log = logging.getLogger(f"ray.serve.{__name__}")

# More than the agents of a usual deliberation, and longer than their first
# retries take: a server that stumbles once is not yet broken.
_FAILURES = 20
_FAILING_S = 1.0
# One call is let through in so long; it doubles while those fail.
_PAUSE_S = (5.0, 15.0)
# Retries that may go out together, and each second, whatever the server says.
_BURST = 100.0
_REFILL = 10.0
# A server that answers gets twice as many retries the next time.
_EARNED = 2.0
# How often a retry that waits looks for what answers have earned.
_LOOK_S = 0.05
# Connections that are opened to a server at the same time. A burst of agents
# would overrun its backlog, and a connection takes a third more memory while it
# is being opened than afterwards, which the process does not give back.
_OPENING = 100
# Calls under way to a server; what is more waits in its order. A node has 28,000
# ports to one address, and more than one replica.
_CALLS = 10_000
# Requests name their servers, and thousands of names may come by.
_ENDPOINTS = 256
# A heartbeat is small.
_REPORTED = 20


# Why an agent failed, in the metadata of its result; callers rely on the set.
# tests/vectors/error_types.json has the same.
ErrorType = Literal[
    "timeout",
    "connection",
    "http_status",
    "overloaded",
    "context_length",
    "empty_content",
    "bad_response",
    "schema",
    "too_large",
    "host_not_allowed",
    "invalid_request",
    "breaker_open",
    "attempts",
    "internal",
]


class CallError(Exception):
    """One call of a model failed."""

    def __init__(  # noqa: PLR0913 - one for each fact about it
        self,
        error_type: ErrorType,
        text: str,
        *,
        retryable: bool = False,
        retry_after: Optional[float] = None,
        broken: bool = False,
        away: bool = False,
        why: str = "",
        sent: bool = True,
    ) -> None:
        super().__init__(text)
        self.error_type: ErrorType = error_type
        self.text = text
        self.retryable = retryable
        # Seconds that the server asks to be left alone for.
        self.retry_after = retry_after
        # Whether the server failed, rather than answered: a refusal is an
        # answer, and 429 that of one that lives and has much to do, as is 503
        # by the server's own admission.
        self.broken = broken
        # Whether the server refuses connections or answers 503: it is waited for.
        # `why` says which in short.
        self.away = away
        self.why = why or text
        # Whether the call was sent.
        self.sent = sent


class Budget:
    """Tokens, one a retry."""

    def __init__(self, now: Callable[[], float], sleep: Callable[[float], Awaitable[None]]) -> None:
        self._now = now
        self._sleep = sleep
        self._tokens = _BURST
        self._filled_at = now()
        # First come, first served.
        self._turn = asyncio.Lock()

    def earn(self, tokens: float) -> None:
        """Adds tokens, beside those that come with time."""
        self._tokens = min(_BURST, self._tokens + tokens)

    async def take(self) -> None:
        """Waits for a token; whoever waits for too long is cancelled."""
        async with self._turn:
            while True:
                now = self._now()
                self.earn((now - self._filled_at) * _REFILL)
                self._filled_at = now
                if self._tokens >= 1:
                    break
                await self._sleep(_LOOK_S)
            self._tokens -= 1


class Endpoint:
    """One model server."""

    def __init__(
        self,
        name: str,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        metrics: Optional[Metrics] = None,
    ) -> None:
        self.name = name
        self._metrics = metrics or Metrics()
        self._metrics.breaker(name, is_open=False)
        self.budget = Budget(now, sleep)
        # Held while a connection is being opened.
        self.opening = asyncio.Semaphore(_OPENING)
        # Held by a call; who waits for it is cancelled at its deadline.
        self.calls = asyncio.Semaphore(_CALLS)
        # Those who hold it or wait: it is not forgotten meanwhile.
        self.users = 0
        # Each agent that waits for it has an event here, set when the breaker closes.
        self._awaited: set[asyncio.Event] = set()
        # Why they wait. `changed` is called when the first begins and the last ceases to.
        self.why_away = ""
        self.changed: Callable[[], None] = lambda: None
        self._now = now
        self._failures = 0
        self._failing_since = 0.0
        # While open: the pause between two calls, and when the next is due.
        self._pause = 0.0
        self._due = 0.0
        self._why = ""
        self._away = False

    @property
    def left_alone(self) -> bool:
        """Whether its breaker is open."""
        return bool(self._pause)

    @property
    def due_in(self) -> float:
        """Seconds until a call is let through; 0 if one is now."""
        return max(0.0, self._due - self._now()) if self._pause else 0.0

    @property
    def awaited(self) -> int:
        """How many agents wait for it."""
        return len(self._awaited)

    def expect(self, back: asyncio.Event, why: str) -> None:
        """Notes that an agent waits for it: the event is set when the breaker closes."""
        self.why_away = why
        if back not in self._awaited:
            self._awaited.add(back)
            self.users += 1
            if self.awaited == 1:
                self.changed()

    def expect_no_more(self, back: asyncio.Event) -> None:
        """Notes that an agent does not wait for it; safe to repeat."""
        if back in self._awaited:
            self._awaited.discard(back)
            self.users -= 1
            if not self._awaited:
                self.changed()

    def refusal(self) -> CallError:
        """Why it is not called while its breaker is open."""
        return CallError(
            "breaker_open",
            f"{self.name} was not called: it keeps failing, the last time with: {self._why}",
            retryable=True,
            retry_after=self.due_in,
            away=self._away,
            why=self._why,
            sent=False,
        )

    def admit(self) -> bool:
        """Raises CallError where the server is to be left alone.

        What it lets through while the breaker is open is a probe: True. The
        next one is due a pause later, whatever becomes of this: it may hang.
        """
        if not self._pause:
            return False
        if self.due_in:
            # What a retry has paid for its turn.
            self.budget.earn(1)
            raise self.refusal()
        self._due = self._now() + self._pause
        return True

    def succeeded(self) -> None:
        """Notes an answer that was asked for."""
        self.budget.earn(_EARNED)
        self.refused()

    def refused(self) -> None:
        """Notes an answer of another kind: whatever it says, the server lives."""
        self._failures = 0
        if self._pause:
            self._pause = 0.0
            self._metrics.breaker(self.name, is_open=False)
            log.warning("model server %s answers again", self.name)
            for back in self._awaited:
                back.set()

    def failed(self, error: CallError, *, probe: bool) -> None:
        """Notes a call that the server failed."""
        now = self._now()
        self._why, self._away = error.why, error.away
        if self._pause:
            # Calls from before it opened may fail late: they say nothing new.
            if probe:
                self._pause = min(_PAUSE_S[1], self._pause * 2)
                self._due = now + self._pause
            return
        if not self._failures:
            self._failing_since = now
        self._failures += 1
        if self._failures >= _FAILURES and now - self._failing_since >= _FAILING_S:
            self._pause = _PAUSE_S[0]
            self._due = now + self._pause
            self._metrics.breaker(self.name, is_open=True)
            log.warning(
                "model server %s failed %d times in a row and is left alone: %s",
                self.name,
                self._failures,
                error.text,
            )


class Endpoints:
    """The servers that were called of late."""

    def __init__(
        self,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        metrics: Optional[Metrics] = None,
    ) -> None:
        self._now = now
        self._sleep = sleep
        self._metrics = metrics or Metrics()
        self._known: OrderedDict[str, Endpoint] = OrderedDict()
        # Called when agents begin or cease to wait for a server.
        self.changed: Callable[[], None] = lambda: None

    def _changed(self) -> None:
        self.changed()  # the one that is set by then

    def awaited(self) -> list[tuple[str, str]]:
        """The servers that agents wait for, and why; those with most agents first."""
        known = sorted((e for e in self._known.values() if e.awaited), key=lambda e: -e.awaited)
        return [(e.name, e.why_away) for e in known[:_REPORTED]]

    def at(self, name: str) -> Endpoint:
        """The server at host:port; of those without a call the oldest is forgotten."""
        endpoint = self._known.get(name)
        if endpoint is None:
            endpoint = self._known[name] = Endpoint(name, self._now, self._sleep, self._metrics)
            endpoint.changed = self._changed
            if len(self._known) > _ENDPOINTS:
                idle = (n for n, known in self._known.items() if not known.users and n != name)
                forgotten = self._known.pop(next(idle, ""), None)
                if forgotten is not None and forgotten.left_alone:
                    self._metrics.breaker(forgotten.name, is_open=False)
        else:
            self._known.move_to_end(name)
        return endpoint
