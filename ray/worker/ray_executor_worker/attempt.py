"""The state of one attempt, which its claim, its agents and its end share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Optional

from .answers import LONG_AT_ONCE, Answers
from .endpoint import ErrorType
from .journal import Journal
from .messages import Requested, Result, Schema
from .metrics import Metrics
from .model import ModelClient
from .puller import Delivery
from .retry import Progress
from .strategies import Turn
from .subjects import Subjects

# The keeper ends overdue deliberations; the worker tries for this long past the
# deadline, so that the end carries its results.
_GRACE_S = 30.0
# A result repeats names of its request: 256 long ones would repeat a megabyte.
_MAX_NAME_CHARS = 256
_NOT_NEEDED = "not needed: the others had decided before this agent answered"


@dataclass(frozen=True)
class Context:
    """What all deliberations of a replica share."""

    journal: Journal
    schema: Schema
    models: ModelClient
    cluster: str
    replica: str
    metrics: Metrics = field(default_factory=Metrics)
    # Held by a long answer, from its model to the journal, and by an end that
    # reads long answers again.
    long_answers: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LONG_AT_ONCE))
    long_ends: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))


class Attempt:
    """One attempt at one deliberation, as far as this worker has come.

    Nothing here outlives the attempt. The next worker reads the journal instead,
    so whatever must not be lost is recorded there before it counts.
    """

    __slots__ = (  # a replica holds thousands
        "answers",
        "begun",
        "context",
        "deadline",
        "delivery",
        "lost",
        "number",
        "progress",
        "requested",
        "size",
        "subjects",
    )

    def __init__(self, context: Context, delivery: Delivery, size: int) -> None:
        self.context = context
        self.delivery = delivery
        # Bytes of the request.
        self.size = size
        self.subjects = Subjects(delivery.id, delivery.pool)
        self.begun = self.deadline = asyncio.get_running_loop().time()
        # 0 until the journal has this attempt.
        self.number = 0
        # Where the deliberation is given up: its attempts, and those of them
        # whose worker was lost.
        self.lost = (0, 0)
        self.answers = Answers()
        self.progress: dict[int, Progress] = {}
        # Set once the request is read, before the claim.
        self.requested: Requested

    @property
    def id(self) -> str:
        """The deliberation's id."""
        return self.delivery.id

    @property
    def journal(self) -> Journal:
        """The replica's journal."""
        return self.context.journal

    # Time, on the loop's monotonic clock

    @staticmethod
    def now() -> float:
        """The time."""
        return asyncio.get_running_loop().time()

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - self.now()

    def until_end(self) -> float:
        """How long to try to read or write what the end needs.

        It counts from now where the deadline is over: a worker that was paused
        still gets its grace.
        """
        return max(self.deadline, self.now()) + _GRACE_S

    def shortly(self) -> float:
        """How long to try to learn whether it is over."""
        return self.now() + _GRACE_S

    # Results

    def missing(self) -> list[int]:
        """The agents without a result."""
        return [i for i in range(len(self.requested.agents)) if i not in self.answers.results]

    def turns(self) -> dict[int, Turn]:
        """What the strategy sees of the results."""
        return {
            index: Turn(result.completed, result.metadata.get("answer"))
            for index, result in self.answers.results.items()
        }

    def failure(
        self, index: int, error_type: ErrorType, error: str, duration_s: Optional[float] = None
    ) -> Result:
        """The result of an agent that has no proposal."""
        metadata = self.metadata(index, "failed", duration_s)
        metadata.update(error=error, error_type=error_type)
        return self._without_proposal(index, metadata)

    def not_needed(self, index: int) -> Result:
        """The result of an agent whose turn could not change the winner any more.

        It has an error, which says why there is no proposal, and no error type: it did
        not fail.
        """
        metadata = self.metadata(index, "not_needed", None)
        metadata.update(error=_NOT_NEEDED)
        return self._without_proposal(index, metadata)

    def _without_proposal(self, index: int, metadata: dict[str, str]) -> Result:
        progress = self.progress.get(index)
        return Result(
            self.requested.agents[index].id,
            metadata=metadata,
            usage=progress.usage if progress else None,
        )

    def model(self, index: int) -> str:
        """The model that an agent asks first."""
        agent = self.requested.agents[index]
        return (agent.model or self.requested.vllm_model)[:_MAX_NAME_CHARS]

    def measure(self, result: Result, duration_s: float) -> None:
        """Measures what an agent took."""
        outcome = result.metadata.get("error_type") or result.metadata.get("status", "internal")
        self.context.metrics.agent(result.metadata.get("model", ""), outcome, duration_s)

    def metadata(self, index: int, status: str, duration_s: Optional[float]) -> dict[str, str]:
        """What each result carries, whether there is a proposal or not."""
        agent = self.requested.agents[index]
        progress = self.progress.get(index)
        metadata = {
            "status": status,
            "model": self.model(index),
            "role": (agent.role or self.requested.role)[:_MAX_NAME_CHARS],
            "attempts": str(progress.attempts if progress else 0),
        }
        if duration_s is not None:
            metadata["duration_ms"] = str(round(duration_s * 1000))
        return metadata
