"""The producer's metrics, all in one place; names are an interface."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from contract.broadcast import Broadcast

__all__ = ["ProducerMetrics"]

_LAG_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0)


class ProducerMetrics:
    """One instance per producer, on its own registry unless one is given."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = on = registry if registry is not None else CollectorRegistry()
        self._dispatched = Counter(
            "stagecue_producer_dispatched", "Broadcasts dispatched because their stage was due.", registry=on
        )
        self._published = Counter("stagecue_producer_published", "Broadcasts the log confirmed.", registry=on)
        self._dispatch_lag_s = Histogram(
            "stagecue_producer_dispatch_lag_seconds",
            "From a stage's due time to its dispatch.",
            buckets=_LAG_BUCKETS_S,
            registry=on,
        )
        self.unpublished = Gauge(
            "stagecue_producer_unpublished", "Broadcasts and schedules known to wait for the log.", registry=on
        )
        self.leads = Gauge("stagecue_producer_leads", "1 while this producer holds the lease.", registry=on)
        self.lease_epoch = Gauge(
            "stagecue_producer_lease_epoch", "The lease's newest epoch this producer has seen.", registry=on
        )

    def dispatched(self, broadcasts: Iterable[Broadcast]) -> None:
        """A commit dispatched these."""
        for broadcast in broadcasts:
            self._dispatched.inc()
            if broadcast.due_at is not None and broadcast.dispatched_at is not None:
                self._dispatch_lag_s.observe((broadcast.dispatched_at - broadcast.due_at) / 1000)

    def published(self, broadcasts: int) -> None:
        self._published.inc(broadcasts)
