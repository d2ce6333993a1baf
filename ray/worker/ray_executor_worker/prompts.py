"""The prompts of one deliberation: who is asked what, and what is too large.

Submit has refused what is too large. This is the second lock, for what the door
of an older version has let in: such an agent fails for good.
"""

from __future__ import annotations

import asyncio
from functools import partial

from . import prompt
from .answers import Room
from .chat import Chat
from .endpoint import CallError
from .messages import Requested
from .model import Question

# Above this a prompt is made while it is sent.
_LARGE_BYTES = 16 * 1024
# Each agent proposes once.
_ROUND = 1


class Prompts:
    """What each agent is asked; nothing is filled before a call takes it."""

    __slots__ = ("_large", "_requested", "_unfit")  # thousands are held at once

    def __init__(self, requested: Requested) -> None:
        self._requested = requested
        self._large: set[int] = set()
        # Agents whose prompts are too large, and what is said of them.
        self._unfit: dict[int, str] = {}

    async def measure(self) -> None:
        """Computes all sizes, before the first question."""
        total = 0
        for index, agent in enumerate(self._requested.agents):
            size = prompt.size(agent.prompt_template, self._named(index), agent.system_prompt)
            if size > prompt.MAX_PROMPT_BYTES:
                self._unfit[index] = _too_large("the prompt fills", size, prompt.MAX_PROMPT_BYTES)
            elif total + size > prompt.MAX_PROMPTS_BYTES:
                self._unfit[index] = _too_large(
                    "the prompts up to this agent's fill", total + size, prompt.MAX_PROMPTS_BYTES
                )
            else:
                total += size
            if size > _LARGE_BYTES:
                self._large.add(index)
                await asyncio.sleep(0)  # others want the event loop, too

    def question(self, index: int, deadline: float, room: Room, traceparent: str) -> Question:
        """What an agent asks; raises CallError where it cannot be asked."""
        requested, agent = self._requested, self._requested.agents[index]
        own = (requested.vllm_url, agent.model or requested.vllm_model)
        if not own[1]:
            raise CallError("invalid_request", "no model: neither agent, request nor VLLM_MODEL")
        if index in self._unfit:
            raise CallError("too_large", self._unfit[index])
        return Question(
            servers=[own, *((url or own[0], model or own[1]) for url, model in agent.fallbacks)],
            chat=partial(self._chat, index),
            large=index in self._large,
            max_retries=requested.max_retries,
            deadline=deadline,
            room=room,
            form=requested.response_format,
            request_id=f"{requested.deliberation_id}.{_ROUND}.{agent.id}",
            traceparent=traceparent,
        )

    def _chat(self, index: int, model: str) -> Chat:
        agent, form = self._requested.agents[index], self._requested.response_format
        asked = form.parameters() if form is not None else {}
        return Chat(
            model,
            prompt.messages(agent.prompt_template, self._named(index), agent.system_prompt),
            {**self._requested.sampling, **agent.sampling, **asked},
        )

    def _named(self, index: int) -> dict[str, str]:
        requested, agent = self._requested, self._requested.agents[index]
        return prompt.values(
            task_description=requested.task_description,
            role=agent.role or requested.role,
            agent_id=agent.id,
            metadata=requested.metadata,
        )


def _too_large(what: str, size: int, most: int) -> str:
    return f"{what} to {size} bytes; at most {most} are taken"
