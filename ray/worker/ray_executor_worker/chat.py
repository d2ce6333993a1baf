"""The body of a chat completion request, made while it is sent.

A prompt may be a megabyte, and six of them as JSON. Thousands of agents wait
for their models at once, so a large body is nowhere as a whole: it is made in
chunks when its connection takes them, from the request that all agents share.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .prompt import Text

# Characters a chunk, and pieces: what the event loop does in a millisecond or two.
_CHUNK_CHARS = 32 * 1024
_CHUNK_PIECES = 4 * 1024


@dataclass(frozen=True)
class Chat:
    """What one call asks of which model."""

    model: str
    # Role and content.
    messages: Sequence[tuple[str, Text]]
    # What else the body has: sampling parameters.
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def whole(self) -> bytes:
        """The body at once, for short prompts."""
        asked = [{"role": role, "content": str(text)} for role, text in self.messages]
        body = json.dumps(
            {"model": self.model, "messages": asked, **self.parameters}, ensure_ascii=False
        )
        return body.encode("utf-8", errors="replace")

    async def length(self, turn: asyncio.Lock) -> int:
        """The bytes of `whole`; made one chunk a turn."""
        size = 0
        async for chunk in self.chunks(turn):
            size += len(chunk)
        return size

    async def chunks(self, turn: asyncio.Lock) -> AsyncIterator[bytes]:
        """The same bytes as `whole`.

        The turn is the replica's: a thousand agents together make one chunk in a
        round of the event loop, so that the work of others goes on.
        """
        chunks = self._chunks()
        while True:
            async with turn:
                chunk = next(chunks, None)
                await asyncio.sleep(0)
            if chunk is None:
                return
            yield chunk

    def _chunks(self) -> Iterator[bytes]:
        yield f'{{"model": {_json(self.model)}, "messages": ['.encode("utf-8", errors="replace")
        for number, (role, text) in enumerate(self.messages):
            yield f'{", " if number else ""}{{"role": "{role}", "content": "'.encode()
            for chunk in _grouped(text.pieces()):
                yield _json(chunk)[1:-1].encode("utf-8", errors="replace")
            yield b'"}'
        rest = "".join(
            f", {_json(name)}: {_json(value)}" for name, value in self.parameters.items()
        )
        yield f"]{rest}}}".encode("utf-8", errors="replace")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _grouped(pieces: Iterable[str]) -> Iterator[str]:
    """The same text in fewer and shorter pieces: below two chunks."""
    group: list[str] = []
    chars = 0
    for piece in pieces:
        for at in range(0, len(piece) or 1, _CHUNK_CHARS):
            group.append(piece[at : at + _CHUNK_CHARS])
            chars += len(group[-1])
            if chars >= _CHUNK_CHARS or len(group) >= _CHUNK_PIECES:
                yield "".join(group)
                group, chars = [], 0
    yield "".join(group)
