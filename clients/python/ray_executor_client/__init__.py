"""The Python client of ray-executor.

>>> from ray_executor_client import Client
>>> with Client("http://localhost:8080") as client:  # doctest: +SKIP
...     one = client.submit("Name three risks of caching", agents=["a", "b"])
...     print(one.wait(timeout=60).result.proposal)

``Client`` blocks, ``AsyncClient`` is awaited; both have the same methods. What
they return are the service's messages, typed in ``ray_executor_client.messages``.
"""

from __future__ import annotations

from . import messages
from ._async import AsyncClient, AsyncDeliberation, AsyncWatch
from ._ended import Ended, on_ended, on_ended_blocking
from ._errors import (
    Conflict,
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    LimitReached,
    NotFound,
    PermissionDenied,
    RayExecutorError,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from ._requests import Agent
from ._sync import Client, Deliberation, Watch
from ._version import __version__
from .messages import ModelEndpoint, ResponseFormat, Sampling, Strategy, Vote

__all__ = [
    "Agent",
    "AsyncClient",
    "AsyncDeliberation",
    "AsyncWatch",
    "Client",
    "Conflict",
    "DeadlineExceeded",
    "Deliberation",
    "Ended",
    "InternalError",
    "InvalidArgument",
    "LimitReached",
    "ModelEndpoint",
    "NotFound",
    "PermissionDenied",
    "RayExecutorError",
    "ResponseFormat",
    "Sampling",
    "Strategy",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Vote",
    "Watch",
    "__version__",
    "messages",
    "on_ended",
    "on_ended_blocking",
]
