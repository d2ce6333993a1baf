"""What a replica measures, and under which names."""

from __future__ import annotations

from typing import Any, Optional

import pytest
from harness import FakeModel, Journalist, a, working

from ray_executor_worker.endpoint import CallError, Endpoints
from ray_executor_worker.metrics import MEASURES, OTHER, RayMetrics
from ray_executor_worker.retry import Backoff, Retrier


class FakeRay:
    """The classes of ray.util.metrics; `seen` has what they were called with."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str], float]] = []
        self.Histogram = self.Counter = self.Gauge = self._metric

    def _metric(
        self, name: str, _help: str, bounds: Any = None, *, tag_keys: tuple[str, ...]
    ) -> Any:
        seen = self.seen

        class Metric:
            def observe(self, value: float, tags: Optional[dict[str, str]] = None) -> None:
                assert tuple(tags or {}) == tag_keys
                seen.append((name, dict(tags or {}), value))

            set = observe

            def inc(self, tags: dict[str, str]) -> None:
                self.observe(1, tags)

        assert bounds is None or min(bounds) > 0
        return Metric()

    def tags(self, name: str) -> list[tuple[str, ...]]:
        """The values of the labels, of each call."""
        return [tuple(tags.values()) for seen, tags, _ in self.seen if seen == name]


@pytest.fixture
def ray() -> FakeRay:
    return FakeRay()


async def test_results_and_retries_are_measured(
    journalist: Journalist, model: FakeModel, ray: FakeRay
) -> None:
    async with working(journalist, metrics=RayMetrics(ray)) as worker:
        worker._models._retrier = Retrier(Backoff(base=0.0))
        agents = [a("a"), a("b", "500x1"), a("c", "empty"), a("d", "slow")]
        await journalist.submit("d1", agents, model.url, max_retries=1, timeout_seconds=2)
        await journalist.end("d1")
    assert sorted(ray.tags("executor_agent_seconds")) == [
        ("500x1", "completed"),
        ("empty", "empty_content"),
        ("ok", "completed"),
        ("slow", "timeout"),
    ]
    assert ray.tags("executor_model_retries_total") == [("500x1", "http_status")]
    endpoint = model.url.removeprefix("http://")
    assert ("executor_breaker_open", {"endpoint": endpoint}, 0.0) in ray.seen


def test_a_breaker_that_opens_and_closes(ray: FakeRay) -> None:
    now = 0.0
    endpoints = Endpoints(lambda: now, metrics=RayMetrics(ray))
    endpoint = endpoints.at("qwen:8000")
    for _ in range(30):
        endpoint.failed(CallError("connection", "down", broken=True), probe=False)
        now += 1
    endpoint.refused()
    assert [value for _, _, value in ray.seen] == [0.0, 1.0, 0.0]
    assert set(ray.tags("executor_breaker_open")) == {("qwen:8000",)}


def test_an_open_breaker_that_is_forgotten(ray: FakeRay) -> None:
    now = 0.0
    endpoints = Endpoints(lambda: now, metrics=RayMetrics(ray))
    endpoint = endpoints.at("gone:8000")
    for _ in range(30):
        endpoint.failed(CallError("connection", "down", broken=True), probe=False)
        now += 1
    for number in range(300):
        endpoints.at(f"host{number}:8000")
    states = [value for _, tags, value in ray.seen if tags["endpoint"] == "gone:8000"]
    assert states == [0.0, 1.0, 0.0]
    assert len(set(ray.tags("executor_breaker_open"))) <= 51


def test_names_are_bounded(ray: FakeRay) -> None:
    metrics = RayMetrics(ray)
    metrics.agent("x" * 200, "completed", 1.0)
    for number in range(100):
        metrics.agent(f"m{number}", "completed", 1.0)
        metrics.breaker(f"h{number}", is_open=True)
    metrics.agent("m0", "completed", -1.0)
    models = [model for model, _ in ray.tags("executor_agent_seconds")]
    assert len(set(models)) == 51
    assert models[0] == OTHER
    assert models[-1] == "m0"
    assert min(value for name, _, value in ray.seen if name == "executor_agent_seconds") == 0.0
    # The rest is open while any of them is.
    for number in range(50, 99):
        metrics.breaker(f"h{number}", is_open=False)
    assert ray.seen[-1] == ("executor_breaker_open", {"endpoint": OTHER}, 1.0)
    metrics.breaker("h99", is_open=False)
    assert ray.seen[-1] == ("executor_breaker_open", {"endpoint": OTHER}, 0.0)


def test_names_follow_prometheus() -> None:
    for measure in MEASURES:
        assert measure.name.startswith("executor_")
        assert measure.name.endswith("_total") == (measure.kind == "counter")
