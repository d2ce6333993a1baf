"""What an agent says to its model."""

from __future__ import annotations

import re
from collections.abc import Mapping

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")

# What agents share stands first, and who of them it is last: servers that cache
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


def fill(template: str, values: Mapping[str, str]) -> str:
    """Puts the values in, in one pass: a value is text, never a template.

    A brace that is no ``{identifier}`` stands for itself. So does an unknown
    identifier: submit has refused those already.
    """
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), template)


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


def messages(template: str, named: Mapping[str, str]) -> list[dict[str, str]]:
    """The chat of one call: who the agent is, by its role, and what it is asked."""
    return [
        {"role": "system", "content": fill(_SYSTEM, named)},
        {"role": "user", "content": fill(template or _DEFAULT, named)},
    ]
