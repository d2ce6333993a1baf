"""The call of the model that all comparisons make: what an agent asks, and no more."""

from __future__ import annotations

import asyncio
import json

import aiohttp

_HEADERS = {"Content-Type": "application/json"}


def session() -> aiohttp.ClientSession:
    """A session without a limit of connections, as the worker's."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))


def body(model: str, agent: int, task: str) -> bytes:
    """What one agent asks."""
    messages = [
        {"role": "system", "content": f"You are agent-{agent}, an expert DEV."},
        {"role": "user", "content": f"Task:\n{task}\n\nPropose a solution."},
    ]
    return json.dumps({"model": model, "messages": messages}).encode()


async def ask(http: aiohttp.ClientSession, url: str, body: bytes) -> str:
    """One call; the proposal."""
    async with http.post(f"{url}/v1/chat/completions", data=body, headers=_HEADERS) as response:
        response.raise_for_status()
        return json.loads(await response.read())["choices"][0]["message"]["content"]


async def deliberate(
    http: aiohttp.ClientSession, url: str, model: str, agents: int, task: str = "Describe it"
) -> list[str]:
    """All agents at once."""
    return await asyncio.gather(*(ask(http, url, body(model, n, task)) for n in range(agents)))
