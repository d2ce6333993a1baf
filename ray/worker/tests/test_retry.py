"""When a call is repeated, on a clock that does not run."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from ray_executor_worker.endpoint import CallError, Endpoint
from ray_executor_worker.retry import (
    Backoff,
    Progress,
    Retrier,
    Tries,
    retry_after,
    retryable_status,
)

DATE = "Wed, 21 Oct 2026 07:28:00 GMT"
LATER = "Wed, 21 Oct 2026 07:28:07 GMT"


@dataclass
class Clock:
    now: float = 0.0
    slept: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def retrier(self, backoff: Backoff | None = None) -> Retrier:
        return Retrier(
            backoff or Backoff(jitter=lambda x: x), now=lambda: self.now, sleep=self.sleep
        )

    def endpoint(self) -> Endpoint:
        return Endpoint("model:8000", now=lambda: self.now, sleep=self.sleep)


class Calls:
    """Fails as often as it is set to, then answers."""

    def __init__(self, *failures: CallError) -> None:
        self.left = list(failures)
        self.made = 0

    async def __call__(self) -> str:
        self.made += 1
        if self.left:
            raise self.left.pop(0)
        return "answer"


def busy(retry_after: float | None = None) -> CallError:
    return CallError("http_status", "HTTP 503", retryable=True, retry_after=retry_after)


async def run(clock: Clock, calls: Calls, *, retries: int = 3, deadline: float = 1e6) -> str:
    return await clock.retrier().run(
        calls,
        endpoint=clock.endpoint(),
        max_retries=retries,
        deadline=deadline,
        progress=Progress(),
        tries=Tries(),
    )


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 599])
def test_statuses_that_a_retry_may_mend(status: int) -> None:
    assert retryable_status(status)


@pytest.mark.parametrize("status", [200, 301, 307, 400, 401, 403, 404, 413, 422, 600])
def test_statuses_that_no_retry_mends(status: int) -> None:
    assert not retryable_status(status)


async def test_waits_double_up_to_the_cap() -> None:
    clock, calls = Clock(), Calls(*[busy() for _ in range(10)])
    assert await run(clock, calls, retries=10) == "answer"
    assert clock.slept == [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30]


async def test_the_last_error_is_told_when_retries_are_used_up() -> None:
    calls = Calls(busy(), busy(), CallError("http_status", "the last", retryable=True))
    with pytest.raises(CallError, match=r"^the last$"):
        await run(Clock(), calls, retries=2)
    assert calls.made == 3


async def test_no_retries_is_one_call() -> None:
    calls = Calls(busy())
    with pytest.raises(CallError):
        await run(Clock(), calls, retries=0)
    assert calls.made == 1


async def test_what_no_retry_mends_is_not_repeated() -> None:
    calls = Calls(CallError("http_status", "HTTP 404"))
    with pytest.raises(CallError):
        await run(Clock(), calls)
    assert calls.made == 1


async def test_a_server_that_asks_for_time_gets_it() -> None:
    clock = Clock()
    assert await run(clock, Calls(busy(retry_after=40))) == "answer"
    assert clock.slept == [40.5]


async def test_a_wait_past_the_deadline_fails_at_once() -> None:
    clock, calls = Clock(), Calls(busy(retry_after=40))
    with pytest.raises(CallError, match=r"HTTP 503 .*no time left") as failure:
        await run(clock, calls, deadline=30)
    assert failure.value.error_type == "http_status"
    assert (calls.made, clock.slept) == (1, [])


async def test_progress_is_told_while_it_runs() -> None:
    clock, progress = Clock(), Progress()
    await clock.retrier().run(
        Calls(busy()),
        endpoint=clock.endpoint(),
        max_retries=3,
        deadline=1e6,
        progress=progress,
        tries=Tries(),
    )
    assert progress.attempts == 2
    assert progress.last_error is not None


def test_full_jitter_stays_within_its_bounds() -> None:
    drawn = random.Random(7)  # noqa: S311
    backoff = Backoff(jitter=lambda x: drawn.uniform(0, x))
    for retry in range(1, 12):
        bound = min(30.0, 0.5 * 2 ** (retry - 1))
        waits = [backoff.wait(retry) for _ in range(500)]
        assert 0 <= min(waits) < bound * 0.05
        assert bound * 0.95 < max(waits) <= bound


def test_the_default_jitter_is_random() -> None:
    assert len({Backoff().wait(5) for _ in range(20)}) == 20


def test_the_ten_thousandth_retry_does_not_overflow() -> None:
    assert Backoff(jitter=lambda x: x).wait(10_000) == 30


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": " 0 "}, 0),
        ({"Retry-After": LATER, "Date": DATE}, 7),
        ({"Retry-After": DATE, "Date": LATER}, 0),
        ({}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Wed, 99 Oct 2026 99:99:99 GMT"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_a_date_is_read_against_the_local_clock_where_the_answer_has_none() -> None:
    assert retry_after({"Retry-After": LATER}, now=1_792_567_680.0) == 7
