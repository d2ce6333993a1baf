"""The Python client as a door of tests/conformance: a child that speaks JSON lines.

Started as `door.py URL blocking|asyncio`. A line in is a call, with its request
as protobuf in base64; a line out is its outcome, or an event of a watch.
"""

from __future__ import annotations

import asyncio
import json
import sys
from base64 import b64decode, b64encode
from dataclasses import replace
from typing import Any, Callable, Optional, Union

from google.protobuf.message import Message

from ray_executor_client import (
    Agent,
    AsyncClient,
    AsyncDeliberation,
    Client,
    Deliberation,
    RayExecutorError,
    messages,
)

# The door shows what one try comes to.
OPTIONS: dict[str, Any] = {"retries": 0, "timeout": 30}


def arguments(request: messages.ExecuteDeliberationRequest) -> dict[str, Any]:
    """The request as arguments of submit."""
    constraints = request.constraints
    named: dict[str, Any] = {
        "task_description": request.task_description,
        "agents": [agent(one) for one in request.agents],
        "task_id": request.task_id,
        "role": request.role,
        "deliberation_id": request.deliberation_id,
        "pool": request.pool,
        "model": request.vllm_model,
        "vllm_url": request.vllm_url,
        "timeout_seconds": constraints.timeout_seconds,
        "story_id": constraints.story_id,
        "plan_id": constraints.plan_id,
        "metadata": dict(constraints.metadata),
        "labels": dict(request.labels),
    }
    if constraints.HasField("max_retries"):
        named["max_retries"] = constraints.max_retries
    if request.HasField("sampling"):
        named["sampling"] = request.sampling
    if request.HasField("response_format"):
        named["response_format"] = request.response_format
    if request.HasField("strategy"):
        named["strategy"] = request.strategy
    return named


def agent(one: messages.Agent) -> Union[Agent, messages.Agent]:
    made = Agent(
        one.id, one.role, one.model, one.prompt_template, one.system_prompt, weight=one.weight
    )
    if one.HasField("sampling"):
        made = replace(made, sampling=one.sampling)
    if one.fallbacks:
        made = replace(made, fallbacks=tuple(one.fallbacks))
    return made


def call(client: Union[Client, AsyncClient], asked: dict[str, Any]) -> Any:
    """Calls the method that answers the request; for AsyncClient, what to await."""
    name = asked["method"]
    traced: dict[str, Any] = {"traceparent": asked.get("trace") or None}
    calls: dict[str, Callable[[Any], Any]] = {
        "ExecuteDeliberation": lambda of: client.submit(**arguments(of), **traced),
        "GetDeliberationStatus": lambda of: client.status(of.deliberation_id),
        "CancelDeliberation": lambda of: client.cancel(
            of.deliberation_id, reason=of.reason, **traced
        ),
        "ListDeliberations": client.list_page,
        "GetStatus": lambda _: client.stats(),
        "GetActiveJobs": lambda _: client.jobs(),
        "WatchDeliberation": lambda of: client.watch(
            of.deliberation_id, after_sequence=of.after_sequence
        ),
    }
    return calls[name](getattr(messages, name + "Request").FromString(b64decode(asked["request"])))


def encoded(message: Message) -> str:
    return b64encode(message.SerializeToString()).decode()


def say(**line: object) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def replied(got: Any) -> None:
    reply: Optional[Message] = None
    if isinstance(got, (Deliberation, AsyncDeliberation)):
        reply = got.receipt
    elif isinstance(got, list):
        reply = messages.GetActiveJobsResponse(jobs=got)
    elif isinstance(got, Message):
        reply = got
    say(code="ok", wire="ok", reply=encoded(reply) if reply else "")


def failed(error: RayExecutorError) -> None:
    say(
        code=error.code,
        wire=type(error).__name__,
        field=error.field,
        id=error.deliberation_id,
        detail=error.message,
        retry_after="" if error.retry_after is None else str(error.retry_after),
    )


def blocking(url: str) -> None:
    with Client(url, **OPTIONS) as client:
        for line in sys.stdin:
            asked = json.loads(line)
            try:
                got = call(client, asked)
                if asked["method"] == "WatchDeliberation":
                    for event in got:
                        say(event=encoded(event))
                    got = None
            except RayExecutorError as error:
                failed(error)
            else:
                replied(got)


async def awaited(url: str) -> None:
    async with AsyncClient(url, **OPTIONS) as client:
        for line in sys.stdin:
            asked = json.loads(line)
            try:
                got = call(client, asked)
                if asked["method"] == "WatchDeliberation":
                    async for event in got:
                        say(event=encoded(event))
                    got = None
                else:
                    got = await got
            except RayExecutorError as error:
                failed(error)
            else:
                replied(got)


if __name__ == "__main__":
    if sys.argv[2] == "asyncio":
        asyncio.run(awaited(sys.argv[1]))
    else:
        blocking(sys.argv[1])
