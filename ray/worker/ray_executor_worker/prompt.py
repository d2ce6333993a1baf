"""What an agent says to its model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

# The most that the prompt of one agent fills to, and that of all agents of a
# deliberation, in bytes of UTF-8; deliberation/prompt.go has the same.
MAX_PROMPT_BYTES = 1024 * 1024
MAX_PROMPTS_BYTES = 16 * 1024 * 1024

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")

# What agents share comes first, and who of them it is last: servers that cache
# prefixes (vLLM does) compute the task once for all agents of a role.
_SYSTEM = (
    "You are one of several experts who work on the same task independently. "
    "Give your own best proposal, complete and concrete.\n"
    "You are an expert {role}."
)

_DEFAULT = """\
Task:
{task_description}

As an expert {role}, propose a solution. Cover:
1. Analysis: what the task asks for, its constraints and what is unclear.
2. Approach: the solution you choose, and why over the alternatives.
3. Implementation details: the concrete steps, interfaces and data.
4. Risks: what can go wrong, and how to notice and contain it.

You are {agent_id}; the others do not see what you write."""


@dataclass(frozen=True)
class Text:
    """A template and what its placeholders stand for; it is filled when it is read.

    Filling is one pass: a value is text, never a template. A brace that is no
    ``{identifier}`` remains as it is. So does an unknown identifier: submit has
    refused those already.
    """

    template: str
    named: Mapping[str, str]

    def pieces(self) -> Iterator[str]:
        """The filled text, piece by piece: nobody needs to hold the whole."""
        at = 0
        for match in _PLACEHOLDER.finditer(self.template):
            yield self.template[at : match.start()]
            yield self.named.get(match[1], match[0])
            at = match.end()
        yield self.template[at:]

    def size(self) -> int:
        """Bytes of UTF-8 of the filled text, which is not made for it."""
        size = _bytes(self.template)
        for name, times in Counter(_PLACEHOLDER.findall(self.template)).items():
            value = self.named.get(name)
            if value is not None:
                size += times * (_bytes(value) - len(name) - len("{}"))
        return size

    def __str__(self) -> str:
        return "".join(self.pieces())


def values(
    *, task_description: str, role: str, agent_id: str, metadata: Mapping[str, str]
) -> dict[str, str]:
    """What a template may name; metadata cannot replace the built-in names."""
    return {
        **metadata,
        "task_description": task_description,
        "role": role,
        "agent_id": agent_id,
    }


def messages(template: str, named: Mapping[str, str], system: str = "") -> list[tuple[str, Text]]:
    """The chat of one call: who the agent is, by its role, and what it is asked."""
    return [("system", Text(system or _SYSTEM, named)), ("user", Text(template or _DEFAULT, named))]


def size(template: str, named: Mapping[str, str], system: str = "") -> int:
    """Bytes that an agent's messages take out of the request; our own words do not count."""
    role = _bytes(named["role"])
    said = Text(system, named).size() if system else role
    if not template:  # nearly always: the default message names each once
        return said + role + _bytes(named["task_description"]) + _bytes(named["agent_id"])
    return said + Text(template, named).size()


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", errors="replace"))
