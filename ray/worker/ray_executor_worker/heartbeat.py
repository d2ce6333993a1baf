"""What a replica says of itself on NATS, for as long as it reaches it.

Ray says that a replica runs; whether it can work is known here alone. So each
replica writes a heartbeat into a key-value bucket whose entries end by
themselves: `deploy` waits for it, and `doctor`, the statistics and the keeper
read it. That NATS cannot be reached is said by the entry that is missing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
from typing import Callable

from google.protobuf.message import Message

from .connection import Connection, UnavailableError

log = logging.getLogger(f"ray.serve.{__name__}")

# `deploy` makes the bucket, with an age of a minute: five heartbeats may be lost.
BUCKET = "DELIBERATION_WORKERS"
BEAT_S = 10.0
# News come at most so often: a server that agents wait for may come and go.
_LEAST_S = 0.5
# The last word does not wait longer for a server that does not answer.
_LAST_S = 1.0


def key(cluster: str, replica: str) -> str:
    """The replica's key: two tokens of what a key may hold, and no dots in them."""
    return f"{_token(cluster)}.{_token(replica)}"


def _token(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_=-]", "_", text) or "_"


class Heartbeat:
    """Maintains one replica's entry in the bucket."""

    def __init__(
        self,
        connection: Connection,
        cluster: str,
        replica: str,
        facts: Callable[[], Message],
        prefix: str = "",
    ) -> None:
        self._connection = connection
        self._bucket = prefix + BUCKET
        self._subject = f"$KV.{self._bucket}.{key(cluster, replica)}"
        self._facts = facts
        self._wake = asyncio.Event()
        # Whether the last one was stored; and whether a warning was logged that none is.
        self._stored = False
        self._warned = False

    def now(self) -> None:
        """Has the next one sent at once: there is a connection, or news."""
        self._wake.set()

    async def run(self) -> None:
        """Sends one at once, and on until it is cancelled."""
        while True:
            self._wake.clear()
            if self._connection.connected:
                await self._beat()
                await asyncio.sleep(_LEAST_S)
            pause = BEAT_S * random.uniform(0.8, 1.2)  # noqa: S311
            try:
                await asyncio.wait_for(self._wake.wait(), pause)
            except asyncio.TimeoutError:
                continue

    async def end(self) -> None:
        """Takes the entry away: the replica stops."""
        if not self._stored or not self._connection.connected:
            return
        last = self._connection.request(self._subject, b"", {"KV-Operation": "DEL"})
        try:
            await asyncio.wait_for(last, _LAST_S)
        except (UnavailableError, asyncio.TimeoutError):
            log.debug("the heartbeat's entry stays until its age ends it")

    async def _beat(self) -> None:
        try:
            reply = await self._connection.request(self._subject, self._facts().SerializeToString())
            refusal = json.loads(reply.data).get("error")
        except UnavailableError as error:
            refusal = {"description": str(error)}
        self._stored = refusal is None
        if refusal is None:
            self._warned = False
        elif not self._warned:
            # An older journal has no such bucket; the work goes on without.
            self._warned = True
            log.warning(
                "heartbeats are not stored: %s; has `ray-executor deploy` made the bucket %s?",
                refusal.get("description"),
                self._bucket,
            )
