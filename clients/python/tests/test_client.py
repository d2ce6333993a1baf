"""Both clients against a real server. Each case runs with either."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Awaitable, Callable, Union
from uuid import uuid4

import pytest
import pytest_asyncio
from rig import Rig

from ray_executor_client import (
    Agent,
    AsyncClient,
    Client,
    Conflict,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ResponseFormat,
    Sampling,
    Strategy,
    TooLarge,
    Vote,
    messages,
)


class Blocking:
    """A blocking client, as the cases call it."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def submit(self, text: str, **options: object) -> str:
        one = self.client.submit(text, **options)  # type: ignore[arg-type]
        assert repr(one) == f"Deliberation({one.id!r})"
        return one.id

    async def status(self, name: str) -> messages.GetDeliberationStatusResponse:
        return self.client.status(name)

    async def wait(self, name: str, timeout: float) -> messages.GetDeliberationStatusResponse:
        return await asyncio.to_thread(self.client.wait, name, timeout=timeout)

    async def watch(self, name: str, after: int = 0) -> list[messages.WatchDeliberationResponse]:
        return [*self.client.watch(name, after_sequence=after, timeout=20)]

    async def first(self, name: str) -> messages.WatchDeliberationResponse:
        with self.client.watch(name) as events:
            return next(events)

    async def listed(self, **options: object) -> list[messages.DeliberationSummary]:
        return [*self.client.list(**options)]  # type: ignore[arg-type]

    async def cancel(self, name: str, reason: str) -> messages.CancelDeliberationResponse:
        return self.client.cancel(name, reason=reason)

    async def stats(self) -> messages.GetStatusResponse:
        return self.client.stats()

    async def jobs(self) -> list[messages.JobInfo]:
        return self.client.jobs()


class Awaited:
    """An AsyncClient, as the cases call it."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client

    async def submit(self, text: str, **options: object) -> str:
        one = await self.client.submit(text, **options)  # type: ignore[arg-type]
        assert repr(one) == f"AsyncDeliberation({one.id!r})"
        return one.id

    async def status(self, name: str) -> messages.GetDeliberationStatusResponse:
        return await self.client.status(name)

    async def wait(self, name: str, timeout: float) -> messages.GetDeliberationStatusResponse:
        return await self.client.wait(name, timeout=timeout)

    async def watch(self, name: str, after: int = 0) -> list[messages.WatchDeliberationResponse]:
        events = self.client.watch(name, after_sequence=after, timeout=20)
        return [event async for event in events]

    async def first(self, name: str) -> messages.WatchDeliberationResponse:
        async with self.client.watch(name) as events:
            async for event in events:
                return event
        raise AssertionError("no event")

    async def listed(self, **options: object) -> list[messages.DeliberationSummary]:
        return [one async for one in self.client.list(**options)]  # type: ignore[arg-type]

    async def cancel(self, name: str, reason: str) -> messages.CancelDeliberationResponse:
        return await self.client.cancel(name, reason=reason)

    async def stats(self) -> messages.GetStatusResponse:
        return await self.client.stats()

    async def jobs(self) -> list[messages.JobInfo]:
        return await self.client.jobs()


# Either has the other's methods.
Calls = Union[Blocking, Awaited]


@pytest_asyncio.fixture(params=["blocking", "awaited"])
async def calls(request: pytest.FixtureRequest, rig: Rig) -> AsyncIterator[Calls]:
    if request.param == "blocking":
        with Client(rig.url) as client:
            yield Blocking(client)
    else:
        async with AsyncClient(rig.url) as awaited:
            yield Awaited(awaited)


async def test_submit_and_wait(calls: Calls) -> None:
    task = f"t-{uuid4()}"
    agents = ["a", Agent("b", role="QA"), messages.Agent(id="c")]
    name = await calls.submit("Name three risks of caching", agents=agents, task_id=task)
    ended = await calls.wait(name, 20)
    assert (ended.status, ended.deliberation_id, ended.task_id) == ("completed", name, task)
    assert ended.result.proposal == "proposal of a"
    assert [result.agent_id for result in ended.results] == ["a", "b", "c"]
    assert ended.submitted_at.ToDatetime() <= ended.ended_at.ToDatetime()
    assert (await calls.status(name)) == ended


async def test_waits_for_what_ends_later(calls: Calls) -> None:
    name = await calls.submit("slow, please", agents=["a"])
    assert (await calls.status(name)).status in ("queued", "running")
    assert (await calls.wait(name, 20)).status == "completed"


async def test_a_wait_that_is_too_short(calls: Calls) -> None:
    name = await calls.submit("hold it", agents=["a"])
    with pytest.raises(TimeoutError) as raised:
        await calls.wait(name, 0.6)
    assert isinstance(raised.value, DeadlineExceeded)
    assert raised.value.deliberation_id == name
    await calls.cancel(name, "no longer needed")
    ended = await calls.wait(name, 20)
    assert (ended.status, ended.error_message) == ("cancelled", "no longer needed")


async def test_a_failed_one_is_a_status_and_no_error(calls: Calls) -> None:
    name = await calls.submit("fail, please", agents=["a"])
    ended = await calls.wait(name, 20)
    assert (ended.status, ended.error_message) == ("failed", "no agent answered")


async def test_every_field_is_sent(calls: Calls) -> None:
    sampling = Sampling(temperature=0.0, stop=["END"])
    name = await calls.submit(
        "Decide.",
        agents=[Agent("a", "QA", "m1", "{key} {role}", "Be brief.", Sampling(top_k=5), weight=2.5)],
        task_id="T",
        role="R",
        deliberation_id=str(uuid4()),
        timeout_seconds=77,
        max_retries=0,
        metadata={"key": "value"},
        labels={"team": "a"},
        story_id="S",
        plan_id="P",
        model="m2",
        vllm_url="http://models.test/v1",
        sampling=sampling,
        response_format=ResponseFormat(json_object=True),
        strategy=Strategy(vote=Vote(json_pointer="/answer")),
    )
    sent = (await calls.first(name)).requested.request
    agent = sent.agents[0]
    assert (agent.id, agent.role, agent.model) == ("a", "QA", "m1")
    assert (agent.prompt_template, agent.system_prompt) == ("{key} {role}", "Be brief.")
    assert agent.sampling.top_k == 5
    assert (sent.task_id, sent.role, sent.vllm_model) == ("T", "R", "m2")
    assert sent.vllm_url == "http://models.test/v1"
    constraints = sent.constraints
    assert (constraints.story_id, constraints.plan_id, constraints.timeout_seconds) == (
        "S",
        "P",
        77,
    )
    assert constraints.HasField("max_retries")
    assert constraints.max_retries == 0
    assert dict(constraints.metadata) == {"key": "value"}
    assert dict(sent.labels) == {"team": "a"}
    assert sent.sampling == sampling
    assert sent.response_format.json_object
    assert (sent.strategy.vote.json_pointer, agent.weight) == ("/answer", 2.5)


async def test_what_is_not_given_is_not_sent(calls: Calls) -> None:
    name = await calls.submit("Decide.", agents=["a"])
    sent = (await calls.first(name)).requested.request
    assert [field.name for field, _ in sent.ListFields()] == [
        "task_id",
        "task_description",
        "role",
        "agents",
        "deliberation_id",
    ]
    assert sent.task_id == sent.deliberation_id == name


async def test_watch(calls: Calls) -> None:
    name = await calls.submit("slow, please", agents=["a", "b"])
    events = await calls.watch(name)
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["requested", "started", "agent", "agent", "completed"]
    assert events[-1].status == "completed"
    again = await calls.watch(name, events[2].sequence)
    assert [event.sequence for event in again] == [event.sequence for event in events[3:]]
    assert await calls.watch(name, events[-1].sequence) == []


async def test_the_same_id_again(calls: Calls) -> None:
    name = str(uuid4())
    for _ in range(2):
        assert await calls.submit("Decide.", agents=["a"], deliberation_id=name) == name
    with pytest.raises(Conflict) as raised:
        await calls.submit("Decide otherwise.", agents=["a"], deliberation_id=name)
    assert (raised.value.field, raised.value.deliberation_id) == ("deliberation_id", name)


async def test_list(calls: Calls) -> None:
    task = f"list-{uuid4()}"
    names = [await calls.submit("hold", agents=["a"], task_id=task) for _ in range(5)]
    listed = await calls.listed(task_id=task, page_size=2)
    assert [one.deliberation_id for one in listed] == names[::-1]
    await calls.cancel(names[0], "")
    assert [one.deliberation_id for one in await calls.listed(task_id=task, state="cancelled")] == [
        names[0]
    ]
    labels = {"team": task, "run": "a=b"}
    labelled = await calls.submit("hold", agents=["a"], labels=labels)
    listed = await calls.listed(labels=labels)
    assert [(one.deliberation_id, dict(one.labels)) for one in listed] == [(labelled, labels)]
    assert not await calls.listed(labels={"team": task, "run": ""})
    running = {job.job_id for job in await calls.jobs()}
    assert set(names) & running == set(names[1:])


async def test_stats(calls: Calls) -> None:
    before = (await calls.stats()).stats.total_deliberations
    await calls.submit("Decide.", agents=["a"])
    after = await calls.stats()
    assert after.stats.total_deliberations == before + 1
    assert after.status == "degraded"  # there is no Ray


@pytest.mark.parametrize("what", ["status", "wait", "watch", "cancel"])
async def test_an_unknown_id(calls: Calls, what: str) -> None:
    about: dict[str, Callable[[], Awaitable[object]]] = {
        "status": lambda: calls.status("nobody-knows"),
        "wait": lambda: calls.wait("nobody-knows", 20),
        "watch": lambda: calls.watch("nobody-knows"),
        "cancel": lambda: calls.cancel("nobody-knows", ""),
    }
    with pytest.raises(NotFound) as raised:
        await about[what]()
    assert (raised.value.code, raised.value.deliberation_id) == ("not_found", "nobody-knows")


async def test_a_value_out_of_range(calls: Calls) -> None:
    with pytest.raises(InvalidArgument) as raised:
        await calls.submit("Decide.", agents=["a", "b c"])
    assert raised.value.field == "agents[1].id"
    assert raised.value.code == "invalid_argument"
    assert "agents[1].id" in str(raised.value)
    with pytest.raises(InvalidArgument):
        await calls.listed(state="done")


async def test_a_request_that_is_too_large(calls: Calls) -> None:
    with pytest.raises(TooLarge):
        await calls.submit("x" * (1 << 20), agents=["a"])


async def test_a_string_is_no_list_of_agents(calls: Calls) -> None:
    with pytest.raises(TypeError, match="not a string"):
        await calls.submit("Decide.", agents="ab")
