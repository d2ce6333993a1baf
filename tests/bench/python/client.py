"""A bare client that only calls the model: the limit of anything in Python.

Takes orders as lines of JSON on stdin, and answers each with one on stdout.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import uvloop
from chat import deliberate, session

URL = sys.argv[1]


async def closed(http: Any, model: str, agents: int, callers: int, seconds: float) -> dict[str, Any]:
    """Callers that are always busy: how many deliberations a second."""
    done = 0
    end = time.monotonic() + seconds

    async def caller() -> None:
        nonlocal done
        while time.monotonic() < end:
            await deliberate(http, URL, model, agents)
            done += time.monotonic() < end

    await asyncio.gather(*(caller() for _ in range(callers)))
    return {"rate": done / seconds}


async def open_(http: Any, model: str, agents: int, rate: float, seconds: float) -> dict[str, Any]:
    """Deliberations that are due on a schedule: their latencies, in milliseconds."""
    took: list[float] = []
    begun = time.monotonic()

    async def one(due: float) -> None:
        await deliberate(http, URL, model, agents)
        took.append((time.monotonic() - due) * 1000)

    tasks = []
    for i in range(int(rate * seconds)):
        due = begun + i / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.create_task(one(due)))
    await asyncio.gather(*tasks)
    took.sort()
    return {"p50": took[len(took) // 2], "p99": took[int(len(took) * 0.99)]}


async def burst(http: Any, model: str, agents: int) -> dict[str, Any]:
    """So many agents at once: how long all of them take."""
    begun = time.monotonic()
    await deliberate(http, URL, model, agents)
    return {"seconds": time.monotonic() - begun}


async def main() -> None:
    """Follows orders until there are no more."""
    modes = {"closed": closed, "open": open_, "burst": burst}
    loop = asyncio.get_running_loop()
    async with session() as http:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            order = json.loads(line)
            answer = await modes[order.pop("mode")](http, **order)
            print(json.dumps(answer), flush=True)


uvloop.run(main())
