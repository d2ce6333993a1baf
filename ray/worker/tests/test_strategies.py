"""Strategies without a journal: any order, any turns lost, the same winner."""

from __future__ import annotations

import random
import struct
from typing import Any, Optional

import pytest
from test_vectors import vectors

from ray_executor_worker.strategies import Turn, Turns, Verdict, finish, steps, tally
from ray_executor_worker.strategies import Vote as VoteStrategy


class Weighted:
    def __init__(self, weight: float) -> None:
        self.weight = weight


def run(
    weights: list[float], answers: list[Optional[str]], *, stop: bool, order: random.Random
) -> tuple[Verdict, Turns, int]:
    """A whole vote: the verdict, the turns, and how many were asked."""
    rest = steps(VoteStrategy(stop_at_majority=stop), [Weighted(w) for w in weights])
    round_ = next(rest)
    turns: dict[int, Turn] = {}
    asked: set[int] = set()
    while wanted := round_.wanted(turns):
        asked.update(wanted)
        place = order.choice(sorted(asked - set(turns)))
        answer = answers[place]
        turns[place] = Turn(completed=answer is not None, answer=answer)
        if order.random() < 0.2:  # another worker takes over, with what is recorded
            rest = steps(VoteStrategy(stop_at_majority=stop), [Weighted(w) for w in weights])
            round_ = next(rest)
            asked = set(turns)
    return finish(rest, turns), turns, len(asked)


@pytest.mark.parametrize("seed", range(300))
def test_stopping_at_the_majority_changes_no_answer(seed: int) -> None:
    order = random.Random(seed)  # noqa: S311
    count = order.randint(1, 9)
    weights = [order.choice([1.0, 1.0, 2.0, 0.5]) for _ in range(count)]
    answers = [order.choice(["a", "a", "b", "c", None, ""]) for _ in range(count)]
    whole, every, asked = run(weights, answers, stop=False, order=order)
    assert asked == count == len(every)
    early, some, _ = run(weights, answers, stop=True, order=order)
    if whole.winner is None:
        assert early.winner is None
        return
    assert early.winner is not None
    # The same unless nothing has a majority, and then all were asked.
    assert answers[early.winner] == answers[whole.winner]
    if len(some) == count:
        assert early == whole
    # What is recorded in any order gives the same verdict.
    places = list(every)
    order.shuffle(places)
    assert tally(weights, {place: every[place] for place in places}) == whole


@pytest.mark.parametrize("seed", range(100))
def test_a_majority_that_is_lost_in_part_is_asked_again(seed: int) -> None:
    order = random.Random(seed)  # noqa: S311
    weights = [1.0] * 5
    answers: list[Optional[str]] = [order.choice(["a", "b"]) for _ in weights]
    whole, _, _ = run(weights, answers, stop=True, order=order)
    rest = steps(VoteStrategy(stop_at_majority=True), [Weighted(w) for w in weights])
    round_ = next(rest)
    # A worker was lost with any of the turns.
    turns = {p: Turn(completed=True, answer=answers[p]) for p in range(5) if order.random() < 0.5}
    while wanted := round_.wanted(turns):
        turns[wanted[-1]] = Turn(completed=True, answer=answers[wanted[-1]])
    verdict = finish(rest, turns)
    assert whole.winner is not None
    assert verdict.winner is not None
    assert answers[verdict.winner] == answers[whole.winner]


def test_no_more_are_asked_than_can_decide() -> None:
    """The expected number of calls at p = .6 and five agents is 4.07."""
    order, calls, rounds = random.Random(1), 0, 4000  # noqa: S311
    for _ in range(rounds):
        answers: list[Optional[str]] = ["a" if order.random() < 0.6 else "b" for _ in range(5)]
        rest = steps(VoteStrategy(stop_at_majority=True), [Weighted(1.0)] * 5)
        wanted = next(rest).wanted
        turns: dict[int, Turn] = {}
        while ask := wanted(turns):
            for place in ask:
                turns[place] = Turn(completed=True, answer=answers[place])
        calls += len(turns)
    assert abs(calls / rounds - 4.066) < 0.04


@pytest.mark.parametrize("vector", vectors("votes"), ids=lambda v: v["name"])
def test_vectors(vector: dict[str, Any]) -> None:
    weights = [struct.unpack("f", struct.pack("f", w))[0] or 1.0 for w in vector["weights"]]
    turns = {
        place: Turn(completed=answer is not False, answer=str(answer) if answer else None)
        for place, answer in enumerate(vector["answers"])
    }
    verdict = tally(weights, turns)
    assert (-1 if verdict.winner is None else verdict.winner) == vector["winner"]
    none = type("None", (), {"rank": 0, "votes": 0.0, "score": 0.0})()
    given = [verdict.assessments.get(place, none) for place in turns]
    assert [one.rank for one in given] == vector["ranks"]
    assert [one.votes for one in given] == vector["votes"]
    assert [one.score for one in given] == vector["scores"]
