"""A vote, from its request to its end."""

from __future__ import annotations

from typing import Any, Optional

import pytest
from harness import FakeModel, Journalist, a, intercept, working

from ray_executor_worker.format_child import brief
from ray_executor_worker.messages import Result
from ray_executor_worker.response_format import FormatChecker, ResponseFormat


def answers(ended: Any) -> list[Optional[str]]:
    return [result.metadata.get("answer") for result in ended.results]


async def test_the_answer_with_most_weight_wins(journalist: Journalist, model: FakeModel) -> None:
    agents = [
        a("a1", "says It is 7.", weight=1.5),
        a("a2", "says So 42!"),
        a("a3", "says I think 42"),
        a("a4", "says no idea"),
        a("a5", "404"),
    ]
    async with working(journalist):
        strategy = {"vote": {"regex": "([0-9]+)"}}
        await journalist.submit("d1", agents, model.url, strategy=strategy)
        how, ended = await journalist.end("d1")
    assert (how, ended.winner) == ("completed", "a2")
    assert answers(ended) == ["7", "42", "42", None, None]
    assert [result.assessment.rank for result in ended.results] == [3, 1, 2, 4, 0]
    assert [result.assessment.votes for result in ended.results] == [1.5, 2, 2, 0, 0]
    assert ended.results[1].score == pytest.approx(2 / 3.5)
    assert "does not match" in ended.results[3].metadata["no_answer"]
    assert not ended.results[4].HasField("assessment")


async def test_without_a_strategy_nothing_is_assessed(
    journalist: Journalist, model: FakeModel
) -> None:
    async with working(journalist):
        await journalist.submit("d1", [a("a1"), a("a2")], model.url)
        await journalist.submit("d2", [a("a1")], model.url, strategy={"independent": {}})
        ends = [(await journalist.end(id_))[1] for id_ in ("d1", "d2")]
    for ended in ends:
        assert not ended.winner
        for result in ended.results:
            assert not result.HasField("assessment")
            assert "answer" not in result.metadata


async def test_a_majority_stops_the_rest(journalist: Journalist, model: FakeModel) -> None:
    agents = [a("a1", "says x"), a("a2", "slow y"), a("a3", "says x"), a("a4", "says x"), a("a5")]
    async with working(journalist):
        await journalist.submit(
            "d1", agents, model.url, strategy={"vote": {"stop_at_majority": True}}
        )
        # a1, a2 and a3 could decide; a2 is slow, and the others are two of three.
        await journalist.wait_for("deliberation.agent.0.d1")
        await journalist.wait_for("deliberation.agent.2.d1")
        model.let_go.set()
        how, ended = await journalist.end("d1")
    assert (how, ended.winner) == ("completed", "a1")
    assert sorted(model.calls) == ["says x", "slow y"]
    assert model.calls["says x"] == 3
    assert [result.metadata["status"] for result in ended.results] == [
        *("completed", "completed", "completed", "completed", "not_needed")
    ]
    # Why there is no proposal, but no failure.
    assert "had decided" in ended.results[4].metadata["error"]
    assert "error_type" not in ended.results[4].metadata


async def test_a_running_call_is_cut_once_the_majority_is_reached(
    journalist: Journalist, model: FakeModel
) -> None:
    agents = [a("a1", "404"), a("a2", "slow y"), a("a3", "says x"), a("a4", "says x", weight=3)]
    async with working(journalist):
        await journalist.submit(
            "d1", agents, model.url, strategy={"vote": {"stop_at_majority": True}}
        )
        how, ended = await journalist.end("d1")
    assert (how, ended.winner) == ("completed", "a3")
    assert model.aborted == 1
    assert ended.results[1].metadata["status"] == "not_needed"
    assert ended.results[1].usage.requests == 1


@pytest.mark.parametrize("recorded", range(6))
async def test_another_worker_comes_to_the_same_winner(
    journalist: Journalist, model: FakeModel, recorded: int
) -> None:
    """A worker died after so many records: none is asked again."""
    texts = ["x", "y", "y", "x", "x"]
    agents = [a(f"a{n}", f"says {text}") for n, text in enumerate(texts)]
    await journalist.submit("d1", agents, model.url, strategy={"vote": {}})
    await journalist.start("d1", 1)
    for n in range(recorded):
        metadata = {"status": "completed", "answer": texts[n]}
        await journalist.agent("d1", n, Result(f"a{n}", texts[n], metadata=metadata))
    async with working(journalist):
        how, ended = await journalist.end("d1")
    assert (how, ended.winner) == ("completed", "a0")
    assert sum(model.calls.values()) == 5 - recorded
    kinds = await journalist.kinds("d1")
    assert sorted(k for k in kinds if k.startswith("agent")) == [f"agent.{n}" for n in range(5)]
    assert [result.assessment.rank for result in ended.results] == [1, 4, 5, 2, 3]


async def test_the_record_that_exists_votes(journalist: Journalist, model: FakeModel) -> None:
    """A paused worker's own answer gives way to the recorded one."""
    async with working(journalist) as worker:

        async def record_first(subject: str) -> None:
            if subject == "deliberation.agent.0.d1" and not done:
                done.append(subject)
                metadata = {"status": "completed", "answer": "y"}
                await journalist.agent("d1", 0, Result("a1", "y", metadata=metadata))

        done: list[str] = []
        intercept(worker, before=record_first)
        agents = [a("a1", "says x"), a("a2", "says y"), a("a3", "says x")]
        await journalist.submit("d1", agents, model.url, strategy={"vote": {}})
        _, ended = await journalist.end("d1")
    assert (answers(ended), ended.winner) == (["y", "y", "x"], "a1")


async def test_at_the_deadline_those_who_proposed_decide(
    journalist: Journalist, model: FakeModel
) -> None:
    agents = [a("a1", "slow x"), a("a2", "says y")]
    async with working(journalist):
        await journalist.submit("d1", agents, model.url, strategy={"vote": {}}, timeout_seconds=1)
        how, ended = await journalist.end("d1")
    assert (how, ended.winner) == ("completed", "a2")
    assert ended.results[0].metadata["error_type"] == "timeout"


async def test_a_cancelled_vote_stops(journalist: Journalist, model: FakeModel) -> None:
    async with working(journalist):
        agents = [a("a1", "slow x"), a("a2", "says y")]
        await journalist.submit("d1", agents, model.url, strategy={"vote": {}})
        await journalist.wait_for("deliberation.agent.1.d1")
        await journalist.cancel("d1")
        await journalist.settled()
    assert model.aborted == 1
    assert (await journalist.kinds("d1"))[-1] == "done.cancelled"


async def test_a_newer_strategy_is_not_run_as_another(
    journalist: Journalist, model: FakeModel
) -> None:
    async with working(journalist):
        message = journalist.request("d1", [a("a1")], model.url, strategy={"vote": {}})
        # Field 90 of the strategy, and nothing else.
        message.strategy_request.strategy.Clear()
        message.strategy_request.strategy.MergeFromString(b"\xd2\x05\x00")
        await journalist.append("deliberation.requested.default.d1", message)
        how, ended = await journalist.end("d1")
    assert how == "failed"
    assert "does not have the request's strategy" in ended.error_message
    assert not model.calls


REGEX, POINTER = "answer_regex", "answer_pointer"


@pytest.mark.parametrize(
    ("kind", "spec", "text", "answer", "why"),
    [
        (REGEX, r"answer: (\w+)", "the answer: yes, answer: no", "yes", ""),
        (REGEX, "[0-9]+", "a 12 b", "12", ""),
        (REGEX, "(x)|(y)", "y", None, "no part of the match"),
        (REGEX, "( *)", "", None, "empty"),
        (REGEX, "a", "b", None, "does not match"),
        (REGEX, "(a+)+$", "a" * 40 + "b", None, "a second"),
        (POINTER, "/a/1", '{"a": [1, " two "]}', "two", ""),
        (POINTER, "/a~1b/m~0n", '{"a/b": {"m~n": 4.5}}', "4.5", ""),
        (POINTER, "", '{"b": 1, "a": [true, null]}', '{"a":[true,null],"b":1}', ""),
        (POINTER, "/", '{"": "x"}', "x", ""),
        (POINTER, "/a", '{"a": null}', None, "no value"),
        (POINTER, "/a/01", '{"a": [1, 2]}', None, "no value"),
        (POINTER, "/a/9", '{"a": [1, 2]}', None, "no value"),
        (POINTER, "/a", "```json", None, "not JSON"),
        (POINTER, "/a", "[" * 100_000, None, "cannot be checked"),
        (POINTER, "/a", '{"a": "%s"}' % ("x" * 2000), brief("x" * 2000), ""),
    ],
)
async def test_answers(kind: str, spec: str, text: str, answer: Optional[str], why: str) -> None:
    checker = FormatChecker()
    try:
        found, reason = await checker.answer(ResponseFormat(kind, spec), text)
    finally:
        await checker.close()
    assert found == answer
    assert found is not None or why in reason


def test_a_long_answer_is_its_digest() -> None:
    assert brief("  a\n") == "a"
    assert brief("x" * 2000).startswith("sha256:")
    assert brief("x" * 2000) != brief("x" * 2001)


async def test_an_early_vote_asks_others_while_one_waits_for_its_server(
    journalist: Journalist, model: FakeModel
) -> None:
    agents = [
        a("a0", "503"),
        a("a1", "says x"),
        a("a2", "says y"),
        a("a3", "says y"),
        a("a4", "says x"),
    ]
    async with working(journalist):
        strategy = {"vote": {"stop_at_majority": True}}
        await journalist.submit("d1", agents, model.url, max_retries=1, strategy=strategy)
        await journalist.wait_for("deliberation.agent.4.d1")
        await journalist.cancel("d1")


async def test_the_verdict_counts_what_could_be_read(
    journalist: Journalist, model: FakeModel
) -> None:
    agents = [a("a0", "long", weight=3), a("a1", "slow y")]
    async with working(journalist):
        await journalist.submit("d1", agents, model.url, strategy={"vote": {}})
        await journalist.wait_for("deliberation.agent.0.d1")
        await journalist.nc.jetstream().purge_stream(
            "DELIBERATIONS", subject="deliberation.agent.0.d1"
        )
        model.let_go.set()
        how, ended = await journalist.end("d1")
    assert (how, ended.winner) == ("completed", "a1")
    assert [result.assessment.rank for result in ended.results] == [0, 1]
