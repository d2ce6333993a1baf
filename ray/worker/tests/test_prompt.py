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
    assert system["content"].endswith("You are an expert DEV.")


def test_without_a_template_the_default_asks_for_it_all() -> None:
    content = prompt.messages("", NAMED)[1]["content"]
    assert "do {role}" in content
    for wanted in ("Analysis", "Approach", "Implementation details", "Risks"):
        assert wanted in content


def test_agents_of_a_role_share_all_but_the_end() -> None:
    one, two = (prompt.messages("", {**NAMED, "agent_id": n}) for n in ("a1", "b2"))
    assert one[0] == two[0]
    shared, told, _ = one[1]["content"].rpartition("You are a1")
    assert told
    assert two[1]["content"].startswith(shared + "You are b2")


def test_roles_share_the_beginning_of_the_system_message() -> None:
    one, two = (prompt.messages("", {**NAMED, "role": r})[0]["content"] for r in ("DEV", "QA"))
    assert one.partition("an expert DEV")[0] == two.partition("an expert QA")[0] != ""
