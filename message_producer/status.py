"""How a producer stands, for GET /status and the gauges."""

from __future__ import annotations

from typing import Protocol

from message_producer.dispatch import Dispatcher
from message_producer.lease_keeper import LeaseKeeper
from message_producer.metrics import ProducerMetrics

__all__ = ["ProducerStatus"]


class _Publishing(Protocol):
    @property
    def waiting(self) -> int: ...


class ProducerStatus:
    """Call it for what GET /status answers; the gauges are read from the same facts whenever they are scraped."""

    def __init__(
        self, lease: LeaseKeeper, publishing: _Publishing, dispatcher: Dispatcher, metrics: ProducerMetrics
    ) -> None:
        self._lease = lease
        self._publishing = publishing
        self._dispatcher = dispatcher
        metrics.leads.set_function(lambda: float(lease.holds))
        metrics.lease_epoch.set_function(lambda: float(lease.seen_epoch))
        metrics.unpublished.set_function(lambda: float(publishing.waiting))

    def __call__(self) -> dict[str, object]:
        leads = self._lease.holds
        return {
            "role": "producer",
            "leads": leads,
            "epoch": self._lease.epoch if leads else None,
            "seen_epoch": self._lease.seen_epoch,
            "unpublished": self._publishing.waiting,
            "next_due_at": self._dispatcher.next_due_at if leads else None,
        }
