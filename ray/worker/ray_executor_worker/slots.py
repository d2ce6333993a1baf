"""A pool's slots in this replica: one an agent that is in flight.

What has no room waits in a queue, first come, first served: nothing overtakes a
wide deliberation, and one that is wider than all slots runs alone.

A deliberation of which all agents wait for model servers is parked: it gives its
slots back, and queues for them before an agent calls again. Otherwise a server
that is away would block the pool for all others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Callable, Optional

# The most agents that a request names.
MOST_AGENTS = 256
# A request stays in memory while its agents wait: one of 1 MiB takes 16 slots,
# so that those of a thousand slots take 64 MiB.
_SLOT_BYTES = 64 * 1024


def weight(agents: int, request_bytes: int) -> int:
    """The slots that so many agents of a request of that size take."""
    return max(agents, -(-request_bytes // _SLOT_BYTES), 1)


@dataclass(eq=False)
class Place:
    """What a deliberation takes of a pool, or waits for."""

    weight: int
    # Called once there is room.
    start: Callable[[], None]
    started: bool = False
    parked: bool = False


class Slots:
    """Gives places out."""

    def __init__(
        self, capacity: int, parking: int = 0, changed: Callable[[], None] = lambda: None
    ) -> None:
        self.capacity = capacity
        # Called when slots become free.
        self.changed = changed
        self._taken = 0
        # The slots that parked deliberations would take, and the most of them: a
        # bound of the memory that they use.
        self._parked = 0
        self._parking = parking
        self._waiting: deque[Place] = deque()

    @property
    def free(self) -> int:
        """The slots that nothing takes or waits for; none while something waits."""
        return 0 if self._waiting else max(0, self.capacity - self._taken)

    @property
    def taken(self) -> int:
        """The slots of what has started; more than all where that is wide."""
        return self._taken

    @property
    def waiting(self) -> int:
        """How many deliberations wait."""
        return len(self._waiting)

    def enter(self, place: Place) -> None:
        """Starts it, now or when there is room."""
        self._waiting.append(place)
        self._admit()

    def shrink(self, place: Place, to: int) -> None:
        """Gives a part of its slots back; more slots than it has are not given."""
        if to < place.weight:
            self._count(place, to - place.weight)
            place.weight = to
            self._admit()

    def park(self, place: Place) -> None:
        """Gives all its slots back for a time; it retains them where too much is parked."""
        too_much = self._parked and self._parked + place.weight > self._parking
        if not place.started or too_much:
            return
        self._count(place, -place.weight)
        place.started, place.parked = False, True
        self._count(place, place.weight)
        self._admit()

    def leave(self, place: Place) -> None:
        """Gives the place back, whether it was started or waits."""
        self._count(place, -place.weight)
        if not place.started and place in self._waiting:
            self._waiting.remove(place)
        place.started = place.parked = False
        place.weight = 0
        self._admit()

    def _count(self, place: Place, slots: int) -> None:
        if place.started:
            self._taken += slots
        elif place.parked:
            self._parked += slots

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0]):
            place = self._waiting.popleft()
            self._count(place, -place.weight)
            place.started, place.parked = True, False
            self._count(place, place.weight)
            place.start()
        self.changed()

    def _fits(self, place: Place) -> bool:
        return not self._taken or self._taken + place.weight <= self.capacity


class Seat:
    """A deliberation's place, as its agents use it."""

    __slots__ = ("_asked", "_back", "_idle", "_place", "_slots")  # thousands are held

    def __init__(self, slots: Slots, place: Place) -> None:
        self._slots = slots
        self._place = place
        # The agents that are asked, and those of them that wait for model servers.
        self._asked = MOST_AGENTS
        self._idle = 0
        # Set once a parked deliberation has its slots again; None while nobody asks for them.
        self._back: Optional[asyncio.Event] = None

    def shrink(self, to: int, asked: int) -> None:
        """Gives a part of its slots back: so many agents are still asked."""
        self._asked = asked
        self._slots.shrink(self._place, to)
        self._park()

    @contextlib.asynccontextmanager
    async def idle(self) -> AsyncIterator[None]:
        """While an agent waits for a model server; it returns with slots."""
        self._idle += 1
        self._park()
        try:
            yield
        finally:
            self._idle -= 1
        if self._place.parked:
            if self._back is None:
                self._back = asyncio.Event()
                self._place.start = self._back.set
                self._slots.enter(self._place)
            await self._back.wait()

    def _park(self) -> None:
        if self._place.started and 0 < self._asked <= self._idle:
            self._back = None
            self._slots.park(self._place)
