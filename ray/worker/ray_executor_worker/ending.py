"""The end of a deliberation, as a worker writes it.

A worker, the keeper and a canceller may write an end at the same time. All of
them expect that no end exists, so the journal stores one. A refusal is a
success here: the deliberation has its end.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, Optional

from .agents import TOO_MUCH, Agents
from .attempt import Attempt
from .claim import Claim
from .endpoint import ErrorType
from .journal import Event, Expectation
from .messages import Result
from .strategies import Assessment, Round, Steps, finish

log = logging.getLogger(f"ray.serve.{__name__}")

_MAX_REASON_CHARS = 1_000
_MAX_AGENT_REASON_CHARS = 200


class Ending:
    """Writes the end of one deliberation."""

    __slots__ = ("_agents", "_attempt", "begun")

    def __init__(self, attempt: Attempt, agents: Agents) -> None:
        self._attempt = attempt
        self._agents = agents
        # An end is being written. An end that is announced from now on may be
        # this one, so it is no reason to cancel.
        self.begun = False

    async def end(self, claim: Claim, round_: Round, rest: Steps) -> None:
        """Ends it with the results there are; safe to repeat."""
        attempt = self._attempt
        # While this worker was paused another one may have taken over, and
        # recorded more results or other ones: the end carries the recorded ones.
        # Model: LookBeforeEnd.
        await self._agents.load_recorded()
        missing = attempt.missing()
        over = not round_.wanted(attempt.turns())
        for index in missing:
            result = attempt.not_needed(index) if over else self._cut_off(index, claim)
            if index in attempt.progress:
                attempt.measure(result, attempt.now() - attempt.begun)
            attempt.answers.add(index, result)
        for index in attempt.answers.too_many():
            attempt.answers.add(index, attempt.failure(index, "too_large", TOO_MUCH))
        if not attempt.answers.long:
            await self._write(claim, missing, rest)
            return
        # One at a time: an end with all long answers is up to 16 MiB.
        async with attempt.context.long_ends:
            await self._agents.inline_long()
            await self._write(claim, missing, rest)

    async def refuse(self, why: str, *, given_up: bool = False) -> None:
        """Ends a deliberation that no worker can read."""
        attempt = self._attempt
        log.error("%s: %s", attempt.id, why)
        failed = attempt.context.schema.failed(attempt.id, "", [], 0.0, why, given_up=given_up)
        await self._append("failed", failed)

    async def _write(self, claim: Claim, missing: list[int], rest: Steps) -> None:
        attempt, schema = self._attempt, self._attempt.context.schema
        verdict = finish(rest, attempt.turns())
        results = [
            _assessed(attempt.answers.results[index], verdict.assessments.get(index))
            for index in range(len(attempt.requested.agents))
        ]
        duration = attempt.now() - attempt.begun
        # At the deadline too: one proposal is enough.
        if any(result.completed for result in results):
            winner = "" if verdict.winner is None else results[verdict.winner].agent_id
            completed = schema.completed(attempt.requested, results, duration, winner)
            await self._append("completed", completed)
            return
        why, given_up = _why(results), False
        if missing:
            why = f"{self._cut_off_reason(claim)}: {why}"
            given_up = claim is Claim.EXHAUSTED
        task_id = attempt.requested.task_id
        failed = schema.failed(attempt.id, task_id, results, duration, why, given_up=given_up)
        await self._append("failed", failed)

    def _cut_off(self, index: int, claim: Claim) -> Result:
        """The result of an agent that had none when the end came."""
        attempt = self._attempt
        error_type: ErrorType = "attempts" if claim is Claim.EXHAUSTED else "timeout"
        error = self._cut_off_reason(claim)
        progress = attempt.progress.get(index)
        if progress is None:
            return attempt.failure(index, error_type, f"{error}, before it was asked")
        if progress.last_error:
            error = f"{error}; the last call but this one failed: {progress.last_error}"
        return attempt.failure(index, error_type, error, attempt.now() - attempt.begun)

    def _cut_off_reason(self, claim: Claim) -> str:
        if claim is Claim.EXHAUSTED:
            attempts, lost = self._attempt.lost
            return f"given up after {attempts} attempts: the worker was lost in {lost} of them"
        return f"timed out after {self._attempt.requested.timeout_seconds} s"

    async def _append(self, how: str, payload: Any) -> None:
        attempt = self._attempt
        self.begun = True
        event = Event(
            subject=attempt.subjects.end(how),
            # The same for each kind of end and each writer: consumers deduplicate by it.
            id=f"{attempt.id}.done",
            deliberation_id=attempt.id,
            payload=payload,
            bulky="results",
            traceparent=attempt.delivery.traceparent,
        )
        # Refused: another writer ended it, or an earlier try of ours was stored
        # and its acknowledgement lost.
        # Model: End.
        stored = await attempt.journal.append(
            event, Expectation(0, attempt.subjects.ends), attempt.until_end()
        )
        trace = attempt.delivery.traceparent.split("-")[1:2] or [""]
        late = "" if stored else ", but it had an end"
        log.debug("%s: %s%s (trace %s)", attempt.id, how, late, trace[0])


def _assessed(result: Result, assessment: Optional[Assessment]) -> Result:
    if assessment is None:
        return result
    return replace(result, score=assessment.score, assessment=assessment)


def _why(results: list[Result]) -> str:
    """Why there is no proposal, in a bounded text."""
    count = len(results)
    text = f"none of {count} agents completed: " if count > 1 else "the agent did not complete: "
    for number, result in enumerate(results):
        error = result.error[:_MAX_AGENT_REASON_CHARS]
        part = f"{result.agent_id}: {error}"
        if len(text) + len(part) > _MAX_REASON_CHARS:
            return f"{text}and {count - number} more"
        text += part if number == count - 1 else part + "; "
    return text
