"""Metrics of a push node: plain counters on the hot path, rendered as Prometheus text on request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Literal, get_args

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["CounterName", "GaugeName", "NodeMetrics"]

CounterName = Literal[
    "connects",  # upgrades to stagecue.v1
    "refused",  # requests answered with anything but an upgrade or a page
    "broadcasts",  # accepted broadcasts, each counted once
    "repeats",  # broadcasts known already
    "conflicts",  # repeats with another payload: an alarm
    "holes_released",  # broadcasts sent before their hole was closed
    "written",  # broadcast frames handed to the kernel
    "replayed",  # broadcast frames replayed
    "verdicts_complete",
    "verdicts_gap",
    "verdicts_ahead",
    "verdicts_pending",
    "error_frames",
    "log_reads",  # reads of a topic's log
    "store_failures",
    "closed_slow",  # connections closed as slow consumers
    "closed_silent",  # connections closed for a missing pong
]
GaugeName = Literal["connections", "topics", "subscriptions", "fanout_jobs", "router_links"]

_COUNTERS: Final[tuple[str, ...]] = get_args(CounterName)
_LAG_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class NodeMetrics:
    """Counters as plain integers; an own registry, so that several nodes may share a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counts: dict[str, int] = dict.fromkeys(_COUNTERS, 0)
        self._gauges: dict[GaugeName, Callable[[], int]] = {}
        self.written_lag_s = Histogram(
            "stagecue_push_written_lag_seconds",
            "From dispatch to the last write of a broadcast on this node.",
            buckets=_LAG_BUCKETS_S,
            registry=self.registry,
        )
        self.registry.register(_Plain(self._counts, self._gauges))

    def count(self, name: CounterName, by: int = 1) -> None:
        self._counts[name] += by

    def value(self, name: CounterName) -> int:
        return self._counts[name]

    def gauge(self, name: GaugeName, read: Callable[[], int]) -> None:
        """Have `name` read from `read` whenever metrics are rendered."""
        self._gauges[name] = read

    def render(self) -> bytes:
        return generate_latest(self.registry)


class _Plain(Collector):
    def __init__(self, counts: dict[str, int], gauges: dict[GaugeName, Callable[[], int]]) -> None:
        self._counts = counts
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        for name, value in self._counts.items():
            yield CounterMetricFamily(f"stagecue_push_{name}", f"Push node: {name}.", value=value)
        for gauge, read in self._gauges.items():
            yield GaugeMetricFamily(f"stagecue_push_{gauge}", f"Push node: {gauge}.", value=read())
