"""The agents of one attempt: who is asked, and what is recorded of the answers.

The result of an agent is an event that can be written only once. What another
attempt has recorded is loaded and not asked again; what this one cannot record
because another result exists gives way to that result.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Optional

from .answers import MAX_BYTES, Room
from .attempt import Attempt
from .endpoint import CallError
from .format_child import brief
from .journal import AbandonedError, Event, Expectation, Record
from .messages import AGENT, Result, UnreadableError, read_result
from .prompts import Prompts
from .response_format import ResponseFormat
from .retry import Progress
from .slots import Seat, weight
from .strategies import Round, Turn, Vote
from .tasks import cancel

log = logging.getLogger(f"ray.serve.{__name__}")

TOO_MUCH = f"the answers of all agents exceed {MAX_BYTES} bytes"


class Agents:
    """Asks the agents, and records and reads their results."""

    __slots__ = (
        "_asked",
        "_attempt",
        "_away",
        "_journal",
        "_over",
        "_prompts",
        "_round",
        "_seat",
        "_tasks",
    )

    def __init__(self, attempt: Attempt, seat: Seat) -> None:
        self._attempt = attempt
        self._journal = attempt.journal
        self._seat = seat
        self._prompts: Prompts
        self._round: Round
        # The agents that were asked, how many of them have not answered, and what is
        # set once the round is over or the deadline has come.
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._asked = 0
        # Those that wait for model servers.
        self._away: set[int] = set()
        self._over: asyncio.Future[None]

    # Recorded results

    async def load_recorded(self) -> None:
        """Loads the results that any attempt has recorded.

        Before the first call they need not be asked again; before the end they
        replace what this worker holds and could not record. Safe to repeat.
        """
        attempt = self._attempt
        unsure = [i for i in range(len(attempt.requested.agents)) if self._is_unsure(i)]
        if not unsure:
            return
        # One read for the common case: no agent has a record.
        if await self._journal.last(attempt.subjects.agents, attempt.until_end()) is None:
            return
        await asyncio.gather(*(self._load(i) for i in unsure))

    def _is_unsure(self, index: int) -> bool:
        return index not in self._attempt.answers.recorded

    async def _load(self, index: int) -> None:
        attempt = self._attempt
        record = await self._journal.last(attempt.subjects.agent(index), attempt.until_end())
        if record is None:
            return
        # It counts as recorded even where it is unreadable: nobody can write
        # another one.
        try:
            message: Any = attempt.context.schema.parse(AGENT, record.data)
            if message.result_ref:
                async with attempt.context.long_answers:
                    attempt.answers.add(index, await self._fetch(message.result_ref))
                    attempt.answers.note_recorded(index)
                return
            attempt.answers.add(index, read_result(message))
        except UnreadableError as error:
            attempt.answers.add(index, self._unreadable(index, error))
        attempt.answers.note_recorded(index)

    async def inline_long(self) -> None:
        """Reads long answers again, so that an end carries them."""
        attempt = self._attempt
        for index in attempt.answers.long:
            record = await self._journal.last(attempt.subjects.agent(index), attempt.until_end())
            try:
                result = await self._whole(record)
            except UnreadableError as error:
                result = self._unreadable(index, error)
            attempt.answers.add(index, result)

    async def _whole(self, record: Optional[Record]) -> Result:
        if record is None:
            raise UnreadableError("its record is gone")
        message: Any = self._attempt.context.schema.parse(AGENT, record.data)
        return await self._fetch(message.result_ref) if message.result_ref else read_result(message)

    async def _fetch(self, name: str) -> Result:
        whole = await self._journal.fetch(name, self._attempt.until_end())
        return read_result(self._attempt.context.schema.parse(AGENT, whole))

    def _unreadable(self, index: int, error: UnreadableError) -> Result:
        log.error("%s: agent %d: unreadable: %s", self._attempt.id, index, error)
        return self._attempt.failure(index, "internal", str(error))

    # Calls

    async def ask_missing(self, round_: Round) -> None:
        """Asks the agents that the round wants, until it wants none or the deadline.

        Cancelling it cancels the calls, which closes their connections: a model
        server stops generating then.
        """
        attempt = self._attempt
        self._prompts = Prompts(attempt.requested)
        await self._prompts.measure()
        loop = asyncio.get_running_loop()
        self._round, self._over = round_, loop.create_future()
        self._ask_wanted()
        # What asyncio.wait does with a timeout, in a kilobyte less: thousands wait here.
        timer = loop.call_at(attempt.deadline, self._no_more)
        try:
            await self._over
        finally:
            timer.cancel()
            await cancel(self._tasks.values())

    def _ask_wanted(self) -> None:
        """Asks whom the round wants now; a round that wants nobody is over."""
        turns = self._attempt.turns()
        wanted = self._round.wanted(turns)
        # Whoever waits for a model server may never answer: others are asked meanwhile.
        away = {index: Turn(completed=False) for index in self._away}
        for index in self._round.wanted({**away, **turns}) if wanted and away else wanted:
            if index not in self._tasks:
                task = self._tasks[index] = asyncio.get_running_loop().create_task(self._ask(index))
                self._asked += 1
                task.add_done_callback(self._answered)
        # A round that ends early may want those later that it has not asked yet.
        may = len(self._attempt.missing()) if self._round.early else self._asked
        self._seat.shrink(weight(may, self._attempt.size + self._attempt.answers.held), self._asked)
        if not wanted or not self._asked:
            self._no_more()

    def _answered(self, _task: asyncio.Task[None]) -> None:
        self._asked -= 1
        if self._over.done():
            return
        if self._round.early or not self._asked:
            self._ask_wanted()
        else:
            held = self._attempt.size + self._attempt.answers.held
            self._seat.shrink(weight(self._asked, held), self._asked)

    def _no_more(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    async def _ask(self, index: int) -> None:
        attempt = self._attempt
        room = Room(attempt.context.long_answers)
        begun = attempt.now()
        try:
            try:
                # Model: Ask.
                result = await self._propose(index, room)
            except Exception as error:  # one agent's failure does not fail the others
                log.exception("%s: agent %d", attempt.id, index)
                result = attempt.failure(index, "internal", type(error).__name__)
            attempt.measure(result, attempt.now() - begun)
            # Held before it is recorded: the end carries it even if the deadline
            # comes while the journal cannot be reached.
            attempt.answers.add(index, result)
            recorded = await self._record(index, result)
        finally:
            room.release()
        if recorded:
            attempt.answers.note_recorded(index)
        elif recorded is False:
            # Another attempt has recorded this agent: its result counts.
            await self._load(index)

    async def _record(self, index: int, result: Result) -> Optional[bool]:
        """Records a result: False where another one exists, None where that is unknown.

        A None is no loss: the end reads the records again before it is written.
        """
        attempt = self._attempt
        event = Event(
            subject=attempt.subjects.agent(index),
            id=f"{attempt.id}.agent.{index}",
            deliberation_id=attempt.id,
            payload=attempt.context.schema.agent(attempt.requested, index, result),
            bulky="result",
            traceparent=attempt.delivery.traceparent,
        )
        try:
            # Model: Record.
            return await self._journal.append(event, Expectation(0), attempt.deadline)
        except AbandonedError as error:
            log.warning("%s: agent %d not recorded: %s", attempt.id, index, error)
            return None

    async def _propose(self, index: int, room: Room) -> Result:
        attempt = self._attempt
        progress = attempt.progress[index] = Progress(
            retried=partial(attempt.context.metrics.retried, attempt.model(index))
        )
        begun = attempt.now()
        try:
            answer = await attempt.context.models.ask(
                self._prompts.question(index, attempt.deadline, room, attempt.delivery.traceparent),
                progress,
                partial(self._idle, index),
            )
        except CallError as error:
            return attempt.failure(index, error.error_type, error.text, attempt.now() - begun)
        metadata = attempt.metadata(index, "completed", attempt.now() - begun)
        metadata.update(answer.metadata)
        metadata.update(await self._voted(answer.content))
        agent_id = attempt.requested.agents[index].id
        result = Result(
            agent_id, answer.content, answer.reasoning, metadata=metadata, usage=progress.usage
        )
        if not attempt.answers.fits(result):
            return attempt.failure(index, "too_large", TOO_MUCH, attempt.now() - begun)
        return result

    @contextlib.asynccontextmanager
    async def _idle(self, index: int) -> AsyncIterator[None]:
        """While an agent waits for a model server."""
        self._away.add(index)
        try:
            if self._round.early and not self._over.done():
                self._ask_wanted()
            async with self._seat.idle():
                yield
        finally:
            self._away.discard(index)

    async def _voted(self, proposal: str) -> dict[str, str]:
        """What a proposal votes for, or why for nothing; empty without a vote.

        It is recorded with the proposal, so that the keeper and other workers count
        what this one has found.
        """
        vote = self._attempt.requested.strategy
        if not isinstance(vote, Vote):
            return {}
        if vote.json_pointer is not None:
            form = ResponseFormat("answer_pointer", vote.json_pointer)
        elif vote.regex is not None:
            form = ResponseFormat("answer_regex", vote.regex)
        else:
            return {"answer": brief(proposal)}
        answer, why = await self._attempt.context.models.answer_in(proposal, form)
        return {"answer": answer} if answer else {"no_answer": why}
