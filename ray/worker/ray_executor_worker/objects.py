"""Large payloads, in a JetStream object store beside the journal.

An object's name is the digest of its bytes. So writing the same payload again
is safe, and a reader notices an object that is not the one it asked for.
"""

from __future__ import annotations

import asyncio
import hashlib

from nats import errors as nats_errors
from nats.js.errors import DigestMismatchError, ObjectNotFoundError
from nats.js.errors import Error as JetStreamError
from nats.js.object_store import ObjectStore

from .connection import Connection, UnavailableError
from .messages import UnreadableError

_TIMEOUT_S = 60.0
_TROUBLE = (
    UnavailableError,
    JetStreamError,
    nats_errors.Error,
    asyncio.TimeoutError,
    OSError,
)


def object_name(data: bytes) -> str:
    """The name of the object with these bytes."""
    return f"sha256-{hashlib.sha256(data).hexdigest()}"


class Objects:
    """Reads and writes the objects of one bucket."""

    def __init__(self, connection: Connection, bucket: str) -> None:
        self._connection = connection
        self._bucket = bucket

    async def get(self, name: str) -> bytes:
        """The object's bytes.

        Raises UnreadableError where there is none, or its bytes are not what its
        name says, and UnavailableError where a later try may succeed.
        """
        try:
            store = await self._store()
            found = await asyncio.wait_for(store.get(name), _TIMEOUT_S)
        except ObjectNotFoundError as error:
            raise UnreadableError(f"object {name} is not in {self._bucket}") from error
        except DigestMismatchError as error:
            raise UnreadableError(f"object {name} is damaged") from error
        except _TROUBLE as error:
            raise UnavailableError(f"{self._bucket} cannot be read: {_text(error)}") from error
        data = found.data or b""
        if object_name(data) != name:
            raise UnreadableError(f"object {name} is not what its name says")
        return data

    async def put(self, name: str, data: bytes) -> None:
        """Stores the object; raises UnavailableError, and is safe to repeat."""
        try:
            await asyncio.wait_for(self._put(name, data), _TIMEOUT_S)
        except _TROUBLE as error:
            raise UnavailableError(f"{self._bucket} cannot be written: {_text(error)}") from error

    async def _put(self, name: str, data: bytes) -> None:
        store = await self._store()
        # The name is the digest: an object that exists has the same bytes. To
        # write it again would remove its parts while somebody reads them.
        if not await self._is_whole(store, name):
            await store.put(name, data)

    async def _is_whole(self, store: ObjectStore, name: str) -> bool:
        """Whether an object exists with all its parts.

        A put that failed may have left its name alone.
        """
        try:
            info = await store.get_info(name)
        except ObjectNotFoundError:
            return False
        parts = f"$O.{self._bucket}.C.{info.nuid}"
        stream = await self._connection.client.jetstream().stream_info(
            f"OBJ_{self._bucket}", subjects_filter=parts
        )
        return (stream.state.subjects or {}).get(parts, 0) == info.chunks

    async def _store(self) -> ObjectStore:
        return await self._connection.client.jetstream().object_store(self._bucket)


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
