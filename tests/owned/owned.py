#!/usr/bin/env python3
"""Records processes that a script starts, and signals those and no others.

owned.py record FILE PID        records a process that runs, a child of the caller
owned.py alive FILE             prints its pid; fails where it has ended
owned.py stop FILE SECONDS      SIGTERM, after SECONDS at most SIGKILL; then SIGKILL to
                                what is left of the session that it leads

A record is a pid, the boot and the time at which the process started: a pid that
is used again belongs to a process that started later. Signals go through a pidfd
that is opened before the process is looked at. A session is known by its leader's
pid, which the kernel gives to no other process while the session has a member: so
the session is ours if its leader is the recorded process, or if it has none.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from pathlib import Path


def stat(pid: int) -> list[str]:
    """The fields after the name: the state, then the parent; empty: there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []
    return [] if fields[0] in "ZX" else fields


def session(fields: list[str]) -> int:
    return int(fields[3])


def started(fields: list[str]) -> int:
    return int(fields[19])


def boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def read(file: str) -> tuple[int, int]:
    """The recorded pid and start; a record that is missing, foreign or broken is none."""
    try:
        pid, when, at_boot = Path(file).read_text().split()
    except (OSError, ValueError):
        return 0, 0
    return (int(pid), int(when)) if at_boot == boot() and int(pid) > 1 else (0, 0)


def send(pid: int, when: int, what: signal.Signals) -> int:
    """Signals a process that started then, and returns its pidfd; -1: it has ended."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return -1
    fields = stat(pid)
    if fields and started(fields) == when:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, what)
            return handle
    os.close(handle)
    return -1


def members(leader: int, when: int) -> list[tuple[int, int]]:
    """The processes of the leader's session, with their starts."""
    of_leader = stat(leader)
    if of_leader and started(of_leader) != when:
        return []  # the pid is another's, and so is the session
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    looked = [(pid, stat(pid)) for pid in pids if pid not in (1, leader)]
    return [
        (pid, started(fields))
        for pid, fields in looked
        if fields and session(fields) == leader and started(fields) >= when
    ]


def stop(file: str, seconds: float) -> None:
    pid, when = read(file)
    if pid == 0:
        return
    for what, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 10.0)):
        handle = send(pid, when, what)
        if handle < 0 or select.select([handle], [], [], patience)[0]:
            break
    until = time.monotonic() + 10
    while (left := members(pid, when)) and time.monotonic() < until:
        for one, its_start in left:
            send(one, its_start, signal.SIGKILL)
        time.sleep(0.05)


def main(command: str, file: str, *rest: str) -> int:
    pid, when = read(file)
    if command == "record":
        fields = stat(int(rest[0]))
        if not fields:
            return 1
        Path(file).write_text(f"{rest[0]} {started(fields)} {boot()}\n")
        return 0
    if command == "alive":
        fields = stat(pid) if pid else []
        if not fields or started(fields) != when:
            return 1
        print(pid)
        return 0
    if command == "stop":
        stop(file, float(rest[0]))
        return 0
    return 2


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
