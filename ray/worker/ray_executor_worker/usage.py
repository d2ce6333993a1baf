"""What model calls used: the tokens that servers count, and the calls themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from typing import Any

# No call takes as many tokens; a server that says so cannot count.
_MOST = 1_000_000_000


@dataclass
class Usage:
    """A sum of counts; the fields and their order are those of the Usage message."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    requests: int = 0

    def add(self, other: Usage) -> None:
        """Adds another sum."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))

    def add_reported(self, reported: Any) -> None:
        """Adds the `usage` of an answer, as far as it has counts."""
        if not isinstance(reported, dict):
            return
        self.prompt_tokens += _count(reported, "prompt_tokens")
        self.completion_tokens += _count(reported, "completion_tokens")
        self.cached_tokens += _detail(reported, "prompt_tokens_details", "cached_tokens")
        self.reasoning_tokens += _detail(reported, "completion_tokens_details", "reasoning_tokens")

    def header(self) -> str:
        """The counts as an end's header has them; the statistics read no more of it."""
        return ",".join(str(count) for count in astuple(self))


def _detail(reported: Mapping[str, Any], group: str, name: str) -> int:
    details = reported.get(group)
    return _count(details, name) if isinstance(details, dict) else 0


def _count(counts: Mapping[str, Any], name: str) -> int:
    count = counts.get(name)
    if isinstance(count, bool) or not isinstance(count, int):
        return 0
    return count if 0 <= count <= _MOST else 0
