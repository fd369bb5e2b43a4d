"""Metrics that cost their service an addition: plain integers, rendered as Prometheus text when somebody asks.

`Described` lists what is exported; names, labels and meanings are an interface, and documents are tested against it.
What an object counts for itself is read from it at that moment (`source`), so that the object knows of no metrics.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["Described", "Histogram", "PlainMetrics", "Series"]

Series = Mapping[tuple[str, ...], float]
"""Values by the metric's labels, in order; `()` is the only key where there are none."""


class Described(NamedTuple):
    """One exported metric, without its service's prefix, and without the `_total` of a counter."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    meaning: str


class Histogram:
    """Counts per bucket; `observe` costs well under a microsecond."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    @property
    def count(self) -> int:
        return sum(self._counts)

    @property
    def total(self) -> float:
        return self._sum

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus wants them: (upper bound, count)."""
        found, below = [], 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            below += count
            found.append((bound, float(below)))
        return found


class PlainMetrics(Collector):
    """A registry of its own, so that several services may share a process."""

    def __init__(self, prefix: str, described: Sequence[Described]) -> None:
        self._prefix = prefix
        self._described = tuple(described)
        self._kinds = {each.name: each for each in described}
        self._sources: dict[str, Callable[[], float | Series]] = {}
        self._histograms: dict[str, dict[tuple[str, ...], Histogram]] = {}
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def source(self, name: str, read: Callable[[], float | Series]) -> None:
        """Have a counter or gauge read from `read` whenever metrics are rendered; a number where it has no labels."""
        assert self._kinds[name].kind != "histogram", name
        self._sources[name] = read

    def histogram(self, name: str, bounds: tuple[float, ...], labels: tuple[str, ...] = ()) -> Histogram:
        """The histogram of one series, made when first asked for."""
        described = self._kinds[name]
        assert described.kind == "histogram", name
        assert len(labels) == len(described.labels), name
        series = self._histograms.setdefault(name, {})
        found = series.get(labels)
        if found is None:
            found = series[labels] = Histogram(bounds)
        return found

    def render(self) -> bytes:
        """Prometheus text."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Every metric described, in order; one that nobody counts is left out."""
        for described in self._described:
            name = self._prefix + described.name
            if described.kind == "histogram":
                family = HistogramMetricFamily(name, described.meaning, labels=described.labels)
                for labels, histogram in self._histograms.get(described.name, {}).items():
                    family.add_metric(labels, histogram.buckets(), histogram.total)
                yield family
            elif (read := self._sources.get(described.name)) is not None:
                made = CounterMetricFamily if described.kind == "counter" else GaugeMetricFamily
                values = made(name, described.meaning, labels=described.labels)
                found = read()
                for labels, value in found.items() if isinstance(found, Mapping) else [((), found)]:
                    values.add_metric(labels, value)
                yield values
