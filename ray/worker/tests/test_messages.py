"""The payloads made at run time, and the journal's times."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pool

from ray_executor_worker.clock import JournalClock, parse_time
from ray_executor_worker.messages import (
    AGENT,
    COMPLETED,
    FAILED,
    STARTED,
    Agent,
    Requested,
    Result,
    Schema,
    UnreadableError,
    read_result,
    read_started,
)

REQUESTED = Requested(
    deliberation_id="d1",
    task_id="t1",
    task_description="x",
    role="DEV",
    agents=(Agent("a1", "", "", ""),),
    metadata={},
    timeout_seconds=1,
    max_retries=0,
    vllm_url="",
    vllm_model="",
)
RESULT = Result("a1", "p", "r", metadata={"status": "completed"})


def test_the_default_pool_is_left_alone(schema: Schema) -> None:
    assert schema
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName(STARTED)  # type: ignore[no-untyped-call, unused-ignore]


def test_two_schemas_live_side_by_side(schema: Schema) -> None:
    other = schema.agent(REQUESTED, 0, RESULT)
    assert schema.parse(AGENT, other.SerializeToString()).agent_index == 0


def test_started_carries_the_first_start(schema: Schema) -> None:
    first = schema.started(
        REQUESTED, attempt=1, first_started_ns=None, cluster="c", replica="r"
    ).SerializeToString()
    started = read_started(schema.parse(STARTED, first), 1_700_000_000_123_456_789)
    assert (started.attempt, started.replica) == (1, "r")
    assert started.first_started_ns == 1_700_000_000_123_456_789
    second = schema.started(
        REQUESTED,
        attempt=2,
        first_started_ns=started.first_started_ns,
        cluster="c",
        replica="s",
    ).SerializeToString()
    assert read_started(schema.parse(STARTED, second), 1).first_started_ns == (
        1_700_000_000_123_456_789
    )


def test_a_result_comes_back_as_it_was(schema: Schema) -> None:
    data = schema.agent(REQUESTED, 3, RESULT).SerializeToString()
    message = schema.parse(AGENT, data)
    assert message.agent_index == 3
    assert read_result(message) == RESULT


def test_ends(schema: Schema) -> None:
    completed = schema.completed(REQUESTED, [RESULT], 1.5).SerializeToString()
    message = schema.parse(COMPLETED, completed)
    assert (message.duration.seconds, message.duration.nanos) == (1, 500_000_000)
    failed = schema.parse(
        FAILED, schema.failed("d1", "t1", [RESULT], 0.0, "why").SerializeToString()
    )
    assert (failed.error_message, failed.task_id) == ("why", "t1")


def test_half_a_surrogate_pair_does_not_fail_the_agent(schema: Schema) -> None:
    data = schema.agent(REQUESTED, 0, Result("a1", "\ud800 é")).SerializeToString()
    assert schema.parse(AGENT, data).result.proposal == "? é"


def test_what_is_no_message_is_unreadable(schema: Schema) -> None:
    with pytest.raises(UnreadableError, match=AGENT):
        schema.parse(AGENT, b"\xff")


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000_000),
        ("2023-11-14T22:13:20.123456789Z", 1_700_000_000_123_456_789),
        ("2023-11-14T22:13:20.5Z", 1_700_000_000_500_000_000),
        ("2023-11-15T00:13:20.5+02:00", 1_700_000_000_500_000_000),
        ("2023-11-14T20:43:20-01:30", 1_700_000_000_000_000_000),
    ],
)
def test_times(text: str, nanoseconds: int) -> None:
    assert parse_time(text) == nanoseconds


def test_a_time_that_is_none() -> None:
    with pytest.raises(ValueError, match="RFC 3339"):
        parse_time("yesterday")


def test_deadlines_follow_the_servers_clock() -> None:
    clock = JournalClock(monotonic=lambda: 100.0, wall=lambda: 1_000.0)
    assert clock.monotonic_of(1_005.0) == 105
    # The server is an hour ahead.
    clock.observe(4_600 * 1_000_000_000, 100.0)
    assert clock.monotonic_of(4_605.0) == 105
