"""The journal: JetStream stream DELIBERATIONS, as a worker reads and writes it.

Every write is a compare-and-set, which makes repeating it safe: an append whose
outcome is unknown is sent again, and is either stored or refused because a
message exists. Decisions read the stream's leader, never a replica: a replica
may answer with a state from before an acknowledged write.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import random
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Optional

from google.protobuf.message import Message
from nats.js.errors import APIError

from .clock import JournalClock, parse_time
from .connection import Connection, UnavailableError
from .messages import models_header, usage_header
from .objects import Objects, object_name
from .throttle import ThrottledLog

log = logging.getLogger(f"ray.serve.{__name__}")

# Names on the server, behind the prefix of Settings.
STREAM = "DELIBERATIONS"
RESULTS_BUCKET = "DELIBERATION_RESULTS"
SOURCE = "/ray-executor/worker"
# The server's limit of 1 MiB counts the headers too.
OFFLOAD_BYTES = 900 * 1024

_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_EXPECTED_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"
_WRONG_LAST = 10071
_IN_FLIGHT = 10164
_NO_MESSAGE = 10037
_NO_STREAM = 10059
# What a stream answers that has no room: insufficient resources, storage
# exceeded, not stored.
_FULL = (10023, 10047, 10077)

_BACKOFF_S = (0.05, 5.0)
# The reads of all workers wait in one queue of the server, 10,000 long, which is
# dropped as a whole where it overflows.
_READS_AT_ONCE = 32


class AbandonedError(Exception):
    """The time given for reading or writing is over, and NATS did not answer."""


@dataclass(frozen=True)
class Expectation:
    """The last message that must be recorded for an append to be stored."""

    # 0: there is none.
    sequence: int
    # Over which subjects; empty: the appended message's own.
    subject: str = ""


@dataclass(frozen=True)
class Event:
    """A message for the journal, with what its CloudEvent needs."""

    subject: str
    id: str
    deliberation_id: str
    payload: Message
    # The field that goes to the object store where the message is too large.
    bulky: str = ""
    traceparent: str = ""


@dataclass(frozen=True)
class Record:
    """A message that the journal has stored."""

    subject: str
    sequence: int
    # The journal's time, nanoseconds since 1970.
    recorded_ns: int
    data: bytes


class Journal:
    """Appends, leader reads and large objects, over one connection."""

    def __init__(self, connection: Connection, clock: JournalClock, prefix: str = "") -> None:
        self._connection = connection
        self._stream = prefix + STREAM
        self._objects = Objects(connection, prefix + RESULTS_BUCKET)
        self.clock = clock
        self._reads = asyncio.Semaphore(_READS_AT_ONCE)
        self._warnings = ThrottledLog(log)

    async def append(self, event: Event, expected: Expectation, until: float) -> bool:
        """Writes the event; returns False where another message is recorded.

        False may also mean that an earlier try of this very append was stored
        and its acknowledgement lost: the caller reads the recorded message.
        Raises AbandonedError at `until`, and then the outcome is unknown.
        """
        retry = _Retry(f"append to {event.subject}", until)
        # Before the results are offloaded: a header has their models.
        headers = _headers(event, expected)
        while True:
            try:
                data = await self._fit(event)
                reply = await self._connection.request(event.subject, data, headers)
            except UnavailableError as error:
                await retry.pause(str(error))
                continue
            answer: dict[str, Any] = json.loads(reply.data)
            refusal = answer.get("error")
            if refusal is None:
                return True
            code = refusal.get("err_code")
            if code == _WRONG_LAST and await self._overtaken(event, expected, until):
                return False
            # In flight: another such append is decided by one of the next tries.
            # Other refusals (a full stream, no leader) may pass too.
            if code not in (_IN_FLIGHT, _WRONG_LAST):
                self._warnings.warn(f"the journal refuses events: {refusal.get('description')}")
            await retry.pause(str(refusal.get("description")))

    async def _overtaken(self, event: Event, expected: Expectation, until: float) -> bool:
        """Whether another message is recorded than is expected.

        The refusal alone is no proof: a leader that is cut off from its
        followers also refuses for messages that it will never store.
        """
        recorded = await self.last(expected.subject or event.subject, until)
        return (recorded.sequence if recorded else 0) != expected.sequence

    async def last(self, subject: str, until: float) -> Optional[Record]:
        """The leader's last message on the subject, which may be a wildcard."""
        return await self._read({"last_by_subj": subject}, until)

    async def each(self, subject: str, last: int, until: float) -> list[Record]:
        """The leader's messages on the subject, up to a sequence that has one."""
        records: list[Record] = []
        sequence = 0
        while sequence < last:
            record = await self._read({"seq": sequence + 1, "next_by_subj": subject}, until)
            if record is None:
                break
            records.append(record)
            sequence = record.sequence
        return records

    async def _read(self, which: dict[str, Any], until: float) -> Optional[Record]:
        retry = _Retry(f"read of {which}", until)
        query = json.dumps(which).encode()
        while True:
            try:
                async with self._reads:
                    reply = await self._connection.request(
                        f"$JS.API.STREAM.MSG.GET.{self._stream}", query
                    )
            except UnavailableError as error:
                await retry.pause(str(error))
                continue
            answer: dict[str, Any] = json.loads(reply.data)
            refusal = answer.get("error")
            if refusal is None:
                return _record(answer["message"])
            if refusal.get("err_code") == _NO_MESSAGE:
                return None
            await retry.pause(str(refusal.get("description")))

    async def observe_clock(self) -> None:
        """Asks the server for its time; raises UnavailableError."""
        reply = await self._connection.request(f"$JS.API.STREAM.INFO.{self._stream}", b"")
        answered_at = asyncio.get_running_loop().time()
        answer: dict[str, Any] = json.loads(reply.data)
        if "error" in answer:
            why = f"stream {self._stream}: {answer['error'].get('description')}"
            if answer["error"].get("err_code") == _NO_STREAM:
                why += "; has `ray-executor deploy` made it?"
            raise UnavailableError(why)
        if "ts" in answer:
            self.clock.observe(parse_time(answer["ts"]), answered_at)

    async def fetch(self, name: str, until: float) -> bytes:
        """The bytes of a large object.

        Raises UnreadableError where there is none, or where its bytes are not
        what its name says: no retry changes that.
        """
        retry = _Retry(f"read of object {name}", until)
        while True:
            try:
                return await self._objects.get(name)
            except UnavailableError as error:
                self._warnings.warn(str(error))
                await retry.pause(str(error))

    async def _fit(self, event: Event) -> bytes:
        """The event's data, offloaded to the object store where it is too large.

        The object is written before the event that names it, so a reader of the
        event finds it. An object without an event is dropped by the bucket's age.
        """
        data = event.payload.SerializeToString()
        limit = min(OFFLOAD_BYTES, self._connection.client.max_payload * 7 // 8)
        if len(data) <= limit or not event.bulky:
            return data
        name = object_name(data)
        try:
            await self._objects.put(name, data)
        except UnavailableError as error:
            self._warnings.warn(str(error))
            if not (_is_full(error.__cause__) and event.subject.startswith("deliberation.done.")):
                raise
            # An end must be stored even then: the agents' records have the results.
            name = ""
        # In place: it may be 16 MiB, and the object store has it.
        event.payload.ClearField(event.bulky)
        setattr(event.payload, f"{event.bulky}_ref", name)
        return event.payload.SerializeToString()


class _Retry:
    """Paces repeated tries, and ends them."""

    def __init__(self, what: str, until: float) -> None:
        self._what = what
        self._until = until
        self._tries = 0

    async def pause(self, why: str) -> None:
        """Waits before the next try; raises AbandonedError when time is over."""
        self._tries += 1
        log.debug("%s: %s; trying again", self._what, why)
        low, high = _BACKOFF_S
        wait = min(high, low * 2.0 ** min(self._tries - 1, 16)) * random.uniform(0.5, 1)  # noqa: S311
        left = self._until - asyncio.get_running_loop().time()
        if left <= 0:
            raise AbandonedError(f"{self._what}: {why}")
        await asyncio.sleep(min(wait, left))


def _is_full(error: Optional[BaseException]) -> bool:
    return isinstance(error, APIError) and error.err_code in _FULL


def _headers(event: Event, expected: Expectation) -> dict[str, str]:
    """The CloudEvent in NATS binary mode, and the compare-and-set."""
    headers = {
        "ce-specversion": "1.0",
        "ce-id": event.id,
        "ce-source": SOURCE,
        "ce-type": event.payload.DESCRIPTOR.full_name,
        "ce-subject": event.deliberation_id,
        "ce-time": datetime.now(timezone.utc).isoformat(timespec="milliseconds")[:-6] + "Z",
        "content-type": "application/protobuf",
        _EXPECTED: str(expected.sequence),
    }
    if expected.subject:
        headers[_EXPECTED_SUBJECT] = expected.subject
    if usage := usage_header(event.payload):
        headers["ce-usage"] = usage
    if models := models_header(event.payload):
        headers["ce-modelusage"] = models
    if event.traceparent:
        headers["ce-traceparent"] = event.traceparent
    return headers


def _record(message: dict[str, Any]) -> Record:
    return Record(
        subject=message["subject"],
        sequence=message["seq"],
        recorded_ns=parse_time(message["time"]),
        data=base64.b64decode(message.get("data", "")),
    )
