"""The journal's time, on this machine's clock.

Deadlines count from the journal's timestamps, and the machines' clocks differ.
JetStream's answers carry the server's time (``ts``), so the worker stores the
difference between that and its own *monotonic* clock: setting the local clock
moves no deadline. The answer's way here is counted as no time: so a deadline may
come late by that, and never early. What the servers of a NATS cluster differ
among themselves comes on top: the leader stamps messages, and it is the leader
who answers.
"""

from __future__ import annotations

import re
import time
from calendar import timegm
from datetime import datetime, timezone
from typing import Callable


class JournalClock:
    """Turns the journal's timestamps into times of the monotonic clock."""

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._monotonic = monotonic
        # The local clock, until the server has sent its time.
        self._offset = wall() - monotonic()

    def observe(self, server_ns: int, answered_at: float) -> None:
        """Takes the server's time out of an answer; when it came is monotonic."""
        self._offset = server_ns / 1e9 - answered_at

    def monotonic_of(self, journal_s: float) -> float:
        """The monotonic time of a journal timestamp, in seconds since 1970."""
        return journal_s - self._offset


_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")


def parse_time(text: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time, as the server writes it."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not an RFC 3339 time")
    moment = datetime.strptime(match[1], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)
    seconds = timegm(moment.utctimetuple())
    if match[3] != "Z":
        sign = -1 if match[3][0] == "-" else 1
        seconds -= sign * (int(match[3][1:3]) * 3600 + int(match[3][4:6]) * 60)
    return seconds * 1_000_000_000 + int((match[2] or "").ljust(9, "0"))
