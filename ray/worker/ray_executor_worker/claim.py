"""The claim: which worker runs a deliberation, and as which attempt.

NATS may deliver a deliberation to several workers, and again while the first
one still works. The journal decides: an attempt is an event that is written by
compare-and-set on the attempt before it. So attempts are numbered without a
gap, and of the workers that write the same number one succeeds.
"""

from __future__ import annotations

import enum
import logging
from typing import Optional

from .attempt import Attempt
from .journal import Event, Expectation
from .messages import STARTED, Started, read_started
from .subjects import stopped_subject

log = logging.getLogger(f"ray.serve.{__name__}")

# After this many attempts whose worker was lost, the deliberation is assumed to
# be what kills workers.
MAX_ATTEMPTS = 5
# Delivered more often than this without a single start, it kills workers before
# they can read it. Drains and outages of NATS explain a few deliveries, not 50.
MAX_DELIVERIES = 50


class Claim(enum.Enum):
    """The outcome of a claim."""

    STARTED = "started"
    ENDED = "ended"
    EXHAUSTED = "exhausted"
    OVERDUE = "overdue"
    # Another worker has started it just now.
    TAKEN = "taken"


class Claimer:
    """Writes the next attempt, unless there is an end or no point in one."""

    __slots__ = ("_attempt", "_journal")

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._journal = attempt.journal

    async def kills_workers(self) -> bool:
        """Whether reading the request seems to kill the worker."""
        return (
            self._attempt.delivery.delivered > MAX_DELIVERIES
            and await self._last_start(self._attempt.until_end()) is None
        )

    async def superseded(self) -> bool:
        """Whether another worker has started it since this one did."""
        if not self._attempt.number:
            return False
        last = await self._last_start(self._attempt.shortly())
        return last is not None and last[0].attempt > self._attempt.number

    async def claim(self) -> Claim:
        """Claims it; safe to repeat."""
        if self._attempt.delivery.delivered > 1 or self._attempt.left() <= 0:
            return await self._claim_again(ours=0)
        # The first delivery: nobody can have started it. One expectation over
        # all events of the id also proves that there is no end, without a read.
        expected = Expectation(self._attempt.delivery.sequence, self._attempt.subjects.all)
        # Model: StartFirst.
        if await self._start(1, None, expected):
            return Claim.STARTED
        return await self._claim_again(ours=1)

    async def _claim_again(self, ours: int) -> Claim:
        """Claims what may have a start or an end.

        `ours` is the attempt that this worker has tried to write. The journal
        may have stored it although its acknowledgement was lost.
        """
        until = self._attempt.until_end
        # The end is read first: one that is written after this read refuses our
        # own end later, so the order loses nothing.
        # Model: LookForEnd.
        if await self._journal.last(self._attempt.subjects.ends, until()) is not None:
            return Claim.ENDED
        # Model: LookForStart.
        last = await self._last_start(until())
        if self._attempt.left() <= 0:
            return Claim.OVERDUE
        if last is None:
            number, first_ns, expected = 1, None, Expectation(0)
        else:
            started, sequence = last
            if self._is_ours(started, ours):
                self._attempt.number = started.attempt
                return Claim.STARTED
            number, first_ns = started.attempt + 1, started.first_started_ns
            expected = Expectation(sequence)
        if last is not None and number > MAX_ATTEMPTS:
            lost = await self._lost(last[1])
            if lost >= MAX_ATTEMPTS:
                self._attempt.lost = (number - 1, lost)
                return Claim.EXHAUSTED
        # Model: StartAgain.
        if await self._start(number, first_ns, expected):
            return Claim.STARTED
        # Refused: another worker was faster, or our own write was stored and
        # its acknowledgement lost. The stored attempt names its replica.
        # Model: LookWhoStarted.
        last = await self._last_start(until())
        if last is not None and self._is_ours(last[0], number):
            self._attempt.number = number
            return Claim.STARTED
        return Claim.TAKEN

    def _is_ours(self, started: Started, number: int) -> bool:
        return started.attempt == number and started.replica == self._attempt.context.replica

    async def _start(self, number: int, first_ns: Optional[int], expected: Expectation) -> bool:
        """Writes an attempt; False where another one is recorded."""
        attempt = self._attempt
        event = Event(
            subject=attempt.subjects.started,
            id=f"{attempt.id}.started.{number}",
            deliberation_id=attempt.id,
            payload=attempt.context.schema.started(
                attempt.requested,
                attempt=number,
                first_started_ns=first_ns,
                cluster=attempt.context.cluster,
                replica=attempt.context.replica,
            ),
            traceparent=attempt.delivery.traceparent,
        )
        if not await self._journal.append(event, expected, attempt.deadline):
            return False
        attempt.number = number
        log.debug("%s: attempt %d started", attempt.id, number)
        return True

    async def _last_start(self, until: float) -> Optional[tuple[Started, int]]:
        record = await self._journal.last(self._attempt.subjects.started, until)
        if record is None:
            return None
        message = self._attempt.context.schema.parse(STARTED, record.data)
        return read_started(message, record.recorded_ns), record.sequence

    async def _lost(self, last: int) -> int:
        """Counts the attempts whose worker was lost.

        A worker that stops in order notes it before it hands back: rolling the
        replicas five times must not give a deliberation up.
        """
        lost, until = 0, self._attempt.until_end
        for record in await self._journal.each(self._attempt.subjects.started, last, until()):
            started = self._attempt.context.schema.parse(STARTED, record.data)
            if await self._journal.last(stopped_subject(started.replica), until()) is None:
                lost += 1
        return lost
