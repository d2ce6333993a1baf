"""Ends from NATS, against a real server with a keeper."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Callable
from uuid import uuid4

import nats
import pytest
from nats.js.errors import NotFoundError
from rig import Rig

from ray_executor_client import Client, Ended, NotFound, on_ended, on_ended_blocking


def durable() -> str:
    return f"test-{uuid4().hex}"


@asynccontextmanager
async def consuming(
    handler: Callable[[Ended], Any], rig: Rig, **options: Any
) -> AsyncIterator[None]:
    task = asyncio.ensure_future(on_ended(handler, nats_url=rig.nats_url, **options))
    try:
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def next_of(ends: asyncio.Queue[Ended], deliberation_id: str) -> Ended:
    """The next end of a deliberation: other tests' ends are in the stream too."""
    while True:
        ended = await asyncio.wait_for(ends.get(), 20)
        if ended.deliberation_id == deliberation_id:
            return ended


async def acknowledged(rig: Rig, name: str, *, pending: bool = False) -> None:
    """Waits until all that was delivered is acknowledged, and nothing else is pending."""
    connection = await nats.connect(rig.nats_url)
    try:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            info = await connection.jetstream().consumer_info("ORCHESTRATION_EVENTS", name)
            if not info.num_ack_pending and (pending or not info.num_pending):
                return
            await asyncio.sleep(0.05)
        raise AssertionError(info)
    finally:
        await connection.close()


async def exists(rig: Rig, name: str) -> None:
    """Waits until a consumer exists."""
    connection = await nats.connect(rig.nats_url)
    try:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with suppress(NotFoundError):
                await connection.jetstream().consumer_info("ORCHESTRATION_EVENTS", name)
                return
            await asyncio.sleep(0.05)
        raise AssertionError(name)
    finally:
        await connection.close()


async def test_each_state(rig: Rig, client: Client) -> None:
    ends: asyncio.Queue[Ended] = asyncio.Queue()
    async with consuming(ends.put, rig, durable=durable()):
        completed = client.submit("Decide.", agents=["a", "b"], task_id="t-1").id
        ended = await next_of(ends, completed)
        assert (ended.id, ended.status) == (f"{completed}.done", "completed")
        assert (ended.task_id, ended.error_message, ended.delivery) == ("t-1", "", 1)
        assert [one.agent_id for one in ended.results] == ["a", "b"]
        assert not ended.results_omitted
        assert ended.proposal == "proposal of a"

        ended = await next_of(ends, client.submit("fail", agents=["a"]).id)
        assert (ended.status, ended.proposal) == ("failed", "")
        assert ended.error_message

        cancelled = client.submit("hold", agents=["a"]).id
        client.cancel(cancelled, reason="not needed")
        ended = await next_of(ends, cancelled)
        assert (ended.status, ended.error_message) == ("cancelled", "not needed")


async def test_only_some_states(rig: Rig, client: Client) -> None:
    ends: asyncio.Queue[Ended] = asyncio.Queue()
    async with consuming(ends.put, rig, durable=durable(), states=["failed"], only_new=False):
        client.submit("Decide.", agents=["a"]).wait(timeout=20)
        await next_of(ends, client.submit("fail", agents=["a"]).id)
    assert all(ended.status == "failed" for ended in ends._queue)  # type: ignore[attr-defined]


async def test_a_restarted_process_continues(rig: Rig, client: Client) -> None:
    name, ends = durable(), asyncio.Queue[Ended]()
    async with consuming(ends.put, rig, durable=name):
        first = client.submit("Decide.", agents=["a"]).id
        await next_of(ends, first)
    await acknowledged(rig, name)
    second = client.submit("Decide.", agents=["a"]).id
    ends = asyncio.Queue()
    async with consuming(ends.put, rig, durable=name):
        ended = await asyncio.wait_for(ends.get(), 20)
    assert ended.deliberation_id == second


async def test_a_failed_handler_is_called_again(rig: Rig, client: Client) -> None:
    ends: asyncio.Queue[Ended] = asyncio.Queue()
    name, wanted = durable(), str(uuid4())

    async def fails_once(ended: Ended) -> None:
        if ended.deliberation_id == wanted:
            await ends.put(ended)
            if ended.delivery == 1:
                raise RuntimeError("on purpose")

    async with consuming(fails_once, rig, durable=name):
        client.submit("Decide.", agents=["a"], deliberation_id=wanted)
        assert (await next_of(ends, wanted)).delivery == 1
        assert (await next_of(ends, wanted)).delivery == 2
        await acknowledged(rig, name)


async def test_a_cancelled_handler_hands_its_end_back(rig: Rig, client: Client) -> None:
    name, started = durable(), asyncio.Event()

    async def hangs(_: Ended) -> None:
        started.set()
        await asyncio.Event().wait()

    async with consuming(hangs, rig, durable=name, only_new=True):
        await exists(rig, name)
        wanted = client.submit("Decide.", agents=["a"]).id
        await asyncio.wait_for(started.wait(), 20)
    ends: asyncio.Queue[Ended] = asyncio.Queue()
    async with consuming(ends.put, rig, durable=name):  # sooner than the ack wait of 30 s
        assert (await next_of(ends, wanted)).delivery > 1


async def test_a_thread_ends_before_its_consumer(rig: Rig, client: Client) -> None:
    name, started, seen = durable(), threading.Event(), []

    def slow(ended: Ended) -> None:
        started.set()
        time.sleep(0.5)
        seen.append(ended.id)

    client.submit("Decide.", agents=["a"]).wait(timeout=20)
    async with consuming(slow, rig, durable=name):
        await asyncio.to_thread(started.wait, 20)
    assert len(seen) == 1
    await acknowledged(rig, name, pending=True)


async def test_a_long_handler_keeps_its_end(rig: Rig, client: Client) -> None:
    name = durable()
    connection = await nats.connect(rig.nats_url)
    await connection.jetstream().add_consumer(
        "ORCHESTRATION_EVENTS",
        durable_name=name,
        ack_wait=1,
        deliver_policy="new",
        filter_subject="orchestration.deliberation.completed",
    )
    await connection.close()
    deliveries: list[int] = []
    wanted = str(uuid4())

    def slow(ended: Ended) -> None:
        if ended.deliberation_id == wanted:
            deliveries.append(ended.delivery)
            time.sleep(3)  # three times the ack wait

    async with consuming(slow, rig, durable=name, concurrency=2):
        client.submit("Decide.", agents=["a"], deliberation_id=wanted).wait(timeout=20)
        await acknowledged(rig, name)
    assert deliveries == [1]


async def test_what_is_no_end_is_left_out(rig: Rig, client: Client) -> None:
    ends: asyncio.Queue[Ended] = asyncio.Queue()
    name = durable()
    connection = await nats.connect(rig.nats_url)
    for data in (b"{", b"[]", json.dumps({"type": "x", "id": "y", "data": {}}).encode()):
        await connection.jetstream().publish("orchestration.deliberation.completed", data)
    await connection.close()
    async with consuming(ends.put, rig, durable=name):
        await next_of(ends, client.submit("Decide.", agents=["a"]).id)
        await acknowledged(rig, name)


def test_blocking(rig: Rig, client: Client) -> None:
    stop, seen = threading.Event(), []
    wanted = client.submit("Decide.", agents=["a"]).id

    def handler(ended: Ended) -> None:
        seen.append(ended.deliberation_id)
        if ended.deliberation_id == wanted:
            stop.set()

    on_ended_blocking(handler, stop=stop, durable=durable(), nats_url=rig.nats_url)
    assert seen[-1] == wanted


async def test_nats_restarts(tmp_path: Path) -> None:
    own = Rig(tmp_path)
    try:
        own.start()
        ends: asyncio.Queue[Ended] = asyncio.Queue()
        with Client(own.url) as client:
            async with consuming(
                ends.put, own, durable=durable(), connect={"reconnect_time_wait": 0.1}
            ):
                await next_of(ends, client.submit("Decide.", agents=["a"]).id)
                own.stop("nats")
                own.start_nats()
                await next_of(ends, client.submit("Decide.", agents=["a"]).id)
    finally:
        own.close()


async def test_a_wrong_argument(rig: Rig) -> None:
    with pytest.raises(ValueError, match="states are completed"):
        await on_ended(print, durable="d", states=["ended"])
    with pytest.raises(ValueError, match="concurrency"):
        await on_ended(print, durable="d", concurrency=0)
    with pytest.raises(NotFound, match="ray-executor deploy"):
        await on_ended(print, durable="d", nats_url=rig.nats_url, stream="NONE")


async def test_without_nats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nats", None)
    with pytest.raises(ImportError, match=r"pip install ray-executor-client\[nats\]"):
        await on_ended(print, durable="d")
