"""What the worker is told: by the Serve config, and by its node's environment.

Serve's config can be read by anyone who reaches the dashboard, so it carries
no secrets: those come from the environment of the Ray node, or from files
mounted there. `deploy` puts all else into the config. Where a RayService owns
it, the nodes have the functions' own settings in their environment, and those
stand for what the config leaves out.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional
from urllib.parse import urlsplit

# What a pool has in flight where nobody says; config.go has the same.
_IN_FLIGHT = 1000
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


class SettingError(ValueError):
    """A setting is missing or malformed; the text names it."""


@dataclass(frozen=True)
class Settings:
    """The Serve application's args, and for the rest the environment's settings."""

    nats_urls: tuple[str, ...]
    # Pool to the number of agents that the cluster has in flight of it.
    pools: Mapping[str, int]
    model_hosts: tuple[str, ...]
    # The server of requests that name none: whether it can be reached is told.
    model_url: str = ""
    cluster: str = ""
    # The package's hash: a new one makes Serve roll the replicas.
    version: str = ""
    replicas: int = 1
    # Stands before the names of the journal's stream and buckets.
    nats_prefix: str = ""

    @classmethod
    def read(cls, args: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
        """Checks what is given, and names what is at fault."""
        unknown = sorted(set(args) - _ARGS)
        if unknown:
            raise SettingError(f"args: unknown {', '.join(unknown)}")
        args = {**_from_environment(environ), **args}
        urls = tuple(part for part in _text(args, "nats_url").replace(" ", "").split(",") if part)
        if not urls:
            raise SettingError("nats_url: missing; neither is NATS_URL in the environment")
        return cls(
            nats_urls=urls,
            pools=_pools(args.get("pools")),
            model_hosts=_texts(args, "model_hosts"),
            model_url=_text(args, "model_url"),
            cluster=_text(args, "cluster"),
            version=_text(args, "version"),
            replicas=_count("replicas", args.get("replicas", 1)),
            nats_prefix=_prefix(_text(args, "nats_prefix")),
        )

    def slots(self) -> dict[str, int]:
        """One replica's share of each pool, in agents."""
        return {pool: -(-agents // self.replicas) for pool, agents in self.pools.items()}


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """The settings that are there, as args. docs/settings.md says what they mean."""
    found: dict[str, Any] = {}
    url = environ.get("WORKER_NATS_URL") or environ.get("NATS_URL")
    if url:
        found["nats_url"] = url
    if environ.get("NATS_PREFIX"):
        found["nats_prefix"] = environ["NATS_PREFIX"]
    if environ.get("POOLS"):
        found["pools"] = dict(_pool(entry) for entry in _list(environ["POOLS"]))
    if environ.get("MODEL_HOSTS"):
        found["model_hosts"] = _list(environ["MODEL_HOSTS"])
    elif environ.get("VLLM_URL"):
        found["model_hosts"] = [urlsplit(environ["VLLM_URL"]).netloc]
    if environ.get("VLLM_URL"):
        found["model_url"] = environ["VLLM_URL"]
    if environ.get("WORKER_REPLICAS"):
        found["replicas"] = _whole(environ["WORKER_REPLICAS"])
    return found


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _pool(entry: str) -> tuple[str, Any]:
    name, limited, limit = entry.partition(":")
    return name, _whole(limit) if limited else _IN_FLIGHT


def _whole(text: str) -> Any:
    """The number, or the text itself, which the check of the arg then names."""
    return int(text) if text.isdecimal() else text


def _text(args: Mapping[str, Any], name: str) -> str:
    value = args.get(name, "")
    if not isinstance(value, str):
        raise SettingError(f"{name}: {value!r} is not a string")
    return value


def _prefix(text: str) -> str:
    if not _PREFIX.fullmatch(text):
        raise SettingError(f"nats_prefix: {text!r} is not at most 32 characters of A-Z a-z 0-9 _ -")
    return text


def _texts(args: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = args.get(name, [])
    if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
        raise SettingError(f"{name}: {value!r} is not a list of strings")
    return tuple(value)


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SettingError(f"{name}: {value!r} is not a whole number of at least 1")
    return value


def _pools(value: Any) -> dict[str, int]:
    if not isinstance(value, dict) or not value:
        raise SettingError(f"pools: {value!r} is not a map of pool to in-flight")
    return {str(name): _count(f"pools.{name}", limit) for name, limit in value.items()}


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

    def nats_options(self) -> dict[str, Any]:
        """nats-py's options for logging in.

        Values are given as callbacks, so that a mounted file that was rotated
        is read anew by the next reconnect.
        """
        options: dict[str, Any] = {}
        for option, name in (
            ("user", "NATS_USER"),
            ("password", "NATS_PASSWORD"),
            ("token", "NATS_TOKEN"),
        ):
            if self._value(name):
                options[option] = self._reader(name)
        if self.environ.get("NATS_CREDS"):
            options["user_credentials"] = self._creds()
        tls = self._tls()
        if tls is not None:
            options["tls"] = tls
        return options

    def _reader(self, name: str) -> Callable[[], str]:
        return lambda: self._value(name)

    def _value(self, name: str) -> str:
        path = self.environ.get(f"{name}_FILE", "")
        if not path:
            return self.environ.get(name, "")
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
        if not any(self.environ.get(name) for name in names):
            return None
        context = ssl.create_default_context(
            cafile=self._file("NATS_CA") if self.environ.get("NATS_CA") else None
        )
        if self.environ.get("NATS_CERT") or self.environ.get("NATS_KEY"):
            try:
                context.load_cert_chain(self._file("NATS_CERT"), self._file("NATS_KEY"))
            except ssl.SSLError as error:
                raise SettingError(f"NATS_CERT, NATS_KEY: {error}") from error
        return context

    def _file(self, name: str) -> str:
        path = self.environ.get(name, "")
        if not Path(path).is_file():
            raise SettingError(f"{name}: {path or 'nothing'} is not a file")
        return path
