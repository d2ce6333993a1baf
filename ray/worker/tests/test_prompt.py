"""Templates: one pass, plain text, other braces stand."""

from __future__ import annotations

import pytest

from ray_executor_worker import prompt

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
    assert prompt.fill(template, NAMED) == filled


def test_the_template_is_the_user_message() -> None:
    system, user = prompt.messages("{lang}!", NAMED)
    assert user == {"role": "user", "content": "Go!"}
    assert system["role"] == "system"
    assert system["content"].endswith("You are a1, an expert DEV.")


def test_without_a_template_the_default_asks_for_it_all() -> None:
    content = prompt.messages("", NAMED)[1]["content"]
    assert "do {role}" in content
    for wanted in ("Analysis", "Approach", "Implementation details", "Risks"):
        assert wanted in content


def test_agents_share_the_beginning_of_the_system_message() -> None:
    other = {**NAMED, "agent_id": "b2", "role": "QA"}
    one, two = (prompt.messages("", n)[0]["content"] for n in (NAMED, other))
    assert one.partition("You are a1")[0] == two.partition("You are b2")[0] != ""
