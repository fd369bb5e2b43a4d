"""Metrics: every router has its own registry, or the one it is given."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from message_router.metrics import RouterMetrics


def test_two_routers_do_not_share_counters() -> None:
    one, two = RouterMetrics(), RouterMetrics()
    one.batches.inc()
    assert one.registry.get_sample_value("stagecue_router_batches_total") == 1
    assert two.registry.get_sample_value("stagecue_router_batches_total") == 0


def test_a_given_registry_is_used() -> None:
    registry = CollectorRegistry()
    RouterMetrics(registry).conflicts.inc()
    assert registry.get_sample_value("stagecue_router_conflicts_total") == 1
