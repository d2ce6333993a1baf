"""A worker in a process of its own, that tells what it took of the machine.

``python replica.py PACKAGE_FOLDER DESCRIPTORS NATS_URL SLOTS``: runs until its input
ends, then prints its figures as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path


class Stretches:
    """The longest time that the event loop gave to one thing, by both clocks, in seconds."""

    def __init__(self) -> None:
        self.processor = 0.0
        self.wall = 0.0

    async def watch(self) -> None:
        while True:
            processor, wall = time.thread_time(), time.monotonic()
            await asyncio.sleep(0.005)
            self.processor = max(self.processor, time.thread_time() - processor)
            self.wall = max(self.wall, time.monotonic() - wall - 0.005)


async def main(descriptors: bytes, url: str, slots: int) -> None:
    from ray_executor_worker.messages import Schema  # noqa: PLC0415 - of the folder
    from ray_executor_worker.settings import Secrets, Settings  # noqa: PLC0415
    from ray_executor_worker.worker import Worker  # noqa: PLC0415

    settings = Settings(
        nats_urls=(url,), pools={"default": slots}, model_hosts=("127.0.0.1",), cluster="test"
    )
    worker = Worker(settings, Secrets({}), Schema(descriptors), "replica")
    worker.start()
    before = _peak_mb()
    stretches = Stretches()
    watching = asyncio.create_task(stretches.watch())
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    watching.cancel()
    worker.check()
    await worker.stop()
    figures = {
        "before_mb": before,
        "peak_mb": _peak_mb(),
        "cpu_s": round(time.process_time(), 2),
        "longest_s": round(stretches.processor, 3),
        "longest_wall_s": round(stretches.wall, 3),
    }
    sys.stdout.write(json.dumps(figures))


def _peak_mb() -> int:
    """The most memory so far; getrusage would count the process that this was forked from."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


if __name__ == "__main__":
    sys.path[0] = sys.argv[1]
    asyncio.run(main(Path(sys.argv[2]).read_bytes(), sys.argv[3], int(sys.argv[4])))
