"""Strategies: how a deliberation comes from the agents' turns to its winner.

A strategy is a synchronous generator without effects. It yields a round, receives
the turns that count, and returns a verdict. The driver answers a round from the
journal first and asks what is missing. So a worker that takes over runs the
generator again and comes to the same winner.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Optional, Protocol, Union

# The features of this worker, in its heartbeats: 1 has `vote`. Submit refuses what
# a pool's workers do not support.
LEVEL = 1


@dataclass(frozen=True)
class Independent:
    """Each agent proposes once; nobody chooses."""


@dataclass(frozen=True)
class Vote:
    """The answer with the most weight wins."""

    # What the answer in a proposal is; neither: its trimmed text.
    json_pointer: Optional[str] = None
    regex: Optional[str] = None
    stop_at_majority: bool = False


Strategy = Union[Independent, Vote]


@dataclass(frozen=True)
class Turn:
    """What a strategy sees of an agent's result."""

    completed: bool
    # What the proposal votes for; None if there is no answer in it.
    answer: Optional[str] = None


Turns = Mapping[int, Turn]


@dataclass(frozen=True)
class Round:
    """One turn of each of some agents, by their places in the request."""

    number: int
    kind: str
    # The places that the round still needs, given the turns so far. It is over once
    # it needs none.
    wanted: Callable[[Turns], Sequence[int]]
    # Whether a turn can make others unnecessary, or necessary.
    early: bool = False


@dataclass(frozen=True)
class Assessment:
    """What the strategy made of one proposal."""

    # 1 is the winner's.
    rank: int
    votes: float
    # 0 to 1.
    score: float


@dataclass(frozen=True)
class Verdict:
    """The winner's place, and an assessment for each proposal that was compared."""

    winner: Optional[int]
    assessments: Mapping[int, Assessment]


Steps = Generator[Round, Turns, Verdict]


class UnknownStrategyError(ValueError):
    """The request's strategy is one of a newer version."""


class _Weighted(Protocol):
    @property
    def weight(self) -> float: ...


def read_strategy(request: Any) -> Strategy:
    """The plain form of a request's strategy; raises UnknownStrategyError."""
    if not request.HasField("strategy"):
        return Independent()
    kind = request.strategy.WhichOneof("kind")
    if kind == "independent":
        return Independent()
    if kind != "vote":
        raise UnknownStrategyError("this worker does not have the request's strategy")
    vote = request.strategy.vote
    how = vote.WhichOneof("answer")
    return Vote(
        json_pointer=vote.json_pointer if how == "json_pointer" else None,
        regex=vote.regex if how == "regex" else None,
        stop_at_majority=vote.stop_at_majority,
    )


def steps(strategy: Strategy, agents: Sequence[_Weighted]) -> Steps:
    """The strategy's rounds, from the first one."""
    if isinstance(strategy, Vote):
        return vote([agent.weight for agent in agents], stop=strategy.stop_at_majority)
    return independent(len(agents))


def finish(rest: Steps, turns: Turns) -> Verdict:
    """The verdict after the last round."""
    try:
        rest.send(turns)
    except StopIteration as done:
        verdict: Verdict = done.value
        return verdict
    raise RuntimeError("the strategy has another round")


def independent(agents: int) -> Steps:
    """Every agent proposes; there is no winner."""
    yield Round(1, "propose", _everyone(agents))
    return Verdict(None, {})


def vote(weights: Sequence[float], *, stop: bool) -> Steps:
    """Every agent proposes, or as many as decide; the answers are counted."""
    wanted = _undecided(weights) if stop else _everyone(len(weights))
    turns = yield Round(1, "propose", wanted, early=stop)
    return tally(weights, turns)


def _everyone(agents: int) -> Callable[[Turns], Sequence[int]]:
    return lambda turns: [place for place in range(agents) if place not in turns]


def _undecided(weights: Sequence[float]) -> Callable[[Turns], Sequence[int]]:
    """The next agents that together could give the leading answer a majority."""

    def wanted(turns: Turns) -> Sequence[int]:
        voters = [p for p in range(len(weights)) if p not in turns or _votes(turns[p])]
        total = sum(weights[place] for place in voters)
        most = max(_counts(weights, turns).values(), default=0.0)
        places: list[int] = []
        for place in voters:
            if most * 2 > total:
                break
            if place not in turns:
                places.append(place)
                most += weights[place]
        return places

    return wanted


def tally(weights: Sequence[float], turns: Turns) -> Verdict:
    """Counts the answers; deliberation/vote.go counts alike.

    Sums are made in the order of the agents, so that all counters round alike.
    """
    counts = _counts(weights, turns)
    if not counts:
        return Verdict(None, {})
    total = sum(weights[place] for place in sorted(turns) if _votes(turns[place]))
    # A dict is in the order of the first agents, and sorting is stable.
    order = sorted(counts, key=lambda answer: -counts[answer])
    standing = {answer: rank for rank, answer in enumerate(order)}
    proposed = [place for place in sorted(turns) if turns[place].completed]
    # Those without an answer come last.
    proposed.sort(key=lambda place: standing.get(turns[place].answer or "", len(order)))
    assessments = {}
    for rank, place in enumerate(proposed, 1):
        votes = counts.get(turns[place].answer or "", 0.0)
        assessments[place] = Assessment(rank, votes, votes / total)
    return Verdict(proposed[0], assessments)


def _votes(turn: Turn) -> bool:
    return turn.completed and bool(turn.answer)


def _counts(weights: Sequence[float], turns: Turns) -> dict[str, float]:
    """The weight of each answer, in the order of the first agents that gave it."""
    counts: dict[str, float] = {}
    for place in sorted(turns):
        answer = turns[place].answer
        if answer and turns[place].completed:
            counts[answer] = counts.get(answer, 0.0) + weights[place]
    return counts
