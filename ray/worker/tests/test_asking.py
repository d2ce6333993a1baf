"""A model server that is not there is waited for, and holds up nobody else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from harness import FakeModel, Journalist, a, until, working

from ray_executor_worker.endpoint import CallError, Endpoint
from ray_executor_worker.messages import HEARTBEAT
from ray_executor_worker.worker import Worker


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_executor_worker.asking._PAUSE_S", (0.01, 0.05))
    monkeypatch.setattr("ray_executor_worker.endpoint._PAUSE_S", (0.05, 0.2))


@pytest.fixture
def late() -> str:
    """The address of a server that has not started."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest_asyncio.fixture
async def starting() -> AsyncIterator[FakeModel]:
    model = FakeModel()
    yield model
    if model.url:
        await model.stop()


def waits(worker: Worker, name: str) -> int:
    return worker._models._endpoints.at(name).awaited


async def test_what_was_submitted_before_completes_without_a_retry(
    journalist: Journalist, late: str, starting: FakeModel
) -> None:
    async with working(journalist) as worker:
        for i in range(5):
            agents = [a(f"a{j}") for j in range(10)]
            await journalist.submit(f"d{i}", agents, f"http://{late}", max_retries=1)
        await until(lambda: waits(worker, late), 50)
        # Long enough for its breaker, which opens after a second.
        await until(lambda: worker._models._endpoints.at(late)._pause > 0, wanted=True)
        await starting.start(int(late.rpartition(":")[2]))
        for i in range(5):
            how, end = await journalist.end(f"d{i}")
            assert how == "completed"
            assert {r.metadata["status"] for r in end.results} == {"completed"}
            assert {r.metadata["attempts"] for r in end.results} == {"1"}
            assert (end.usage.requests, end.usage.prompt_tokens) == (10, 30)
        assert waits(worker, late) == 0
    assert len(starting.requests) == 50


@pytest.mark.parametrize("name", ["503x6", "fullx6"])
async def test_a_503_is_waited_for(journalist: Journalist, model: FakeModel, name: str) -> None:
    async with working(journalist):
        await journalist.submit("d1", [a("a", name)], model.url, max_retries=1)
        how, end = await journalist.end("d1")
    assert how == "completed"
    assert end.results[0].metadata["attempts"] == "1"
    assert end.results[0].usage.requests == 7
    ids = [headers["X-Request-ID"] for headers in model.headers]
    assert ids == [f"d1.1.a.{number}" for number in range(1, 8)]


async def test_other_failures_cost_retries_beside_it(
    journalist: Journalist, model: FakeModel
) -> None:
    """A wait in between gives no retry back."""
    answers = iter([503, 500, 503, 503, 500, 500])

    model_answer = model._answer

    async def answer(request: Any, _: str) -> Any:
        return await model_answer(request, str(next(answers, 500)))

    model._answer = answer  # type: ignore[assignment, method-assign]
    async with working(journalist):
        await journalist.submit("d1", [a("a")], model.url, max_retries=2)
        how, end = await journalist.end("d1")
    assert how == "failed"
    assert end.results[0].metadata["error"] == "no 500 (HTTP 500)"
    assert end.results[0].metadata["attempts"] == "3"
    assert end.results[0].usage.requests == 6


@pytest.mark.parametrize("name", ["503", "full"])
async def test_without_retries_there_is_one_call_and_no_wait(
    journalist: Journalist, model: FakeModel, name: str
) -> None:
    async with working(journalist):
        await journalist.submit("d1", [a("a", name)], model.url, max_retries=0)
        how, end = await journalist.end("d1")
    assert how == "failed"
    assert end.results[0].metadata["error_type"] in {"http_status", "overloaded"}
    assert len(model.requests) == 1


async def test_it_is_waited_for_until_the_deadline(journalist: Journalist, late: str) -> None:
    async with working(journalist):
        await journalist.submit("d1", [a("a")], f"http://{late}", max_retries=1, timeout_seconds=3)
        how, end = await journalist.end("d1")
    assert how == "failed"
    metadata = end.results[0].metadata
    assert metadata["error_type"] == "connection"
    assert metadata["error"].startswith(f"connection refused ({late})")
    assert "waited for it until the deadline" in metadata["error"]


async def test_fallbacks_are_asked_while_a_server_is_away(
    journalist: Journalist, model: FakeModel, late: str
) -> None:
    async with working(journalist):
        agents = [
            {**a("a", "503x9"), "fallbacks": [{"model": "500"}, {"model": "json"}]},
            {**a("b", "first"), "fallbacks": [{"vllm_url": model.url + "/v1"}]},
        ]
        await journalist.submit("d1", agents[:1], model.url, max_retries=1)
        await journalist.submit("d2", agents[1:], f"http://{late}", max_retries=1)
        (one,) = (await journalist.end("d1"))[1].results
        (two,) = (await journalist.end("d2"))[1].results
    # One call of its own, two of the fallback that fails, one of the next.
    assert (one.proposal, one.metadata["model"]) == ('{"n": 1}', "json")
    assert (one.metadata["attempts"], one.usage.requests) == ("4", 4)
    assert [model.calls[name] for name in ("503x9", "500", "json")] == [1, 2, 1]
    assert (two.proposal, two.metadata["model"]) == ("proposal of first", "first")
    assert two.usage.requests == 1
    assert sorted(h["X-Request-ID"] for h in model.headers)[:4] == [
        f"d1.1.a.{number}" for number in range(1, 5)
    ]


async def test_an_agent_whose_fallbacks_have_failed_waits_for_its_own(
    journalist: Journalist, model: FakeModel
) -> None:
    async with working(journalist):
        agent = {**a("a", "503x3"), "fallbacks": [{"model": "404"}, {"model": "fullx1"}]}
        await journalist.submit("d1", [agent], model.url, max_retries=1)
        (one,) = (await journalist.end("d1"))[1].results
    assert one.metadata["status"] == "completed"
    assert one.metadata["model"] == "fullx1"
    assert [model.calls[name] for name in ("503x3", "404", "fullx1")] == [2, 1, 2]


@pytest.mark.parametrize("retries", [0, 1])
async def test_the_reasons_of_all_are_in_the_error(
    journalist: Journalist, model: FakeModel, retries: int
) -> None:
    async with working(journalist):
        agent = {**a("a", "404"), "fallbacks": [{"model": "400"}]}
        await journalist.submit("d1", [agent], model.url, max_retries=retries)
        (one,) = (await journalist.end("d1"))[1].results
    metadata = one.metadata
    assert metadata["error"] == "no 404 (HTTP 404); fallback 1: no 400 (HTTP 400)"
    assert (metadata["error_type"], metadata["model"]) == ("http_status", "404")
    assert one.usage.requests == 2


async def test_a_fallback_that_is_not_allowed_is_not_called(
    journalist: Journalist, model: FakeModel
) -> None:
    """The door of an older version, or other settings there, may let it in."""
    async with working(journalist):
        agent = {**a("a", "404"), "fallbacks": [{"vllm_url": "http://elsewhere.example"}]}
        await journalist.submit("d1", [agent], model.url)
        (one,) = (await journalist.end("d1"))[1].results
    assert "host elsewhere.example:80 is not covered by MODEL_HOSTS" in one.metadata["error"]


async def test_a_breaker_that_closes_ends_the_wait() -> None:
    """One call finds out whether the server is back; no other is made meanwhile."""
    endpoint = Endpoint("qwen:8000")
    refused = CallError("connection", "connection refused", away=True, broken=True)
    endpoint._pause, endpoint._due = 1.0, endpoint._now() + 60
    endpoint.failed(refused, probe=True)
    with pytest.raises(CallError) as failure:
        endpoint.admit()
    assert failure.value.away
    back = asyncio.Event()
    endpoint.expect(back, "connection refused")
    endpoint.refused()
    await asyncio.wait_for(back.wait(), 1)
    endpoint.expect_no_more(back)
    endpoint.expect_no_more(back)
    assert (endpoint.users, endpoint.awaited) == (0, 0)


async def test_heartbeats_say_what_is_waited_for(
    journalist: Journalist, late: str, starting: FakeModel
) -> None:
    async with working(journalist) as worker:
        assert list(beat(worker).waiting) == []
        await journalist.submit("d1", [a("a")], f"http://{late}", max_retries=1)
        await until(lambda: waits(worker, late), 1)
        waiting = [(one.endpoint, one.reason) for one in beat(worker).waiting]
        assert waiting == [(late, "connection refused")]
        await starting.start(int(late.rpartition(":")[2]))
        await journalist.end("d1")
        assert list(beat(worker).waiting) == []


def beat(worker: Worker) -> Any:
    return worker._context.schema.parse(HEARTBEAT, worker._facts().SerializeToString())


async def test_agents_that_wait_hold_up_nobody_else(
    journalist: Journalist, model: FakeModel, late: str, starting: FakeModel
) -> None:
    """Four slots, and forty agents that wait for a server that is not there."""
    async with working(journalist, slots=4) as worker:
        slots = worker._pullers["default"].slots
        for i in range(20):
            agents = [a("a", "pause"), a("b", "pause")]
            await journalist.submit(f"w{i}", agents, f"http://{late}", max_retries=1)
        await until(lambda: waits(worker, late), 40)
        for i in range(10):
            await journalist.submit(f"d{i}", [a("a"), a("b")], model.url, max_retries=1)
        for i in range(10):
            assert (await journalist.end(f"d{i}"))[0] == "completed"
        await starting.start(int(late.rpartition(":")[2]))
        for i in range(20):
            how, end = await journalist.end(f"w{i}")
            assert how == "completed"
            assert [r.metadata["attempts"] for r in end.results] == ["1", "1"]
        await journalist.settled()
        await until(lambda: (slots.taken, slots._parked), (0, 0))
    # Those that waited take slots again: no more than there are.
    assert 1 <= starting.most <= 4


async def test_an_agent_in_a_call_retains_the_slots_of_its_deliberation(
    journalist: Journalist, model: FakeModel
) -> None:
    async with working(journalist, slots=2) as worker:
        slots = worker._pullers["default"].slots
        await journalist.submit("d1", [a("a", "503"), a("b", "slow")], model.url, max_retries=1)
        await until(lambda: model.calls["503"] > 2, wanted=True)
        assert (slots.taken, slots._parked) == (2, 0)
        model.let_go.set()
        # The one that waits is left, without a slot.
        await until(lambda: slots._parked, 1)
        await journalist.cancel("d1")
        await journalist.settled()
        await until(lambda: (slots.taken, slots._parked), (0, 0))


async def test_a_wait_outlives_its_worker(
    journalist: Journalist, late: str, starting: FakeModel
) -> None:
    async with working(journalist, "one") as worker:
        await journalist.submit("d1", [a("a"), a("b")], f"http://{late}", max_retries=1)
        await until(lambda: waits(worker, late), 2)
    async with working(journalist, "two") as worker:
        await until(lambda: waits(worker, late), 2)
        await starting.start(int(late.rpartition(":")[2]))
        how, end = await journalist.end("d1")
    assert how == "completed"
    assert [r.metadata["attempts"] for r in end.results] == ["1", "1"]
    assert len(starting.requests) == 2


async def test_a_model_that_answers_503_holds_up_no_other_of_its_server(
    journalist: Journalist, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_executor_worker.endpoint._FAILING_S", 0.0)
    monkeypatch.setattr("ray_executor_worker.endpoint._PAUSE_S", (30.0, 30.0))
    async with working(journalist):
        down = [a(f"a{i}", "503") for i in range(60)]
        await journalist.submit("down", down, model.url, max_retries=3, timeout_seconds=60)
        await until(lambda: len(model.requests) >= 60, wanted=True)
        for retries in (0, 3):
            await journalist.submit(f"ok-{retries}", [a("b")], model.url, max_retries=retries)
            how, _ = await journalist.end(f"ok-{retries}")
            assert how == "completed"
        await journalist.cancel("down")
