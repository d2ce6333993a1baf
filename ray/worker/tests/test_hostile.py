"""What one caller can do to a replica, and to its neighbours there.

Prints a line of figures each (``pytest -s``); WORKER_PACKAGE names the folder of
another version, to compare: then nothing is asserted but that it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from harness import Journalist, a

HERE = Path(__file__).parent
PACKAGE = os.environ.get("WORKER_PACKAGE") or str(HERE.parent)
COMPARED = "WORKER_PACKAGE" in os.environ
ACK_WAIT_S = 15.0
KB, MIB = 1_000, 1024 * 1024


@contextlib.asynccontextmanager
async def sink(figures: dict[str, Any]) -> AsyncIterator[str]:
    """A model server's URL; sink.py."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(HERE / "sink.py")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,  # connections that were cut, at length
    )
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip()
        output, _ = await asyncio.wait_for(process.communicate(b""), 60)
        figures["sent_mb"] = int(output) // 1_000_000
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def replica(
    journalist: Journalist, schema_file: Path, figures: dict[str, Any]
) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(HERE / "replica.py"), PACKAGE, str(schema_file)),
        *(journalist.server.url, "1000"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ""},
    )
    try:
        yield
        output, _ = await asyncio.wait_for(process.communicate(b""), 60)
        figures.update(json.loads(output))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class Neighbour:
    """Somebody else's small deliberations, one after the other."""

    def __init__(self, journalist: Journalist, url: str) -> None:
        self.journalist = journalist
        self.url = url
        self.longest = 0.0
        self.ended = 0
        self.begun = asyncio.Event()

    async def go_on(self) -> None:
        nc = self.journalist.nc
        while True:
            id_ = f"n{self.ended}"
            ends = await nc.subscribe(f"deliberation.done.completed.{id_}")
            begun = time.monotonic()
            await self.journalist.submit(id_, [a("a")], self.url, timeout_seconds=120)
            await ends.next_msg(timeout=120)
            await ends.unsubscribe()
            if self.ended:  # the first one has waited for the replica's start
                self.longest = max(self.longest, time.monotonic() - begun)
            self.ended += 1
            self.begun.set()
            await asyncio.sleep(0.02)


async def put(journalist: Journalist, message: Any) -> None:
    """As submit stores it: above the message limit in the object store."""
    whole = message.SerializeToString()
    if len(whole) > 900 * 1024:
        message.ClearField("request")
        message.request_ref = f"sha256-{hashlib.sha256(whole).hexdigest()}"
        store = await journalist.nc.jetstream().object_store("DELIBERATION_RESULTS")
        await store.put(message.request_ref, whole)
    subject = f"deliberation.requested.default.{message.deliberation_id}"
    await journalist.append(subject, message)


def many_placeholders() -> tuple[list[dict[str, str]], dict[str, Any]]:
    """A request of 560 kB that fills to 2.6 GB."""
    template = "{task_description}" * 100
    agents = [a(f"a{i}", prompt_template=template) for i in range(256)]
    return agents, {"task_description": "x" * 100 * KB}


def long_description() -> tuple[list[dict[str, str]], dict[str, Any]]:
    return [a(f"a{i}") for i in range(256)], {"task_description": "x" * (MIB - 10_000)}


def long_answers() -> tuple[list[dict[str, str]], dict[str, Any]]:
    return [a(f"a{i}", f"long-{16 * MIB - KB}") for i in range(256)], {}


def answers_of_a_megabyte() -> tuple[list[dict[str, str]], dict[str, Any]]:
    return [a(f"a{i}", f"long-{MIB}") for i in range(256)], {}


def escapes() -> tuple[list[dict[str, str]], dict[str, Any]]:
    """As long as may be, and six times as long in JSON."""
    template = "{task_description}" * 10
    agents = [a(f"a{i}", prompt_template=template) for i in range(16)]
    return agents, {"task_description": "\1" * 100 * KB}


@pytest.mark.parametrize(
    "attack",
    [many_placeholders, long_description, escapes, answers_of_a_megabyte, long_answers],
)
async def test_one_request(journalist: Journalist, schema_file: Path, attack: Any) -> None:
    figures: dict[str, Any] = {"attack": attack.__name__}
    agents, more = attack()
    async with sink(figures) as url:
        neighbour = Neighbour(journalist, url)
        async with replica(journalist, schema_file, figures):
            going = asyncio.create_task(neighbour.go_on())
            await neighbour.begun.wait()
            begun = time.monotonic()
            message = journalist.request("d1", agents, url, timeout_seconds=120, **more)
            ended = asyncio.create_task(journalist.wait_for("deliberation.done.*.d1", 120))
            await put(journalist, message)
            how = (await ended).subject.split(".")[2]
            figures |= {"took_s": round(time.monotonic() - begun, 2), "how": how}
            assert not going.done()
            going.cancel()
            figures |= {"neighbour_s": round(neighbour.longest, 3), "beside": neighbour.ended}
            info = await journalist.nc.jetstream().consumer_info(journalist.stream, "pool-default")
            figures["redelivered"] = info.num_redelivered
    report(figures)


async def test_fuzzed_templates(journalist: Journalist, schema_file: Path) -> None:
    """Its heartbeats are on time, whatever the templates are."""
    figures: dict[str, Any] = {"attack": "fuzzed templates"}
    draw = random.Random(14)  # noqa: S311
    parts = [
        "{task_description}",
        "{role}",
        "{x}",
        "{{x}}",
        "{",
        "}",
        '"',
        "\1",
        "é",
        "👩🏽‍💻",
        "text ",
    ]
    await journalist.nc.jetstream().delete_consumer(journalist.stream, "pool-default")
    await journalist.add_pool("default", ACK_WAIT_S)

    def request(number: int, url: str) -> Any:
        def text(most: int) -> str:
            return "".join(draw.choice(parts) * draw.choice([1, 9, 99]) for _ in range(most))

        agents = [a(f"a{i}", prompt_template=text(9)) for i in range(draw.choice([1, 4, 64]))]
        return journalist.request(
            f"d{number}",
            agents,
            url,
            task_description=draw.choice(parts) * draw.choice([1, KB, 60 * KB]),
            metadata={"x": draw.choice(["", "y" * 4_096, "\1" * 4_096])},
            timeout_seconds=120,
        )

    async with sink(figures) as url:
        neighbour = Neighbour(journalist, url)
        async with replica(journalist, schema_file, figures):
            going = asyncio.create_task(neighbour.go_on())
            await neighbour.begun.wait()
            for i in range(60):
                await put(journalist, request(i, url))
            for i in range(60):
                await journalist.wait_for(f"deliberation.done.*.d{i}", 120)
            assert not going.done()
            going.cancel()
            figures |= {"neighbour_s": round(neighbour.longest, 3), "beside": neighbour.ended}
            info = await journalist.nc.jetstream().consumer_info(journalist.stream, "pool-default")
            figures["redelivered"] = info.num_redelivered
    report(figures)


def report(figures: dict[str, Any]) -> None:
    sys.stdout.write(f"\n{json.dumps(figures)}\n")
    if COMPARED:
        return
    assert figures["redelivered"] == 0
    if "how" in figures:  # where every agent fails, it does
        all_fail = figures["attack"] in {"many_placeholders", "long_answers"}
        assert figures["how"] == ("failed" if all_fail else "completed")
    # Of its own time: others work on this machine, too.
    assert figures["longest_s"] < 0.2
    assert figures["longest_wall_s"] < ACK_WAIT_S / 3
    assert figures["peak_mb"] - figures["before_mb"] < 250
