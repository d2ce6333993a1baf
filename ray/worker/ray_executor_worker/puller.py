"""How work arrives: a pull on a pool's durable consumer.

There is one request at a time, for as many deliberations as there is likely room
for: how many agents one has shows when it is here. The server answers as work
comes in, so a deliberation costs no poll; while all slots are taken, or one
waits for them, nothing is asked for, and the work is left to others.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import secrets
from dataclasses import dataclass
from typing import Any, Callable, Optional

from nats.aio.msg import Msg

from .connection import Connection, UnavailableError, status_of
from .messages import PoolUse
from .slots import Place, Slots
from .throttle import ThrottledLog

log = logging.getLogger(f"ray.serve.{__name__}")

ACK = b"+ACK"
NAK = b"-NAK"
IN_PROGRESS = b"+WPI"

# The shortest that `deploy` configures; in force until the server has answered.
_ACK_WAIT_S = 15.0
_EXPIRES_S = 30
_HEARTBEAT_S = 5
# Without a heartbeat for so long the request is lost.
_SILENCE_S = 2.5 * _HEARTBEAT_S
_RETRY_S = (0.5, 5.0)
# What is handed back goes to another worker at once. Where that is again and
# again us (a request that the server holds and we have given up), it waits.
_HAND_BACKS = 3
_HAND_BACK_S = (0.1, 30.0)
# The most that one request asks for: what comes of it may have to wait here.
_BATCH = 256
_BATCH_BYTES = 8 * 1024 * 1024
# So many wait for slots; what was handed out more often than that waits in any
# case, for after some fifty deliveries it is given up.
_WAITING = 16
_HELD_ANYWAY = 10
# How fast the expected number of slots follows what comes.
_LEARNING = 8
# Ends a request in the ordinary way: it expired, or took what there was.
_SPENT = frozenset({"404", "408"})
_SPENT_BYTES = ("Message Size Exceeds MaxBytes", "Batch Completed")
_HEARTBEAT = "100"
_NO_RESPONDERS = "503"


@dataclass(frozen=True)
class Delivery:
    """A deliberation that the server handed to this replica."""

    id: str
    pool: str
    # Where acknowledgements go.
    reply: str
    # The place of `requested` in the journal, and its time there.
    sequence: int
    accepted_at: float
    # More than 1: someone may have had it before.
    delivered: int
    traceparent: str


class Puller:
    """Fills one pool's slots."""

    def __init__(
        self,
        connection: Connection,
        stream: str,
        pool: str,
        slots: Slots,
        accept: Callable[[Puller, Delivery, bytes], Optional[Place]],
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._pool = pool
        self.slots = slots
        slots.changed = self._freed
        # Takes a delivery over, and returns the place it needs; None where it is
        # held already.
        self._accept = accept
        # Slots that a deliberation takes, of late.
        self._mean = 1.0
        # How long the server waits for an acknowledgement or a sign of progress.
        self.ack_wait = _ACK_WAIT_S
        self._inbox = ""
        self._numbers = itertools.count(1)
        self._open: Optional[str] = None  # the inbox of the request in force
        self._wanted = 0
        self._heard_at = 0.0
        self._wake = asyncio.Event()
        self._refused = ""
        # Why the last pull failed; empty again when the server answers one.
        self.trouble = ""
        self._stopping = False
        self._warnings = ThrottledLog(log)

    @property
    def use(self) -> PoolUse:
        """How much of the pool is taken here."""
        return PoolUse(self._pool, self.slots.capacity, self.slots.taken)

    def _freed(self) -> None:
        if self._open is None:
            self._wake.set()

    def reset(self) -> None:
        """Asks anew: the server forgot the request with the connection."""
        self._open = None
        self._wake.set()

    async def observe(self) -> None:
        """Asks the server for the ack wait; raises UnavailableError."""
        reply = await self._connection.request(
            f"$JS.API.CONSUMER.INFO.{self._stream}.pool-{self._pool}", b""
        )
        answer: dict[str, Any] = json.loads(reply.data)
        # Without the consumer there is nothing to hold either.
        self.ack_wait = answer.get("config", {}).get("ack_wait", _ACK_WAIT_S * 1e9) / 1e9

    async def run(self) -> None:
        """Pulls until it is cancelled."""
        self._inbox = f"_INBOX.{secrets.token_hex(12)}"
        await self._connection.subscribe(f"{self._inbox}.*", self._on_message)
        wait = _RETRY_S[0]
        while True:
            self._wake.clear()
            try:
                await self._request()
            except UnavailableError as error:
                self._refused = str(error)
            await self._rest()
            if not self._refused:
                wait = _RETRY_S[0]
                continue
            self.trouble = self._refused
            self._warnings.warn(f"pool {self._pool}: cannot pull: {self._refused}; trying again")
            self._refused = ""
            await asyncio.sleep(wait)
            wait = min(wait * 2, _RETRY_S[1])

    async def stop(self) -> None:
        """Takes no more; what is under way to here goes back at once."""
        self._stopping = True
        if self._inbox:
            await self._connection.unsubscribe(f"{self._inbox}.*")

    async def _request(self) -> None:
        room = self.slots.free
        if self._open is not None or room <= 0 or self._stopping:
            return
        batch = min(max(1, int(room / self._mean)), _BATCH)
        inbox = f"{self._inbox}.{next(self._numbers)}"
        query = {
            "batch": batch,
            "max_bytes": _BATCH_BYTES,
            "expires": _EXPIRES_S * 1_000_000_000,
            "idle_heartbeat": _HEARTBEAT_S * 1_000_000_000,
        }
        self._open, self._wanted = inbox, batch
        self._heard_at = asyncio.get_running_loop().time()
        try:
            await self._connection.publish(
                f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.pool-{self._pool}",
                json.dumps(query).encode(),
                inbox,
            )
        except UnavailableError:
            self._open = None
            raise

    async def _rest(self) -> None:
        """Waits for something to do, and notices a request that was lost."""
        while not self._wake.is_set() and not self._refused:
            try:
                await asyncio.wait_for(self._wake.wait(), _HEARTBEAT_S)
            except asyncio.TimeoutError:
                silence = asyncio.get_running_loop().time() - self._heard_at
                if self._open is not None and silence > _SILENCE_S:
                    self._open = None
                    self._refused = "no heartbeat"
                    return

    async def _on_message(self, message: Msg) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        status = status_of(message.headers, message.data)
        if status is not None:
            self._on_status(status, message)
            return
        self.trouble = ""
        # Before anything is awaited: what comes next has its place behind this.
        if self._stopping or self._too_many(message):
            await self._hand_back(message)
        else:
            place = self._accept(self, _delivery(message, self._pool), message.data)
            if place is not None:
                self._mean += (place.weight - self._mean) / _LEARNING
                self.slots.enter(place)
        if self._open is None:
            return
        self._wanted -= 1
        if self._wanted == 0:
            self.reset()

    def _too_many(self, message: Msg) -> bool:
        return self.slots.waiting >= _WAITING and message.metadata.num_delivered <= _HELD_ANYWAY

    def _on_status(self, status: str, message: Msg) -> None:
        if status == _HEARTBEAT:
            self.trouble = ""
        if status == _HEARTBEAT or message.subject != self._open:
            return
        # nats-py leaves further headers in the description.
        reason = (message.headers or {}).get("Description", "").partition("\n")[0].strip()
        if status not in _SPENT and reason not in _SPENT_BYTES:
            if status == _NO_RESPONDERS:
                reason = "no such consumer; has deploy made it?"
            self._refused = f"{status} {reason}"
        else:
            self.trouble = ""
        self.reset()

    async def _hand_back(self, message: Msg) -> None:
        pause = _pause(message.metadata.num_delivered)
        nak = NAK + f' {{"delay": {int(pause * 1e9)}}}'.encode() if pause else NAK
        try:
            await self._connection.publish(message.reply, nak)
        except UnavailableError:
            log.debug("could not hand back %s: it is delivered again later", message.subject)


def _pause(delivered: int) -> float:
    """How long what was delivered so often waits before it is again."""
    if delivered <= _HAND_BACKS:
        return 0.0
    low, high = _HAND_BACK_S
    return min(high, low * 2.0 ** min(delivered - _HAND_BACKS - 1, 16))


def _delivery(message: Msg, pool: str) -> Delivery:
    metadata = message.metadata
    return Delivery(
        id=message.subject.rpartition(".")[2],
        pool=pool,
        reply=message.reply,
        sequence=metadata.sequence.stream,
        accepted_at=metadata.timestamp.timestamp(),
        delivered=metadata.num_delivered,
        traceparent=(message.headers or {}).get("ce-traceparent", ""),
    )
