"""What a call asks the model server for: what is set is sent, and nothing else."""

from __future__ import annotations

from typing import Any

from harness import FakeModel, Journalist, a, working

ALL: dict[str, Any] = {
    "temperature": 0.7,
    "top_p": 0.9,
    "max_tokens": 20,
    "seed": -3,
    "stop": ["END", "é"],
    "top_k": 5,
    "min_p": 0.1,
    "presence_penalty": -1.0,
    "frequency_penalty": 2.0,
    "repetition_penalty": 1.1,
    "reasoning_effort": "low",
}
EXTRA: dict[str, Any] = {
    "ignore_eos": True,
    "n_best": 3,
    "share": 0.5,
    "deep": {"a": [1, None, "x"]},
}


async def bodies(
    journalist: Journalist, model: FakeModel, agents: list[dict[str, Any]], **more: Any
) -> list[dict[str, Any]]:
    async with working(journalist):
        await journalist.submit("d1", agents, model.url, **more)
        how, _ = await journalist.end("d1")
    assert how == "completed"
    return sorted(model.requests, key=lambda body: str(body["messages"]))


async def test_nothing_set_nothing_sent(journalist: Journalist, model: FakeModel) -> None:
    (body,) = await bodies(journalist, model, [a("a1")])
    assert set(body) == {"model", "messages"}


async def test_everything_set(journalist: Journalist, model: FakeModel) -> None:
    (body,) = await bodies(journalist, model, [a("a1")], sampling={**ALL, "extra": EXTRA})
    assert {name: body[name] for name in body if name not in {"model", "messages"}} == ALL | EXTRA


async def test_the_agents_sampling_replaces_field_by_field(
    journalist: Journalist, model: FakeModel
) -> None:
    agents = [
        a("a1", sampling={"temperature": 0.0, "stop": ["."], "extra": {"n_best": 1}}),
        a("a2"),
    ]
    asked = {"temperature": 1.0, "stop": ["END"], "max_tokens": 9, "extra": EXTRA}
    one, two = await bodies(journalist, model, agents, sampling=asked)
    assert (one["temperature"], one["stop"], one["max_tokens"]) == (0.0, ["."], 9)
    assert (one["n_best"], one["ignore_eos"]) == (1, True)
    assert (two["temperature"], two["stop"], two["n_best"]) == (1.0, ["END"], 3)


async def test_a_system_prompt(journalist: Journalist, model: FakeModel) -> None:
    (body,) = await bodies(
        journalist, model, [a("a1", system_prompt="You are {role}, {agent_id}. {}")]
    )
    assert body["messages"][0] == {"role": "system", "content": "You are DEV, a1. {}"}
    assert "build it" in body["messages"][1]["content"]


async def test_a_proposal_that_does_not_fit_is_the_agents_failure(
    journalist: Journalist, model: FakeModel
) -> None:
    schema = '{"type": "object"}'
    async with working(journalist):
        await journalist.submit(
            "d1",
            [a("a1"), a("a2", "json")],
            model.url,
            response_format={"json_schema": schema},
            max_retries=1,
        )
        how, end = await journalist.end("d1")
    assert how == "completed"
    failed, fits = (result.metadata for result in end.results)
    assert (failed["error_type"], failed["attempts"]) == ("schema", "2")
    assert failed["error"].startswith("the proposal does not fit response_format: it is not JSON")
    assert fits["status"] == "completed"
    asked = model.requests[0]["response_format"]
    assert asked["json_schema"]["schema"] == {"type": "object"}


async def test_each_try_has_an_id_and_the_trace(journalist: Journalist, model: FakeModel) -> None:
    async with working(journalist):
        await journalist.submit("d1", [a("a.1", "500x1")], model.url, max_retries=1)
        await journalist.end("d1")
    assert [h["X-Request-ID"] for h in model.headers] == ["d1.1.a.1.1", "d1.1.a.1.2"]
    assert {h["traceparent"] for h in model.headers} == {f"00-{'1' * 32}-{'2' * 16}-01"}
