"""Prevents a replica from listening for requests.

Serve opens a gRPC port on all interfaces in each replica, for handles that send
requests by gRPC, and unpickles what it receives: on a cluster without tokens
whoever reaches the port runs code. Nobody sends requests to this deployment, so
the port is not opened.
"""

from __future__ import annotations

from typing import Any

import grpc.aio

# What Serve binds for handles. Other addresses are those of ports that an
# operator has asked for.
_ANYWHERE = "[::]:0"


def close_doors() -> None:
    """Before Serve opens its port; inside the event loop that it does so in."""
    server: Any = type(grpc.aio.server())
    for name in ("add_insecure_port", "add_secure_port"):
        setattr(server, name, _refusing(getattr(server, name)))


def _refusing(bind: Any) -> Any:
    """A method that does not bind: 0 is gRPC's word for that."""

    def refuse(self: Any, address: str, *rest: Any) -> int:
        return 0 if address == _ANYWHERE else int(bind(self, address, *rest))

    return refuse
