"""Ends of deliberations, read from NATS by a durable consumer."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Optional, Union

from google.protobuf import json_format

from . import messages
from ._errors import NotFound

if TYPE_CHECKING:
    from nats.aio.client import Client as Connection
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

End = Union[
    messages.DeliberationCompleted, messages.DeliberationFailed, messages.DeliberationCancelled
]
_ENDS: dict[str, tuple[str, type[End]]] = {
    "ray_executor.v1.DeliberationCompleted": ("completed", messages.DeliberationCompleted),
    "ray_executor.v1.DeliberationFailed": ("failed", messages.DeliberationFailed),
    "ray_executor.v1.DeliberationCancelled": ("cancelled", messages.DeliberationCancelled),
}
STATES = ("completed", "failed", "cancelled")
SUBJECT = "orchestration.deliberation."
ACK_WAIT_S = 30.0
# A pull request waits this long for a message. One that NATS lost in a restart
# delays the next end by as much.
PULL_S = 5.0
MAX_PAUSE_S = 60.0
# How many handled ends are remembered.
REMEMBERED = 4096

_log = logging.getLogger("ray_executor_client")


@dataclass(frozen=True)
class Ended:
    """The end of one deliberation.

    ``id`` is the announcement's, ``<deliberation_id>.done``: the same whenever it
    is delivered again. ``event`` is the message of the journal. ``delivery`` is 1
    the first time, more after a failure of the handler or a cut.
    """

    id: str
    status: str
    event: End
    delivery: int = 1

    @property
    def deliberation_id(self) -> str:
        """The deliberation's id."""
        return self.event.deliberation_id

    @property
    def task_id(self) -> str:
        """Your name of the task."""
        return self.event.task_id

    @property
    def results(self) -> Sequence[messages.DeliberationResult]:
        """One for each agent, in the order of the request; see results_omitted."""
        return self.event.results

    @property
    def results_omitted(self) -> bool:
        """Whether the results did not fit the message: ``status()`` returns them."""
        return bool(self.event.results_ref)

    @property
    def proposal(self) -> str:
        """The first proposal, in the order of the request; empty if there is none."""
        return next((one.proposal for one in self.results if one.proposal), "")

    @property
    def error_message(self) -> str:
        """Why it failed or was cancelled; empty if it completed."""
        if isinstance(self.event, messages.DeliberationFailed):
            return self.event.error_message
        if isinstance(self.event, messages.DeliberationCancelled):
            return self.event.reason
        return ""


Handler = Callable[[Ended], Union[Awaitable[None], None]]


async def on_ended(  # noqa: PLR0913 - settings, each with its name
    handler: Handler,
    *,
    durable: str,
    nats_url: Union[str, list[str]] = "nats://127.0.0.1:4222",
    states: Sequence[str] = STATES,
    concurrency: int = 1,
    only_new: bool = False,
    stream: Optional[str] = None,
    connect: Optional[Mapping[str, Any]] = None,
) -> None:
    """Calls ``handler`` with every end, until the task is cancelled.

    ``durable`` names a JetStream consumer, which remembers what was handled:
    processes with the same name share the ends, and a restarted one continues.
    It is created at the first call, with the ends of ``states`` that the stream
    still stores; with ``only_new`` those that come from then on.

    An end is acknowledged after the handler has returned. If it raises, the
    end is delivered again after a growing pause, to this process or another.
    So each end is handled at least once. This process skips an end that it has
    handled lately; a handler that must not repeat its work checks ``Ended.id``.
    A plain function runs in a thread. A handler may take as long as it needs:
    NATS is informed that it works. ``concurrency`` is how many run at the same time.

    ``stream`` is the stream's name, for credentials that may not look it up by
    its subjects. ``connect`` has further arguments of ``nats.connect``, for
    example ``user_credentials`` or ``tls``. While NATS is away this waits.

    Needs ``pip install ray-executor-client[nats]``. Raises NotFound if no
    stream stores the ends.
    """
    unknown = set(states) - set(STATES)
    if unknown or not states:
        raise ValueError(f"states are {', '.join(STATES)}, not {', '.join(map(repr, states))}")
    if concurrency < 1:
        raise ValueError("concurrency is at least 1")
    try:
        import nats  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise ImportError(
            "on_ended needs nats-py: pip install ray-executor-client[nats]"
        ) from error

    defaults = {"servers": nats_url, "max_reconnect_attempts": -1, "error_cb": _nats_error}
    connection = await nats.connect(**{**defaults, **(connect or {})})
    try:
        reader = _Reader(connection, handler, durable, [SUBJECT + state for state in states])
        await reader.prepare(stream, only_new=only_new)
        readers = [asyncio.ensure_future(reader.run()) for _ in range(concurrency)]
        try:
            await asyncio.gather(*readers)
        finally:
            for one in readers:
                one.cancel()
            await asyncio.wait(readers)
    finally:
        with suppress(OSError):  # it was cut
            await connection.close()


def on_ended_blocking(
    handler: Callable[[Ended], None], *, stop: Optional[threading.Event] = None, **options: Any
) -> None:
    """Calls ``handler`` with every end, until ``stop`` is set or Ctrl-C.

    The arguments are those of ``on_ended``. The handler runs in a thread;
    after ``stop`` a running one is waited for.
    """
    asyncio.run(_until(stop or threading.Event(), handler, options))


async def _until(stop: threading.Event, handler: Handler, options: dict[str, Any]) -> None:
    consuming = asyncio.ensure_future(on_ended(handler, **options))
    try:
        while not (stop.is_set() or consuming.done()):
            await asyncio.wait([consuming], timeout=0.2)
    finally:
        consuming.cancel()
        await asyncio.wait([consuming])
    if not consuming.cancelled():
        consuming.result()


async def _nats_error(error: Exception) -> None:
    _log.warning("NATS: %s", error)


class _Reader:
    """What the tasks of one call share."""

    def __init__(
        self, connection: Connection, handler: Handler, durable: str, subjects: list[str]
    ) -> None:
        self._js: JetStreamContext = connection.jetstream()
        self._handler = handler
        self._durable = durable
        self._subjects = subjects
        self._stream = ""
        self._ack_wait = ACK_WAIT_S
        self._handled: OrderedDict[str, None] = OrderedDict()

    async def prepare(self, stream: Optional[str], *, only_new: bool) -> None:
        """Creates the consumer unless it exists."""
        from nats.js.api import ConsumerConfig, DeliverPolicy  # noqa: PLC0415
        from nats.js.errors import NotFoundError  # noqa: PLC0415

        try:
            self._stream = stream or await self._js.find_stream_name_by_subject(self._subjects[0])
            try:
                info = await self._js.consumer_info(self._stream, self._durable)
            except NotFoundError:
                config = ConsumerConfig(
                    durable_name=self._durable,
                    description="ray-executor-client: on_ended",
                    deliver_policy=DeliverPolicy.NEW if only_new else DeliverPolicy.ALL,
                    ack_wait=ACK_WAIT_S,
                    filter_subjects=self._subjects,
                )
                info = await self._js.add_consumer(self._stream, config)
        except NotFoundError as error:
            raise NotFound(
                f"no stream stores {self._subjects[0]}: `ray-executor deploy` creates it"
            ) from error
        if info.config and info.config.ack_wait:
            self._ack_wait = info.config.ack_wait

    async def run(self) -> None:
        """Pulls and handles ends, one at a time."""
        import nats.errors  # noqa: PLC0415

        pause = 1.0
        while True:
            try:
                pulling = await self._js.pull_subscribe_bind(self._durable, stream=self._stream)
                try:
                    while True:
                        await self._pull(pulling)
                        pause = 1.0
                finally:
                    await pulling.unsubscribe()
            except nats.errors.Error as error:
                _log.warning("ends cannot be read from NATS, trying again: %s", error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, MAX_PAUSE_S)

    async def _pull(self, pulling: JetStreamContext.PullSubscription) -> None:
        try:
            received = await pulling.fetch(1, timeout=PULL_S)
        except asyncio.TimeoutError:
            return
        for message in received:
            await self._handle(message)

    async def _handle(self, message: Msg) -> None:
        try:
            ended = _read(message.data, message.metadata.num_delivered or 1)
        except (ValueError, KeyError, TypeError, json_format.ParseError) as error:
            _log.error("a message on %s is no end: %s", message.subject, error)
            await message.term()
            return
        if ended.id not in self._handled:
            working = asyncio.ensure_future(self._called(ended))
            try:
                await self._in_progress(working, message)
            except asyncio.CancelledError:
                await self._stopped(working, message)
                raise
            if working.exception():
                _log.error(
                    "the handler failed for %s; it is called again",
                    ended.id,
                    exc_info=working.exception(),
                )
                await message.nak(min(2.0 ** min(ended.delivery - 1, 6), MAX_PAUSE_S))
                return
            self._remember(ended.id)
        await message.ack()  # if it is lost, the end comes again and is skipped

    def _remember(self, event_id: str) -> None:
        self._handled[event_id] = None
        if len(self._handled) > REMEMBERED:
            self._handled.popitem(last=False)

    async def _in_progress(self, working: asyncio.Future[None], message: Msg) -> None:
        """Waits for the handler, and acknowledges the message as in progress meanwhile."""
        while True:
            await asyncio.wait([working], timeout=self._ack_wait / 3)
            if working.done():
                return
            await message.in_progress()

    async def _stopped(self, working: asyncio.Future[None], message: Msg) -> None:
        """Ends a handler. What it has not handled goes to another process at once.

        A thread cannot be ended, so it is waited for.
        """
        if inspect.iscoroutinefunction(self._handler):
            working.cancel()
        await asyncio.wait([working])
        if working.cancelled() or working.exception():
            await message.nak()
        else:
            await message.ack()

    async def _called(self, ended: Ended) -> None:
        if inspect.iscoroutinefunction(self._handler):
            await self._handler(ended)
            return
        returned = await asyncio.to_thread(self._handler, ended)
        if inspect.isawaitable(returned):  # a callable object, or a partial function
            await returned


def _read(data: bytes, delivery: int) -> Ended:
    """Reads a CloudEvent in JSON. A field that this version does not have is skipped."""
    event = json.loads(data)
    status, message = _ENDS[event["type"]]
    end = json_format.ParseDict(event["data"], message(), ignore_unknown_fields=True)
    return Ended(id=event["id"], status=status, event=end, delivery=delivery)
