"""How arguments become messages."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Optional, Union
from uuid import UUID

from . import messages


@dataclass(frozen=True)
class Agent:
    """One model that writes one proposal.

    ``id`` is unique within the request: 1 to 64 characters of ``A-Z a-z 0-9 _ - .``.
    ``role`` and ``model`` replace the request's. ``prompt_template`` is the user
    message, with ``{task_description}``, ``{role}``, ``{agent_id}`` and keys of
    the metadata put in; ``system_prompt`` is the system message, with the same
    placeholders. ``sampling`` is set over the request's, field by field.
    ``fallbacks`` are asked, in order, while the agent's model server is not
    there, or after it has failed. ``weight`` is that of its
    vote; 0 is 1.
    """

    id: str
    role: str = ""
    model: str = ""
    prompt_template: str = ""
    system_prompt: str = ""
    sampling: Optional[messages.Sampling] = None
    fallbacks: Sequence[messages.ModelEndpoint] = ()
    weight: float = 0.0

    def message(self) -> messages.Agent:
        """Returns the agent as a message."""
        return messages.Agent(
            id=self.id,
            role=self.role,
            model=self.model,
            prompt_template=self.prompt_template,
            system_prompt=self.system_prompt,
            sampling=self.sampling,
            fallbacks=self.fallbacks,
            weight=self.weight,
        )


AnyAgent = Union[str, Agent, messages.Agent]


def new_id() -> str:
    """Returns a fresh id that sorts by time: a UUID of version 7 (RFC 9562)."""
    value = time.time_ns() // 1_000_000 << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 7 << 76
    value = value & ~(0b11 << 62) | 0b10 << 62
    return str(UUID(int=value))


def submission(  # noqa: PLR0913 - as many as a request has
    task_description: str,
    *,
    agents: Iterable[AnyAgent],
    task_id: Optional[str],
    role: str,
    deliberation_id: Optional[str],
    pool: str,
    timeout_seconds: Optional[int],
    max_retries: Optional[int],
    metadata: Optional[Mapping[str, str]],
    labels: Optional[Mapping[str, str]],
    story_id: str,
    plan_id: str,
    model: str,
    vllm_url: str,
    sampling: Optional[messages.Sampling],
    response_format: Optional[messages.ResponseFormat],
    strategy: Optional[messages.Strategy],
) -> messages.ExecuteDeliberationRequest:
    """Returns the request; what is not given is not set in it."""
    if isinstance(agents, str):  # an iterable of one-letter agents
        raise TypeError("agents is a list of ids or Agents, not a string")
    chosen = deliberation_id or new_id()
    request = messages.ExecuteDeliberationRequest(
        task_id=chosen if task_id is None else task_id,
        task_description=task_description,
        role=role,
        deliberation_id=chosen,
        pool=pool,
        vllm_model=model,
        vllm_url=vllm_url,
        sampling=sampling,
        response_format=response_format,
        strategy=strategy,
        labels=labels,
        agents=[_agent(agent) for agent in agents],
    )
    constraints = messages.TaskConstraints(
        story_id=story_id,
        plan_id=plan_id,
        timeout_seconds=timeout_seconds,
        max_retries=max_retries,
        metadata=metadata,
    )
    if constraints.ByteSize():
        request.constraints.CopyFrom(constraints)
    return request


def _agent(agent: AnyAgent) -> messages.Agent:
    if isinstance(agent, str):
        return messages.Agent(id=agent)
    return agent.message() if isinstance(agent, Agent) else agent
