"""One agent's question: its model servers in order, and the wait for those that are away.

A server is away while it refuses connections or answers 503. That is no failure:
it may be starting, or have too much to do. The other servers are asked meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import AsyncContextManager, Callable, Optional

from .completion import Answer
from .endpoint import CallError, Endpoint
from .retry import Progress, Retrier, Tries

# The longest pause before a server that is away is called again: it doubles.
_PAUSE_S = (0.5, 15.0)
# With less time left there is no further call: the failure is recorded before the deadline.
_LAST_S = 0.5
_MAX_ERROR_CHARS = 500
# A call that takes longer is being answered: a connection is refused before (model.py).
_ANSWERING_S = 11.0

Idle = Callable[[], AsyncContextManager[None]]


@dataclass
class Server:
    """One model server, and how it has answered this agent."""

    endpoint: Endpoint
    call: Callable[[], Awaitable[Answer]]
    tries: Tries = field(default_factory=Tries)
    # Why there is no answer; its own word rather than the breaker's.
    error: Optional[CallError] = None

    @property
    def waits(self) -> bool:
        """Whether it is called again after a wait."""
        return self.tries.away

    def left_alone_for(self) -> float:
        """Seconds that the server asks for, or its breaker does."""
        asked = self.error.retry_after if self.error is not None else None
        return max(asked or 0.0, self.endpoint.due_in)

    def note(self, error: CallError) -> None:
        """Notes why there is no answer."""
        # A traceback holds all that was in use when the error was raised.
        error.__traceback__ = error.__context__ = error.__cause__ = None
        if self.error is None or error.error_type != "breaker_open" or not self.waits:
            self.error = error


@dataclass
class Asking:
    """Asks servers until one answers or none can."""

    servers: Sequence[Server]
    retrier: Retrier
    max_retries: int
    deadline: float
    progress: Progress
    # What the agent waits in.
    idle: Idle
    # Set when a server that it waits for is back.
    back: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self) -> tuple[int, Answer]:
        """The first answer, and the number of its server; raises CallError."""
        try:
            return await self._answer()
        finally:
            for server in self.servers:
                server.endpoint.expect_no_more(self.back)

    async def _answer(self) -> tuple[int, Answer]:
        longest, most = _PAUSE_S
        while True:
            self.back.clear()
            for number, server in enumerate(self.servers):
                if server.error is not None and not server.waits:
                    continue
                try:
                    return number, await self._call(server)
                except CallError as error:
                    server.note(error)
                    if server.waits:
                        server.endpoint.expect(self.back, error.why)
                    else:
                        server.endpoint.expect_no_more(self.back)
            away = [server for server in self.servers if server.waits]
            if not away:
                raise _why(self.servers)
            await self._wait(away, random.uniform(longest / 2, longest))  # noqa: S311
            longest = min(most, longest * 2)

    async def _call(self, server: Server) -> Answer:
        # Until its next failure it is not said that the agent waits.
        answering = asyncio.get_running_loop().call_later(
            _ANSWERING_S, server.endpoint.expect_no_more, self.back
        )
        try:
            return await self._run(server)
        finally:
            answering.cancel()

    async def _run(self, server: Server) -> Answer:
        return await self.retrier.run(
            server.call,
            endpoint=server.endpoint,
            max_retries=self.max_retries,
            deadline=self.deadline,
            progress=self.progress,
            tries=server.tries,
        )

    async def _wait(self, away: Sequence[Server], pause: float) -> None:
        """Waits until one of the servers may be called again; raises CallError at the deadline."""
        pause = max(pause, min(*(server.left_alone_for() for server in away), _PAUSE_S[1]))
        async with self.idle():
            while pause and not self.back.is_set():
                if self._left() < _LAST_S:
                    raise _why(self.servers)
                # One more call in the second half of what is left, whatever the pause.
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self.back.wait(), min(pause, self._left() / 2))
                # Another agent's call may have found it away just now.
                pause = min(server.endpoint.due_in for server in away)

    def _left(self) -> float:
        return self.deadline - self.retrier.now()


def _why(servers: Sequence[Server]) -> CallError:
    """Why no server answered: the first one's error, and those of the others behind it."""
    texts = []
    for number, server in enumerate(servers):
        text = server.error.text if server.error is not None else ""
        if server.waits:
            text += " (waited for it until the deadline)"
        texts.append(f"fallback {number}: {text}" if number else text)
    room = _MAX_ERROR_CHARS // len(texts)
    first = servers[0].error
    return CallError(
        first.error_type if first is not None else "internal",
        "; ".join(text[:room] for text in texts),
    )
