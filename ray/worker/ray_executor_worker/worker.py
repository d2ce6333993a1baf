"""One replica, from its start to the hand-back of what it holds."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Optional

from google.protobuf.message import Message

from .attempt import Context
from .clock import JournalClock
from .connection import Connection, UnavailableError
from .heartbeat import Heartbeat
from .held import Holding
from .hosts import AllowedHosts, address_of
from .journal import STREAM, AbandonedError, Event, Expectation, Journal
from .messages import Replica, Schema
from .metrics import Metrics
from .model import ModelClient
from .puller import NAK, Puller
from .reach import Reach
from .settings import Secrets, Settings
from .slots import Slots
from .subjects import stopped_subject
from .tasks import cancel
from .throttle import ThrottledLog

log = logging.getLogger(f"ray.serve.{__name__}")

# How often the server is asked for its time, and for the ack waits.
_OBSERVE_S = 15.0
# How long the hand-back waits for a journal that does not answer.
_NOTE_S = 2.0
# The ends that others write: cancellations, and failures by the keeper or another
# worker. Completions are the most by far and come from the holder, so they are
# not subscribed to.
_ENDS = ("deliberation.done.cancelled.*", "deliberation.done.failed.*")


class Worker:
    """Pulls, runs and settles deliberations."""

    def __init__(  # noqa: PLR0913 - what Ray gives, and what a test puts in
        self,
        settings: Settings,
        secrets: Secrets,
        schema: Schema,
        replica: str,
        *,
        ray_version: str = "",
        models: Optional[ModelClient] = None,
        metrics: Optional[Metrics] = None,
    ) -> None:
        metrics = metrics or Metrics()
        self._settings = settings
        self._connection = Connection(
            urls=settings.nats_urls,
            secrets=secrets,
            name=f"ray-executor worker {replica}",
            on_connected=self._on_connected,
        )
        self._journal = Journal(self._connection, JournalClock(), settings.nats_prefix)
        hosts = AllowedHosts(settings.model_hosts)
        self._models = models or ModelClient(hosts, secrets.api_key(), metrics=metrics)
        self._reach = Reach([*address_of(settings.model_url), *hosts.addresses()])
        self._replica = Replica(
            settings.cluster, replica, settings.version, ray_version, time.time_ns()
        )
        self._heartbeat = Heartbeat(
            self._connection, settings.cluster, replica, self._facts, settings.nats_prefix
        )
        self._models.on_wait(self._heartbeat.now)
        self._context = Context(
            journal=self._journal,
            schema=schema,
            models=self._models,
            cluster=settings.cluster,
            replica=replica,
            metrics=metrics,
        )
        self._holding = Holding(self._context, self._connection, self._help)
        self._pullers = {
            pool: Puller(
                self._connection,
                settings.nats_prefix + STREAM,
                pool,
                Slots(slots, settings.parking(pool)),
                self._holding.accept,
            )
            for pool, slots in settings.slots().items()
        }
        self._helpers: set[asyncio.Task[None]] = set()
        self._connected = asyncio.Event()
        # Why the journal has not been reached yet.
        self._trouble = ""
        self._failure: Optional[BaseException] = None

    def start(self) -> None:
        """Begins, inside a running event loop; never waits for NATS."""
        log.info(
            "worker %s of cluster %r: package %s, slots %s",
            self._context.replica,
            self._settings.cluster,
            self._settings.version or "unnamed",
            self._settings.slots(),
        )
        self._help(self._connection.maintain())
        self._help(self._begin())
        self._help(self._holding.keep())
        self._help(self._heartbeat.run())
        self._help(self._keep_reaching())

    async def stop(self, patience_s: float = 0.0) -> None:
        """Stops pulling, and ends what it can end within the patience.

        The rest is handed back, so that another worker has it at once. The stop
        is noted in the journal before: these attempts were not lost.
        """
        await asyncio.gather(*(puller.stop() for puller in self._pullers.values()))
        for h in reversed(self._holding.items):
            # Model: HandBack.
            await self._holding.drop_waiting(h, NAK)
        tasks = [h.task for h in self._holding.items if h.task is not None]
        if tasks and patience_s and self._connection.connected:
            log.info("worker %s drains: %d held", self._context.replica, len(tasks))
            await asyncio.wait(tasks, timeout=patience_s)
        await cancel(self._helpers)
        held = self._holding.items
        await cancel(h.task for h in held if h.task is not None)
        # Those that have settled meanwhile are not held any more.
        held = [h for h in held if not (h.ended or h.superseded)]
        if held:
            await self._note_stop()
        for h in held:
            # Model: HandBack.
            await self._holding.send(h.reply, NAK)
        await self._heartbeat.end()
        await self._models.close()
        await self._connection.close()
        log.info("worker %s stopped; %d handed back", self._context.replica, len(held))

    async def _note_stop(self) -> None:
        """Notes in the journal that these attempts were not lost; safe to repeat."""
        until = asyncio.get_running_loop().time() + _NOTE_S
        try:
            await self._journal.append(
                Event(
                    subject=stopped_subject(self._context.replica),
                    id=f"{self._context.replica}.stopped",
                    deliberation_id=self._context.replica,
                    payload=self._context.schema.stopped(
                        self._context.cluster, self._context.replica
                    ),
                ),
                Expectation(0),
                until,
            )
        except AbandonedError as error:
            log.warning("what is handed back counts as lost: %s", error)

    def check(self) -> None:
        """Raises where a new replica would help; an outage of NATS is no such case."""
        if self._failure is not None:
            raise RuntimeError("the worker stopped pulling") from self._failure

    # Start

    async def _begin(self) -> None:
        """Pulls once the server's time is observed: deadlines need it."""
        for ends in _ENDS:
            await self._connection.subscribe(ends, self._holding.on_end)
        warnings = ThrottledLog(log)
        while True:
            await self._connected.wait()
            try:
                await self._journal.observe_clock()
                break
            except UnavailableError as error:
                self._trouble = str(error)
                warnings.warn(f"the journal cannot be reached: {error}")
                await asyncio.sleep(1)
        self._trouble = ""
        for puller in self._pullers.values():
            self._help(puller.run())
        self._help(self._keep_observing())

    def _on_connected(self) -> None:
        self._connected.set()
        self._heartbeat.now()
        for puller in self._pullers.values():
            puller.reset()
        if self._holding.items:
            self._help(self._holding.check_all())

    async def _keep_observing(self) -> None:
        while True:
            try:
                await self._journal.observe_clock()
                for puller in self._pullers.values():
                    await puller.observe()
            except UnavailableError as error:
                log.debug("the server's time and ack waits: %s", error)
            await asyncio.sleep(_OBSERVE_S)

    async def _keep_reaching(self) -> None:
        while True:
            if await self._reach.look():
                self._heartbeat.now()
            await self._reach.pause()

    def _facts(self) -> Message:
        """The next heartbeat."""
        pools = self._pullers.items()
        return self._context.schema.heartbeat(
            self._replica,
            [puller.use for _, puller in pools],
            [("journal", self._trouble)] * bool(self._trouble)
            + [(f"pool {pool}", p.trouble) for pool, p in pools if p.trouble]
            + self._reach.problems(),
            self._models.awaited(),
        )

    def _help(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._helpers.add(task)
        task.add_done_callback(self._helped)

    def _helped(self, task: asyncio.Task[None]) -> None:
        self._helpers.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
            log.error("a task of the worker failed", exc_info=self._failure)
