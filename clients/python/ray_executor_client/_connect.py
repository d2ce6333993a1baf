"""The Connect protocol: bytes of requests, replies, streams and errors. No I/O.

Connect carries protobuf messages over plain HTTP, 1.1 or 2; the server speaks
it beside gRPC. https://connectrpc.com/docs/protocol
"""

from __future__ import annotations

import json
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from struct import pack, unpack_from
from time import time
from typing import Any, NamedTuple, Optional

from google.protobuf.message import DecodeError

from . import messages
from ._errors import RayExecutorError, TooLarge, error_class

SERVICE = "/ray_executor.v1.RayExecutorService/"
UNARY = "application/proto"
STREAM = "application/connect+proto"

# Flags of a frame.
_COMPRESSED = 1
_END = 2
_PREFIX = 5

# Errors are short; a longer text is a web page of something in between.
_SHOWN = 200

# Codes of the protocol that have another name in ray_executor.v1.Error.
_CODES = {"already_exists": "conflict", "canceled": "unavailable", "aborted": "unavailable"}

# The codes of statuses that came without a readable error.
_STATUSES = {
    400: "invalid_argument",
    401: "unauthenticated",
    403: "permission_denied",
    404: "unimplemented",
    405: "unimplemented",
    408: "unavailable",
    413: "too_large",
    415: "unimplemented",
    429: "limit_reached",
    431: "too_large",
    501: "unimplemented",
    502: "unavailable",
    503: "unavailable",
    504: "unavailable",
}


class Response(NamedTuple):
    """An HTTP response. ``headers`` has lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def envelope(data: bytes) -> bytes:
    """Frames the only message of a stream's request."""
    return pack(">BI", 0, len(data)) + data


class Frame(NamedTuple):
    """A frame of a stream: a message, or the stream's end."""

    end: bool
    data: bytes


class Frames:
    """Splits a stream's bytes into frames of at most ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """Yields the frames that the chunk completes."""
        self._buffer += chunk
        while len(self._buffer) >= _PREFIX:
            flags, size = unpack_from(">BI", self._buffer)
            if size > self._limit:
                raise too_large(self._limit)
            if flags & _COMPRESSED:
                # It was not asked for.
                raise error_class("internal")("the server sent a compressed message")
            if len(self._buffer) < _PREFIX + size:
                return
            data = bytes(self._buffer[_PREFIX : _PREFIX + size])
            del self._buffer[: _PREFIX + size]
            yield Frame(end=bool(flags & _END), data=data)


def too_large(limit: int) -> TooLarge:
    """Returns the error of a reply above the client's limit."""
    return TooLarge(
        f"the reply is above {limit} bytes: set max_response_bytes", field="max_response_bytes"
    )


def refusal(response: Response, url: str) -> RayExecutorError:
    """Returns the error that a response other than 200 is."""
    retry_after = _seconds(response.headers.get("retry-after"))
    parsed = _object(response.body)
    if parsed is not None and isinstance(parsed.get("code"), str):
        return _told(parsed, retry_after)
    made = error_class(_STATUSES.get(response.status, "internal"))
    text = response.body[:_SHOWN].decode("utf-8", errors="replace").strip()
    if made.code == "unimplemented":
        text = "is there a ray-executor at this URL? " + text
    return made(f"{url} answered {response.status}: {text}".rstrip(": "), retry_after=retry_after)


def end_of_stream(data: bytes) -> Optional[RayExecutorError]:
    """Returns the error that a stream ended with; None for a good end."""
    parsed = _object(data)
    if parsed is None:
        return error_class("internal")("the stream's end cannot be read")
    error = parsed.get("error")
    if not isinstance(error, dict):
        return None
    metadata = parsed.get("metadata")
    retry_after = None
    if isinstance(metadata, dict):
        for name, values in metadata.items():
            if name.lower() == "retry-after" and isinstance(values, list) and values:
                retry_after = _seconds(str(values[0]))
    return _told(error, retry_after)


def _told(error: dict[str, Any], retry_after: Optional[float]) -> RayExecutorError:
    for detail in error.get("details") or ():
        if isinstance(detail, dict) and detail.get("type") == "ray_executor.v1.Error":
            try:
                ours = messages.Error.FromString(_unpadded(str(detail.get("value"))))
            except (Base64Error, DecodeError):
                continue
            return error_class(ours.code)(
                ours.message,
                field=ours.field,
                deliberation_id=ours.deliberation_id,
                retry_after=retry_after,
            )
    code = str(error.get("code"))
    if code == "resource_exhausted":
        # The protocol has one code for both.
        code = "too_large" if retry_after is None else "limit_reached"
    message = error.get("message") or error.get("detail") or code  # detail: RFC 9457
    return error_class(_CODES.get(code, code))(
        str(message), field=str(error.get("field") or ""), retry_after=retry_after
    )


def _object(data: bytes) -> Optional[dict[str, Any]]:
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _unpadded(text: str) -> bytes:
    return b64decode(text + "=" * (-len(text) % 4))


def _seconds(value: Optional[str]) -> Optional[float]:
    """Reads a Retry-After: seconds, or a date (RFC 9110, 10.2.3)."""
    if not value:
        return None
    try:
        # A negative or absurd number is no promise.
        return min(max(0.0, float(value)), 86_400.0)
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except (TypeError, ValueError, OverflowError):
        return None
