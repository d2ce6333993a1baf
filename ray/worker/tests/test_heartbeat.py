"""What a replica says of itself, and when."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any, Optional

import pytest
from harness import FakeModel, Journalist, NatsServer, a, until, working
from nats.js.api import KeyValueConfig

from ray_executor_worker import heartbeat, reach
from ray_executor_worker.heartbeat import BUCKET, key
from ray_executor_worker.hosts import AllowedHosts, address_of
from ray_executor_worker.messages import HEARTBEAT
from ray_executor_worker.reach import Reach


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats and looks come fast."""
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.2)
    monkeypatch.setattr(reach, "_EVERY_S", 0.2)


async def make_bucket(journalist: Journalist) -> None:
    await journalist.nc.jetstream().create_key_value(
        KeyValueConfig(bucket=BUCKET, ttl=60, direct=True)
    )


async def entry(journalist: Journalist, replica: str = "one") -> Optional[Any]:
    """The replica's last heartbeat, as readers get it; None without one."""
    query = json.dumps({"last_by_subj": f"$KV.{BUCKET}.{key('test', replica)}"}).encode()
    reply = await journalist.nc.request(f"$JS.API.DIRECT.GET.KV_{BUCKET}", query)
    headers = dict(reply.headers or {})
    if "Nats-Sequence" not in headers or "KV-Operation" in headers:
        return None
    return journalist.schema.parse(HEARTBEAT, reply.data)


async def test_a_replica_beats_at_once_and_takes_it_back(journalist: Journalist) -> None:
    await make_bucket(journalist)

    async def there() -> bool:
        return await entry(journalist) is not None

    async with working(journalist, slots=7):
        await until(there, wanted=True)
        beat: Any = await entry(journalist)
    assert (beat.cluster, beat.replica) == ("test", "one")
    assert beat.started_at.seconds > 0
    assert [(p.name, p.slots, p.held) for p in beat.pools] == [("default", 7, 0)]
    assert not beat.problems
    assert not await there()


@pytest.mark.usefixtures("often")
async def test_it_says_what_is_held_and_what_cannot_be_reached(
    journalist: Journalist, model: FakeModel
) -> None:
    await make_bucket(journalist)
    hosts = ("127.0.0.1", model.url.removeprefix("http://"), "127.0.0.1:1", "*.example:80")

    async def said() -> Any:
        beat = await entry(journalist)
        if beat is None:
            return None
        return (beat.pools[0].held, [(p.what, p.reason) for p in beat.problems])

    refused = [("model host 127.0.0.1:1", "connection refused")]
    async with working(journalist, model_hosts=hosts):
        await journalist.submit("d1", [a("a1", "slow")], model.url)
        await until(said, (1, refused))
        model.let_go.set()
        await until(said, (0, refused))


@pytest.mark.usefixtures("often")
async def test_a_pool_without_its_consumer_is_said(journalist: Journalist) -> None:
    await make_bucket(journalist)
    await journalist.nc.jetstream().delete_consumer("DELIBERATIONS", "pool-default")

    async def said() -> list[str]:
        beat = await entry(journalist)
        return [p.what for p in beat.problems] if beat is not None else []

    async with working(journalist):
        await until(said, ["pool default"])
        await journalist.add_pool("default")
        await until(said, [])


@pytest.mark.usefixtures("often")
async def test_a_journal_without_the_bucket_hurts_nothing(
    journalist: Journalist, model: FakeModel, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with working(journalist):
            for number in range(3):
                await journalist.submit(f"d{number}", [a("a1")], model.url)
                how, _ = await journalist.end(f"d{number}")
                assert how == "completed"
                await asyncio.sleep(0.3)
            warnings = [r for r in caplog.records if BUCKET in r.getMessage()]
            assert len(warnings) == 1
            # An upgraded journal has it, and nobody restarts the worker.
            await make_bucket(journalist)

            async def there() -> bool:
                return await entry(journalist) is not None

            await until(there, wanted=True)


async def test_it_beats_again_when_nats_is_back(
    journalist: Journalist, nats_server: NatsServer
) -> None:
    await make_bucket(journalist)

    async def sequence() -> int:
        info = await journalist.nc.jetstream().stream_info(f"KV_{BUCKET}")
        return info.state.last_seq

    async with working(journalist):
        await until(sequence, 1)
        nats_server.stop()
        nats_server.start()

        async def more() -> bool:
            try:
                return await sequence() > 1
            except Exception:  # noqa: BLE001 - it is away
                return False

        await until(more, wanted=True)


def test_keys_are_two_tokens_that_a_bucket_takes() -> None:
    assert key("gpu.east", "a1b2") == "gpu_east.a1b2"
    assert key("", "é *>") == "_.____"


def test_only_what_names_a_host_and_a_port_is_looked_at() -> None:
    hosts = AllowedHosts(["a", "b:8000", "*.c:80", "[::1]:9"])
    assert hosts.addresses() == [("b", 8000), ("::1", 9)]
    assert address_of("https://x/v1") == [("x", 443)]
    assert address_of("") == []
    assert address_of("http://[") == []


async def test_names_that_do_not_resolve_are_said() -> None:
    look = Reach([("no-such-host.invalid", 80), ("[", 1)])
    assert await look.look()
    assert [what for what, _ in look.problems()] == [
        "model host [:1",
        "model host no-such-host.invalid:80",
    ]
    assert all(why for _, why in look.problems())
    assert not await look.look()
