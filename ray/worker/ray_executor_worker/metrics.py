"""What a replica measures. Ray exports it on each node; docs/metrics.md lists it.

Totals of the installation are the keeper's: it has them of the journal, and a
replica would begin at zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable

# What replaces the names above the bounds: nobody can create time series without limit.
OTHER = "_other"
_NAMES = 50
_NAME_CHARS = 128


@dataclass(frozen=True)
class Measure:
    """A metric; Ray puts `ray_` before its name."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...]


AGENT_SECONDS = Measure(
    "executor_agent_seconds",
    "histogram",
    "Time from the first call for an agent to its result, by model and outcome "
    "(completed, or the error_type).",
    ("model", "outcome"),
)
RETRIES = Measure(
    "executor_model_retries_total",
    "counter",
    "Calls that were made again after a failure, by model and reason (the error_type).",
    ("model", "reason"),
)
BREAKER = Measure(
    "executor_breaker_open",
    "gauge",
    "1 while a replica leaves a model server alone because it keeps failing, else 0.",
    ("endpoint",),
)
MEASURES = (AGENT_SECONDS, RETRIES, BREAKER)

_BOUNDS = [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600]


class Metrics:
    """Measures nothing: where there is no Ray."""

    def agent(self, model: str, outcome: str, seconds: float) -> None:
        """Notes the result of an agent."""

    def retried(self, model: str, reason: str) -> None:
        """Notes a call that is made again."""

    def breaker(self, endpoint: str, *, is_open: bool) -> None:
        """Notes whether a model server is left alone."""


class Few:
    """Names, of which only the first have a label of their own."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def label(self, name: str) -> str:
        """The name, or OTHER where it is long, or one of too many."""
        if name not in self._names:
            if len(self._names) == _NAMES or len(name) > _NAME_CHARS:
                return OTHER
            self._names.add(name)
        return name


class RayMetrics(Metrics):
    """Measures with ``ray.util.metrics``, or what has its classes."""

    def __init__(self, ray: Any) -> None:
        make: Callable[..., Any] = ray.Histogram
        self._agents = make(
            AGENT_SECONDS.name, AGENT_SECONDS.help, _BOUNDS, tag_keys=AGENT_SECONDS.labels
        )
        self._retries = ray.Counter(RETRIES.name, RETRIES.help, tag_keys=RETRIES.labels)
        self._breakers = ray.Gauge(BREAKER.name, BREAKER.help, tag_keys=BREAKER.labels)
        self._models, self._endpoints = Few(), Few()
        self._others_open: set[str] = set()

    def agent(self, model: str, outcome: str, seconds: float) -> None:
        """Notes the result of an agent."""
        tags = {"model": self._models.label(model), "outcome": outcome}
        self._agents.observe(max(0.0, seconds), tags=tags)

    def retried(self, model: str, reason: str) -> None:
        """Notes a call that is made again."""
        self._retries.inc(tags={"model": self._models.label(model), "reason": reason})

    def breaker(self, endpoint: str, *, is_open: bool) -> None:
        """Notes whether a model server is left alone; OTHER is open while any of them is."""
        label = self._endpoints.label(endpoint)
        if label == OTHER:
            (self._others_open.add if is_open else self._others_open.discard)(endpoint)
            is_open = bool(self._others_open)
        self._breakers.set(float(is_open), tags={"endpoint": label})
