"""Which hosts an agent may call.

The door refuses other hosts at submit. This is the second lock: it holds for
whatever got into the journal by another way, and it decides who is sent the
API key. deliberation/hosts.go reads patterns and URLs the same way, and
tests/vectors/hosts.json holds both to it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Optional

from yarl import URL

# A host with or without a port; the last form is a bare IPv6 address.
_PATTERN = re.compile(
    r"((?:\*\.)?[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?"
    r"|([0-9A-Fa-f:.]+)"
)
_MAX_PORT = 65535


@dataclass(frozen=True)
class _Pattern:
    host: str
    port: Optional[int]
    below: bool  # every name below the host, not the host itself

    def covers(self, host: str, port: Optional[int]) -> bool:
        if self.port is not None and self.port != port:
            return False
        return host.endswith("." + self.host) if self.below else host == self.host


class AllowedHosts:
    """The operator's list: ``host``, ``host:port``, ``*.domain``."""

    def __init__(self, entries: Iterable[str]) -> None:
        self._patterns = tuple(_parse(entry) for entry in entries)

    def covers(self, url: URL) -> bool:
        """Whether the URL, as the HTTP client will read it, may be called."""
        host = url.raw_host
        if url.scheme not in {"http", "https"} or not host:
            return False
        return any(pattern.covers(_canonical(host), url.port) for pattern in self._patterns)

    def addresses(self) -> list[tuple[str, int]]:
        """The entries that name one host and one port."""
        return [(p.host, p.port) for p in self._patterns if p.port is not None and not p.below]


def address_of(url: str) -> list[tuple[str, int]]:
    """Where a model server's URL leads; nothing where that is no such URL."""
    try:
        read = URL(url)
        host, port = read.raw_host, read.port
    except ValueError:
        return []
    return [(host, port)] if host and port else []


def model_base(url: str) -> str:
    """The base of a model server's URL: `/v1` at its end may be there or not."""
    url = url.rstrip("/")
    base = url.removesuffix("/v1")
    return url if base.endswith(":/") else base.rstrip("/")  # http://v1 is a host


def _parse(entry: str) -> _Pattern:
    match = _PATTERN.fullmatch(entry.strip())
    port = int(match[2]) if match and match[2] else None
    if match is None or (port is not None and not 1 <= port <= _MAX_PORT):
        raise _malformed(entry)
    host = match[1] or match[3]
    if match[3] or host.startswith("["):
        host = host.strip("[]")
        if not _is_ipv6(host):
            raise _malformed(entry)
    below = host.startswith("*.")
    return _Pattern(_canonical(host[2:] if below else host), port, below)


def _malformed(entry: str) -> ValueError:
    shown = entry.rpartition("@")[2]
    return ValueError(f"{shown!r} is not host, host:port or *.domain")


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _canonical(host: str) -> str:
    """How a host compares: without case and DNS's last dot, an IP in its usual form."""
    try:
        return ipaddress.ip_address(host).compressed
    except ValueError:
        return host.lower().removesuffix(".")
