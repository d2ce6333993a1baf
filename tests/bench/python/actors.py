"""The service that a team writes first: FastAPI, and a Ray actor for each agent.

Statuses are in memory. Runs as a Ray job, and stays up until it is stopped.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from typing import Any

import ray
import uvicorn
from chat import ask, body, session
from fastapi import FastAPI
from pydantic import BaseModel

URL, PORT = sys.argv[1], int(sys.argv[2])

ray.init()
app = FastAPI()
statuses: dict[str, dict[str, Any]] = {}
running: set[asyncio.Task[Any]] = set()


class Asked(BaseModel):
    """A deliberation."""

    task: str = "Describe it"
    model: str
    agents: int
    wait: bool = False


@ray.remote
class Agent:
    """One agent, a process of its own."""

    async def propose(self, model: str, number: int, task: str) -> str:
        """Asks the model."""
        async with session() as http:
            return await ask(http, URL, body(model, number, task))


async def deliberate(id: str, asked: Asked) -> None:
    """Starts the agents, gathers what they say and lets them go."""
    agents = [Agent.remote() for _ in range(asked.agents)]
    proposals = [a.propose.remote(asked.model, n, asked.task) for n, a in enumerate(agents)]
    statuses[id] = {"status": "completed", "results": await asyncio.gather(*proposals)}


@app.post("/deliberations")
async def submit(asked: Asked) -> dict[str, Any]:
    """Accepts a deliberation; with `wait` it answers once that has ended."""
    id = str(uuid.uuid4())
    statuses[id] = {"status": "running"}
    task = asyncio.create_task(deliberate(id, asked))
    running.add(task)
    task.add_done_callback(running.discard)
    if asked.wait:
        await task
    return {"id": id, **statuses[id]}


@app.get("/deliberations/{id}")
async def status(id: str) -> dict[str, Any]:
    """Where it stands."""
    return statuses[id]


uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="warning")
