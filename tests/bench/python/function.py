"""A Python function that accepts deliberations as ours does: an event comes in,
is checked, and stands in the journal by compare-and-set when it is answered.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import Any, AsyncIterator

import nats
import uvicorn
from fastapi import FastAPI, Request
from pydantic import BaseModel, Field


class Agent(BaseModel):
    """One agent."""

    id: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")


class Asked(BaseModel):
    """A request."""

    task_id: str = Field(min_length=1)
    task_description: str = Field(min_length=1)
    role: str = Field(min_length=1)
    agents: list[Agent] = Field(min_length=1, max_length=256)


state: dict[str, Any] = {}


@asynccontextmanager
async def connected(_: FastAPI) -> AsyncIterator[None]:
    """Connects before the first request."""
    client = await nats.connect(os.environ["NATS_URL"])
    state["js"] = client.jetstream()
    yield
    await client.close()


app = FastAPI(lifespan=connected)


@app.post("/")
async def submit(request: Request, asked: Asked) -> dict[str, str]:
    """Accepts a deliberation."""
    id = request.headers["ce-id"]
    await state["js"].publish(
        f"deliberation.requested.default.{id}",
        asked.model_dump_json().encode(),
        headers={
            "ce-specversion": "1.0",
            "ce-id": id,
            "ce-type": "python",
            "ce-source": "/bench",
            "Nats-Expected-Last-Subject-Sequence": "0",
            "Nats-Expected-Last-Subject-Sequence-Subject": f"deliberation.*.*.{id}",
        },
    )
    return {"deliberation_id": id, "status": "submitted"}


uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
