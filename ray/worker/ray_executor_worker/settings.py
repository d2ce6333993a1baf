"""The worker's settings: the Serve config, and its node's environment.

Serve's config can be read by anyone who reaches the dashboard, so it carries
no secrets: those come from the environment of the Ray node, or from files
mounted there. `deploy` puts all else into the config. Where a RayService owns
it, the nodes have the functions' own settings in their environment, and those
fill in what the config leaves out.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

from .values import (
    DEFAULT_POOL,
    IN_FLIGHT,
    MAX_IN_FLIGHT,
    MAX_REPLICAS,
    SettingError,
    check_pool,
    entries,
    model_hosts,
    model_url,
    nats_urls,
    pools,
    value,
    whole,
)

__all__ = ["Secrets", "SettingError", "Settings"]

_ARGS = frozenset(
    {
        "nats_url",
        "nats_prefix",
        "pools",
        "cluster",
        "model_hosts",
        "model_url",
        "version",
        "replicas",
    }
)
# What stream and bucket names may begin with; check.go has the same.
_PREFIX = re.compile(r"[A-Za-z0-9_-]{0,32}")


@dataclass(frozen=True)
class Settings:
    """The Serve application's args, and for the rest the environment's settings."""

    nats_urls: tuple[str, ...]
    # Pool to the number of agents that the cluster has in flight of it.
    pools: Mapping[str, int]
    model_hosts: tuple[str, ...]
    # The server of requests that name none: heartbeats report whether it can be reached.
    model_url: str = ""
    cluster: str = ""
    # The package's hash: a new one makes Serve roll the replicas.
    version: str = ""
    replicas: int = 1
    # A prefix of the names of the journal's stream and buckets.
    nats_prefix: str = ""

    @classmethod
    def read(cls, args: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
        """Checks what is given, and names what is at fault."""
        unknown = sorted(set(args) - _ARGS)
        if unknown:
            raise SettingError(f"args: unknown {', '.join(unknown)}")
        args = {**_from_environment(environ), **args}
        urls = _text(args, "nats_url").strip()
        if not urls:
            raise SettingError("nats_url: missing; neither is NATS_URL in the environment")
        return cls(
            nats_urls=nats_urls("nats_url", urls),
            pools=_pools(args.get("pools")),
            model_hosts=tuple(model_hosts("model_hosts", _texts(args, "model_hosts"))),
            model_url=_text(args, "model_url"),
            cluster=_text(args, "cluster"),
            version=_text(args, "version"),
            replicas=_count("replicas", args.get("replicas", 1), MAX_REPLICAS),
            nats_prefix=_prefix("nats_prefix", _text(args, "nats_prefix")),
        )

    def slots(self) -> dict[str, int]:
        """One replica's share of each pool, in agents, and at least one.

        The replicas together never have more than the pool, unless it has fewer
        slots than there are replicas: the consumer's limit holds then.
        """
        return {pool: self._share(agents) for pool, agents in self.pools.items()}

    def parking(self, pool: str) -> int:
        """How many agents of a pool may wait for model servers here, besides its slots."""
        return self._share(max(self.pools[pool], IN_FLIGHT))

    def _share(self, agents: int) -> int:
        return max(1, agents // self.replicas)


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """The settings that are there, as args. docs/settings.md says what they mean."""
    found: dict[str, Any] = {"pools": {DEFAULT_POOL: IN_FLIGHT}}
    for name in ("WORKER_NATS_URL", "NATS_URL"):
        if url := value(environ, name):
            nats_urls(name, url)
            found["nats_url"] = url
            break
    if text := value(environ, "NATS_PREFIX"):
        found["nats_prefix"] = _prefix("NATS_PREFIX", text)
    if text := value(environ, "POOLS"):
        found["pools"] = pools("POOLS", text)
    if url := value(environ, "VLLM_URL"):
        found["model_url"], host = model_url("VLLM_URL", url)
        found["model_hosts"] = [host]
    if text := value(environ, "MODEL_HOSTS"):
        found["model_hosts"] = model_hosts("MODEL_HOSTS", entries(text))
    if text := value(environ, "WORKER_REPLICAS"):
        found["replicas"] = whole("WORKER_REPLICAS", text, MAX_REPLICAS)
    return found


def _text(args: Mapping[str, Any], name: str) -> str:
    given = args.get(name, "")
    if not isinstance(given, str):
        raise SettingError(f"{name}: {given!r} is not a string")
    return given


def _prefix(name: str, text: str) -> str:
    if not _PREFIX.fullmatch(text):
        raise SettingError(f"{name}: {text!r} is not at most 32 characters of A-Z a-z 0-9 _ -")
    return text


def _texts(args: Mapping[str, Any], name: str) -> list[str]:
    given = args.get(name, [])
    if not isinstance(given, (list, tuple)) or not all(isinstance(v, str) for v in given):
        raise SettingError(f"{name}: {given!r} is not a list of strings")
    return list(given)


def _count(name: str, given: Any, most: int) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= most:
        raise SettingError(f"{name}: {given!r} is not a whole number, 1 to {most}")
    return given


def _pools(given: Any) -> dict[str, int]:
    if not isinstance(given, dict) or not given:
        raise SettingError(f"pools: {given!r} is not a map of pool to in-flight")
    for name in given:
        check_pool("pools", str(name))
    return {
        str(name): _count(f"pools.{name}", limit, MAX_IN_FLIGHT) for name, limit in given.items()
    }


@dataclass(frozen=True)
class Secrets:
    """Where the secrets are; they are read when they are used."""

    # Never in a repr: it may end up in a log.
    environ: Mapping[str, str]

    def __repr__(self) -> str:
        return "Secrets(...)"

    @classmethod
    def from_environment(cls) -> Secrets:
        """The environment that Ray gives its workers: the node's own."""
        return cls(dict(os.environ))

    def api_key(self) -> str:
        """The models' key, or nothing where they need none."""
        return self._value("VLLM_API_KEY")

    def nats_options(self, urls: Sequence[str] = ()) -> dict[str, Any]:
        """nats-py's options for logging in.

        Values are given as callbacks, so that a mounted file that was rotated
        is read anew by the next reconnect. A user in a URL comes first.
        """
        options: dict[str, Any] = {}
        named = any("@" in url for url in urls)
        for option, name in (
            ("user", "NATS_USER"),
            ("password", "NATS_PASSWORD"),
            ("token", "NATS_TOKEN"),
        ):
            if not named and self._value(name):
                options[option] = self._reader(name)
        if value(self.environ, "NATS_CREDS"):
            options["user_credentials"] = self._creds()
        tls = self._tls()
        if tls is not None:
            options["tls"] = tls
        return options

    def _reader(self, name: str) -> Callable[[], str]:
        return lambda: self._value(name)

    def _value(self, name: str) -> str:
        path = value(self.environ, f"{name}_FILE")
        if not path:
            return value(self.environ, name)
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SettingError(f"{name}_FILE: cannot read {path}: {error.strerror}") from error

    def _creds(self) -> str:
        try:
            import nkeys  # noqa: F401, PLC0415 - nats-py imports it on use, with a poorer error
        except ImportError as error:
            raise SettingError(
                "NATS_CREDS: needs the Python package nkeys on the cluster; install it there, "
                "or use a TLS client certificate, a token, or user and password"
            ) from error
        return self._file("NATS_CREDS")

    def _tls(self) -> Optional[ssl.SSLContext]:
        names = ("NATS_CA", "NATS_CERT", "NATS_KEY")
        if not any(value(self.environ, name) for name in names):
            return None
        context = ssl.create_default_context(
            cafile=self._file("NATS_CA") if value(self.environ, "NATS_CA") else None
        )
        if value(self.environ, "NATS_CERT") or value(self.environ, "NATS_KEY"):
            try:
                context.load_cert_chain(self._file("NATS_CERT"), self._file("NATS_KEY"))
            except ssl.SSLError as error:
                raise SettingError(f"NATS_CERT, NATS_KEY: {error}") from error
        return context

    def _file(self, name: str) -> str:
        path = value(self.environ, name)
        if not Path(path).is_file():
            raise SettingError(f"{name}: {path or 'nothing'} is not a file")
        return path
