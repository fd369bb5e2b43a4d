"""The router's metrics, all in one place; names are an interface."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["RouterMetrics"]

_LATENCY_BUCKETS_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0)


class RouterMetrics:
    """One instance per router, on its own registry unless one is given."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = on = registry if registry is not None else CollectorRegistry()
        self.broadcasts_routed = Counter(
            "stagecue_router_broadcasts_routed", "Broadcasts handed to the links of interested nodes.", registry=on
        )
        self.schedules_routed = Counter(
            "stagecue_router_schedules_routed", "Schedules handed to the links of interested nodes.", registry=on
        )
        self.batches = Counter("stagecue_router_batches", "Batches sent to nodes.", registry=on)
        self.appends = Counter(
            "stagecue_router_appends", "Appends to the replay log, by outcome (R9).", ["outcome"], registry=on
        )
        self.conflicts = Counter(
            "stagecue_router_conflicts", "Broadcasts that contradict what the replay log holds: an alarm.", registry=on
        )
        self.floors_raised = Counter(
            "stagecue_router_floors_raised", "Times the log in flight no longer had what was missing.", registry=on
        )
        self.delivered_unstored = Counter(
            "stagecue_router_delivered_unstored", "Deliveries that did not wait for the store (R11).", registry=on
        )
        self.rebuilds = Counter("stagecue_router_rebuilds", "Partitions whose replay log was rebuilt.", registry=on)
        self.links = Gauge("stagecue_router_links", "Nodes linked.", registry=on)
        self.behind = Gauge("stagecue_router_nodes_behind", "Nodes sent to but not awaited (R12).", registry=on)
        self.links_closed = Counter("stagecue_router_links_closed", "Links closed, by reason.", ["why"], registry=on)
        self.in_flight = Gauge("stagecue_router_in_flight", "Log entries taken and not yet finished.", registry=on)
        self.commit_lag_s = Histogram(
            "stagecue_router_commit_lag_seconds",
            "From the moment something could be committed to its commit.",
            buckets=_LATENCY_BUCKETS_S,
            registry=on,
        )
        self.route_s = Histogram(
            "stagecue_router_route_seconds",
            "From a broadcast taken from the log to its hand-over to the links.",
            buckets=_LATENCY_BUCKETS_S,
            registry=on,
        )
        self.reach_dropped = Counter(
            "stagecue_router_reach_dropped", "Reach counts dropped because the store did not take them.", registry=on
        )
        self.coverage_dropped = Counter(
            "stagecue_router_coverage_dropped",
            "Shares of coverage dropped because the store did not take them.",
            registry=on,
        )
