"""What is wrong with a NATS, in words that say what to do.

The Go side has the same in journal/connection.go.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Callable

from nats import errors as nats_errors

from .settings import SettingError


def _says(*texts: str) -> Callable[[BaseException], bool]:
    """Recognizes errors by their text alone."""
    return lambda error: any(text in str(error).lower() for text in texts)


def _is(*kinds: type[BaseException]) -> Callable[[BaseException], bool]:
    return lambda error: isinstance(error, kinds)


# The first that fits is reported, behind the servers' addresses.
_CURES: tuple[tuple[Callable[[BaseException], bool], str], ...] = (
    (_is(SettingError), "is not asked"),
    (
        _says("authorization", "user authentication revoked"),
        "refuses the login: check the Ray nodes' NATS_USER, NATS_PASSWORD, NATS_TOKEN, NATS_CREDS",
    ),
    (
        _says("authentication expired"),
        "refuses the login, which has expired: get new credentials for the Ray nodes",
    ),
    (
        _is(ssl.SSLCertVerificationError),
        "shows a certificate that is not accepted: check NATS_CA, and the name in WORKER_NATS_URL",
    ),
    (
        _says("certificate required", "bad certificate"),
        "asks for a client's certificate: set NATS_CERT and NATS_KEY on the Ray nodes",
    ),
    (
        _is(nats_errors.SecureConnWantedError, nats_errors.SecureConnRequiredError),
        "has no TLS: write nats:// in WORKER_NATS_URL, and leave NATS_CA empty",
    ),
    (_is(ssl.SSLError), "does not answer with TLS: check the port in WORKER_NATS_URL"),
    (_is(socket.gaierror), "cannot be looked up: check the host in WORKER_NATS_URL, and DNS"),
    (_is(ConnectionRefusedError), "cannot be reached: is it up? Nobody listens there"),
    (_says("too old"), "cannot be used"),
    (
        _is(asyncio.TimeoutError),
        "does not answer: check WORKER_NATS_URL and the firewalls in between",
    ),
)


def explain(error: BaseException) -> str:
    """Why there is no connection, to follow `NATS at …`."""
    text = next((text for fits, text in _CURES if fits(error)), "cannot be reached")
    return f"{text} ({describe(error)})"


def describe(error: BaseException) -> str:
    """An error's kind and text."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def unanswered(subject: str) -> str:
    """Why nobody listens where a stream or JetStream itself should."""
    if subject.startswith("$JS.API."):
        return "NATS has no JetStream: start it with `jetstream {}` in its configuration, or -js"
    return "no stream takes it: has `ray-executor deploy` made the journal?"
