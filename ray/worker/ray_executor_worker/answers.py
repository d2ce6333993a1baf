"""What agents answered, and how much of it a replica holds in memory.

One deliberation may be answered 256 times, each time with megabytes, and a
replica runs many. A long answer is read, recorded in the journal and let go of,
few at a time; the end reads it from there again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

from .messages import Result

# The most that all answers of a deliberation come to, in bytes of UTF-8.
MAX_BYTES = 16 * 1024 * 1024
# An answer above this is long.
SHORT_BYTES = 64 * 1024
# Long answers that are between their model and the journal, in a replica.
LONG_AT_ONCE = 4


def size(result: Result) -> int:
    """Bytes of UTF-8 of what a model said."""
    texts = (result.proposal, result.reasoning)
    return sum(len(t) if t.isascii() else len(t.encode("utf-8", errors="replace")) for t in texts)


class Room:
    """A long answer's place in the replica's memory, from its model to the journal.

    Nobody waits for a second one while holding one.
    """

    __slots__ = ("_gate", "_taken")

    def __init__(self, gate: asyncio.Semaphore) -> None:
        self._gate = gate
        self._taken = False

    async def take(self) -> None:
        """Waits for a place, in order."""
        if not self._taken:
            await self._gate.acquire()
            self._taken = True

    def release(self) -> None:
        """Gives it back; again is fine."""
        if self._taken:
            self._taken = False
            self._gate.release()


class Answers:
    """The results of one deliberation, by the agents' places in the request."""

    __slots__ = ("_long", "_sizes", "_total", "held", "recorded", "results")  # thousands are held

    def __init__(self) -> None:
        # A long one is here without its texts once it is recorded.
        self.results: dict[int, Result] = {}
        # Of these the journal has the result, written by any attempt.
        self.recorded: set[int] = set()
        # Bytes in memory.
        self.held = 0
        self._total = 0
        self._sizes: dict[int, int] = {}
        self._long: set[int] = set()

    @property
    def long(self) -> list[int]:
        """Those whose texts only the journal has, as far as an end has room for them."""
        return sorted(self._long - self._beyond())

    def fits(self, result: Result) -> bool:
        """Whether the deliberation may have this answer, too."""
        return self._total + size(result) <= MAX_BYTES

    def add(self, index: int, result: Result) -> None:
        """Takes a result, whether it is recorded or not; one that was there makes way."""
        before = self._sizes.get(index, 0)
        self._total -= before
        self.held -= 0 if index in self._long else before
        self._long.discard(index)
        self.results[index] = result
        self._sizes[index] = size(result)
        self._total += self._sizes[index]
        self.held += self._sizes[index]

    def note_recorded(self, index: int) -> None:
        """Lets go of the texts of a long one."""
        self.recorded.add(index)
        if self._sizes[index] > SHORT_BYTES and index not in self._long:
            self.results[index] = replace(self.results[index], proposal="", reasoning="")
            self._long.add(index)
            self.held -= self._sizes[index]

    def too_many(self) -> Iterable[int]:
        """Those that an end has no room for: recorded by a worker without this limit."""
        return sorted(self._beyond())

    def _beyond(self) -> set[int]:
        total, beyond = 0, set()
        for index in sorted(self._sizes):
            if total + self._sizes[index] > MAX_BYTES:
                beyond.add(index)
            else:
                total += self._sizes[index]
        return beyond
