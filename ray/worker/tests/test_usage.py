"""What calls used: as servers count it, and as the journal has it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from harness import FakeModel, Journalist, a, working

from ray_executor_worker.completion import read_completion
from ray_executor_worker.endpoint import CallError
from ray_executor_worker.messages import models_header
from ray_executor_worker.retry import Backoff, Retrier
from ray_executor_worker.usage import Usage


def counted(reported: Any) -> Usage:
    usage = Usage()
    usage.add_reported(reported)
    return usage


@pytest.mark.parametrize(
    ("reported", "usage"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}, Usage(3, 4)),
        (
            {
                "prompt_tokens": 30,
                "completion_tokens": 40,
                "prompt_tokens_details": {"cached_tokens": 16},
                "completion_tokens_details": {"reasoning_tokens": 8},
            },
            Usage(30, 40, 16, 8),
        ),
        ({"prompt_tokens": 3, "prompt_tokens_details": None}, Usage(3)),
        ({"prompt_tokens": -1, "completion_tokens": 10**30}, Usage()),
        ({"prompt_tokens": True, "completion_tokens": "4"}, Usage()),
        ({"prompt_tokens_details": [1], "prompt_tokens": 1.5}, Usage()),
        (None, Usage()),
        ([3], Usage()),
    ],
)
def test_what_a_server_counts(reported: Any, usage: Usage) -> None:
    assert counted(reported) == usage


def test_an_answer_without_a_proposal_used_tokens_too() -> None:
    usage = Usage()
    answer = {"choices": [{"message": {"content": ""}}], "usage": {"completion_tokens": 4}}
    with pytest.raises(CallError):
        read_completion(json.dumps(answer).encode(), usage)
    assert usage == Usage(completion_tokens=4)


def used(message: Any) -> tuple[int, int, int]:
    return message.usage.prompt_tokens, message.usage.completion_tokens, message.usage.requests


async def test_the_end_has_the_sum_and_its_header_too(
    journalist: Journalist, model: FakeModel
) -> None:
    async with working(journalist) as worker:
        worker._models._retrier = Retrier(Backoff(base=0.0))
        agents = [a("a"), a("b", "500x1"), a("c", "empty"), a("d", "500")]
        await journalist.submit("d1", agents, model.url, max_retries=1)
        how, end = await journalist.end("d1")
    assert how == "completed"
    # Retries and answers without a proposal count; d's two calls had no answer.
    assert [used(result) for result in end.results] == [(3, 4, 1), (3, 4, 2), (3, 4, 1), (0, 0, 2)]
    assert used(end) == (9, 12, 6)
    story = await journalist.story("d1")
    assert story[-1].headers["ce-usage"] == "9,12,0,0,6"
    models = story[-1].headers["ce-modelusage"].split("&")
    assert models == ["ok=3,4,0,0,1", "500x1=3,4,0,0,2", "empty=3,4,0,0,1", "500=0,0,0,0,2"]
    assert all("ce-usage" not in entry.headers for entry in story[:-1])


def test_the_header_has_few_and_short_names(journalist: Journalist) -> None:
    end: Any = journalist.schema._classes["ray_executor.v1.DeliberationCompleted"]()
    for model in ["a b/c=d&é", "x" * 129, "", *(f"m{i}" for i in range(20))] * 2:
        result = end.results.add()
        result.metadata["model"] = model
        result.usage.requests = 1
    header = models_header(end)
    assert header.startswith("a+b%2Fc%3Dd%26%C3%A9=0,0,0,0,2&m0=0,0,0,0,2&")
    assert header.count("&") == 15
    assert header.isascii()
    assert models_header(journalist.schema._classes["ray_executor.v1.AgentCompleted"]()) == ""


async def test_what_was_recorded_by_another_attempt_counts(
    journalist: Journalist, model: FakeModel
) -> None:
    await journalist.start("d1", 1)
    recorded: Any = journalist.schema._classes["ray_executor.v1.AgentCompleted"](
        deliberation_id="d1"
    )
    recorded.result.agent_id = "a"
    recorded.result.metadata["status"] = "completed"
    recorded.result.usage.prompt_tokens = 100
    recorded.result.usage.requests = 7
    await journalist.append("deliberation.agent.0.d1", recorded)
    await journalist.submit("d1", [a("a"), a("b")], model.url)
    async with working(journalist):
        _, end = await journalist.end("d1")
    assert used(end) == (103, 4, 8)


async def test_a_call_that_was_not_sent_does_not_count(journalist: Journalist) -> None:
    async with working(journalist):
        await journalist.submit("d1", [a("a")], "http://127.0.0.1:1")
        how, end = await journalist.end("d1")
    assert how == "failed"
    assert used(end) == (0, 0, 0)
    assert end.HasField("usage")
