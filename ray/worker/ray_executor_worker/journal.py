"""The journal: JetStream stream DELIBERATIONS, as a worker reads and writes it.

Every write is a compare-and-set, which makes repeating it safe: an append whose
outcome is unknown is sent again, and either becomes the message or is told that
one stands. Decisions read the stream's leader, never a replica.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import random
import re
from calendar import timegm
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Optional

from google.protobuf.message import Message
from nats import errors as nats_errors
from nats.js.errors import APIError, DigestMismatchError, ObjectNotFoundError
from nats.js.errors import Error as JetStreamError
from nats.js.object_store import ObjectStore

from .clock import JournalClock
from .connection import Connection, UnavailableError
from .messages import UnreadableError
from .teller import Teller

log = logging.getLogger(f"ray.serve.{__name__}")

# Names on the server, behind the prefix of Settings.
STREAM = "DELIBERATIONS"
RESULTS_BUCKET = "DELIBERATION_RESULTS"
SOURCE = "/ray-executor/worker"
# The server's limit of 1 MiB counts the headers too.
SPILL_BYTES = 900 * 1024

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
_OBJECT_S = 60.0


class AbandonedError(Exception):
    """The time given for reading or writing is over, and NATS did not answer."""


def stopped_subject(replica: str) -> str:
    """Where a replica says that it has handed back what it held.

    No deliberation's id has a tilde: this is part of no story.
    """
    return f"deliberation.stopped.worker.~{replica}"


@dataclass(frozen=True)
class Subjects:
    """The subjects of one deliberation's story."""

    id: str
    pool: str

    @property
    def all(self) -> str:
        """Everything about it."""
        return f"deliberation.*.*.{self.id}"

    @property
    def started(self) -> str:
        """Its attempts."""
        return f"deliberation.started.{self.pool}.{self.id}"

    @property
    def agents(self) -> str:
        """What its agents came to."""
        return f"deliberation.agent.*.{self.id}"

    def agent(self, index: int) -> str:
        """What one agent came to."""
        return f"deliberation.agent.{index}.{self.id}"

    @property
    def ends(self) -> str:
        """Its end; all writers name this wildcard, letter by letter."""
        return f"deliberation.done.*.{self.id}"

    def end(self, how: str) -> str:
        """One of its possible ends."""
        return f"deliberation.done.{how}.{self.id}"


@dataclass(frozen=True)
class Expectation:
    """What must stand last for an append to be taken."""

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
    """A message that the journal holds."""

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
        self._results = prefix + RESULTS_BUCKET
        self.clock = clock
        self._reads = asyncio.Semaphore(_READS_AT_ONCE)
        self._teller = Teller(log)

    async def append(self, event: Event, expected: Expectation, until: float) -> bool:
        """Writes the event, or returns False where another message stands.

        False may also mean that an earlier try of this very append was taken
        and its answer lost: read what stands. Raises AbandonedError at `until`.
        """
        retry = _Retry(f"append to {event.subject}", until)
        while True:
            try:
                data = await self._fit(event)
                headers = _headers(event, expected)
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
            # In flight: another such append will have stood or fallen by one of
            # the next tries. Anything else (a full stream, no leader) may pass too.
            if code not in (_IN_FLIGHT, _WRONG_LAST):
                self._teller.warn(f"the journal refuses events: {refusal.get('description')}")
            await retry.pause(str(refusal.get("description")))

    async def _overtaken(self, event: Event, expected: Expectation, until: float) -> bool:
        """Whether another message stands than is expected.

        A leader that is cut off from its followers also refuses for what it
        was sent and will never store.
        """
        standing = await self.last(expected.subject or event.subject, until)
        return (standing.sequence if standing else 0) != expected.sequence

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
        """A large object's bytes.

        Raises UnreadableError where there is none, or not what its name says.
        """
        retry = _Retry(f"read of object {name}", until)
        while True:
            try:
                store = await self._store()
                found = await asyncio.wait_for(store.get(name), _OBJECT_S)
            except ObjectNotFoundError as error:
                raise UnreadableError(f"object {name} is not in {self._results}") from error
            except DigestMismatchError as error:
                raise UnreadableError(f"object {name} is damaged") from error
            except _OBJECT_TROUBLE as error:
                why = f"{type(error).__name__}: {error}"
                self._teller.warn(f"{self._results} cannot be read: {why}")
                await retry.pause(why)
                continue
            data = found.data or b""
            if _object_name(data) != name:
                raise UnreadableError(f"object {name} is not what its name says")
            return data

    async def _fit(self, event: Event) -> bytes:
        """The event's data; with its bulk put aside where it is too large."""
        data = event.payload.SerializeToString()
        limit = min(SPILL_BYTES, self._connection.client.max_payload * 7 // 8)
        if len(data) <= limit or not event.bulky:
            return data
        name = _object_name(data)
        try:
            await asyncio.wait_for(self._put(name, data), _OBJECT_S)
        except _OBJECT_TROUBLE as error:
            why = f"{type(error).__name__}: {error}"
            self._teller.warn(f"{self._results} cannot be written: {why}")
            if not (_is_full(error) and event.subject.startswith("deliberation.done.")):
                raise UnavailableError(f"object {name}: {why}") from error
            name = ""  # an end must find its place: the agents' records have the results
        # In place: it may be 16 MiB, and is there now.
        event.payload.ClearField(event.bulky)
        setattr(event.payload, f"{event.bulky}_ref", name)
        return event.payload.SerializeToString()

    async def _put(self, name: str, data: bytes) -> None:
        store = await self._store()
        # Where the same bytes are, for the name is their digest, putting them
        # again would pull them from under whoever reads them.
        if not await self._whole(store, name):
            await store.put(name, data)

    async def _whole(self, store: ObjectStore, name: str) -> bool:
        """Whether an object is there with all its parts.

        A put that failed may have left its name alone.
        """
        try:
            info = await store.get_info(name)
        except ObjectNotFoundError:
            return False
        parts = f"$O.{self._results}.C.{info.nuid}"
        stream = await self._connection.client.jetstream().stream_info(
            f"OBJ_{self._results}", subjects_filter=parts
        )
        return (stream.state.subjects or {}).get(parts, 0) == info.chunks

    async def _store(self) -> ObjectStore:
        return await self._connection.client.jetstream().object_store(self._results)


_OBJECT_TROUBLE = (
    UnavailableError,
    JetStreamError,
    nats_errors.Error,
    asyncio.TimeoutError,
    OSError,
)


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


def _is_full(error: BaseException) -> bool:
    return isinstance(error, APIError) and error.err_code in _FULL


def _object_name(data: bytes) -> str:
    return f"sha256-{hashlib.sha256(data).hexdigest()}"


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


_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")


def parse_time(text: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time, as the server writes it."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not an RFC 3339 time")
    moment = datetime.strptime(match[1], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)
    seconds = timegm(moment.utctimetuple())
    if match[3] != "Z":
        sign = -1 if match[3][0] == "-" else 1
        seconds -= sign * (int(match[3][1:3]) * 3600 + int(match[3][4:6]) * 60)
    return seconds * 1_000_000_000 + int((match[2] or "").ljust(9, "0"))
