"""Templates: one pass, plain text, other braces stand."""

from __future__ import annotations

import asyncio
import json
import random
import tracemalloc
from typing import Any

import pytest
from harness import MODULE, stretches

from ray_executor_worker import prompt
from ray_executor_worker.chat import Chat
from ray_executor_worker.prompt import Text

NAMED = prompt.values(
    task_description="do {role}", role="DEV", agent_id="a1", metadata={"lang": "Go", "role": "no"}
)


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("{agent_id}: {lang}", "a1: Go"),
        ("{role}", "DEV"),  # built-in names win over metadata
        ("{task_description}", "do {role}"),  # a value is not a template
        ("{unknown}", "{unknown}"),
        ('{"a": {}} {0} {a.b} {a[0]} { role } {', '{"a": {}} {0} {a.b} {a[0]} { role } {'),
        ("{{role}}", "{DEV}"),
        ("%s \\1 {lang}", "%s \\1 Go"),
        ("{rôle}", "{rôle}"),
    ],
)
def test_fill(template: str, filled: str) -> None:
    assert str(Text(template, NAMED)) == filled


def messages(template: str, named: dict[str, str]) -> list[dict[str, str]]:
    return [{"role": r, "content": str(t)} for r, t in prompt.messages(template, named)]


def test_the_template_is_the_user_message() -> None:
    system, user = messages("{lang}!", NAMED)
    assert user == {"role": "user", "content": "Go!"}
    assert system["role"] == "system"
    assert system["content"].endswith("You are an expert DEV.")


def test_without_a_template_the_default_asks_for_it_all() -> None:
    content = messages("", NAMED)[1]["content"]
    assert "do {role}" in content
    for wanted in ("Analysis", "Approach", "Implementation details", "Risks"):
        assert wanted in content


def test_agents_of_a_role_share_all_but_the_end() -> None:
    one, two = (messages("", {**NAMED, "agent_id": n}) for n in ("a1", "b2"))
    assert one[0] == two[0]
    shared, found, _ = one[1]["content"].rpartition("You are a1")
    assert found
    assert two[1]["content"].startswith(shared + "You are b2")


def test_roles_share_the_beginning_of_the_system_message() -> None:
    one, two = (messages("", {**NAMED, "role": r})[0]["content"] for r in ("DEV", "QA"))
    assert one.partition("an expert DEV")[0] == two.partition("an expert QA")[0] != ""


VECTORS = json.loads((MODULE / "tests" / "vectors" / "prompts.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: str(case["name"]))
def test_the_size_is_the_doors(case: dict[str, Any]) -> None:
    """deliberation/prompt_test.go runs the same."""
    factors: dict[str, int] = case.get("times", {})

    def times(field: str, text: str) -> str:
        return text * factors.get(field, 1)

    agent = case["agent"]
    template = times("prompt_template", agent["prompt_template"])
    named = prompt.values(
        task_description=times("task_description", case["task_description"]),
        role=agent["role"] or case["role"],
        agent_id=agent["id"],
        metadata=case["metadata"],
    )
    system = times("system_prompt", agent.get("system_prompt", ""))
    assert prompt.size(template, named, system) == case["size"]


def test_our_own_messages_name_what_is_counted() -> None:
    named = {"role": "R", "task_description": "D", "agent_id": "A"}
    (_, system), (_, user) = prompt.messages("", named)
    ours = len(system.template + user.template) - len("{role}{role}{task_description}{agent_id}")
    assert system.size() + user.size() == ours + prompt.size("", named)


def test_the_limits_are_the_doors() -> None:
    assert VECTORS["max_prompt"] == prompt.MAX_PROMPT_BYTES
    assert VECTORS["max_prompts"] == prompt.MAX_PROMPTS_BYTES


def fuzzed(seed: int) -> tuple[str, dict[str, str]]:
    """A template of braces, names, escapes and text beyond ASCII, and values alike."""
    draw = random.Random(seed)  # noqa: S311
    parts = ["{", "}", "{role}", "{x}", "{{x}}", "{typo}", "{a.b}", '"', "\\", "\n", "\0", "\x7f"]
    parts += ["é", "日", "👩🏽‍💻", "\u2028", "text " * 50, "{x}" * 200]

    def text(most: int) -> str:
        return "".join(draw.choice(parts) for _ in range(draw.randrange(most)))

    named = prompt.values(
        task_description=text(80), role=text(9), agent_id="a1", metadata={"x": text(9)}
    )
    return text(60), named


@pytest.mark.parametrize("seed", range(100))
async def test_fuzzed_templates(seed: int) -> None:
    """The size is that of what is filled, and the chunks are the whole body."""
    template, named = fuzzed(seed)
    text = Text(template, named)
    assert text.size() == len(str(text).encode())
    chat = Chat(
        'a "model"', prompt.messages(template, named, template), {"stop": ["\n", "é"], "seed": -1}
    )
    chunks = [chunk async for chunk in chat.chunks(asyncio.Lock())]
    assert b"".join(chunks) == chat.whole()
    assert await chat.length(asyncio.Lock()) == len(chat.whole())
    assert json.loads(chat.whole())["stop"] == ["\n", "é"]
    assert json.loads(chat.whole())["messages"][1] == messages(template, named)[1]


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{x}" * 15, "\0" * 65_000),  # six times as long in JSON
        ("{x}" * 50_000, "abc"),
        ("{x}" * 50_000, ""),
        ("👩" * 250_000, ""),
    ],
    ids=["escapes", "many", "empty", "wide"],
)
async def test_a_large_prompt_is_whole_nowhere(template: str, value: str) -> None:
    chat = Chat("m", prompt.messages(template, {**NAMED, "x": value}))
    tracemalloc.start()
    try:
        size, most = 0, 0
        async for chunk in chat.chunks(asyncio.Lock()):
            size += len(chunk)
            most = max(most, len(chunk))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size == await chat.length(asyncio.Lock())
    assert most < 500_000
    assert peak < 2_000_000


async def test_the_event_loop_goes_on_while_a_prompt_is_made() -> None:
    chat = Chat("m", prompt.messages("{x}" * 340_000, {**NAMED, "x": "abc"}))
    async with stretches() as longest:
        await chat.length(asyncio.Lock())
    assert longest() < 0.05
