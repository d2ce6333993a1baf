"""Sets the clock of every Python process of one Ray node wrong.

Python imports this at its start where PYTHONPATH leads here. FAULTS_CLOCK names
a file with an offset in seconds, which is read again whenever it changes: the
clock jumps while the processes run. The machine's own clock, and monotonic
ones, stay as they are.
"""

import mmap
import os
import struct
import time

_path = os.environ.get("FAULTS_CLOCK", "")


def _skew() -> None:
    with open(_path, "rb") as file:
        offset = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
    true_time, true_time_ns = time.time, time.time_ns

    def skewed() -> float:
        return true_time() + struct.unpack("<d", offset[:8])[0]

    def skewed_ns() -> int:
        return true_time_ns() + int(struct.unpack("<d", offset[:8])[0] * 1e9)

    time.time, time.time_ns = skewed, skewed_ns
    # So that the harness sees that it is so.
    with open(f"{_path}.{os.getpid()}", "w") as told:
        told.write("skewed")


if _path:
    _skew()
