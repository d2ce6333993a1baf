"""The deliberations that a replica holds, from delivery to acknowledgement.

The server redelivers what is not acknowledged within the ack wait. So while a
deliberation is held, the server is sent a sign of progress; and whatever may
have passed to another worker in a pause is checked with the journal's leader.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Optional

from nats.aio.msg import Msg

from .attempt import Context
from .connection import Connection, UnavailableError
from .deliberation import Deliberation, Settlement, weigh
from .journal import AbandonedError
from .messages import UnreadableError
from .puller import ACK, IN_PROGRESS, Delivery, Puller
from .slots import Place, Seat
from .tasks import cancel

log = logging.getLogger(f"ray.serve.{__name__}")

# Signs of progress in one ack wait: two may be lost.
_BEATS = 3
# Checks with the leader at a time, and the jitter before them after a reconnect:
# the reads of all workers share the server's queue, which drops everything where
# it overflows.
_CHECKS_AT_ONCE = 8
_JITTER_S = 2.0


@dataclass
class Held:
    """A deliberation that this replica holds."""

    id: str
    deliberation: Deliberation
    puller: Puller
    reply: str
    beaten_at: float
    place: Place
    # None while it waits for slots.
    task: Optional[asyncio.Task[None]] = None
    # Why its task is being cancelled: it ended, or another worker has it.
    ended: bool = False
    superseded: bool = False
    checking: bool = False


class Holding:
    """Runs and settles what the pullers accept."""

    def __init__(
        self, context: Context, connection: Connection, background: Callable[[Any], None]
    ) -> None:
        self._context = context
        self._connection = connection
        # Runs a coroutine beside the others.
        self._background = background
        self._items: dict[str, Held] = {}
        self._checks = asyncio.Semaphore(_CHECKS_AT_ONCE)

    @property
    def items(self) -> list[Held]:
        """All that is held, the oldest first."""
        return list(self._items.values())

    def accept(self, puller: Puller, delivery: Delivery, data: bytes) -> Optional[Place]:
        """Takes a delivery over; None where this replica holds it already."""
        now = asyncio.get_running_loop().time()
        held = self._items.get(delivery.id)
        if held is not None:
            # Our signs of progress were lost and it was redelivered to us: continue.
            held.reply, held.beaten_at = delivery.reply, now
            return None
        place = Place(
            weigh(self._context.schema, delivery, data), partial(self._start, delivery.id)
        )
        deliberation = Deliberation(self._context, delivery, data, Seat(puller.slots, place))
        # Model: Take.
        self._items[delivery.id] = Held(
            delivery.id, deliberation, puller, delivery.reply, now, place
        )
        return place

    def _start(self, deliberation_id: str) -> None:
        held = self._items[deliberation_id]
        held.task = asyncio.create_task(self._run(held))
        held.task.add_done_callback(lambda _: held.puller.slots.leave(held.place))

    async def drop_waiting(self, held: Held, say: bytes) -> None:
        """Drops what has not been started."""
        if self._items.get(held.id) is not held or held.task is not None:
            return
        del self._items[held.id]
        held.puller.slots.leave(held.place)
        if say:
            await self.send(held.reply, say)

    async def _run(self, held: Held) -> None:
        try:
            settlement = await held.deliberation.run()
        except asyncio.CancelledError:
            if not held.ended and not held.superseded:
                raise  # stop() hands it back
            settlement = Settlement.ENDED if held.ended else Settlement.LEFT
        except Exception:
            # Redelivered after the ack wait; a dead letter after some attempts.
            log.exception("%s: this attempt failed", held.id)
            settlement = Settlement.LEFT
        del self._items[held.id]
        if settlement is Settlement.ENDED:
            held.ended = True
            # Model: Ack.
            await self.send(held.reply, ACK)

    async def keep(self) -> None:
        """Sends the server signs of progress, until it is cancelled."""
        while True:
            await asyncio.sleep(1)
            now = asyncio.get_running_loop().time()
            # The youngest first: dropping one that waits must not start those behind it.
            for held in reversed(list(self._items.values())):
                silence, ack_wait = now - held.beaten_at, held.puller.ack_wait
                if silence < ack_wait / _BEATS:
                    continue
                if silence > ack_wait:
                    # This process was paused: another worker may have it by now.
                    await self.drop_waiting(held, b"")
                    self._check(held)
                held.beaten_at = now
                await self.send(held.reply, IN_PROGRESS)

    async def on_end(self, message: Msg) -> None:
        """Checks what is held, when somebody else has published an end of it."""
        held = self._items.get(message.subject.rpartition(".")[2])
        if held is not None and not held.deliberation.ending:
            self._check(held)

    def _check(self, held: Held) -> None:
        if not held.checking:
            held.checking = True
            self._background(self._stop_if_over(held))

    async def _stop_if_over(self, held: Held) -> None:
        """Stops what has its end, or a newer attempt elsewhere.

        A subscriber also receives ends that the stream refuses: the leader decides.
        """
        try:
            async with self._checks:
                # Model: StopAtEnd.
                held.ended = held.ended or await held.deliberation.ended()
                if not held.ended:
                    # Model: StopWhenSuperseded.
                    held.superseded = await held.deliberation.superseded()
        except (AbandonedError, UnreadableError) as error:
            log.debug("whether it is over: %s", error)
        finally:
            held.checking = False
        if (held.ended or held.superseded) and held.task is not None:
            await cancel([held.task])
        elif held.ended:
            await self.drop_waiting(held, ACK)

    async def check_all(self) -> None:
        """Checks all that is held, for ends published while there was no connection."""
        await asyncio.sleep(random.uniform(0, _JITTER_S))  # noqa: S311
        for held in list(self._items.values()):
            self._check(held)

    async def send(self, reply: str, what: bytes) -> None:
        """Settles a delivery, or reports progress; a lost one is repaired by redelivery."""
        try:
            await self._connection.publish(reply, what)
        except UnavailableError as error:
            # It is redelivered then, and the journal has its end.
            log.debug("%s not sent: %s", what.decode(), error)
