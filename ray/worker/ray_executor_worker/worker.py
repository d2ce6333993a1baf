"""Everything that one replica does, from its start to the hand-back."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, Optional

from google.protobuf.message import Message
from nats.aio.msg import Msg

from .clock import JournalClock
from .connection import Connection, UnavailableError
from .deliberation import Context, Deliberation, Settlement, cancel, weigh
from .heartbeat import Heartbeat
from .hosts import AllowedHosts, address_of
from .journal import STREAM, AbandonedError, Event, Expectation, Journal, stopped_subject
from .messages import Replica, Schema, UnreadableError
from .model import ModelClient
from .puller import ACK, IN_PROGRESS, NAK, Delivery, Puller
from .reach import Reach
from .settings import Secrets, Settings
from .slots import Place, Slots
from .teller import Teller

log = logging.getLogger(f"ray.serve.{__name__}")

# The server is told of what is held so many times in an ack wait.
_BEATS = 3
# How often the server is asked for its time, and for the ack waits.
_OBSERVE_S = 15.0
# Whether what is held is over is asked of the leader so many at a time, and after
# a reconnect not by all workers at once: they share the server's queue, which
# drops everything where it overflows.
_CHECKS_AT_ONCE = 8
_JITTER_S = 2.0
# Handing back does not wait longer for a journal that does not answer.
_NOTE_S = 2.0
# The ends that others write: cancels, and failures by the keeper or another
# worker. Completions are by far the most, and by their holder: nobody listens.
_ENDS = ("deliberation.done.cancelled.*", "deliberation.done.failed.*")


@dataclass
class _Held:
    """A deliberation in this replica's hands."""

    id: str
    deliberation: Deliberation
    puller: Puller
    reply: str
    beaten_at: float
    place: Place
    # None while it waits for slots.
    task: Optional[asyncio.Task[None]] = None
    # Why its task is being cancelled: it ended, or another worker has it.
    ended: bool = False
    superseded: bool = False
    checking: bool = False


class Worker:
    """Pulls, runs and settles deliberations."""

    def __init__(  # noqa: PLR0913 - what Ray knows, and what a test puts in
        self,
        settings: Settings,
        secrets: Secrets,
        schema: Schema,
        replica: str,
        *,
        ray_version: str = "",
        models: Optional[ModelClient] = None,
    ) -> None:
        self._settings = settings
        self._connection = Connection(
            urls=settings.nats_urls,
            secrets=secrets,
            name=f"ray-executor worker {replica}",
            on_connected=self._on_connected,
        )
        self._journal = Journal(self._connection, JournalClock(), settings.nats_prefix)
        hosts = AllowedHosts(settings.model_hosts)
        self._models = models or ModelClient(hosts, secrets.api_key())
        self._reach = Reach([*address_of(settings.model_url), *hosts.addresses()])
        self._replica = Replica(
            settings.cluster, replica, settings.version, ray_version, time.time_ns()
        )
        self._heartbeat = Heartbeat(
            self._connection, settings.cluster, replica, self._facts, settings.nats_prefix
        )
        self._context = Context(
            journal=self._journal,
            schema=schema,
            models=self._models,
            cluster=settings.cluster,
            replica=replica,
        )
        self._pullers = {
            pool: Puller(
                self._connection,
                settings.nats_prefix + STREAM,
                pool,
                Slots(slots),
                partial(self._accept, pool),
            )
            for pool, slots in settings.slots().items()
        }
        self._held: dict[str, _Held] = {}
        self._helpers: set[asyncio.Task[None]] = set()
        self._checks = asyncio.Semaphore(_CHECKS_AT_ONCE)
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
        self._help(self._connection.keep())
        self._help(self._begin())
        self._help(self._keep_held())
        self._help(self._heartbeat.run())
        self._help(self._keep_reaching())

    async def stop(self, patience_s: float = 0.0) -> None:
        """Takes nothing more, and ends what it can end within the patience.

        What is left then is handed back, so that another worker has it at once.
        """
        await asyncio.gather(*(puller.stop() for puller in self._pullers.values()))
        for h in reversed(list(self._held.values())):
            # Model: HandBack.
            await self._drop_waiting(h, NAK)
        tasks = [h.task for h in self._held.values() if h.task is not None]
        if tasks and patience_s and self._connection.connected:
            log.info("worker %s drains: %d held", self._context.replica, len(tasks))
            await asyncio.wait(tasks, timeout=patience_s)
        await cancel(self._helpers)
        held = list(self._held.values())
        await cancel(h.task for h in held if h.task is not None)
        # Those that settled themselves meanwhile are no longer there.
        held = [h for h in held if not (h.ended or h.superseded)]
        if held:
            await self._note_stop()
        for h in held:
            # Model: HandBack.
            await self._send(h.reply, NAK)
        await self._heartbeat.end()
        await self._models.close()
        await self._connection.close()
        log.info("worker %s stopped; %d handed back", self._context.replica, len(held))

    async def _note_stop(self) -> None:
        """Lets the next workers know that these attempts were not lost."""
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
        """Raises what must never happen; NATS being away is no such thing."""
        if self._failure is not None:
            raise RuntimeError("the worker stopped pulling") from self._failure

    # Start

    async def _begin(self) -> None:
        """Pulls once the server's time is known: deadlines need it."""
        for ends in _ENDS:
            await self._connection.subscribe(ends, self._on_end)
        teller = Teller(log)
        while True:
            await self._connected.wait()
            try:
                await self._journal.observe_clock()
                break
            except UnavailableError as error:
                self._trouble = str(error)
                teller.warn(f"the journal cannot be reached: {error}")
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
        if self._held:
            self._help(self._check_all())

    async def _check_all(self) -> None:
        """Looks at what is held: what ended while the connection was away was not heard."""
        await asyncio.sleep(random.uniform(0, _JITTER_S))  # noqa: S311
        for held in list(self._held.values()):
            self._check(held)

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
        """What the next heartbeat says."""
        pools = self._pullers.items()
        return self._context.schema.heartbeat(
            self._replica,
            [puller.use for _, puller in pools],
            [("journal", self._trouble)] * bool(self._trouble)
            + [(f"pool {pool}", p.trouble) for pool, p in pools if p.trouble]
            + self._reach.problems(),
        )

    # Work

    def _accept(self, pool: str, delivery: Delivery, data: bytes) -> Optional[Place]:
        now = asyncio.get_running_loop().time()
        known = self._held.get(delivery.id)
        if known is not None:
            # Our heartbeats were lost and it came back to us: go on with it.
            known.reply, known.beaten_at = delivery.reply, now
            return None
        puller = self._pullers[pool]
        place = Place(
            weigh(self._context.schema, delivery, data), partial(self._start, delivery.id)
        )
        deliberation = Deliberation(
            self._context, delivery, data, partial(puller.slots.shrink, place)
        )
        # Model: Take.
        self._held[delivery.id] = _Held(
            delivery.id, deliberation, puller, delivery.reply, now, place
        )
        return place

    def _start(self, deliberation_id: str) -> None:
        held = self._held[deliberation_id]
        held.task = asyncio.create_task(self._run(held))
        held.task.add_done_callback(lambda _: held.puller.slots.leave(held.place))

    async def _drop_waiting(self, held: _Held, say: bytes) -> None:
        """Lets go of what has not been started."""
        if self._held.get(held.id) is not held or held.task is not None:
            return
        del self._held[held.id]
        held.puller.slots.leave(held.place)
        if say:
            await self._send(held.reply, say)

    async def _run(self, held: _Held) -> None:
        try:
            settlement = await held.deliberation.run()
        except asyncio.CancelledError:
            if not held.ended and not held.superseded:
                raise  # stop() hands it back
            settlement = Settlement.ENDED if held.ended else Settlement.LEFT
        except Exception:
            # Redelivered after the ack wait, and given up after some attempts.
            log.exception("%s: not seen through", held.id)
            settlement = Settlement.LEFT
        del self._held[held.id]
        if settlement is Settlement.ENDED:
            held.ended = True
            # Model: Ack.
            await self._send(held.reply, ACK)

    async def _keep_held(self) -> None:
        """Tells the server that what is held is worked on."""
        while True:
            await asyncio.sleep(1)
            now = asyncio.get_running_loop().time()
            # The youngest first: to drop one that waits lets none behind it in.
            for held in reversed(list(self._held.values())):
                silence, ack_wait = now - held.beaten_at, held.puller.ack_wait
                if silence < ack_wait / _BEATS:
                    continue
                if silence > ack_wait:
                    # We were paused: it may be another worker's by now.
                    await self._drop_waiting(held, b"")
                    self._check(held)
                held.beaten_at = now
                await self._send(held.reply, IN_PROGRESS)

    # Ends written by others

    async def _on_end(self, message: Msg) -> None:
        held = self._held.get(message.subject.rpartition(".")[2])
        if held is not None and not held.deliberation.ending:
            self._check(held)

    def _check(self, held: _Held) -> None:
        if not held.checking:
            held.checking = True
            self._help(self._stop_if_over(held))

    async def _stop_if_over(self, held: _Held) -> None:
        """Stops what has its end, or a newer attempt elsewhere.

        A subscriber also hears what the stream then refused: the leader knows.
        """
        try:
            async with self._checks:
                # Model: StopAtEnd.
                held.ended = held.ended or await held.deliberation.ended()
                if not held.ended:
                    # Model: StopWhenSuperseded.
                    held.superseded = await held.deliberation.superseded()
        except (AbandonedError, UnreadableError) as error:
            log.debug("whether it is over: %s", error)
        finally:
            held.checking = False
        if (held.ended or held.superseded) and held.task is not None:
            await cancel([held.task])
        elif held.ended:
            await self._drop_waiting(held, ACK)

    # Small things

    async def _send(self, reply: str, what: bytes) -> None:
        try:
            await self._connection.publish(reply, what)
        except UnavailableError as error:
            # Then it is delivered again, and what the journal says holds.
            log.debug("%s not sent: %s", what.decode(), error)

    def _help(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._helpers.add(task)
        task.add_done_callback(self._helped)

    def _helped(self, task: asyncio.Task[None]) -> None:
        self._helpers.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
            log.error("a task of the worker failed", exc_info=self._failure)
