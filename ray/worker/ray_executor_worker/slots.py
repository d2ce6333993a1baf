"""A pool's slots in this replica: one an agent that is in flight.

What has no room waits in a queue, first come, first served: nothing overtakes a
wide deliberation, and one that is wider than all slots runs alone.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Callable

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


class Slots:
    """Gives places out."""

    def __init__(self, capacity: int, changed: Callable[[], None] = lambda: None) -> None:
        self.capacity = capacity
        # Called when slots become free.
        self.changed = changed
        self._taken = 0
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
            if place.started:
                self._taken -= place.weight - to
            place.weight = to
            self._admit()

    def leave(self, place: Place) -> None:
        """Gives the place back, whether it was started or waits."""
        if place.started:
            self._taken -= place.weight
        elif place in self._waiting:
            self._waiting.remove(place)
        place.weight = 0
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0]):
            place = self._waiting.popleft()
            place.started = True
            self._taken += place.weight
            place.start()
        self.changed()

    def _fits(self, place: Place) -> bool:
        return not self._taken or self._taken + place.weight <= self.capacity
