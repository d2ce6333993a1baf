"""A worker against a real NATS: what it writes, and how it loses races."""

from __future__ import annotations

import asyncio
import hashlib
import time
from pathlib import Path
from typing import Any

import pytest
from harness import FakeModel, Journalist, NatsServer, a, intercept, stretches, until, working
from nats.aio.msg import Msg
from nats.js.errors import APIError

from ray_executor_worker.claim import MAX_DELIVERIES
from ray_executor_worker.clock import JournalClock
from ray_executor_worker.connection import Connection, UnavailableError
from ray_executor_worker.journal import RESULTS_BUCKET, STREAM, Journal
from ray_executor_worker.messages import (
    AGENT,
    COMPLETED,
    REQUESTED,
    STARTED,
    STOPPED,
    Result,
    Schema,
)
from ray_executor_worker.settings import Secrets
from ray_executor_worker.tasks import cancel

DONE = {"status": "completed"}


def proposals(message: Any) -> list[str]:
    return [result.proposal for result in message.results]


def errors(message: Any) -> list[str]:
    return [result.metadata["error"] for result in message.results]


async def test_a_deliberation_is_seen_through(journalist: Journalist, model: FakeModel) -> None:
    async with working(journalist):
        await journalist.submit("d1", [a("a1", "one"), a("a2", "reasoned", role="QA")], model.url)
        how, end = await journalist.end("d1")
        await journalist.settled()

    assert how == "completed"
    assert proposals(end) == ["proposal of one", "yes"]
    assert end.results[1].reasoning == "because"
    assert end.duration.nanos > 0
    metadata = dict(end.results[1].metadata)
    assert int(metadata.pop("duration_ms")) >= 0
    assert metadata == {
        "status": "completed",
        "model": "reasoned",
        "role": "QA",
        "attempts": "1",
        "finish_reason": "stop",
        "prompt_tokens": "3",
        "completion_tokens": "4",
        "total_tokens": "7",
    }
    story = await journalist.story("d1")
    kinds = await journalist.kinds("d1")
    assert kinds[:2] == ["requested.default", "started.default"]
    assert sorted(kinds[2:4]) == ["agent.0", "agent.1"]
    assert kinds[4:] == ["done.completed"]
    started = journalist.schema.parse(STARTED, story[1].data)
    assert (started.attempt, started.cluster, started.replica) == (1, "test", "one")
    assert not started.HasField("first_started_at")


async def test_events_are_cloud_events(journalist: Journalist, model: FakeModel) -> None:
    async with working(journalist):
        await journalist.submit("d1", [a("a1")], model.url)
        await journalist.end("d1")
    _, started, agent, done = await journalist.story("d1")

    assert [e.headers["ce-id"] for e in (started, agent, done)] == [
        "d1.started.1",
        "d1.agent.0",
        "d1.done",
    ]
    assert [e.headers["ce-type"] for e in (started, agent, done)] == [STARTED, AGENT, COMPLETED]
    for entry in (started, agent, done):
        assert entry.headers["ce-specversion"] == "1.0"
        assert entry.headers["ce-source"] == "/ray-executor/worker"
        assert entry.headers["ce-subject"] == "d1"
        assert entry.headers["ce-time"].endswith("Z")
        assert entry.headers["content-type"] == "application/protobuf"
        assert entry.headers["ce-traceparent"] == f"00-{'1' * 32}-{'2' * 16}-01"


async def test_the_first_start_is_one_append_over_everything(
    journalist: Journalist, model: FakeModel
) -> None:
    await journalist.submit("d1", [a("a1")], model.url)
    async with working(journalist):
        await journalist.end("d1")
    started = (await journalist.story("d1"))[1]
    assert started.headers["Nats-Expected-Last-Subject-Sequence-Subject"] == "deliberation.*.*.d1"


async def test_what_ended_before_it_was_pulled_is_acknowledged(
    journalist: Journalist, model: FakeModel
) -> None:
    await journalist.submit("d1", [a("a1")], model.url)
    await journalist.cancel("d1")
    async with working(journalist):
        await journalist.settled()
    assert await journalist.kinds("d1") == ["requested.default", "done.cancelled"]
    assert model.requests == []


async def test_a_resumed_deliberation_asks_only_the_missing_agents(
    journalist: Journalist, model: FakeModel
) -> None:
    first = await journalist.submit("d1", [a("a1"), a("a2"), a("a3")], model.url)
    await journalist.start("d1", 1)
    await journalist.agent("d1", 0, Result("a1", "kept", metadata=DONE))
    await journalist.agent("d1", 2, Result("a3", metadata={"status": "failed", "error": "gone"}))
    async with working(journalist):
        how, end = await journalist.end("d1")
    assert how == "completed"
    assert proposals(end) == ["kept", "proposal of ok", ""]
    assert model.asked() == ["a2"]
    started = [e for e in await journalist.story("d1") if ".started." in e.subject]
    second = journalist.schema.parse(STARTED, started[1].data)
    assert second.attempt == 2
    assert second.HasField("first_started_at")
    assert started[1].headers["Nats-Expected-Last-Subject-Sequence"] == str(first + 1)


async def test_what_is_recorded_until_the_claim_stands_is_not_asked(
    journalist: Journalist, model: FakeModel
) -> None:
    """A paused worker goes on, and records, while another claims."""
    claims = 0

    async def go_on(subject: str) -> None:
        nonlocal claims
        if subject == "deliberation.started.default.d1":
            claims += 1
            if claims == 1:  # which is refused therefore
                await journalist.start("d1", 1)
            else:
                await journalist.agent("d1", 0, Result("a1", "just now", metadata=DONE))

    async with working(journalist) as worker:
        intercept(worker, before=go_on)
        await journalist.submit("d1", [a("a1"), a("a2")], model.url)
        _, end = await journalist.end("d1")
    assert proposals(end) == ["just now", "proposal of ok"]
    assert model.asked() == ["a2"]


async def test_a_deliberation_that_brings_workers_down_is_given_up(
    journalist: Journalist, model: FakeModel
) -> None:
    await journalist.submit("d1", [a("a1")], model.url)
    for attempt in range(1, 6):
        await journalist.start("d1", attempt)
    async with working(journalist):
        how, end = await journalist.end("d1")
        await journalist.settled()
    assert how == "failed"
    assert end.error_message.startswith(
        "given up after 5 attempts: the worker was lost in 5 of them"
    )
    assert end.given_up
    assert end.results[0].metadata["error_type"] == "attempts"
    assert model.requests == []


async def test_what_stopped_workers_hand_back_is_not_given_up(
    journalist: Journalist, model: FakeModel
) -> None:
    await journalist.submit("d1", [a("a1", "slow")], model.url)
    for i in range(6):
        async with working(journalist, f"deploy-{i}"):
            await until(lambda: model.open, 1)
        await until(lambda: model.open, 0)
    # Four are lost; the fifth is one too many.
    for attempt in range(7, 11):
        await journalist.start("d1", attempt)
    async with working(journalist, "deploy-6"):
        await until(lambda: model.open, 1)
    await journalist.start("d1", 12)
    async with working(journalist, "last"):
        how, end = await journalist.end("d1")
        await journalist.settled()
    assert how == "failed"
    assert end.error_message.startswith(
        "given up after 12 attempts: the worker was lost in 5 of them"
    )
    assert len(model.requests) == 7


async def test_what_no_worker_lives_to_start_is_given_up(
    journalist: Journalist, model: FakeModel
) -> None:
    await journalist.submit("d1", [a("a1")], model.url)
    await journalist.submit("d2", [a("a1")], model.url)
    await journalist.start("d2", 1)
    pull = await journalist.nc.jetstream().pull_subscribe_bind("pool-default", STREAM)
    for _ in range(MAX_DELIVERIES):
        # One by one: a fetch of two may bring one, and that one twice.
        both = [message for _ in range(2) for message in await pull.fetch(1, timeout=20)]
        for message in both:
            await message.nak()
    async with working(journalist):
        how, end = await journalist.end("d1")
        assert how == "failed"
        assert end.error_message == (
            "given up after 50 deliveries: each worker died before it could start it"
        )
        assert end.given_up
        # It was started once: its attempts count.
        assert (await journalist.end("d2"))[0] == "completed"
        await journalist.settled()
    assert len(model.requests) == 1


async def test_what_is_handed_back_does_not_go_round(
    journalist: Journalist, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_executor_worker.puller._WAITING", 1)
    async with working(journalist, slots=1) as worker:
        await journalist.submit("d1", [a("a1", "slow")], model.url)
        await until(lambda: model.open, 1)
        # A request that the worker has given up, and the server has not.
        lost = f"{worker._pullers['default']._inbox}.lost"
        await journalist.nc.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.pool-default",
            b'{"batch": 1000, "expires": 30000000000}',
            reply=lost,
        )
        await journalist.submit("d2", [a("a1")], model.url)
        await until(lambda: worker._pullers["default"].slots.waiting, 1)
        await journalist.submit("d3", [a("a1")], model.url)
        await asyncio.sleep(2)
        pool = await journalist.nc.jetstream().consumer_info(STREAM, "pool-default")
        assert pool.delivered is not None
        # d1 and d2, and d3 four times, then after 0.1, 0.2, 0.4 and 0.8 s.
        assert 6 <= pool.delivered.consumer_seq <= 10
        model.let_go.set()
        for id_ in ("d2", "d3"):
            assert (await journalist.end(id_))[0] == "completed"


async def test_an_interest_that_could_not_be_drained_is_gone(
    journalist: Journalist,
) -> None:
    heard: list[bytes] = []

    async def hear(message: Msg) -> None:
        heard.append(message.data)

    connection = Connection((journalist.server.url,), Secrets({}), "test")
    keeping = asyncio.create_task(connection.maintain())
    await until(lambda: int(connection.connected), 1)
    await connection.subscribe("some.*", hear)
    # It hears nothing of the end of the interest, and then there is another.
    journalist.server.freeze()
    await connection.unsubscribe("some.*")
    journalist.server.stop()
    await until(lambda: int(connection.connected), 0)
    journalist.server.start()
    await until(lambda: int(connection.connected), 1)
    await connection.publish("some.thing", b"x")
    await connection.request("$JS.API.INFO", b"")
    await asyncio.sleep(0.1)
    assert heard == []
    await cancel([keeping])
    await connection.close()


async def test_none_completed(journalist: Journalist, model: FakeModel) -> None:
    async with working(journalist):
        await journalist.submit("d1", [a("a1", "404"), a("a2", "empty")], model.url)
        how, end = await journalist.end("d1")
    assert how == "failed"
    assert not end.given_up
    assert end.error_message == (
        "none of 2 agents completed: a1: no 404 (HTTP 404); "
        "a2: the model answered with empty content (finish_reason stop)"
    )
    assert [r.metadata["error_type"] for r in end.results] == ["http_status", "empty_content"]
    assert end.task_id == "task-d1"


async def test_one_failure_does_not_fail_the_others(
    journalist: Journalist, model: FakeModel
) -> None:
    async with working(journalist):
        await journalist.submit("d1", [a("a1", "404"), a("a2")], model.url)
        how, end = await journalist.end("d1")
    assert how == "completed"
    assert [r.metadata["status"] for r in end.results] == ["failed", "completed"]


async def test_a_host_outside_the_list_fails_the_agent(
    journalist: Journalist, model: FakeModel
) -> None:
    async with working(journalist, model_hosts=("elsewhere",)):
        await journalist.submit("d1", [a("a1")], model.url)
        how, end = await journalist.end("d1")
    assert how == "failed"
    assert "not covered by MODEL_HOSTS" in end.error_message
    assert model.requests == []


async def test_the_deadline_completes_with_what_there_is(
    journalist: Journalist, model: FakeModel
) -> None:
    async with working(journalist):
        await journalist.submit("d1", [a("a1"), a("a2", "slow")], model.url, timeout_seconds=1)
        how, end = await journalist.end("d1")
        await until(lambda: model.aborted, 1)
    assert how == "completed"
    assert proposals(end) == ["proposal of ok", ""]
    assert end.results[1].metadata["error"] == "timed out after 1 s"
    assert end.results[1].metadata["error_type"] == "timeout"


async def test_the_deadline_with_none_fails(journalist: Journalist, model: FakeModel) -> None:
    async with working(journalist):
        await journalist.submit("d1", [a("a1", "slow")], model.url, timeout_seconds=1)
        how, end = await journalist.end("d1")
    assert how == "failed"
    assert end.error_message.startswith("timed out after 1 s")


async def test_what_waited_too_long_ends_without_a_call(
    journalist: Journalist, model: FakeModel
) -> None:
    await journalist.submit("d1", [a("a1")], model.url, timeout_seconds=1)
    await asyncio.sleep(1.1)  # the journal's clock cannot be moved
    async with working(journalist):
        how, end = await journalist.end("d1")
        await journalist.settled()
    assert how == "failed"
    assert not end.given_up
    assert "before it was asked" in end.results[0].metadata["error"]
    assert await journalist.kinds("d1") == ["requested.default", "done.failed"]
    assert model.requests == []


async def test_a_cancelled_deliberation_lets_go_of_its_model_at_once(
    journalist: Journalist, model: FakeModel
) -> None:
    async with working(journalist):
        await journalist.submit("d1", [a("a1", "slow"), a("a2", "slow")], model.url)
        await until(lambda: model.open, 2)
        await journalist.cancel("d1")
        await until(lambda: (model.open, model.aborted), (0, 2))
        await journalist.settled()
    assert await journalist.kinds("d1") == [
        "requested.default",
        "started.default",
        "done.cancelled",
    ]


async def test_an_end_by_the_keeper_lets_go_of_the_model_at_once(
    journalist: Journalist, model: FakeModel
) -> None:
    async with working(journalist):
        await journalist.submit("d1", [a("a1", "slow")], model.url)
        await until(lambda: model.open, 1)
        await journalist.append("deliberation.done.failed.d1", b"")
        await until(lambda: model.aborted, 1)
        await journalist.settled()
    assert (await journalist.kinds("d1"))[-1] == "done.failed"


async def test_a_worker_that_was_paused_leaves_what_another_has_started(
    journalist: Journalist, model: FakeModel
) -> None:
    async with working(journalist) as worker:
        await journalist.submit("d1", [a("a1", "slow")], model.url)
        await until(lambda: model.open, 1)
        await journalist.start("d1", 2)
        # As though it had not run for longer than the ack wait.
        for held in worker._holding.items:
            held.beaten_at -= held.puller.ack_wait + 1
        await until(lambda: model.aborted, 1)
    assert (await journalist.kinds("d1"))[-1] == "started.default"


async def test_a_refused_cancel_stops_nothing(journalist: Journalist, model: FakeModel) -> None:
    async with working(journalist):
        await journalist.submit("d1", [a("a1", "slow")], model.url)
        await until(lambda: model.open, 1)
        with pytest.raises(APIError, match="10071"):
            await journalist.append(
                "deliberation.done.cancelled.d1",
                b"",
                **{"Nats-Expected-Last-Subject-Sequence": "99"},
            )
        await asyncio.sleep(0.2)  # nothing is to happen
        assert model.aborted == 0
        model.let_go.set()
        assert (await journalist.end("d1"))[0] == "completed"


async def test_a_lost_race_for_the_end(journalist: Journalist, model: FakeModel) -> None:
    async with working(journalist):
        await journalist.submit("d1", [a("a1", "slow")], model.url)
        await until(lambda: model.open, 1)
        # Of completions workers do not hear.
        await journalist.append("deliberation.done.completed.d1", b"")
        model.let_go.set()
        await journalist.settled()
    assert (await journalist.kinds("d1"))[-2:] == ["done.completed", "agent.0"]


async def test_an_agent_recorded_by_another_worker_stands(
    journalist: Journalist, model: FakeModel
) -> None:
    async with working(journalist):
        await journalist.submit("d1", [a("a1", "slow")], model.url)
        await until(lambda: model.open, 1)
        await journalist.agent("d1", 0, Result("a1", "theirs", metadata=DONE))
        model.let_go.set()
        _, end = await journalist.end("d1")
    assert proposals(end) == ["theirs"]


async def test_what_another_worker_recorded_counts_at_the_deadline(
    journalist: Journalist, model: FakeModel
) -> None:
    async with working(journalist):
        await journalist.submit("d1", [a("a1", "slow")], model.url, timeout_seconds=1)
        await until(lambda: model.open, 1)
        await journalist.agent("d1", 0, Result("a1", "theirs", metadata=DONE))
        how, end = await journalist.end("d1")
    assert how == "completed"
    assert proposals(end) == ["theirs"]


async def test_a_stopped_worker_hands_back(journalist: Journalist, model: FakeModel) -> None:
    async with working(journalist, "one"):
        await journalist.submit("d1", [a("a1"), a("a2", "slow")], model.url)
        await journalist.wait_for("deliberation.agent.0.d1")
        await until(lambda: model.open, 1)
    assert model.aborted == 1
    model.let_go.set()
    # Long before the ack wait of 60 s is over.
    async with working(journalist, "two"):
        how, end = await journalist.end("d1")
        await journalist.settled()
    assert how == "completed"
    assert proposals(end) == ["proposal of ok", "proposal of slow"]
    assert sorted(model.asked()) == ["a1", "a2", "a2"]


async def test_a_stopping_worker_first_ends_what_it_can(
    journalist: Journalist, model: FakeModel
) -> None:
    async with working(journalist) as worker:
        await journalist.submit("d1", [a("a1", "slow")], model.url)
        await until(lambda: model.open, 1)
        stopping = asyncio.create_task(worker.stop(20))
        await until(lambda: worker._pullers["default"]._stopping, wanted=True)
        await journalist.submit("d2", [a("a1")], model.url)
        model.let_go.set()
        assert (await journalist.end("d1"))[0] == "completed"
        await stopping
    # Only what came meanwhile is left, and none says that it was handed back.
    assert await journalist.unsettled() == 1
    assert len(model.requests) == 1
    info = await journalist.nc.jetstream().stream_info(
        STREAM, subjects_filter="deliberation.stopped.>"
    )
    assert not info.state.subjects


async def test_a_drain_that_takes_too_long_hands_back(
    journalist: Journalist, model: FakeModel
) -> None:
    async with working(journalist, "one") as worker:
        await journalist.submit("d1", [a("a1"), a("a2", "slow")], model.url)
        await journalist.wait_for("deliberation.agent.0.d1")
        await until(lambda: model.open, 1)
        await worker.stop(0.1)
    assert (await journalist.wait_for("deliberation.stopped.worker.~one")).headers[
        "ce-type"
    ] == STOPPED
    model.let_go.set()
    async with working(journalist, "two"):
        assert (await journalist.end("d1"))[0] == "completed"
    assert sorted(model.asked()) == ["a1", "a2", "a2"]


async def test_two_workers_share_a_pool(journalist: Journalist, model: FakeModel) -> None:
    async with working(journalist, "one", slots=3), working(journalist, "two", slots=3):
        for i in range(40):
            await journalist.submit(f"d{i}", [a("a1"), a("a2")], model.url)
        for i in range(40):
            assert (await journalist.end(f"d{i}"))[0] == "completed"
        await journalist.settled()
    assert len(model.requests) == 80


async def test_no_more_than_the_slots_are_held(journalist: Journalist, model: FakeModel) -> None:
    async with working(journalist, slots=2):
        for i in range(5):
            await journalist.submit(f"d{i}", [a("a1", "slow")], model.url)
        await until(lambda: model.open, 2)
        await asyncio.sleep(0.2)  # no third is to come
        assert len(model.requests) == 2
        model.let_go.set()
        for i in range(5):
            assert (await journalist.end(f"d{i}"))[0] == "completed"


async def test_nats_comes_later(journalist: Journalist, model: FakeModel) -> None:
    journalist.server.stop()
    async with working(journalist) as worker:
        await asyncio.sleep(0.3)
        worker.check()
        journalist.server.start()
        await until(lambda: journalist.nc.is_connected, wanted=True)
        await journalist.submit("d1", [a("a1")], model.url)
        assert (await journalist.end("d1"))[0] == "completed"


async def test_a_result_outlives_an_absence_of_nats(
    journalist: Journalist, model: FakeModel
) -> None:
    async with working(journalist):
        await journalist.submit("d1", [a("a1", "slow")], model.url)
        await until(lambda: model.open, 1)
        journalist.server.stop()
        model.let_go.set()
        await until(lambda: model.open, 0)
        journalist.server.start()
        await until(lambda: journalist.nc.is_connected, wanted=True)
        assert (await journalist.end("d1"))[0] == "completed"
    assert model.calls["slow"] == 1


async def test_a_cancel_during_an_absence_is_noticed(
    journalist: Journalist, model: FakeModel
) -> None:
    async with working(journalist) as worker:
        await journalist.submit("d1", [a("a1", "slow")], model.url)
        await until(lambda: model.open, 1)
        # As though the message had been missed: the handler is not there.
        await worker._connection.unsubscribe("deliberation.done.cancelled.*")
        await journalist.cancel("d1")
        await worker._connection.client.force_reconnect()
        await until(lambda: model.aborted, 1)
        await journalist.settled()


async def test_a_reconnect_asks_the_leader_few_things_at_a_time(
    journalist: Journalist, model: FakeModel
) -> None:
    """Its queue is shared by all workers, and is dropped as a whole where it overflows."""
    under_way, most, asked = 0, 0, 0

    async def begin(subject: str) -> None:
        nonlocal under_way, most, asked
        if ".MSG.GET." in subject:
            under_way, asked = under_way + 1, asked + 1
            most = max(most, under_way)
            await asyncio.sleep(0.01)
            under_way -= 1

    async with working(journalist) as worker:
        for i in range(60):
            await journalist.submit(f"d{i}", [a("a1", "slow")], model.url)
        await until(lambda: model.open, 60)
        intercept(worker, before=begin)
        await worker._connection.client.force_reconnect()
        await until(lambda: asked, 120)
        assert most == 8
        model.let_go.set()
        await journalist.settled()


async def test_a_newer_attempt_elsewhere_is_left_alone(
    journalist: Journalist, model: FakeModel
) -> None:
    async with working(journalist) as worker:
        await journalist.submit("d1", [a("a1", "slow")], model.url)
        await until(lambda: model.open, 1)
        await journalist.start("d1", 2)
        await worker._connection.client.force_reconnect()
        await until(lambda: model.aborted, 1)
    assert (await journalist.kinds("d1"))[-1] == "started.default"


async def test_a_large_result_goes_to_the_object_store(
    journalist: Journalist, model: FakeModel
) -> None:
    async with working(journalist):
        await journalist.submit("d1", [a("a1", "big")], model.url)
        _, end = await journalist.end("d1")
    agent = journalist.read_agent((await journalist.story("d1"))[2])
    assert not agent.HasField("result")
    assert not end.results
    store = await journalist.nc.jetstream().object_store(RESULTS_BUCKET)
    for ref, name in ((agent.result_ref, AGENT), (end.results_ref, COMPLETED)):
        whole = (await store.get(ref)).data
        assert whole is not None
        assert ref == f"sha256-{hashlib.sha256(whole).hexdigest()}"
        message = journalist.schema.parse(name, whole)
        result = message.result if name == AGENT else message.results[0]
        assert len(result.proposal) == 1536 * 1024


async def test_a_journal_with_a_prefix(
    nats_server: NatsServer, schema: Schema, model: FakeModel
) -> None:
    journalist = Journalist(nats_server, schema, prefix="TEAM-A_")
    await journalist.open()
    js = journalist.nc.jetstream()
    await js.create_key_value(bucket="TEAM-A_DELIBERATION_WORKERS")
    async with working(journalist):
        await journalist.submit("d1", [a("a1", "big")], model.url)
        _, end = await journalist.end("d1")
        await journalist.settled()
    store = await js.object_store("TEAM-A_DELIBERATION_RESULTS")
    assert (await store.get(end.results_ref)).data
    # The heartbeat, or that it is over.
    assert (await js.stream_info("KV_TEAM-A_DELIBERATION_WORKERS")).state.messages == 1
    await journalist.close()


async def test_the_answers_of_a_deliberation_are_bounded(
    journalist: Journalist, model: FakeModel
) -> None:
    agents = [a(f"a{i}", "big") for i in range(14)]
    async with working(journalist, slots=14) as worker:
        await journalist.submit("d1", agents, model.url, timeout_seconds=60)
        how, end = await journalist.end("d1")
        assert not worker._context.long_answers.locked()
        assert not worker._context.long_ends.locked()
    assert how == "completed"
    store = await journalist.nc.jetstream().object_store(RESULTS_BUCKET)
    whole = journalist.schema.parse(COMPLETED, (await store.get(end.results_ref)).data or b"")
    proposals = [r for r in whole.results if r.proposal]
    assert [len(r.proposal) for r in proposals] == [1536 * 1024] * 10
    assert {r.metadata["error"] for r in whole.results if not r.proposal} == {
        "the answers of all agents exceed 16777216 bytes"
    }
    assert sum(r.metadata.get("error_type") == "too_large" for r in whole.results) == 4


async def test_an_older_workers_answers_are_bounded_at_the_end(
    journalist: Journalist, model: FakeModel
) -> None:
    await journalist.submit("d1", [a(f"a{i}") for i in range(22)], model.url, timeout_seconds=60)
    await journalist.start("d1", 1)
    for i in range(20):
        await journalist.agent("d1", i, Result(f"a{i}", f"{i % 10}" * 900_000, metadata=DONE))
    async with working(journalist):
        _, end = await journalist.end("d1")
    store = await journalist.nc.jetstream().object_store(RESULTS_BUCKET)
    whole = journalist.schema.parse(COMPLETED, (await store.get(end.results_ref)).data or b"")
    # And there is no room for the two that were not asked yet.
    assert [p[:1] for p in proposals(whole)] == [*(f"{i % 10}" for i in range(18)), *[""] * 4]
    assert {r.metadata["error_type"] for r in whole.results[18:]} == {"too_large"}


async def test_names_are_not_repeated_at_length(journalist: Journalist, model: FakeModel) -> None:
    async with working(journalist):
        await journalist.submit("d1", [a("a1", "x" * 10_000, role="r" * 10_000)], model.url)
        _, end = await journalist.end("d1")
    assert {len(end.results[0].metadata[name]) for name in ("model", "role")} == {256}


async def test_half_an_object_is_put_again(journalist: Journalist) -> None:
    js = journalist.nc.jetstream()
    store = await js.object_store(RESULTS_BUCKET)
    async with working(journalist) as worker:
        await until(lambda: worker._connection.connected, wanted=True)
        for _ in range(2):
            await worker._journal._objects._put("sha256-1", b"whole")
            assert (await store.get("sha256-1")).data == b"whole"
            await js.purge_stream(f"OBJ_{RESULTS_BUCKET}", subject="$O.*.C.>")


async def test_a_large_recorded_result_is_put_back(
    journalist: Journalist, model: FakeModel
) -> None:
    async with working(journalist):
        await journalist.submit("d1", [a("a1", "big"), a("a2", "slow")], model.url)
        await journalist.wait_for("deliberation.agent.0.d1")
    model.let_go.set()
    async with working(journalist, "two"):
        _, end = await journalist.end("d1")
    store = await journalist.nc.jetstream().object_store(RESULTS_BUCKET)
    whole = journalist.schema.parse(COMPLETED, (await store.get(end.results_ref)).data or b"")
    assert [len(p) for p in proposals(whole)] == [1536 * 1024, len("proposal of slow")]
    assert model.calls["big"] == 1


async def test_a_large_request_is_read_from_the_object_store(
    journalist: Journalist, model: FakeModel
) -> None:
    task = "x" * 1_000_000
    message = journalist.request("d1", [a("a1")], model.url, task_description=task)
    whole = message.SerializeToString()
    message.ClearField("request")
    message.request_ref = f"sha256-{hashlib.sha256(whole).hexdigest()}"
    store = await journalist.nc.jetstream().object_store(RESULTS_BUCKET)
    await store.put(message.request_ref, whole)
    await journalist.append("deliberation.requested.default.d1", message)
    async with working(journalist):
        assert (await journalist.end("d1"))[0] == "completed"
    assert task in model.requests[0]["messages"][1]["content"]


async def test_prompts_that_are_too_large_fail_alone(
    journalist: Journalist, model: FakeModel
) -> None:
    """As the door of an older version has let them in."""
    agents = [
        a("a1"),
        a("a2", prompt_template="{task_description}" * 4_000),
        *(a(f"b{i}", prompt_template="{task_description}" * 52) for i in range(17)),
        a("a3"),
    ]
    async with working(journalist), stretches() as longest:
        await journalist.submit("d1", agents, model.url, task_description="x" * 20_000)
        how, end = await journalist.end("d1")
        await journalist.settled()
    assert how == "completed"
    failed = {r.agent_id: r.metadata["error"] for r in end.results if not r.proposal}
    assert failed == {
        "a2": "the prompt fills to 80000003 bytes; at most 1048576 are taken",
        "b16": "the prompts up to this agent's fill to 17700059 bytes; at most 16777216 are taken",
    }
    assert {r.metadata["error_type"] for r in end.results if not r.proposal} == {"too_large"}
    assert len(model.requests) == 18
    assert longest() < 0.2


async def test_a_damaged_object_is_not_used(journalist: Journalist, model: FakeModel) -> None:
    message = journalist.request("d1", [a("a1")], model.url)
    other = journalist.request("d1", [a("a1"), a("a2")], model.url).SerializeToString()
    message.ClearField("request")
    message.request_ref = f"sha256-{hashlib.sha256(b'another').hexdigest()}"
    store = await journalist.nc.jetstream().object_store(RESULTS_BUCKET)
    await store.put(message.request_ref, other)
    await journalist.append("deliberation.requested.default.d1", message)
    async with working(journalist):
        how, end = await journalist.end("d1")
    assert how == "failed"
    assert "not what its name says" in end.error_message
    assert not model.requests


async def test_an_end_needs_no_object_store(journalist: Journalist, model: FakeModel) -> None:
    js = journalist.nc.jetstream()
    config = (await js.stream_info(f"OBJ_{RESULTS_BUCKET}")).config
    config.max_bytes = 1024
    await js.update_stream(config)
    # Each is small enough for a message, together they are not.
    async with working(journalist):
        await journalist.submit("d1", [a("a1", "half"), a("a2", "half")], model.url)
        how, end = await journalist.end("d1")
    assert how == "completed"
    assert not end.results
    assert not end.results_ref


async def test_what_cannot_be_read_fails(journalist: Journalist) -> None:
    await journalist.append("deliberation.requested.default.d1", b"\xff\xff")
    missing = journalist.schema._classes[REQUESTED](
        deliberation_id="d2", timeout_seconds=30, request_ref="sha256-nowhere"
    )
    await journalist.append("deliberation.requested.default.d2", missing)
    async with working(journalist):
        for id_ in ("d1", "d2"):
            how, end = await journalist.end(id_)
            assert how == "failed"
            assert "unreadable" in end.error_message
        await journalist.settled()


async def test_the_key_reaches_the_model_and_nothing_else(
    journalist: Journalist, model: FakeModel
) -> None:
    async with working(journalist, environ={"VLLM_API_KEY": "sk-secret"}):
        await journalist.submit("d1", [a("a1"), a("a2", "401sk-secret")], model.url)
        _, end = await journalist.end("d1")
    assert {h["Authorization"] for h in model.headers} == {"Bearer sk-secret"}
    for entry in await journalist.story("d1"):
        if not entry.subject.startswith("deliberation.requested"):
            assert b"no 401sk-secret" not in entry.data
    assert errors(end)[1] == "no 401*** (HTTP 401)"


async def test_lost_answers_write_nothing_twice(journalist: Journalist, model: FakeModel) -> None:
    lost: set[str] = set()

    async def lose_the_first(subject: str) -> None:
        if subject.startswith("deliberation.") and subject not in lost:
            lost.add(subject)
            raise UnavailableError("lost")

    async with working(journalist) as worker:
        intercept(worker, after=lose_the_first)
        await journalist.submit("d1", [a("a1")], model.url)
        _, end = await journalist.end("d1")
        await journalist.settled()
    assert len(lost) == 3
    assert proposals(end) == ["proposal of ok"]
    assert await journalist.kinds("d1") == [
        "requested.default",
        "started.default",
        "agent.0",
        "done.completed",
    ]
    assert len(model.requests) == 1


async def test_what_a_leader_without_followers_refuses_is_written_later(
    journalist: Journalist, model: FakeModel
) -> None:
    """It says that another message stands, where it will never store one."""
    refused: set[str] = set()
    async with working(journalist) as worker:
        request = worker._connection.request

        async def cut_off(subject: str, data: bytes, headers: Any = None) -> Any:
            reply = await request("$JS.API.INFO" if refuse(subject) else subject, data, headers)
            if subject in refused and reply.data.startswith(b'{"type":'):
                reply.data = b'{"error": {"err_code": 10071, "description": "wrong last sequence"}}'
            return reply

        def refuse(subject: str) -> bool:
            if not subject.startswith("deliberation.") or subject in refused:
                return False
            refused.add(subject)
            return True

        worker._connection.request = cut_off  # type: ignore[method-assign]
        await journalist.submit("d1", [a("a1")], model.url)
        await journalist.end("d1")
        await journalist.settled()
    assert len(refused) == 3
    assert await journalist.kinds("d1") == [
        "requested.default",
        "started.default",
        "agent.0",
        "done.completed",
    ]


async def test_unanswered_requests_write_nothing_twice(
    journalist: Journalist, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with working(journalist):
        await journalist.submit("d1", [a("a1", "slow")], model.url)
        await until(lambda: model.open, 1)
        monkeypatch.setattr("ray_executor_worker.connection.REQUEST_TIMEOUT_S", 0.1)
        journalist.server.freeze()
        try:
            model.let_go.set()
            await until(lambda: model.open, 0)
            await asyncio.sleep(0.5)  # some tries pile up in front of the frozen server
        finally:
            journalist.server.thaw()
        await journalist.end("d1")
        await journalist.settled()
    assert (await journalist.kinds("d1"))[2:] == ["agent.0", "done.completed"]


async def test_a_claim_lost_to_another_worker_is_left_to_it(
    journalist: Journalist, model: FakeModel
) -> None:
    appends = 0

    async def overtake(subject: str) -> None:
        nonlocal appends
        if ".started." in subject:
            appends += 1
            if appends == 2:  # the first is the claim of a first delivery, and fails
                await journalist.start("d1", 2)

    await journalist.submit("d1", [a("a1")], model.url)
    await journalist.start("d1", 1)
    async with working(journalist) as worker:
        intercept(worker, before=overtake)
        await until(lambda: appends, 2)
        await until(lambda: len(worker._holding.items), 0)
        assert await journalist.unsettled() == 1
    assert model.requests == []


async def test_a_closed_connection_is_replaced(journalist: Journalist, model: FakeModel) -> None:
    async with working(journalist) as worker:
        await journalist.submit("d1", [a("a1", "slow")], model.url)
        await until(lambda: model.open, 1)
        # As the server does when a login expires: nats-py never comes back from it.
        await worker._connection.client.close()
        await journalist.cancel("d1")
        await until(lambda: model.aborted, 1)
        await journalist.submit("d2", [a("a1")], model.url)
        assert (await journalist.end("d2"))[0] == "completed"


async def test_a_pool_that_deploy_has_not_made_yet(
    journalist: Journalist, model: FakeModel, caplog: pytest.LogCaptureFixture
) -> None:
    await journalist.nc.jetstream().delete_consumer(STREAM, "pool-default")
    async with working(journalist) as worker:
        await until(lambda: "no such consumer" in caplog.text, wanted=True)
        worker.check()
        await journalist.add_pool("default")
        await journalist.submit("d1", [a("a1")], model.url)
        assert (await journalist.end("d1"))[0] == "completed"


async def test_stopping_does_not_wait_for_an_absent_nats(
    journalist: Journalist, model: FakeModel
) -> None:
    async with working(journalist):
        await journalist.submit("d1", [a("a1", "slow")], model.url)
        await until(lambda: model.open, 1)
        journalist.server.stop()
        begun = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - begun < 10
    assert model.aborted == 1


async def test_a_secret_that_is_missing_does_not_end_the_worker(
    journalist: Journalist, caplog: pytest.LogCaptureFixture
) -> None:
    async with working(journalist, environ={"NATS_CA": "/nowhere"}) as worker:
        await until(lambda: "NATS_CA: /nowhere is not a file" in caplog.text, wanted=True)
        worker.check()


async def test_as_many_agents_as_a_request_may_have(
    journalist: Journalist, model: FakeModel
) -> None:
    agents = [a(f"a{i}", "404" if i % 2 else "ok") for i in range(256)]
    async with working(journalist):
        await journalist.submit("d1", agents, model.url)
        how, end = await journalist.end("d1")
    assert how == "completed"
    assert [r.agent_id for r in end.results] == [agent["id"] for agent in agents]


async def test_the_servers_clock_is_asked(journalist: Journalist) -> None:
    loop = asyncio.get_running_loop()
    async with working(journalist) as worker:
        await until(worker._connected.is_set, wanted=True)
        clock = JournalClock(wall=lambda: 0.0)
        await Journal(worker._connection, clock).observe_clock()
        assert abs(clock.monotonic_of(time.time()) - loop.time()) < 1


async def test_what_is_held_is_not_delivered_again(
    journalist: Journalist, model: FakeModel
) -> None:
    js = journalist.nc.jetstream()
    await js.delete_consumer(STREAM, "pool-default")
    await journalist.add_pool("default", ack_wait_s=4)
    async with working(journalist):
        await journalist.submit("d1", [a("a1", "slow")], model.url)
        await until(lambda: model.open, 1)
        await asyncio.sleep(6)  # the server's time, longer than its ack wait
        assert (await js.consumer_info(STREAM, "pool-default")).num_redelivered == 0
        model.let_go.set()
        await journalist.end("d1")
        await journalist.settled()


async def test_a_redelivery_to_its_holder_changes_nothing(
    journalist: Journalist, model: FakeModel
) -> None:
    js = journalist.nc.jetstream()
    await js.delete_consumer(STREAM, "pool-default")
    await journalist.add_pool("default", ack_wait_s=0.5)

    async def redelivered() -> int:
        return (await js.consumer_info(STREAM, "pool-default")).num_redelivered or 0

    async with working(journalist):
        await journalist.submit("d1", [a("a1", "slow")], model.url)
        await until(redelivered, 1)
        model.let_go.set()
        await journalist.end("d1")
        await journalist.settled()
    assert len(model.requests) == 1
    assert (await journalist.kinds("d1")).count("started.default") == 1


async def test_a_token_is_read_anew_by_the_next_connection(
    nats_binary: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = tmp_path / "token"
    token.write_text("wrong", encoding="utf-8")
    server = NatsServer(nats_binary, tmp_path, "--auth", "right")
    server.start()
    connection = Connection((server.url,), Secrets({"NATS_TOKEN_FILE": str(token)}), "test")
    connected = asyncio.Event()
    connection.on_connected = connected.set
    keeper = asyncio.create_task(connection.maintain())
    try:
        await until(lambda: "Authorization Violation" in caplog.text, wanted=True)
        token.write_text("right", encoding="utf-8")
        await asyncio.wait_for(connected.wait(), 20)
    finally:
        await cancel([keeper])
        await connection.close()
        server.stop()
    assert "right" not in caplog.text
