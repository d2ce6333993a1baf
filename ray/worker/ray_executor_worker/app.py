"""What Ray Serve deploys: ``ray_executor_worker.app:build``.

No request ever reaches the deployment. Serve restarts replicas that fail, rolls
them when the package changes, and stops them.
"""

from __future__ import annotations

import gc
import os
from typing import Any

import ray
import ray.util.metrics
from ray import serve

from .doors import close_doors
from .heartbeat import BEAT_S
from .messages import Schema
from .metrics import RayMetrics
from .settings import Secrets, Settings
from .worker import Worker

# Serve's own processes ask for no CPUs; two replicas and what else a node of
# two CPUs runs still fit.
_NUM_CPUS = 0.5
_SHUTDOWN_S = 30
# Agents that are being asked may finish; what is left of the shutdown is for
# handing the others back. Meanwhile Serve starts the new replica.
_DRAIN_S = 20
# Python looks for cycles whenever so many objects have come that stay for a
# while, which is all that agents who wait do: at its own 700 that takes a tenth
# of the replica's time.
_GARBAGE = 20_000


class Replica:
    """A worker, as Serve starts, checks and stops it."""

    def __init__(self, args: dict[str, Any]) -> None:
        close_doors()
        settings = Settings.read(args, os.environ)
        replica = serve.get_replica_context().replica_id.unique_id
        self._worker = Worker(
            settings,
            Secrets.from_environment(),
            Schema.shipped(),
            replica,
            ray_version=ray.__version__,
            metrics=RayMetrics(ray.util.metrics),
        )
        # The process is ours alone: what Ray and the imports have made stays.
        gc.freeze()
        gc.set_threshold(_GARBAGE)
        # Serve calls this inside the event loop that the replica lives in.
        self._worker.start()

    def reconfigure(self, config: dict[str, Any]) -> None:
        """Serve wants it where there is a user_config; ours is for readers of the config."""

    async def check_health(self) -> None:
        """Fails on what a new replica would mend: not because NATS is away."""
        self._worker.check()

    async def __del__(self) -> None:
        """Drains and hands back: Serve's drain waits for Serve's requests only."""
        await self._worker.stop(_DRAIN_S)


def build(args: dict[str, Any]) -> Any:
    """The application; args are the Serve config's, checked before anything starts."""
    settings = Settings.read(args, os.environ)
    deployment = serve.deployment(
        Replica,
        name="Worker",
        num_replicas=settings.replicas,
        ray_actor_options={"num_cpus": _NUM_CPUS},
        # Serve reports it: its readers may expect heartbeats of this worker.
        user_config={"heartbeat_s": BEAT_S},
        # Nobody sends requests; Serve insists on a number.
        max_ongoing_requests=1,
        graceful_shutdown_timeout_s=_SHUTDOWN_S,
        # The drain has nothing to wait for, and its first wait would be 2 s.
        graceful_shutdown_wait_loop_s=0.1,
    )
    return deployment.bind(args)
