"""One deliberation, from the claim to its end.

Nothing here is remembered beyond this attempt: whoever takes the deliberation
over reads the journal and goes on from there.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

from .answers import LONG_AT_ONCE, MAX_BYTES, Answers, Room
from .endpoint import CallError
from .journal import (
    AbandonedError,
    Event,
    Expectation,
    Journal,
    Subjects,
    stopped_subject,
)
from .messages import (
    AGENT,
    REQUESTED,
    STARTED,
    Requested,
    Result,
    Schema,
    Started,
    UnreadableError,
    read_requested,
    read_result,
    read_started,
)
from .model import ModelClient
from .prompts import Prompts
from .puller import Delivery
from .retry import Progress
from .slots import MOST_AGENTS, weight

log = logging.getLogger(f"ray.serve.{__name__}")

# After so many starts whose worker was lost the deliberation is taken to be
# what brings workers down.
MAX_ATTEMPTS = 5
# Handed out so often without a single start, it does so before it is read:
# drains and absences of NATS explain a few deliveries, not so many.
MAX_DELIVERIES = 50
# The keeper ends what is overdue; so long past the deadline we still try.
_GRACE_S = 30.0
_MAX_REASON_CHARS = 1_000
_MAX_AGENT_REASON_CHARS = 200
# What a result repeats of its request: 256 of them would repeat a megabyte.
_MAX_NAME_CHARS = 256
_TOO_MUCH = f"the answers of all agents exceed {MAX_BYTES} bytes"


class Settlement(enum.Enum):
    """What becomes of the work item."""

    # It has its end: acknowledged, it never comes again.
    ENDED = "ended"
    # Not ours to say: it comes again, to us or to someone else.
    LEFT = "left"


class Claim(enum.Enum):
    """How the attempt to start came out."""

    STARTED = "started"
    ENDED = "ended"
    EXHAUSTED = "exhausted"
    OVERDUE = "overdue"
    # Another worker holds it, and has started it just now.
    TAKEN = "taken"


@dataclass(frozen=True)
class Context:
    """What all deliberations of a replica share."""

    journal: Journal
    schema: Schema
    models: ModelClient
    cluster: str
    replica: str
    # Held by a long answer, from its model to the journal, and by an end that
    # reads long answers again.
    long_answers: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LONG_AT_ONCE))
    long_ends: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))


class Deliberation:
    """One attempt at one deliberation."""

    __slots__ = (  # thousands are held at once
        "_answers",
        "_asked",
        "_begun",
        "_context",
        "_data",
        "_deadline",
        "_delivery",
        "_exhausted",
        "_journal",
        "_over",
        "_progress",
        "_prompts",
        "_requested",
        "_shrink",
        "_size",
        "_subjects",
        "attempt",
        "ending",
    )

    def __init__(
        self, context: Context, delivery: Delivery, data: bytes, shrink: Callable[[int], None]
    ) -> None:
        self._context = context
        # Told how many slots are enough, as agents end.
        self._shrink = shrink
        # The request's, in bytes.
        self._size = len(data)
        self._journal = context.journal
        self._delivery = delivery
        self._data = data
        self._subjects = Subjects(delivery.id, delivery.pool)
        self._begun = asyncio.get_running_loop().time()
        self._deadline = self._begun
        # 0 until this attempt has been published.
        self.attempt = 0
        # Its end is being written: whether it becomes ours will show.
        self.ending = False
        # How many attempts there were, and how many of them were lost, where
        # that makes it EXHAUSTED.
        self._exhausted = (0, 0)
        self._answers = Answers()
        self._progress: dict[int, Progress] = {}
        # Set by _read; every later step has it.
        self._requested: Requested
        self._prompts: Prompts
        # While agents are asked: how many still are, and what is set once none
        # is or the deadline has come.
        self._asked = 0
        self._over: asyncio.Future[None]

    async def run(self) -> Settlement:
        """Sees it through. Cancelling stops everything and writes nothing."""
        try:
            if await self._never_starts():
                return await self._refuse(
                    f"given up after {self._delivery.delivered - 1} deliveries: "
                    "each worker died before it could start it",
                    given_up=True,
                )
            try:
                self._requested = await self._read()
            except UnreadableError as error:
                return await self._refuse(f"the journal's request is unreadable: {error}")
            claim = await self._claim()
            if claim is Claim.ENDED:
                return Settlement.ENDED
            if claim is Claim.TAKEN:
                return Settlement.LEFT
            if self._delivery.delivered > 1 or self.attempt != 1:
                # Not before the claim: an earlier worker that is still there
                # may record an agent until it stands.
                # Model: Recall.
                await self._recall()
            if claim is Claim.STARTED:
                await self._ask_missing()
            await self._end(claim)
        except AbandonedError as error:
            log.warning("%s: left to the keeper: %s", self._delivery.id, error)
            return Settlement.LEFT
        return Settlement.ENDED

    async def ended(self) -> bool:
        """Whether the leader knows an end of it."""
        until = self._now() + _GRACE_S
        return await self._journal.last(self._subjects.ends, until) is not None

    async def superseded(self) -> bool:
        """Whether another worker has started it since this one did."""
        if not self.attempt:
            return False
        last = await self._last_start(self._now() + _GRACE_S)
        return last is not None and last[0].attempt > self.attempt

    # The request

    async def _read(self) -> Requested:
        # Not kept: thousands of deliberations wait here for their models.
        data, self._data = self._data, b""
        message = self._context.schema.parse(REQUESTED, data)
        self._deadline = (
            self._journal.clock.monotonic_of(self._delivery.accepted_at) + message.timeout_seconds
        )
        if message.request_ref:
            whole = await self._journal.fetch(message.request_ref, self._until_end())
            self._size = len(whole)
            message.request.CopyFrom(self._context.schema.parse(REQUESTED, whole).request)
        requested = read_requested(message)
        if requested.deliberation_id != self._delivery.id or not requested.agents:
            raise UnreadableError("the request names another deliberation, or no agents")
        return requested

    async def _never_starts(self) -> bool:
        """Whether reading it is what brings workers down."""
        return (
            self._delivery.delivered > MAX_DELIVERIES
            and await self._last_start(self._until_end()) is None
        )

    async def _refuse(self, why: str, *, given_up: bool = False) -> Settlement:
        """Ends what no worker will ever be able to read."""
        log.error("%s: %s", self._delivery.id, why)
        failed = self._context.schema.failed(self._delivery.id, "", [], 0.0, why, given_up=given_up)
        await self._append_end("failed", failed)
        return Settlement.ENDED

    # The claim

    async def _claim(self) -> Claim:
        """Writes the next attempt, unless there is an end or no point in one."""
        if self._delivery.delivered > 1 or self._left() <= 0:
            return await self._claim_again(ours=0)
        # Nobody can have started it before, and one expectation over
        # everything about it also proves that it has not ended.
        expected = Expectation(self._delivery.sequence, self._subjects.all)
        # Model: StartFirst.
        if await self._start(1, None, expected):
            return Claim.STARTED
        return await self._claim_again(ours=1)

    async def _claim_again(self, ours: int) -> Claim:
        """Claims what may have been started or ended before.

        `ours` is the attempt that this worker has tried to write: it may stand
        although the journal's answer was lost.
        """
        # Model: LookForEnd.
        if await self._journal.last(self._subjects.ends, self._until_end()) is not None:
            return Claim.ENDED
        # Model: LookForStart.
        last = await self._last_start(self._until_end())
        if self._left() <= 0:
            return Claim.OVERDUE
        if last is None:
            attempt, first_ns, expected = 1, None, Expectation(0)
        else:
            started, sequence = last
            if self._is_ours(started, ours):
                self.attempt = started.attempt
                return Claim.STARTED
            attempt, first_ns = started.attempt + 1, started.first_started_ns
            expected = Expectation(sequence)
        if last is not None and attempt > MAX_ATTEMPTS:
            lost = await self._lost(last[1])
            if lost >= MAX_ATTEMPTS:
                self._exhausted = (attempt - 1, lost)
                return Claim.EXHAUSTED
        # Model: StartAgain.
        if await self._start(attempt, first_ns, expected):
            return Claim.STARTED
        # Model: LookWhoStarted.
        last = await self._last_start(self._until_end())
        if last is not None and self._is_ours(last[0], attempt):
            self.attempt = attempt
            return Claim.STARTED
        return Claim.TAKEN

    def _is_ours(self, started: Started, attempt: int) -> bool:
        return started.attempt == attempt and started.replica == self._context.replica

    async def _start(self, attempt: int, first_ns: Optional[int], expected: Expectation) -> bool:
        event = Event(
            subject=self._subjects.started,
            id=f"{self._delivery.id}.started.{attempt}",
            deliberation_id=self._delivery.id,
            payload=self._context.schema.started(
                self._requested,
                attempt=attempt,
                first_started_ns=first_ns,
                cluster=self._context.cluster,
                replica=self._context.replica,
            ),
            traceparent=self._delivery.traceparent,
        )
        if not await self._journal.append(event, expected, self._deadline):
            return False
        self.attempt = attempt
        log.debug("%s: attempt %d started", self._delivery.id, attempt)
        return True

    async def _last_start(self, until: float) -> Optional[tuple[Started, int]]:
        record = await self._journal.last(self._subjects.started, until)
        if record is None:
            return None
        message = self._context.schema.parse(STARTED, record.data)
        return read_started(message, record.recorded_ns), record.sequence

    async def _lost(self, last: int) -> int:
        """How many attempts were lost, rather than handed back by a worker that stopped."""
        lost = 0
        for record in await self._journal.each(self._subjects.started, last, self._until_end()):
            started = self._context.schema.parse(STARTED, record.data)
            stopped = stopped_subject(started.replica)
            if await self._journal.last(stopped, self._until_end()) is None:
                lost += 1
        return lost

    async def _recall(self) -> None:
        """Reads what agents came to in other attempts: they are not asked again."""
        unsure = [i for i in range(len(self._requested.agents)) if i not in self._answers.recorded]
        if not unsure:
            return
        if await self._journal.last(self._subjects.agents, self._until_end()) is None:
            return
        await asyncio.gather(*(self._recall_agent(i) for i in unsure))

    async def _recall_agent(self, index: int) -> None:
        until = self._until_end()
        record = await self._journal.last(self._subjects.agent(index), until)
        if record is None:
            return
        # It counts as recorded even where it is unreadable: it can be written only once.
        try:
            message: Any = self._context.schema.parse(AGENT, record.data)
            if message.result_ref:
                async with self._context.long_answers:
                    self._answers.add(index, await self._fetch_result(message.result_ref))
                    self._answers.note_recorded(index)
                return
            self._answers.add(index, read_result(message))
        except UnreadableError as error:
            self._answers.add(index, self._unreadable(index, error))
        self._answers.note_recorded(index)

    async def _fetch_result(self, name: str) -> Result:
        whole = await self._journal.fetch(name, self._until_end())
        return read_result(self._context.schema.parse(AGENT, whole))

    def _unreadable(self, index: int, error: UnreadableError) -> Result:
        log.error("%s: agent %d: unreadable: %s", self._delivery.id, index, error)
        return self._failure(index, "unreadable", str(error))

    # The agents

    async def _ask_missing(self) -> None:
        """Asks all agents that have no result, until the deadline."""
        self._prompts = Prompts(self._requested)
        await self._prompts.measure()
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(self._ask(index)) for index in self._missing()]
        if not tasks:
            return
        # What asyncio.wait does with a timeout, in a kilobyte less: thousands wait here.
        self._asked, self._over = len(tasks), loop.create_future()
        self._shrink(weight(self._asked, self._size))
        for task in tasks:
            task.add_done_callback(self._answered)
        timer = loop.call_at(self._deadline, self._no_more)
        try:
            await self._over
        finally:
            timer.cancel()
            await cancel(tasks)

    def _answered(self, _task: asyncio.Task[None]) -> None:
        self._asked -= 1
        self._shrink(weight(self._asked, self._size + self._answers.held))
        if not self._asked:
            self._no_more()

    def _no_more(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    async def _ask(self, index: int) -> None:
        room = Room(self._context.long_answers)
        try:
            try:
                # Model: Ask.
                result = await self._propose(index, room)
            except Exception as error:  # one agent's trouble is not the others'
                log.exception("%s: agent %d", self._delivery.id, index)
                result = self._failure(index, "internal", type(error).__name__)
            # Held before it is recorded: the end tells it even if the deadline
            # comes while the journal cannot be reached.
            self._answers.add(index, result)
            recorded = await self._record(index, result)
        finally:
            room.release()
        if recorded:
            self._answers.note_recorded(index)
        elif recorded is False:
            await self._recall_agent(index)

    async def _record(self, index: int, result: Result) -> Optional[bool]:
        """Whether the result was written, or another stands; None where that is unknown."""
        event = Event(
            subject=self._subjects.agent(index),
            id=f"{self._delivery.id}.agent.{index}",
            deliberation_id=self._delivery.id,
            payload=self._context.schema.agent(self._requested, index, result),
            bulky="result",
            traceparent=self._delivery.traceparent,
        )
        try:
            # Model: Record.
            return await self._journal.append(event, Expectation(0), self._deadline)
        except AbandonedError as error:
            log.warning("%s: agent %d not recorded: %s", self._delivery.id, index, error)
            return None

    async def _propose(self, index: int, room: Room) -> Result:
        progress = self._progress[index] = Progress()
        begun = self._now()
        try:
            answer = await self._context.models.ask(
                self._prompts.question(index, self._deadline, room), progress
            )
        except CallError as error:
            return self._failure(index, error.error_type, error.text, self._now() - begun)
        metadata = self._metadata(index, "completed", self._now() - begun)
        metadata.update(answer.metadata)
        agent_id = self._requested.agents[index].id
        result = Result(agent_id, answer.content, answer.reasoning, metadata=metadata)
        if not self._answers.fits(result):
            return self._failure(index, "too_large", _TOO_MUCH, self._now() - begun)
        return result

    def _failure(
        self, index: int, error_type: str, error: str, duration_s: Optional[float] = None
    ) -> Result:
        metadata = self._metadata(index, "failed", duration_s)
        metadata.update(error=error, error_type=error_type)
        return Result(self._requested.agents[index].id, metadata=metadata)

    def _metadata(self, index: int, status: str, duration_s: Optional[float]) -> dict[str, str]:
        agent = self._requested.agents[index]
        progress = self._progress.get(index)
        metadata = {
            "status": status,
            "model": (agent.model or self._requested.vllm_model)[:_MAX_NAME_CHARS],
            "role": (agent.role or self._requested.role)[:_MAX_NAME_CHARS],
            "attempts": str(progress.attempts if progress else 0),
        }
        if duration_s is not None:
            metadata["duration_ms"] = str(round(duration_s * 1000))
        return metadata

    def _missing(self) -> list[int]:
        return [i for i in range(len(self._requested.agents)) if i not in self._answers.results]

    # The end

    async def _end(self, claim: Claim) -> None:
        # A worker that took over, while this one was paused, may have recorded
        # more, or other answers: the end tells what is recorded.
        # Model: LookBeforeEnd.
        await self._recall()
        missing = self._missing()
        for index in missing:
            self._answers.add(index, self._cut_off(index, claim))
        for index in self._answers.too_many():
            self._answers.add(index, self._failure(index, "too_large", _TOO_MUCH))
        if not self._answers.long:
            await self._tell(claim, missing)
            return
        async with self._context.long_ends:
            await self._restore()
            await self._tell(claim, missing)

    async def _restore(self) -> None:
        """Reads long answers again, for an end to tell them."""
        for index in self._answers.long:
            until = self._until_end()
            record = await self._journal.last(self._subjects.agent(index), until)
            try:
                if record is None:
                    raise UnreadableError("its record is gone")  # noqa: TRY301
                message: Any = self._context.schema.parse(AGENT, record.data)
                ref = message.result_ref
                result = await self._fetch_result(ref) if ref else read_result(message)
            except UnreadableError as error:
                result = self._unreadable(index, error)
            self._answers.add(index, result)

    async def _tell(self, claim: Claim, missing: list[int]) -> None:
        results = [self._answers.results[i] for i in range(len(self._requested.agents))]
        duration = self._now() - self._begun
        schema = self._context.schema
        if any(result.completed for result in results):
            await self._append_end(
                "completed", schema.completed(self._requested, results, duration)
            )
            return
        why, given_up = _why(results), False
        if missing:
            why = f"{self._cut_off_reason(claim)}: {why}"
            given_up = claim is Claim.EXHAUSTED
        task_id = self._requested.task_id
        failed = schema.failed(
            self._delivery.id, task_id, results, duration, why, given_up=given_up
        )
        await self._append_end("failed", failed)

    def _cut_off(self, index: int, claim: Claim) -> Result:
        """The result of an agent that had none when the end came."""
        error_type = "attempts" if claim is Claim.EXHAUSTED else "timeout"
        error = self._cut_off_reason(claim)
        progress = self._progress.get(index)
        if progress is None:
            return self._failure(index, error_type, f"{error}, before it was asked")
        if progress.last_error:
            error = f"{error}; the last call but this one failed: {progress.last_error}"
        return self._failure(index, error_type, error, self._now() - self._begun)

    def _cut_off_reason(self, claim: Claim) -> str:
        if claim is Claim.EXHAUSTED:
            attempts, lost = self._exhausted
            return f"given up after {attempts} attempts: the worker was lost in {lost} of them"
        return f"timed out after {self._requested.timeout_seconds} s"

    async def _append_end(self, how: str, payload: Any) -> None:
        self.ending = True
        event = Event(
            subject=self._subjects.end(how),
            id=f"{self._delivery.id}.done",
            deliberation_id=self._delivery.id,
            payload=payload,
            bulky="results",
            traceparent=self._delivery.traceparent,
        )
        # Refused: someone else ended it, or an earlier try of ours did.
        # Model: End.
        taken = await self._journal.append(
            event, Expectation(0, self._subjects.ends), self._until_end()
        )
        log.debug("%s: %s%s", self._delivery.id, how, "" if taken else ", but another end stands")

    # Time

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _left(self) -> float:
        return self._deadline - self._now()

    def _until_end(self) -> float:
        return max(self._deadline, self._now()) + _GRACE_S


def weigh(schema: Schema, delivery: Delivery, data: bytes) -> int:
    """The slots that a deliberation takes, before anything of it is known."""
    if delivery.delivered > MAX_DELIVERIES:
        return 1  # reading it may be what brings workers down
    try:
        message = schema.parse(REQUESTED, data)
    except UnreadableError:
        return 1
    if message.request_ref:
        return MOST_AGENTS
    return weight(len(message.request.agents), len(data))


async def cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancels the tasks and waits for them.

    Before Python 3.12 asyncio.wait_for swallows a cancellation that meets the
    result: hence again, until they have ended.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=1)


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
