"""One deliberation: read the request, claim it, ask its agents, write its end.

A worker may die at any line. The journal is the only state: the next worker
reads it and continues. So each step is safe to repeat, and no step depends on
what an earlier attempt held in memory.
"""

from __future__ import annotations

import enum
import logging

from .agents import Agents
from .attempt import Attempt, Context
from .claim import MAX_DELIVERIES, Claim, Claimer
from .ending import Ending
from .journal import AbandonedError
from .messages import Requested, Schema, UnreadableError, read_requested
from .puller import Delivery
from .slots import MOST_AGENTS, Seat, weight
from .strategies import steps

log = logging.getLogger(f"ray.serve.{__name__}")


class Settlement(enum.Enum):
    """What happens to the work item."""

    # It has its end: acknowledge it, so that it is never delivered again.
    ENDED = "ended"
    # Leave it unacknowledged: it is redelivered, to this worker or another one.
    LEFT = "left"


class Deliberation:
    """One attempt at one deliberation."""

    __slots__ = ("_agents", "_attempt", "_claimer", "_data", "_ending")  # thousands are held

    def __init__(self, context: Context, delivery: Delivery, data: bytes, seat: Seat) -> None:
        self._data = data
        self._attempt = Attempt(context, delivery, len(data))
        self._claimer = Claimer(self._attempt)
        self._agents = Agents(self._attempt, seat)
        self._ending = Ending(self._attempt, self._agents)

    @property
    def attempt(self) -> int:
        """The number of this attempt; 0 before it is recorded."""
        return self._attempt.number

    @property
    def ending(self) -> bool:
        """Whether this worker writes an end."""
        return self._ending.begun

    async def run(self) -> Settlement:
        """Runs it to its end. Cancelling stops everything and writes nothing."""
        try:
            return await self._run()
        except AbandonedError as error:
            log.warning("%s: left to the keeper: %s", self._attempt.id, error)
            return Settlement.LEFT

    async def ended(self) -> bool:
        """Whether the leader has an end of it."""
        attempt = self._attempt
        return await attempt.journal.last(attempt.subjects.ends, attempt.shortly()) is not None

    async def superseded(self) -> bool:
        """Whether another worker has started it since this one did."""
        return await self._claimer.superseded()

    async def _run(self) -> Settlement:
        attempt = self._attempt
        if await self._claimer.kills_workers():
            await self._ending.refuse(
                f"given up after {attempt.delivery.delivered - 1} deliveries: "
                "each worker died before it could start it",
                given_up=True,
            )
            return Settlement.ENDED
        try:
            attempt.requested = await self._read()
        except UnreadableError as error:
            await self._ending.refuse(f"the journal's request is unreadable: {error}")
            return Settlement.ENDED
        claim = await self._claimer.claim()
        if claim is Claim.ENDED:
            return Settlement.ENDED
        if claim is Claim.TAKEN:
            return Settlement.LEFT
        if attempt.delivery.delivered > 1 or attempt.number != 1:
            # Only after the claim is recorded: until then an earlier worker may
            # record further agents, and these would be asked twice.
            # Model: LoadRecorded.
            await self._agents.load_recorded()
        rest = steps(attempt.requested.strategy, attempt.requested.agents)
        round_ = next(rest)
        if claim is Claim.STARTED:
            await self._agents.ask_missing(round_)
        await self._ending.end(claim, round_, rest)
        return Settlement.ENDED

    async def _read(self) -> Requested:
        attempt = self._attempt
        # Released at once: thousands of deliberations wait for their models.
        data, self._data = self._data, b""
        schema, journal = attempt.context.schema, attempt.journal
        message = schema.requested(data)
        # The deadline counts from the time at which the journal stored the request.
        accepted_at = journal.clock.monotonic_of(attempt.delivery.accepted_at)
        attempt.deadline = accepted_at + message.timeout_seconds
        if message.request_ref:
            whole = await journal.fetch(message.request_ref, attempt.until_end())
            attempt.size = len(whole)
            message.request.CopyFrom(schema.requested(whole).request)
        requested = read_requested(message)
        if requested.deliberation_id != attempt.id or not requested.agents:
            raise UnreadableError("the request names another deliberation, or no agents")
        return requested


def weigh(schema: Schema, delivery: Delivery, data: bytes) -> int:
    """The slots that a deliberation takes, before it is claimed."""
    if delivery.delivered > MAX_DELIVERIES:
        return 1  # reading it may be what kills workers
    try:
        message = schema.requested(data)
    except UnreadableError:
        return 1
    if message.request_ref:
        return MOST_AGENTS
    return weight(len(message.request.agents), len(data))
