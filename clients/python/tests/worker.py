"""A stand-in for the Ray worker: it pulls deliberations and writes what a worker writes.

What it does is in the first word of the task: `fail` fails, `hold` starts and
does not end, `slow` ends after a second; any other completes at once.
"""

from __future__ import annotations

import asyncio
import os
from datetime import datetime, timezone
from typing import Any

import nats
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import BadRequestError

from ray_executor_client import messages


async def write(  # noqa: PLR0913 - an event
    js: JetStreamContext,
    subject: str,
    event_id: str,
    payload: object,
    *,
    free: str,
    deliberation_id: str,
) -> bool:
    """Appends an event unless there is one on ``free``."""
    assert hasattr(payload, "SerializeToString")
    assert hasattr(payload, "DESCRIPTOR")
    headers = {
        "ce-specversion": "1.0",
        "ce-id": event_id,
        "ce-type": payload.DESCRIPTOR.full_name,
        "ce-source": "/stand-in",
        "ce-subject": deliberation_id,
        "ce-time": datetime.now(timezone.utc).isoformat(timespec="milliseconds")[:-6] + "Z",
        "content-type": "application/protobuf",
        "Nats-Expected-Last-Subject-Sequence": "0",
        "Nats-Expected-Last-Subject-Sequence-Subject": free,
    }
    try:
        await js.publish(subject, payload.SerializeToString(), headers=headers)
    except BadRequestError:
        return False
    return True


def propose(agent: messages.Agent, *, failing: bool) -> messages.DeliberationResult:
    result = messages.DeliberationResult(agent_id=agent.id)
    if failing:
        result.metadata.update({"status": "failed", "error": "no answer"})
    else:
        result.proposal = f"proposal of {agent.id}"
        result.metadata["status"] = "completed"
    return result


async def deliberate(js: JetStreamContext, message: Msg) -> None:
    accepted = messages.DeliberationRequested.FromString(message.data)
    chosen = accepted.deliberation_id
    names: dict[str, Any] = {"deliberation_id": chosen, "task_id": accepted.task_id}
    how = accepted.request.task_description.partition(" ")[0].rstrip(",")
    started = f"deliberation.started.{accepted.pool}.{chosen}"
    await write(
        js,
        started,
        f"{chosen}.started.1",
        messages.DeliberationStarted(attempt=1, cluster="here", **names),
        free=started,
        deliberation_id=chosen,
    )
    await message.ack()
    if how == "hold":
        return
    if how == "slow":
        await asyncio.sleep(1)
    results = [propose(agent, failing=how == "fail") for agent in accepted.request.agents]
    for index, result in enumerate(results):
        subject = f"deliberation.agent.{index}.{chosen}"
        event = messages.AgentCompleted(agent_index=index, result=result, **names)
        await write(
            js, subject, f"{chosen}.agent.{index}", event, free=subject, deliberation_id=chosen
        )
    end = (
        messages.DeliberationFailed(results=results, error_message="no agent answered", **names)
        if how == "fail"
        else messages.DeliberationCompleted(results=results, **names)
    )
    await write(
        js,
        f"deliberation.done.{'failed' if how == 'fail' else 'completed'}.{chosen}",
        f"{chosen}.done",
        end,
        free=f"deliberation.done.*.{chosen}",
        deliberation_id=chosen,
    )


async def main() -> None:
    client = await nats.connect(os.environ["NATS_URL"], max_reconnect_attempts=-1)
    js = client.jetstream()
    pulled = await js.pull_subscribe_bind("pool-default", "DELIBERATIONS")
    running: set[asyncio.Task[None]] = set()
    while True:
        try:
            fetched = await pulled.fetch(16, timeout=5)
        except (asyncio.TimeoutError, nats.errors.Error):
            continue
        for message in fetched:
            task = asyncio.create_task(deliberate(js, message))
            running.add(task)
            task.add_done_callback(running.discard)


if __name__ == "__main__":
    asyncio.run(main())
