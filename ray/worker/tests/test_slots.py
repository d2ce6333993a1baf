"""Slots are agents: who is let in, who waits, and that nobody overtakes."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
from harness import FakeModel, Journalist, a, until, working

from ray_executor_worker.slots import Place, Seat, Slots, weight

MIB = 1024 * 1024


class Door:
    """Slots, and who was started in which order."""

    def __init__(self, capacity: int, parking: int = 0) -> None:
        self.slots = Slots(capacity, parking)
        self.started: list[str] = []

    def enter(self, name: str, agents: int) -> Place:
        place = Place(agents, lambda: self.started.append(name))
        self.slots.enter(place)
        return place


@pytest.mark.parametrize(
    ("agents", "size", "slots"),
    [(1, 300, 1), (256, 9_000, 256), (1, MIB, 16), (20, MIB, 20), (0, 0, 1), (1, 65_537, 2)],
)
def test_weight(agents: int, size: int, slots: int) -> None:
    assert weight(agents, size) == slots


def test_agents_take_the_slots() -> None:
    door = Door(10)
    for name in "abc":
        door.enter(name, 4)
    assert door.started == ["a", "b"]
    assert door.slots.waiting == 1
    assert door.slots.free == 0


def test_nothing_overtakes_what_waits() -> None:
    door = Door(10)
    first = door.enter("first", 4)
    wide = door.enter("wide", 256)
    door.enter("narrow", 1)
    assert door.started == ["first"]
    door.slots.leave(first)
    assert door.started == ["first", "wide"]
    door.slots.leave(wide)
    assert door.started == ["first", "wide", "narrow"]
    assert door.slots.free == 9


def test_slots_of_agents_that_have_ended_are_given_again() -> None:
    door = Door(10)
    first = door.enter("first", 10)
    door.enter("next", 3)
    door.slots.shrink(first, 8)
    assert door.started == ["first"]
    door.slots.shrink(first, 7)
    assert door.started == ["first", "next"]
    door.slots.shrink(first, 20)
    assert door.slots.free == 0


def test_what_waits_may_leave() -> None:
    door = Door(2)
    first = door.enter("first", 2)
    gone = door.enter("gone", 2)
    door.enter("next", 1)
    door.slots.leave(gone)
    door.slots.leave(gone)
    assert door.started == ["first"]
    door.slots.leave(first)
    assert door.started == ["first", "next"]
    assert door.slots.free == 1


def test_a_parked_place_returns_behind_those_that_wait() -> None:
    door = Door(2, parking=4)
    first = door.enter("first", 2)
    door.enter("second", 2)
    door.slots.park(first)
    assert door.started == ["first", "second"]
    third = door.enter("third", 1)
    door.slots.enter(first)
    assert door.slots.waiting == 2
    door.slots.shrink(first, 1)
    door.slots.leave(third)
    assert door.slots._parked == 1
    door.slots.leave(first)
    assert (door.slots.waiting, door.slots._parked, door.slots.taken) == (0, 0, 2)


def test_what_is_parked_is_bounded() -> None:
    door = Door(2, parking=3)
    for name in "abcd":
        door.slots.park(door.enter(name, 2))
    # The second one retains its slots.
    assert door.started == ["a", "b"]
    assert (door.slots._parked, door.slots.taken) == (2, 2)


async def test_a_seat_is_parked_while_all_its_agents_wait() -> None:
    door = Door(2, parking=2)
    seat = Seat(door.slots, door.enter("first", 2))
    seat.shrink(2, 2)
    turns = [asyncio.Event(), asyncio.Event()]

    async def one(turn: asyncio.Event) -> None:
        async with seat.idle():
            await turn.wait()

    waiting = [asyncio.create_task(one(turn)) for turn in turns]
    await asyncio.sleep(0)
    assert (door.slots.taken, door.slots._parked) == (0, 2)
    busy = door.enter("busy", 1)
    turns[0].set()
    await asyncio.sleep(0.01)
    assert door.slots.waiting == 1
    assert not waiting[0].done()
    waiting[0].cancel()  # its deadline has come: the other one returns nevertheless
    turns[1].set()
    await asyncio.sleep(0.01)
    assert door.slots.waiting == 1
    door.slots.leave(busy)
    await waiting[1]
    assert (door.slots.taken, door.slots._parked) == (2, 0)


def agents(name: str, count: int, model: str = "slow") -> list[dict[str, str]]:
    return [a(f"{name}{i}", model) for i in range(count)]


async def test_a_wide_deliberation_is_not_overtaken(
    journalist: Journalist, model: FakeModel
) -> None:
    js = journalist.nc.jetstream()
    await js.delete_consumer("DELIBERATIONS", "pool-default")
    await journalist.add_pool("default", ack_wait_s=3)
    async with working(journalist, slots=4) as worker:
        await journalist.submit("n1", agents("n", 2), model.url)
        await until(lambda: model.open, 2)
        await journalist.submit("wide", agents("w", 9, "wait-wide"), model.url)
        await until(lambda: worker._pullers["default"].slots.waiting, 1)
        for i in range(2, 6):
            await journalist.submit(f"n{i}", agents("n", 1, "ok"), model.url)
        await asyncio.sleep(4)  # the server's time, longer than its ack wait
        info = await js.consumer_info("DELIBERATIONS", "pool-default")
        assert info.num_redelivered == 0
        assert model.open == 2
        model.let_go.set()
        assert (await journalist.end("wide"))[0] == "completed"
        for i in range(1, 6):
            assert (await journalist.end(f"n{i}"))[0] == "completed"
        await journalist.settled()
    called = [request["model"] for request in model.requests]
    assert called == ["slow"] * 2 + ["wait-wide"] * 9 + ["ok"] * 4


async def test_no_more_agents_than_slots_are_in_flight(
    journalist: Journalist, model: FakeModel
) -> None:
    async with working(journalist, "one", slots=8), working(journalist, "two", slots=8):
        for i in range(30):
            await journalist.submit(f"d{i}", agents("a", 1 + i % 5, "pause"), model.url)
        for i in range(30):
            assert (await journalist.end(f"d{i}"))[0] == "completed"
        await journalist.settled()
    assert len(model.requests) == 6 * 15
    assert 8 < model.most <= 16


async def test_calls_to_one_server_are_bounded(
    journalist: Journalist, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_executor_worker.endpoint._CALLS", 3)
    async with working(journalist, slots=100):
        await journalist.submit("d1", agents("a", 12, "pause"), model.url)
        assert (await journalist.end("d1"))[0] == "completed"
        await journalist.settled()
    assert len(model.requests) == 12
    assert model.most == 3


async def test_what_waits_and_is_cancelled_is_never_started(
    journalist: Journalist, model: FakeModel
) -> None:
    async with working(journalist, slots=1) as worker:
        await journalist.submit("d1", agents("a", 1), model.url)
        await until(lambda: model.open, 1)
        puller = worker._pullers["default"]
        puller.slots.capacity = 2  # so that it asks for one more
        puller._freed()
        await journalist.submit("d2", agents("b", 2), model.url)
        await until(lambda: puller.slots.waiting, 1)
        await journalist.cancel("d2")
        await until(lambda: puller.slots.waiting, 0)
        model.let_go.set()
        await journalist.settled()
    assert await journalist.kinds("d2") == ["requested.default", "done.cancelled"]


async def test_what_waits_is_handed_back_at_once(journalist: Journalist, model: FakeModel) -> None:
    async with working(journalist, slots=2) as worker:
        await journalist.submit("d1", agents("a", 1), model.url)
        await until(lambda: model.open, 1)
        await journalist.submit("d2", agents("b", 2, "ok"), model.url)
        await until(lambda: worker._pullers["default"].slots.waiting, 1)
        stopping = asyncio.create_task(worker.stop(20))
        async with working(journalist, "two"):
            assert (await journalist.end("d2"))[0] == "completed"
            assert model.open == 1
            model.let_go.set()
            await stopping
            assert (await journalist.end("d1"))[0] == "completed"
    assert (await journalist.kinds("d2")).count("started.default") == 1


async def test_a_large_request_takes_its_slots_until_it_is_read(
    journalist: Journalist, model: FakeModel
) -> None:
    """How many agents it has is in the object store."""
    message = journalist.request("d1", agents("a", 1), model.url)
    whole = message.SerializeToString()
    message.ClearField("request")
    message.request_ref = f"sha256-{hashlib.sha256(whole).hexdigest()}"
    store = await journalist.nc.jetstream().object_store("DELIBERATION_RESULTS")
    await store.put(message.request_ref, whole)
    await journalist.append("deliberation.requested.default.d1", message)
    async with working(journalist, slots=100) as worker:
        await until(lambda: model.open, 1)
        assert worker._pullers["default"].slots.free == 99
        model.let_go.set()
        await journalist.settled()


async def test_a_deliberation_wider_than_the_parking_is_parked() -> None:
    # default:1000 over ten replicas.
    door = Door(100, 100)
    seat = Seat(door.slots, door.enter("wide", 256))
    seat.shrink(256, 256)
    back = asyncio.Event()

    async def waits() -> None:
        async with seat.idle():
            await back.wait()

    waiting = [asyncio.create_task(waits()) for _ in range(256)]
    await until(lambda: door.slots.taken, 0)
    door.enter("other", 1)
    assert door.started == ["wide", "other"]
    back.set()
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
