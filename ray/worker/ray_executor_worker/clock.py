"""The journal's time, as this machine can tell it.

Deadlines count from the journal's timestamps, and the machines' clocks differ.
JetStream's answers carry the server's time (``ts``), so the worker keeps the
difference between that and its own *monotonic* clock: setting the local clock
moves no deadline. The answer's way here is counted as no time: so a deadline may
come late by that, and never early. What the servers of a NATS cluster differ
among themselves comes on top: the leader stamps messages, and it is the leader
who answers.
"""

from __future__ import annotations

import time
from typing import Callable


class JournalClock:
    """Turns the journal's timestamps into times of the monotonic clock."""

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._monotonic = monotonic
        # Until the server has told its time, the local clock has to do.
        self._offset = wall() - monotonic()

    def observe(self, server_ns: int, answered_at: float) -> None:
        """Takes the server's time out of an answer; when it came is monotonic."""
        self._offset = server_ns / 1e9 - answered_at

    def monotonic_of(self, journal_s: float) -> float:
        """The monotonic time of a journal timestamp, in seconds since 1970."""
        return journal_s - self._offset
