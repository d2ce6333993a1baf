"""What both clients are made with."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Callable, Optional, Union
from urllib.parse import urlsplit

import httpx

from ._flows import Broken, Caller
from ._version import __version__

Token = Union[str, Callable[[], str], None]

DEFAULT_TIMEOUT = 60.0
DEFAULT_RETRIES = 4
DEFAULT_MAX_RESPONSE_BYTES = 64 << 20

# How long connecting may take, in seconds, within a try.
_CONNECT = 5.0

_USER_AGENT = f"ray-executor-client/{__version__} python/{platform.python_version()}"


def caller(
    url: str,
    token: Token,
    retries: int,
    max_response_bytes: int,
    headers: Optional[Mapping[str, str]],
) -> Caller:
    """Checks a client's settings."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"url must be http://host[:port] or https://host[:port], not {url!r}")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("url must have no user, query or fragment: pass a token as token=")
    if retries < 0:
        raise ValueError(f"retries must be 0 or more, not {retries}")
    if max_response_bytes < 1:
        raise ValueError(f"max_response_bytes must be above 0, not {max_response_bytes}")
    own = {name.lower(): value for name, value in (headers or {}).items()}

    def made() -> dict[str, str]:
        sent = {
            "user-agent": _USER_AGENT,
            # A compressed reply could grow beyond every limit when it is read.
            "accept-encoding": "identity",
            **own,
            "connect-protocol-version": "1",
        }
        value = token() if callable(token) else token
        if value:
            sent["authorization"] = "Bearer " + _checked(value)
        return sent

    made()  # an unusable token is an error now
    return Caller(url.rstrip("/"), retries, max_response_bytes, made)


def _checked(token: str) -> str:
    # The error does not show the token.
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("token must be printable ASCII without spaces: does it end in a newline?")
    return token


def timeouts(seconds: float) -> httpx.Timeout:
    """Returns the limits of one try's steps; the caller bounds their sum."""
    return httpx.Timeout(seconds, connect=min(_CONNECT, seconds))


def broken(error: httpx.TransportError) -> Broken:
    """Returns a failure of httpx as an outcome."""
    quiet = isinstance(error, httpx.ReadTimeout)
    reason = "no bytes came in time" if quiet else str(error) or type(error).__name__
    return Broken(reason, quiet)
