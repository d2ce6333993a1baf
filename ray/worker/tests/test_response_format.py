"""Proposals that must have a form, and schemas that take for ever."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ray_executor_worker.response_format import FormatChecker, ResponseFormat


@pytest_asyncio.fixture
async def checker() -> AsyncIterator[FormatChecker]:
    checker = FormatChecker()
    yield checker
    await checker.close()


SCHEMA = json.dumps({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})


@pytest.mark.parametrize(
    ("form", "text", "says"),
    [
        (ResponseFormat("json_schema", SCHEMA), '{"n": 1}', None),
        (ResponseFormat("json_schema", SCHEMA), '{"n": "1"}', "$.n: '1' is not of type"),
        (ResponseFormat("json_schema", SCHEMA), "{}", "'n' is a required property"),
        (ResponseFormat("json_schema", SCHEMA), "```json\n{}\n```", "it is not JSON"),
        (ResponseFormat("json_schema", '{"type": "number"}'), "NaN", "NaN is no number"),
        (ResponseFormat("json_schema", "true"), "[1]", None),
        (ResponseFormat("json_schema", '{"$ref": "http://127.0.0.1:1/x"}'), "1", "cannot be"),
        (ResponseFormat("json_object"), '{"a": 1}', None),
        (ResponseFormat("json_object"), "[]", "it is no JSON object"),
        (ResponseFormat("regex", "yes|no"), "no", None),
        (ResponseFormat("regex", "yes|no"), "no!", "it does not match"),
        (ResponseFormat("regex", r"\pL+"), "anything", None),
        (ResponseFormat("choice", ("yes", "no")), " no\n", None),
        (ResponseFormat("choice", ("yes", "no")), "maybe", "it is none of the choices"),
    ],
)
async def test_check(
    checker: FormatChecker, form: ResponseFormat, text: str, says: str | None
) -> None:
    found = await checker.check(form, text)
    assert found is None if says is None else says in str(found)


def doubling(depth: int) -> str:
    """A schema of few bytes that takes 2**depth steps."""
    defs: dict[str, Any] = {"a0": {"type": "integer"}}
    for n in range(1, depth + 1):
        defs[f"a{n}"] = {"allOf": [{"$ref": f"#/$defs/a{n - 1}"}] * 2}
    return json.dumps({"$ref": f"#/$defs/a{depth}", "$defs": defs})


HOSTILE = [
    (ResponseFormat("regex", "(a+)+b"), "a" * 40),
    (ResponseFormat("json_schema", doubling(30)), "1"),
    (ResponseFormat("json_schema", '{"pattern": "(a+)+b"}'), json.dumps("a" * 40)),
]


@pytest.mark.parametrize(("form", "text"), HOSTILE)
async def test_a_hostile_format_fails_alone(
    checker: FormatChecker, form: ResponseFormat, text: str
) -> None:
    """The event loop goes on, and the next check has an answer."""
    checking = asyncio.ensure_future(checker.check(form, text))
    behind = asyncio.ensure_future(checker.check(ResponseFormat("regex", "b"), "b"))
    assert await checking == "it cannot be checked within a second"
    assert await behind is None
    process = checker._process
    assert await checker.check(form, text) == "it cannot be checked within a second"
    assert checker._process is process, "a slow form is not tried again"


async def test_a_hostile_format_costs_one_process_however_many_wait(
    checker: FormatChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All agents of a deliberation answer at once, before the first check is slow."""
    starts, start = 0, checker._start

    async def counted() -> asyncio.subprocess.Process:
        nonlocal starts
        starts += 1
        return await start()

    monkeypatch.setattr(checker, "_start", counted)
    form, text = HOSTILE[0]
    found = await asyncio.gather(*(checker.check(form, text) for _ in range(8)))
    assert found == ["it cannot be checked within a second"] * 8
    assert starts == 1


@pytest.mark.parametrize("times", [1, 2])
async def test_a_process_that_is_killed_is_not_the_forms_fault(
    checker: FormatChecker, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """As by the kernel, for memory that others use."""
    start, left = checker._start, times

    async def killed() -> asyncio.subprocess.Process:
        nonlocal left
        process = await start()
        if left:
            left -= 1
            process.kill()
        return process

    monkeypatch.setattr(checker, "_start", killed)
    form = ResponseFormat("choice", ("a",))
    found = await checker.check(form, "a")
    assert found is None if times == 1 else "cannot be checked" in str(found)
    assert await checker.check(form, "a") is None


async def test_a_process_that_does_not_start_is_not_the_forms_fault(
    checker: FormatChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = ResponseFormat("choice", ("a",))
    with monkeypatch.context() as broken:
        broken.setattr("sys.executable", "/does/not/exist")
        assert "No such file" in str(await checker.check(form, "a"))
    assert await checker.check(form, "a") is None


async def test_a_deep_schema_is_an_answer(checker: FormatChecker) -> None:
    deep = '{"$ref": "#"}'
    assert "cannot be checked" in str(await checker.check(ResponseFormat("json_schema", deep), "1"))
    assert await checker.check(ResponseFormat("json_schema", "{}"), "1") is None


async def test_a_cancelled_check_leaves_no_answer_behind(checker: FormatChecker) -> None:
    assert await checker.check(ResponseFormat("choice", ("a",)), "a") is None
    checking = asyncio.ensure_future(checker.check(ResponseFormat("regex", "(a+)+b"), "a" * 40))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    checking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await checking
    assert await checker.check(ResponseFormat("choice", ("a",)), "a") is None


async def test_a_long_answer(checker: FormatChecker) -> None:
    text = json.dumps({"n": 1, "text": "x" * 4_000_000})
    assert await checker.check(ResponseFormat("json_schema", SCHEMA), text) is None


async def test_the_process_has_no_secrets(
    checker: FormatChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "sk-secret")
    await checker.check(ResponseFormat("choice", ("a",)), "a")
    process = checker._process
    assert process is not None
    environ = Path(f"/proc/{process.pid}/environ")
    assert b"sk-secret" not in await asyncio.to_thread(environ.read_bytes)
    await checker.close()
    assert process.returncode is not None


def test_what_the_server_is_asked() -> None:
    asked = ResponseFormat("json_schema", SCHEMA).parameters()
    assert asked["response_format"]["json_schema"]["schema"] == json.loads(SCHEMA)
    assert ResponseFormat("choice", ("a", "b")).parameters() == {
        "structured_outputs": {"choice": ["a", "b"]}
    }
    assert ResponseFormat("regex", "a+").parameters() == {"structured_outputs": {"regex": "a+"}}


async def test_a_paused_checker_condemns_no_form(
    checker: FormatChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = ResponseFormat("answer_regex", "([0-9]+)")
    assert (await checker.answer(form, "it is 7"))[0] == "7"
    monkeypatch.setattr("ray_executor_worker.response_format._PATIENCE_S", 0.2)
    assert checker._process
    os.kill(checker._process.pid, signal.SIGSTOP)
    await checker.answer(form, "it is 8")
    monkeypatch.undo()
    assert (await checker.answer(form, "it is 9"))[0] == "9"
