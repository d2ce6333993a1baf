"""One NATS connection for the life of a replica.

nats-py reconnects by itself while the server is away, but closes for good when
the server turns the login down or expires it. A worker never gives up: this
makes a new client then, and moves the subscriptions over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable, Optional
from urllib.parse import urlsplit

from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from .settings import Secrets, SettingError
from .throttle import ThrottledLog
from .trouble import describe, explain, unanswered

log = logging.getLogger(f"ray.serve.{__name__}")

Handler = Callable[[Msg], Awaitable[None]]

# The compare-and-set on wildcards, and ts in every answer.
MIN_SERVER = (2, 12)
REQUEST_TIMEOUT_S = 5.0
_CONNECT_TIMEOUT_S = 10.0
_RETRY_S = (0.5, 10.0)
_RECONNECT_WAIT_S = 1
_DRAIN_S = 2
# A peer that is gone without a word is noticed within a minute.
_PING_S = 15


class UnavailableError(Exception):
    """NATS did not answer; what was sent may have arrived or not."""


class _SecureClient(Client):
    """Speaks TLS or not at all, as the Go side does.

    nats-py goes on in plain text, and logs in, where the server does not insist.
    """

    async def _process_info(
        self,
        info: dict[str, Any],
        initial_connection: bool = False,  # noqa: FBT001, FBT002 - nats-py's own
    ) -> None:
        # Before anything is sent. Over ws and wss TLS is the transport's.
        if initial_connection and not info.get("tls_required"):
            if not info.get("tls_available"):
                raise nats_errors.SecureConnWantedError
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)


@dataclass
class _Interest:
    """A subscription that outlives the client that makes it."""

    subject: str
    handler: Handler
    live: Optional[Subscription] = None


@dataclass
class Connection:
    """Maintains a connected client, and reports each new connection."""

    urls: Sequence[str]
    secrets: Secrets
    name: str
    # Called after each connect and reconnect: what the server held for the
    # connection is gone, and messages may have been missed.
    on_connected: Callable[[], None] = lambda: None
    _client: Optional[Client] = None
    _interests: list[_Interest] = field(default_factory=list)
    _warnings: ThrottledLog = field(default_factory=lambda: ThrottledLog(log))
    # Why there is no connection; and what the server did not allow, and when.
    _trouble: str = "not connected yet"
    _denied: tuple[str, float] = ("", float("-inf"))

    @property
    def trouble(self) -> str:
        """Why NATS cannot be reached now, and what to do; empty while it can."""
        return "" if self.connected else self._trouble or "the connection was lost"

    @property
    def client(self) -> Client:
        """The connected client; raises UnavailableError where there is none."""
        if self._client is None:
            raise UnavailableError(self.trouble)
        return self._client

    @property
    def connected(self) -> bool:
        """Whether the client has a connection."""
        return self._client is not None and self._client.is_connected

    async def request(
        self, subject: str, data: bytes, headers: Optional[dict[str, str]] = None
    ) -> Msg:
        """One request and its reply."""
        try:
            return await self.client.request(
                subject, data, timeout=REQUEST_TIMEOUT_S, headers=headers
            )
        except (nats_errors.Error, asyncio.TimeoutError, OSError) as error:
            raise UnavailableError(self._why(subject, error)) from error

    def _why(self, subject: str, error: BaseException) -> str:
        """Why there was no answer to a request."""
        if not self.connected:
            return self.trouble
        if isinstance(error, nats_errors.NoRespondersError):
            return unanswered(subject)
        denied, at = self._denied
        waited = asyncio.get_running_loop().time() - at <= REQUEST_TIMEOUT_S + 1
        if denied and waited and isinstance(error, asyncio.TimeoutError):
            return denied
        return describe(error)

    async def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        """Sends without an answer."""
        try:
            await self.client.publish(subject, data, reply)
        except (nats_errors.Error, OSError) as error:
            raise UnavailableError(describe(error)) from error

    async def subscribe(self, subject: str, handler: Handler) -> None:
        """Subscribes on this client and on those after it."""
        interest = _Interest(subject, handler)
        self._interests.append(interest)
        if self._client is not None:
            # A client that is being lost will not do it; the next one will.
            with contextlib.suppress(nats_errors.Error, OSError):
                interest.live = await _attach(self._client, interest)

    async def unsubscribe(self, subject: str) -> None:
        """Ends the interest; what the server had sent by then is still handled."""
        gone = [i for i in self._interests if i.subject == subject]
        self._interests = [i for i in self._interests if i.subject != subject]
        for interest in gone:
            if interest.live is not None and self._client is not None:
                await _detach(self._client, interest.live)

    async def close(self) -> None:
        """Sends what is left to send, and disconnects; maintain() has ended by then."""
        client, self._client = self._client, None
        if client is None:
            return
        with contextlib.suppress(nats_errors.Error, asyncio.TimeoutError, OSError):
            await client.flush(timeout=_DRAIN_S)
        await _discard(client)

    async def maintain(self) -> None:
        """Connects, and reconnects until it is cancelled."""
        wait = _RETRY_S[0]
        while True:
            closed = asyncio.Event()
            try:
                client = await self._connect(closed)
            except Exception as error:  # noqa: BLE001 - a later try may succeed
                self._cannot(error)
                await asyncio.sleep(wait * random.uniform(0.5, 1))  # noqa: S311
                wait = min(wait * 2, _RETRY_S[1])
                continue
            wait = _RETRY_S[0]
            log.info("connected to NATS at %s", _hosts(self.urls))
            self._client, self._trouble = client, ""
            self.on_connected()
            await closed.wait()
            self._client = None
            self._warnings.warn("the connection to NATS was closed; connecting anew")

    def _cannot(self, error: BaseException) -> None:
        """Remembers why there is no connection, and logs it."""
        self._trouble = f"NATS at {_hosts(self.urls)} {explain(error)}"
        self._warnings.warn(self._trouble)

    def _reported(self, error: Exception) -> None:
        """Logs what the server says that answers no request."""
        if "permissions violation" in str(error).lower():
            text = f"NATS does not allow it to this user: {error}"
            self._denied = (text, asyncio.get_running_loop().time())
        self._warnings.warn(f"NATS: {describe(error)}")

    async def _connect(self, closed: asyncio.Event) -> Client:
        options = self.secrets.nats_options(self.urls)
        schemes = {urlsplit(url).scheme for url in self.urls}
        secure = "tls" in schemes or ("tls" in options and not schemes & {"ws", "wss"})
        client = _SecureClient() if secure else Client()
        # nats-py goes on after most errors, until our patience is at its end.
        seen: list[Exception] = []

        async def lost() -> None:
            closed.set()

        async def reconnected() -> None:
            try:
                _check_version(client)
            except ValueError as error:
                self._cannot(error)
                await _discard(client)
                return
            self._trouble = ""
            log.info("reconnected to NATS")
            self.on_connected()

        async def troubled(error: Exception) -> None:
            seen.append(error)
            if client.is_connected:
                self._reported(error)
            else:
                self._cannot(error)

        try:
            await asyncio.wait_for(
                client.connect(
                    servers=list(self.urls),
                    name=self.name,
                    closed_cb=lost,
                    reconnected_cb=reconnected,
                    error_cb=troubled,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=_RECONNECT_WAIT_S,
                    ping_interval=_PING_S,
                    # Nothing is sent after its caller got an error.
                    pending_size=0,
                    # Ours are made of ids and pools that submit has checked.
                    skip_subject_validation=True,
                    **options,
                ),
                _CONNECT_TIMEOUT_S,
            )
            _check_version(client)
            for interest in self._interests:
                interest.live = await _attach(client, interest)
        except asyncio.TimeoutError as late:
            await _discard(client)
            if seen:
                raise seen[-1] from late
            raise
        except BaseException:
            await _discard(client)
            raise
        return client


async def _discard(client: Client) -> None:
    """Closes a client in whatever state it is."""
    # nats-py asserts that there was a connection.
    with contextlib.suppress(Exception):
        await client.close()


async def _attach(client: Client, interest: _Interest) -> Subscription:
    # Without limits on what waits: a message that nats-py drops here would be
    # missing for a whole ack wait, and the pools bound what is asked for.
    return await client.subscribe(
        interest.subject, cb=interest.handler, pending_msgs_limit=0, pending_bytes_limit=0
    )


async def _detach(client: Client, live: Subscription) -> None:
    """Ends a subscription once what is under way has been handled, if that is soon.

    nats-py's own drain cannot be cut short: the client would subscribe anew with
    the next server, and would stop reading when its ping is answered after all.
    """
    with contextlib.suppress(nats_errors.Error, asyncio.TimeoutError, OSError):
        await client._send_unsubscribe(live._id)  # noqa: SLF001 - and go on to listen
        # Whatever it says, nothing comes behind it.
        await client.request("$JS.API.INFO", timeout=_DRAIN_S)
        until = asyncio.get_running_loop().time() + _DRAIN_S
        while live.pending_msgs and asyncio.get_running_loop().time() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    with contextlib.suppress(nats_errors.Error, OSError):
        await live.unsubscribe()


def _check_version(client: Client) -> None:
    version = client.connected_server_version
    if (version.major, version.minor) < MIN_SERVER:
        raise SettingError(
            f"NATS {version.major}.{version.minor} is too old: "
            f"{MIN_SERVER[0]}.{MIN_SERVER[1]} or newer is needed"
        )


def _hosts(urls: Sequence[str]) -> str:
    """The servers without what a URL may carry of logins."""
    return ", ".join(urlsplit(u if "//" in u else f"//{u}").netloc.rpartition("@")[2] for u in urls)


def status_of(headers: Optional[Mapping[str, str]], data: bytes) -> Optional[str]:
    """The status of a message from the server itself, else None."""
    if not headers or data:
        return None
    return headers.get("Status")
