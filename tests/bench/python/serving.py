"""A deliberation as a Ray Serve HTTP call, on a port of its own.

Runs as a Ray job, and stays up until it is stopped.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

from chat import deliberate, session
from ray import serve
from starlette.requests import Request

URL, PORT = sys.argv[1], int(sys.argv[2])


@serve.deployment(num_replicas=1, max_ongoing_requests=10_000, ray_actor_options={"num_cpus": 0.5})
class Deliberations:
    """Answers a call with all proposals; /accept only remembers it."""

    def __init__(self) -> None:
        self.http: Any = None
        self.accepted: list[dict[str, Any]] = []

    async def __call__(self, request: Request) -> Any:
        asked = await request.json()
        if request.url.path.endswith("/accept"):
            self.accepted.append(asked)
            return {"id": len(self.accepted)}
        self.http = self.http or session()
        return await deliberate(self.http, URL, asked["model"], asked["agents"])


serve.start(http_options={"host": "127.0.0.1", "port": PORT})
serve.run(Deliberations.bind(), name="compared", route_prefix="/")
signal.pause()
