"""How the text of a setting is read.

Go's config package reads the same settings the same way; the files in
tests/vectors hold both to it. Spaces at both ends are no part of a value, and
an empty value is no value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from .hosts import AllowedHosts

# What a pool has in flight where nobody says; config.go has the same.
IN_FLIGHT = 1000
MAX_IN_FLIGHT = 100_000
MAX_REPLICAS = 1000
DEFAULT_POOL = "default"

_POOL = re.compile(r"[a-z0-9-]{1,32}")
_DIGITS = re.compile(r"[0-9]{1,9}")


class SettingError(ValueError):
    """A setting is missing or malformed; the text names it."""


def value(environ: Mapping[str, str], name: str) -> str:
    """A setting of the environment; empty where it is not set."""
    return environ.get(name, "").strip()


def entries(text: str) -> list[str]:
    """A list's entries; an empty one stays, for whoever checks them to refuse."""
    return [part.strip() for part in text.split(",")]


def pools(name: str, text: str) -> dict[str, int]:
    """Each pool, and how many agents of it are in flight at once."""
    read: dict[str, int] = {}
    for entry in entries(text):
        pool, limited, limit = entry.partition(":")
        if pool in read:
            raise SettingError(f"{name}: {pool!r} is named twice")
        check_pool(name, pool)
        read[pool] = whole(f"{name}: {pool}", limit, MAX_IN_FLIGHT) if limited else IN_FLIGHT
    return read


def check_pool(name: str, pool: str) -> None:
    """A pool's name is as submit takes it."""
    if not _POOL.fullmatch(pool):
        raise SettingError(f"{name}: {pool!r} must be 1 to 32 characters of a-z 0-9 -")


def whole(name: str, text: str, most: int) -> int:
    """A whole number from 1 on."""
    number = int(text) if _DIGITS.fullmatch(text) else 0
    if not 1 <= number <= most:
        raise SettingError(f"{name}: {text!r} must be a whole number, 1 to {most}")
    return number


def nats_urls(name: str, text: str) -> tuple[str, ...]:
    """One URL or several, separated by commas."""
    read = tuple(entries(text))
    for url in read:
        # What a URL carries of a login is not repeated.
        shown = url.rpartition("@")[2]
        if not _split(name, url, shown, ("nats", "tls", "ws", "wss")).hostname:
            raise SettingError(f"{name}: {shown!r} has no host: write nats://host:4222")
    return read


def model_hosts(name: str, patterns: list[str]) -> list[str]:
    """Patterns of hosts, checked."""
    try:
        AllowedHosts(patterns)
    except ValueError as error:
        raise SettingError(f"{name}: {error}") from error
    return patterns


def model_url(name: str, text: str) -> tuple[str, str]:
    """A model server's URL, and its host with the port that it names."""
    shown = text.rpartition("@")[2]
    parts = _split(name, text, shown, ("http", "https"))
    if not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
        raise SettingError(f"{name}: {shown!r} must be a URL without user, query and fragment")
    return text, parts.netloc


def _split(name: str, url: str, shown: str, schemes: tuple[str, ...]) -> SplitResult:
    try:
        parts = urlsplit(url)
        # Reading it checks the port.
        known = parts.scheme in schemes and (parts.port is None or parts.port >= 0)
    except ValueError:
        known = False
    if not known or any(c.isspace() for c in url):
        raise SettingError(f"{name}: {shown!r} must be a URL with {'://, '.join(schemes)}://")
    return parts
