"""When a model server is left alone, and how retries wait, on a clock that does not run."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

import pytest
from harness import FakeModel, Journalist, a, working
from test_retry import Calls, Clock

from ray_executor_worker.endpoint import _ENDPOINTS, CallError, Endpoint, Endpoints
from ray_executor_worker.retry import Backoff, Progress, Retrier, Tries, _call


def broken(text: str = "HTTP 500: down") -> CallError:
    return CallError("http_status", text, retryable=True, broken=True)


def fail(endpoint: Endpoint, times: int) -> None:
    for _ in range(times):
        endpoint.failed(broken(), probe=endpoint.admit())


def opened(clock: Clock) -> Endpoint:
    endpoint = clock.endpoint()
    fail(endpoint, 19)
    clock.now += 1
    fail(endpoint, 1)
    return endpoint


async def ask(clock: Clock, endpoint: Endpoint, calls: Calls, **bounds: float) -> str:
    return await clock.retrier().run(
        calls,
        endpoint=endpoint,
        max_retries=int(bounds.get("retries", 3)),
        deadline=bounds.get("deadline", 1e6),
        progress=Progress(),
        tries=Tries(),
    )


def test_failures_in_a_row_open_it() -> None:
    clock = Clock()
    with pytest.raises(CallError) as failure:
        opened(clock).admit()
    assert failure.value.error_type == "breaker_open"
    assert failure.value.retry_after == 5
    assert "model:8000" in failure.value.text
    assert "HTTP 500: down" in failure.value.text


def test_a_moments_failures_do_not() -> None:
    clock = Clock()
    endpoint = clock.endpoint()
    fail(endpoint, 1000)
    assert not endpoint.admit()


def test_one_answer_in_between_starts_the_count_anew() -> None:
    clock = Clock()
    endpoint = clock.endpoint()
    fail(endpoint, 19)
    endpoint.refused()
    clock.now += 10
    fail(endpoint, 19)
    assert not endpoint.admit()


def test_one_probe_at_a_time_and_ever_later() -> None:
    clock = Clock()
    endpoint = opened(clock)
    for pause in (5, 10, 15, 15):
        clock.now += pause - 0.1
        with pytest.raises(CallError):
            endpoint.admit()
        clock.now += 0.1
        probe = endpoint.admit()
        assert probe
        with pytest.raises(CallError):
            endpoint.admit()
        endpoint.failed(broken(), probe=probe)


def test_a_probe_that_hangs_is_followed_by_another() -> None:
    clock = Clock()
    endpoint = opened(clock)
    clock.now += 5
    assert endpoint.admit()
    clock.now += 5
    assert endpoint.admit()


def test_late_failures_of_older_calls_change_nothing() -> None:
    clock = Clock()
    endpoint = opened(clock)
    for _ in range(50):
        endpoint.failed(broken(), probe=False)
    clock.now += 5
    assert endpoint.admit()


def test_an_answer_closes_it_and_both_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    clock = Clock()
    endpoint = opened(clock)
    clock.now += 5
    assert endpoint.admit()
    endpoint.succeeded()
    assert not endpoint.admit()
    assert len(caplog.records) == 2
    assert "left alone: HTTP 500: down" in caplog.text
    assert "answers again" in caplog.text


async def test_a_call_that_is_not_made_counts_and_waits_for_the_next_probe() -> None:
    clock = Clock()
    endpoint, calls = opened(clock), Calls()
    assert await ask(clock, endpoint, calls) == "answer"
    assert calls.made == 1
    assert clock.slept == [5.5]
    with pytest.raises(CallError, match="was not called"):
        await ask(clock, opened(clock), calls, retries=0)
    with pytest.raises(CallError, match="no time left"):
        await ask(clock, opened(clock), calls, deadline=clock.now + 3)
    assert calls.made == 1


async def test_a_server_that_refuses_lives() -> None:
    clock = Clock()
    endpoint = clock.endpoint()
    for _ in range(40):
        clock.now += 1
        with pytest.raises(CallError, match="429"):
            await ask(
                clock,
                endpoint,
                Calls(CallError("http_status", "HTTP 429", retryable=True)),
                retries=0,
            )
    assert not endpoint.admit()


async def test_retries_beyond_the_budget_are_delayed_not_dropped() -> None:
    clock = Clock()
    endpoint = clock.endpoint()
    for _ in range(100):
        await endpoint.budget.take()
    assert clock.now == 0
    for _ in range(20):
        await endpoint.budget.take()
    assert clock.now == pytest.approx(2, abs=0.1)


async def test_answers_earn_retries() -> None:
    clock = Clock()
    endpoint = clock.endpoint()
    for _ in range(100):
        await endpoint.budget.take()
    endpoint.succeeded()
    await endpoint.budget.take()
    await endpoint.budget.take()
    assert clock.now == 0
    endpoint.refused()
    await endpoint.budget.take()
    assert 0.1 <= clock.now < 0.2


async def test_a_wait_for_the_budget_that_is_cancelled_lets_the_next_one_on() -> None:
    clock = Clock()
    forever = asyncio.Event()

    async def never(_: float) -> None:
        await forever.wait()

    endpoint = Endpoint("model:8000", now=lambda: clock.now, sleep=never)
    for _ in range(100):
        await endpoint.budget.take()
    first, second = (asyncio.create_task(endpoint.budget.take()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    clock.now += 1
    await second
    assert first.cancelled()


async def test_a_server_that_is_called_is_not_forgotten() -> None:
    endpoints = Endpoints()
    used = endpoints.at("used:1")

    async def others() -> None:
        for i in range(2 * _ENDPOINTS):
            endpoints.at(f"other:{i}")
        assert endpoints.at("used:1") is used

    await _call(others, used)
    assert len(endpoints._known) == _ENDPOINTS


async def test_calls_of_one_server_are_bounded_and_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ray_executor_worker.endpoint._CALLS", 2)
    endpoint = Endpoint("model:8000")
    begun: list[int] = []
    let_go = asyncio.Event()

    async def one(number: int) -> None:
        begun.append(number)
        await let_go.wait()

    calls = [asyncio.create_task(_call(partial(one, i), endpoint)) for i in range(5)]
    await asyncio.sleep(0.01)
    assert begun == [0, 1]
    calls[2].cancel()  # its deadline has come
    let_go.set()
    await asyncio.gather(*calls, return_exceptions=True)
    assert begun == [0, 1, 3, 4]
    assert endpoint.users == 0


def test_servers_are_apart_and_bounded() -> None:
    clock = Clock()
    endpoints = Endpoints(lambda: clock.now, clock.sleep)
    kept, dropped = endpoints.at("kept:1"), endpoints.at("dropped:1")
    for i in range(_ENDPOINTS - 1):
        assert endpoints.at("kept:1") is kept
        endpoints.at(f"other:{i}")
    assert endpoints.at("kept:1") is kept
    assert endpoints.at("dropped:1") is not dropped


async def test_sixteen_agents_outlive_a_server_that_stumbles(
    journalist: Journalist, model: FakeModel, caplog: pytest.LogCaptureFixture
) -> None:
    agents = [a(f"a{i}", f"500x2-{i}") for i in range(16)]
    async with working(journalist):
        await journalist.submit("d1", agents, model.url, max_retries=2)
        how, end = await journalist.end("d1")
    assert how == "completed"
    assert [result.metadata["attempts"] for result in end.results] == ["3"] * 16
    assert "left alone" not in caplog.text


async def test_a_dead_server_is_left_alone(
    journalist: Journalist, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_executor_worker.endpoint._FAILING_S", 0.0)
    async with working(journalist) as worker:
        worker._models._retrier = Retrier(Backoff(base=0.01, cap=0.01))
        agents = [a(f"a{i}", "500") for i in range(40)]
        await journalist.submit("d1", agents, model.url, timeout_seconds=3, max_retries=10)
        how, end = await journalist.end("d1")
    assert how == "failed"
    assert {result.metadata["error_type"] for result in end.results} == {"breaker_open"}
    assert (
        "was not called: it keeps failing, the last time with: no 500 (HTTP 500)"
        in end.error_message
    )
    # What was under way when it opened, and nothing after.
    assert model.calls["500"] <= 60


async def test_a_server_with_too_much_to_do_is_not_left_alone(
    journalist: Journalist, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It refuses what it has no room for, and answers the rest."""
    monkeypatch.setattr("ray_executor_worker.endpoint._FAILING_S", 0.0)
    monkeypatch.setattr("ray_executor_worker.asking._PAUSE_S", (0.01, 0.02))
    async with working(journalist) as worker:
        agents = [a(f"a{i}", f"fullx3-{i}") for i in range(40)]
        await journalist.submit("d1", agents, model.url, max_retries=1)
        how, end = await journalist.end("d1")
        endpoint = worker._models._endpoints.at(model.url.removeprefix("http://"))
        assert not endpoint.left_alone
    assert how == "completed"
    assert {r.metadata["status"] for r in end.results} == {"completed"}
    # A refusal by admission costs no retry.
    assert {r.metadata["attempts"] for r in end.results} == {"1"}
    assert len(model.requests) == 160
