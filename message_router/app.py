"""Composition of the message router from its ports."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

from contract.backoff import Backoff
from contract.clock import Clock
from contract.kv.ports import NodeLeases, ReplayLog, ScheduleView
from contract.log import BroadcastLog, ReportSink
from contract.node_link import MessageChannel
from contract.runtime.runner import Readiness, Service
from contract.tokens import KeyRing
from message_router.coverage import CoverageForwarder
from message_router.links import NodeLinks
from message_router.metrics import RouterMetrics
from message_router.reach import ReachForwarder
from message_router.rebuild import Rebuilder
from message_router.relay import Relay
from message_router.settings import RouterSettings
from message_router.store import StoreHealth, StoreWriter
from message_router.tails import RecentTails
from message_router.upkeep import OwnPartition, StoreUpkeep

__all__ = ["Router", "build_node_links", "build_router"]


class Router(msgspec.Struct, frozen=True):
    """A built router: run `service`, and hand it every link to a node."""

    service: Service
    metrics: RouterMetrics
    _router_id: str
    _relay: Relay
    _links: NodeLinks
    _readiness: Readiness

    def status(self) -> dict[str, object]:
        """How it is now, for `GET /status`; plain JSON values. `lag` counts entries of the log not yet finished."""
        return {
            "role": "router",
            "router": self._router_id,
            "ready": self._readiness.ready,
            "partitions": self._relay.partitions(),
            "lag": self._relay.lag,
            "links": self._links.count,
            "behind": self._links.behind,
            "interest": {"topics": self._links.topics},
        }

    def attach(self, channel: MessageChannel) -> None:
        """A new link from a node; the router owns it until it closes. Call inside the running event loop."""
        self._links.attach(channel)


def build_router(
    settings: RouterSettings,
    *,
    log: BroadcastLog,
    replay_log: ReplayLog,
    schedule_view: ScheduleView,
    reports: ReportSink,
    clock: Clock,
    readiness: Readiness,
    metrics: RouterMetrics | None = None,
    rng: random.Random | None = None,
) -> Router:
    """Wire one router. Readiness conditions `router.log` and `router.kv` are its own."""
    metrics = metrics or RouterMetrics()
    new_backoff = _backoffs(settings, rng)

    tails = RecentTails(settings.max_recent_topics)
    coverage = CoverageForwarder(
        reports,
        bound=settings.max_pending_coverage,
        interval_s=settings.coverage_interval_s,
        new_backoff=new_backoff,
        metrics=metrics,
    )
    reach = ReachForwarder(
        reports,
        bound=settings.max_pending_reach,
        interval_s=settings.reach_interval_s,
        new_backoff=new_backoff,
        metrics=metrics,
    )
    links = NodeLinks(settings, clock=clock, metrics=metrics, on_reach=reach.report, on_coverage=coverage.report)
    health = StoreHealth(readiness, on_recovered=lambda: upkeep.check_soon())
    writer = StoreWriter(
        log=log,
        replay_log=replay_log,
        schedule_view=schedule_view,
        health=health,
        tails=tails,
        clock=clock,
        new_backoff=new_backoff,
        metrics=metrics,
        replay_window_s=settings.replay_window_s,
        max_concurrent=settings.max_concurrent_appends,
        on_lost=lambda partition: upkeep.rebuild_soon([partition]),
    )
    rebuilder = Rebuilder(
        log=log,
        replay_log=replay_log,
        schedule_view=schedule_view,
        writer=writer,
        health=health,
        tails=tails,
        clock=clock,
        new_backoff=new_backoff,
        metrics=metrics,
        replay_window_s=settings.replay_window_s,
        on_schedule=links.deliver_schedule,
    )
    partitions: dict[int, OwnPartition] = {}
    upkeep = StoreUpkeep(
        settings,
        partitions=partitions,
        replay_log=replay_log,
        schedule_view=schedule_view,
        rebuilder=rebuilder,
        health=health,
        tails=tails,
        clock=clock,
    )
    relay = Relay(
        settings,
        log=log,
        writer=writer,
        tails=tails,
        links=links,
        reach=reach,
        coverage=coverage,
        clock=clock,
        readiness=readiness,
        new_backoff=new_backoff,
        metrics=metrics,
        partitions=partitions,
        upkeep=upkeep,
    )
    return Router(relay, metrics, settings.router_id, relay, links, readiness)


def build_node_links(
    settings: RouterSettings,
    *,
    router: Router,
    leases: NodeLeases,
    link_ring: KeyRing,
    clock: Clock,
    rng: random.Random | None = None,
) -> Service:
    """What finds push nodes in other processes and links `router` to them.

    Start it before the router's service, so that it is stopped after: a drain awaits acknowledgements over these links.
    """
    # Imported here: an embedded router needs no WebSocket library.
    from message_router.adapters.node_link_client import NodeLinkClient

    return NodeLinkClient(
        leases=leases,
        attach=router.attach,
        ring=link_ring,
        router_id=settings.router_id,
        clock=clock,
        new_backoff=_backoffs(settings, rng),
        allowed_networks=settings.allowed_networks,
        discover_interval_s=settings.discover_interval_s,
        connect_timeout_s=settings.connect_timeout_s,
        max_nodes=settings.max_nodes,
    )


def _backoffs(settings: RouterSettings, rng: random.Random | None) -> Callable[[], Backoff]:
    jitter = (rng or random.Random()).random  # noqa: S311 - spreads retries, guards nothing
    return lambda: Backoff(first_s=settings.retry_first_s, cap_s=settings.retry_cap_s, jitter=jitter)
