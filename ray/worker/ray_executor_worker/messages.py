"""The payloads: protobuf classes made at run time, and plain types over them.

The classes come from ``descriptors.binpb``, which travels with this package,
so that neither generated code nor a protobuf version is locked to the
cluster's. They live in a pool of their own: whatever else the cluster loads
cannot clash with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Optional
from urllib.parse import quote_plus

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from .response_format import ResponseFormat, read_response_format
from .sampling import parameters
from .strategies import (
    LEVEL,
    Assessment,
    Independent,
    Strategy,
    UnknownStrategyError,
    read_strategy,
)
from .usage import Usage

PACKAGE = "ray_executor.v1"
REQUESTED = f"{PACKAGE}.DeliberationRequested"
STARTED = f"{PACKAGE}.DeliberationStarted"
AGENT = f"{PACKAGE}.AgentCompleted"
COMPLETED = f"{PACKAGE}.DeliberationCompleted"
FAILED = f"{PACKAGE}.DeliberationFailed"
STOPPED = f"{PACKAGE}.WorkerStopped"
HEARTBEAT = f"{PACKAGE}.WorkerHeartbeat"

_NANOS = 1_000_000_000
# An entry in a bucket is small.
_REASON_CHARS = 300
# Models that an end's header names, and the length of a name in it.
_MODELS = 16
_MODEL_BYTES = 128
# Shared by all who set no parameter.
_NONE: Mapping[str, Any] = MappingProxyType({})


class UnreadableError(ValueError):
    """A message is not what its type says."""


@dataclass(frozen=True)
class Agent:
    """One agent as the request names it."""

    id: str
    role: str
    model: str
    prompt_template: str
    system_prompt: str = ""
    # What the agent sets; the request's parameters apply to the rest.
    sampling: Mapping[str, Any] = field(default_factory=lambda: _NONE)
    # Base URL and model of each; an empty one is the request's, or the agent's.
    fallbacks: tuple[tuple[str, str], ...] = ()
    # Of its vote.
    weight: float = 1.0


@dataclass(frozen=True)
class Requested:
    """A deliberation as it was accepted, with its defaults resolved."""

    deliberation_id: str
    task_id: str
    task_description: str
    role: str
    agents: tuple[Agent, ...]
    metadata: Mapping[str, str]
    timeout_seconds: int
    max_retries: int
    vllm_url: str
    vllm_model: str
    response_format: Optional[ResponseFormat] = None
    sampling: Mapping[str, Any] = field(default_factory=lambda: _NONE)
    strategy: Strategy = field(default_factory=Independent)


@dataclass(frozen=True)
class Result:
    """What one agent came to."""

    agent_id: str
    proposal: str = ""
    reasoning: str = ""
    score: float = 0.0
    metadata: Mapping[str, str] = field(default_factory=dict)
    # None where it is not recorded.
    usage: Optional[Usage] = None
    assessment: Optional[Assessment] = None

    @property
    def completed(self) -> bool:
        """Whether there is a proposal."""
        return self.metadata.get("status") == "completed"

    @property
    def error(self) -> str:
        """Why there is none."""
        return self.metadata.get("error", "")


@dataclass(frozen=True)
class Started:
    """One attempt; its time is the journal's, in nanoseconds since 1970."""

    attempt: int
    replica: str
    first_started_ns: int


@dataclass(frozen=True)
class Replica:
    """What a worker replica says of itself, besides how it is."""

    cluster: str
    name: str
    # The package's hash, and Ray's version.
    version: str
    ray_version: str
    started_ns: int


@dataclass(frozen=True)
class PoolUse:
    """A replica's slots of a pool, one an agent, and how many are taken."""

    name: str
    slots: int
    held: int


class Schema:
    """Makes and reads the messages of ``ray_executor.v1``."""

    def __init__(self, descriptors: bytes) -> None:
        pool = descriptor_pool.DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(descriptors).file:
            pool.Add(file)  # type: ignore[no-untyped-call, unused-ignore]
        self._classes = {
            name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
            for name in (REQUESTED, STARTED, AGENT, COMPLETED, FAILED, STOPPED, HEARTBEAT)
        }

    @classmethod
    def shipped(cls) -> Schema:
        """The schema that travels with the package."""
        return cls(Path(__file__).with_name("descriptors.binpb").read_bytes())

    def parse(self, name: str, data: bytes) -> Any:
        """Reads a message of that full name; raises UnreadableError."""
        try:
            return self._classes[name].FromString(data)
        except DecodeError as error:
            raise UnreadableError(f"not a {name}: {error}") from error

    def requested(self, data: bytes) -> Any:
        """Reads a DeliberationRequested; raises UnreadableError.

        A request with a strategy that compares is in a field of its own, so that
        workers from before strategies refuse it. Here it is in `request`.
        """
        message = self.parse(REQUESTED, data)
        if message.HasField("strategy_request") and not message.request.agents:
            message.request.CopyFrom(message.strategy_request)
            message.ClearField("strategy_request")
        return message

    def started(
        self,
        requested: Requested,
        *,
        attempt: int,
        first_started_ns: Optional[int],
        cluster: str,
        replica: str,
    ) -> Message:
        """The start of an attempt; the first carries no first start."""
        message: Any = self._new(STARTED, requested.deliberation_id, requested.task_id)
        message.attempt = attempt
        message.cluster = cluster
        message.replica = replica
        if first_started_ns is not None:
            message.first_started_at.seconds = first_started_ns // _NANOS
            message.first_started_at.nanos = first_started_ns % _NANOS
        return message  # type: ignore[no-any-return]

    def agent(self, requested: Requested, index: int, result: Result) -> Message:
        """What one agent came to."""
        message: Any = self._new(AGENT, requested.deliberation_id, requested.task_id)
        message.agent_index = index
        _write_result(message.result, result)
        return message  # type: ignore[no-any-return]

    def completed(
        self, requested: Requested, results: Iterable[Result], duration_s: float, winner: str = ""
    ) -> Message:
        """The end with at least one proposal."""
        message: Any = self._new(COMPLETED, requested.deliberation_id, requested.task_id)
        if winner:
            message.winner = winner
        return _ended(message, results, duration_s)

    def failed(  # noqa: PLR0913 - as many as the message has
        self,
        deliberation_id: str,
        task_id: str,
        results: Iterable[Result],
        duration_s: float,
        error_message: str,
        *,
        given_up: bool = False,
    ) -> Message:
        """The end with none, and why."""
        message: Any = self._new(FAILED, deliberation_id, task_id)
        message.error_message = _utf8(error_message)
        message.given_up = given_up
        return _ended(message, results, duration_s)

    def stopped(self, cluster: str, replica: str) -> Message:
        """The end of a replica that has handed back what it held."""
        message: Message = self._classes[STOPPED](cluster=cluster, replica=replica)
        return message

    def heartbeat(
        self,
        replica: Replica,
        pools: Iterable[PoolUse],
        problems: Iterable[tuple[str, str]],
        waiting: Iterable[tuple[str, str]] = (),
    ) -> Message:
        """A replica's sign of life: what it cannot reach or waits for, with the reasons."""
        message: Any = self._classes[HEARTBEAT](
            cluster=replica.cluster,
            replica=replica.name,
            version=replica.version,
            ray_version=replica.ray_version,
            level=LEVEL,
        )
        message.started_at.seconds = replica.started_ns // _NANOS
        message.started_at.nanos = replica.started_ns % _NANOS
        for pool in pools:
            message.pools.add(name=pool.name, slots=pool.slots, held=pool.held)
        for what, reason in problems:
            message.problems.add(what=_utf8(what), reason=_utf8(reason)[:_REASON_CHARS])
        for endpoint, reason in waiting:
            message.waiting.add(endpoint=endpoint, reason=_utf8(reason)[:_REASON_CHARS])
        return message  # type: ignore[no-any-return]

    def _new(self, name: str, deliberation_id: str, task_id: str) -> Any:
        return self._classes[name](deliberation_id=deliberation_id, task_id=task_id)


def read_requested(message: Any) -> Requested:
    """The plain form of a whole DeliberationRequested; raises UnreadableError."""
    request = message.request
    try:
        strategy = read_strategy(request)
    except UnknownStrategyError as error:
        raise UnreadableError(str(error)) from error
    return Requested(
        deliberation_id=message.deliberation_id,
        task_id=message.task_id,
        task_description=request.task_description,
        role=request.role,
        agents=tuple(
            Agent(
                agent.id,
                agent.role,
                agent.model,
                agent.prompt_template,
                agent.system_prompt,
                _sampling(agent),
                tuple((one.vllm_url, one.model) for one in agent.fallbacks),
                agent.weight or 1.0,
            )
            for agent in request.agents
        ),
        metadata=dict(request.constraints.metadata),
        timeout_seconds=message.timeout_seconds,
        max_retries=message.max_retries,
        vllm_url=message.vllm_url,
        vllm_model=message.vllm_model,
        sampling=_sampling(request),
        response_format=read_response_format(request.response_format),
        strategy=strategy,
    )


def _sampling(message: Any) -> Mapping[str, Any]:
    return parameters(message.sampling) if message.HasField("sampling") else _NONE


def read_started(message: Any, recorded_ns: int) -> Started:
    """The plain form of a DeliberationStarted that the journal took at that time."""
    first = recorded_ns
    if message.HasField("first_started_at"):
        first = message.first_started_at.seconds * _NANOS + message.first_started_at.nanos
    return Started(message.attempt, message.replica, first)


def read_result(message: Any) -> Result:
    """The plain form of a whole AgentCompleted's result."""
    result = message.result
    return Result(
        agent_id=result.agent_id,
        proposal=result.proposal,
        reasoning=result.reasoning,
        score=result.score,
        metadata=dict(result.metadata),
        usage=_read_usage(result.usage) if result.HasField("usage") else None,
    )


def _read_usage(message: Any) -> Usage:
    return Usage(**{one.name: getattr(message, one.name) for one in fields(Usage)})


def usage_header(message: Any) -> str:
    """The usage of an end, as its header has it; empty for another message."""
    if "usage" not in message.DESCRIPTOR.fields_by_name:
        return ""
    return _read_usage(message.usage).header()


def models_header(message: Any) -> str:
    """The usage of an end by model, as a query string; empty for another message.

    A header has 64 KiB at most: few and short names have a place in it, and the
    readers count the rest as that of other models.
    """
    if "usage" not in message.DESCRIPTOR.fields_by_name:
        return ""
    totals: dict[str, Usage] = {}
    for result in message.results:
        model = quote_plus(result.metadata.get("model", ""))
        if not result.HasField("usage") or not 0 < len(model) <= _MODEL_BYTES:
            continue
        if model in totals or len(totals) < _MODELS:
            totals.setdefault(model, Usage()).add(_read_usage(result.usage))
    return "&".join(f"{model}={total.header()}" for model, total in totals.items())


def _write_usage(message: Any, usage: Usage) -> None:
    message.SetInParent()
    for one in fields(usage):
        setattr(message, one.name, getattr(usage, one.name))


def _ended(message: Any, results: Iterable[Result], duration_s: float) -> Message:
    total = Usage()
    for result in results:
        _write_result(message.results.add(), result)
        if result.usage is not None:
            total.add(result.usage)
    _write_usage(message.usage, total)
    nanos = max(0, round(duration_s * _NANOS))
    message.duration.seconds = nanos // _NANOS
    message.duration.nanos = nanos % _NANOS
    return message  # type: ignore[no-any-return]


def _write_result(message: Any, result: Result) -> None:
    message.agent_id = result.agent_id
    message.proposal = _utf8(result.proposal)
    message.reasoning = _utf8(result.reasoning)
    message.score = result.score
    if result.assessment is not None:
        message.assessment.rank = result.assessment.rank
        message.assessment.votes = result.assessment.votes
    for key, value in result.metadata.items():
        message.metadata[key] = _utf8(value)
    if result.usage is not None:
        _write_usage(message.usage, result.usage)


def _utf8(text: str) -> str:
    """JSON can spell half a surrogate pair, which protobuf refuses."""
    return text if text.isascii() else text.encode("utf-8", errors="replace").decode("utf-8")
