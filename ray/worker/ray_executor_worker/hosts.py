"""Which hosts an agent may call.

The door refuses other hosts at submit. This is the second lock: it holds for
whatever got into the journal by another way, and it decides who is sent the
API key.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Optional

from yarl import URL


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
        host = url.host
        if url.scheme not in {"http", "https"} or not host:
            return False
        return any(pattern.covers(host.lower(), url.port) for pattern in self._patterns)

    def addresses(self) -> list[tuple[str, int]]:
        """The entries that name one host and one port."""
        return [(p.host, p.port) for p in self._patterns if p.port is not None and not p.below]


def address_of(url: str) -> list[tuple[str, int]]:
    """Where a model server's URL leads; nothing where that is no such URL."""
    try:
        read = URL(url)
        host, port = read.host, read.port
    except ValueError:
        return []
    return [(host, port)] if host and port else []


def _parse(entry: str) -> _Pattern:
    rest = entry.strip().lower()
    below = rest.startswith("*.")
    if below:
        rest = rest[2:]
    # yarl reads it as it reads the URLs, so that [::1]:8000 and xn-- agree.
    try:
        url = URL(f"//{rest}")
        host, port = url.host, url.explicit_port
    except ValueError as error:
        raise ValueError(f"model_hosts: {entry!r}: {error}") from error
    if not host or "*" in host or url.raw_path not in {"", "/"}:
        raise ValueError(f"model_hosts: {entry!r} is not host, host:port or *.domain")
    return _Pattern(host, port, below)
