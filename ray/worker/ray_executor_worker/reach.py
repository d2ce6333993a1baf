"""Whether the model servers that the operator named can be reached from here."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Sequence
from typing import Optional

import aiohttp

from .endpoint import CallError
from .throttle import ThrottledLog

log = logging.getLogger(f"ray.serve.{__name__}")

_EVERY_S = 30.0
_CONNECT_S = 3.0
# Connections cost a server little; a long list is not an invitation.
_HOSTS = 8

Address = tuple[str, int]


class Reach:
    """Connects to each server now and then, and remembers what failed."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = tuple(dict.fromkeys(addresses))[:_HOSTS]
        self._failed: dict[Address, str] = {}
        self._warnings = ThrottledLog(log)

    def problems(self) -> list[tuple[str, str]]:
        """What could not be reached the last time, and why."""
        return [(f"model host {_name(at)}", why) for at, why in sorted(self._failed.items())]

    async def look(self) -> bool:
        """Tries each once; whether anything is other than before."""
        whys = await asyncio.gather(*(_connect(*address) for address in self._addresses))
        failed = {at: why for at, why in zip(self._addresses, whys) if why}
        changed, self._failed = failed != self._failed, failed
        for what, why in self.problems():
            self._warnings.warn(f"{what} cannot be reached: {why}")
        return changed

    @staticmethod
    async def pause() -> None:
        """Waits until the next look is due."""
        await asyncio.sleep(_EVERY_S)


def unreachable(error: BaseException, name: str) -> Optional[CallError]:
    """The failure of a call for which no connection could be opened; None for any other.

    A certificate that is not accepted is another failure: waiting does not mend it.
    """
    if isinstance(error, aiohttp.ClientSSLError):
        return None
    if isinstance(error, aiohttp.ClientConnectorError):
        why = _why(error.os_error)
    elif isinstance(error, aiohttp.ServerTimeoutError):
        why = "no connection in time"
    else:
        return None
    return CallError(
        "connection",
        f"{why} ({name})",
        retryable=True,
        broken=True,
        away=True,
        why=why,
        sent=False,
    )


def _why(error: OSError) -> str:
    # asyncio joins the errors of several addresses into one text, without a number.
    number = error.errno
    if number == errno.ECONNREFUSED or f"Errno {errno.ECONNREFUSED}]" in str(error):
        return "connection refused"
    if isinstance(error, socket.gaierror):
        return "its name cannot be resolved"
    return os.strerror(number).lower() if number else str(error)


def _name(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _connect(host: str, port: int) -> str:
    """Why there is no connection, or nothing: the model client uses no proxy either."""
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), _CONNECT_S)
    except asyncio.TimeoutError:
        return f"no connection within {_CONNECT_S:.0f} s"
    except OSError as error:
        return _why(error)
    writer.close()
    return ""
