"""Composition of the DGS: settings and ports in; an endpoint, an application and the services behind them out."""

from __future__ import annotations

import random
import secrets
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from contract.clock import Clock
from contract.kv.ports import ReplayLogReader, ScheduleViewReader
from contract.runtime.runner import Readiness, Service
from contract.tokens import KeyRing
from dgs.callers import Callers
from dgs.graphiql import GraphiQLPage, asset_routes
from dgs.http.asgi_bridge import AsgiBridge
from dgs.http.limits import ServerLimits
from dgs.http.server import DgsServer
from dgs.http_api import ArtworkEndpoint, GraphQLEndpoint, OperationsEndpoints
from dgs.metrics import DgsMetrics
from dgs.operations.fast_path import FastPath
from dgs.operations.library import Library, load_library
from dgs.prefetch import Prefetch
from dgs.priority.dependencies import GuardedPicks
from dgs.priority.gate import PriorityGate
from dgs.priority.phases import due_times_of
from dgs.priority.rules import Ruleset
from dgs.priority.ruleset_file import RulesetFile, RulesetWatch
from dgs.request_log import RequestLog, noting
from dgs.schema import build_schema
from dgs.serving import Answer, Ask, Endpoint, Outcome, Verdict
from dgs.settings import DgsSettings
from dgs.sharding.choice import ClusterChoice
from dgs.sharding.clusters import Clusters, single_cluster
from dgs.sharding.clusters_file import load_clusters
from dgs.sharding.report import ScalingReport
from dgs.shown import show_gate, show_server, show_stock
from dgs.stock import OpenStore, Stock, open_stock
from dgs.traces import Traces
from dgs.trust import trusting

__all__ = ["Dgs", "build_dgs"]

_LONGER_S: Final = 2.0
"""Than what runs inside: its own time-outs tell more."""
_ALWAYS: Final = frozenset(("/healthz", "/readyz", "/metrics", "/requests", "/status", "/scaling"))
"""Answered whatever the load: who asks these wants to know of it."""
_LATE_SHARE: Final = 0.8
"""Of a source's deadline: picks that took as long and are not its own stand for a time-out."""
_RANKING: Final = "picks"
"""The dependency the gate learns the pace of."""
_OWN_AT_ONCE: Final = 64
"""Rankings of this process that may wait for its core, some 20 ms of work: a burst is no overload, a queue is."""
_log = structlog.get_logger(__name__)
_NO_ROOM: Final = "too many rankings under way"


class Dgs:
    """A composed DGS. `server` makes what answers on a socket; `services` must run beside it, and stop after it.

    Called as an ASGI application it answers without the server, its gate and the fast path: for tests and gateways.
    """

    def __init__(
        self,
        settings: DgsSettings,
        *,
        app: ASGIApp,
        stock: Stock,
        gate: PriorityGate,
        rules: RulesetFile,
        fast_path: Callable[[Endpoint], FastPath],
        library: Library,
        metrics: DgsMetrics,
        requests: RequestLog,
        clock: Clock,
        readiness: Readiness,
    ) -> None:
        self.settings = settings
        self.app = app
        self.stock = stock
        self.gate = gate
        self.rules = rules
        self._fast_path = fast_path
        self._library = library
        self._metrics = metrics
        self._requests = requests
        self._clock = clock
        self._readiness = readiness
        self._opened: list[FastPath] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)

    @property
    def services(self) -> tuple[Service, ...]:
        """What keeps schedules, catalog and rules fresh."""
        watch = RulesetWatch(self.rules, self._use_rules, every_s=self.settings.ruleset_reload_s)
        return (*self.stock.services, watch)

    def status(self) -> dict[str, object]:
        """For /status: plain JSON values."""
        return {
            "catalog": self.stock.reload.status(),
            "schedules_stale_s": round(min(self.stock.schedules.stale_s, 1e9), 3),
            "overload": self.gate.status(),
            "ruleset": self.rules.status(),
            "distinct_answers": dict(self.stock.distinct.most_by_stage()),
        }

    def server(
        self,
        sock: socket.socket,
        *,
        app: ASGIApp | None = None,
        tls: ssl.SSLContext | None = None,
        clock: Clock | None = None,
    ) -> DgsServer:
        """The service that answers on `sock`, a listening socket; `app`: the application with more pages, if any.

        `clock`: for the server's own deadlines, if it is another than that of what is served.
        """
        settings = self.settings
        bridge = AsgiBridge(app or self.app, deadline_s=settings.request_timeout_s + _LONGER_S, tls=tls is not None)
        fast_path = self._fast_path(bridge)
        self._opened.append(fast_path)
        clock = clock or self._clock
        traces = Traces(
            own_per_s=settings.trace_sample_per_s,
            asked_per_s=settings.trace_asked_per_s,
            now_s=clock.monotonic_s,
            now_ms=self._clock.now_ms,
            draw=random.random,
            random_bytes=secrets.token_bytes,
            write=lambda line: _log.info("span", **line),
        )
        look = trusting(fast_path.look, settings.trusted_networks)
        server = DgsServer(
            sock,
            endpoint=fast_path,
            gate=self.gate,
            look=noting(look, self._requests, self._clock.now_ms),
            refuse=partial(self._refuse, fast_path),
            observe=self._metrics.answered,
            always=_ALWAYS,
            limits=ServerLimits.of(settings),
            clock=clock,
            readiness=self._readiness,
            tls=tls,
            traces=traces,
        )
        show_server(self._metrics, server, fast_path, self._library, traces)
        return server

    async def aclose(self) -> None:
        """Give up on what still waits or is being asked for. Idempotent; after the servers have ended."""
        for fast_path in self._opened:
            await fast_path.close()
        await self.stock.aclose()

    def _refuse(self, fast_path: FastPath, ask: Ask, verdict: Verdict) -> Answer:
        """A device that could not come again before the stage gets everybody's map, if a map is what it asked for."""
        fast_path.forget(ask)
        instead = fast_path.default_map(ask) if verdict.default_map else None
        return instead or self.gate.refusal(verdict)

    def _use_rules(self, ruleset: Ruleset) -> None:
        self.gate.use(ruleset, now_s=self._clock.monotonic_s(), now_ms=self._clock.now_ms())


def build_dgs(
    settings: DgsSettings,
    *,
    schedule_view: ScheduleViewReader,
    replay_log: ReplayLogReader,
    device_ring: KeyRing,
    clock: Clock,
    readiness: Readiness,
    draw: Callable[[], float] = random.random,
    profile_ring: KeyRing | None = None,
    open_store: OpenStore | None = None,
) -> Dgs:
    """Reads its files now, blocking (0.3 s for the demo catalog).

    `draw` is uniform over [0, 1): the jitter of lifetimes and token expiry that devices are told. Raises InvalidRequest
    naming file, line and column when catalog, profiles, operations, rules or clusters cannot be used.
    """
    metrics = DgsMetrics()
    requests = RequestLog(window_ms=settings.request_log_window_s * 1000, started_ms=clock.now_ms())
    metrics.source("requests", lambda: {(kind,): count for kind, count in requests.totals.items()})

    def observe(took_s: float, outcome: Outcome) -> None:
        gate.dependencies[_RANKING].observe(took_s, outcome, clock.monotonic_s())

    stock = open_stock(
        settings,
        schedule_view=schedule_view,
        replay_log=replay_log,
        clock=clock,
        open_store=open_store,
        observe=observe,
    )
    show_stock(metrics, stock)
    rules = RulesetFile(settings.ruleset_path)
    gate = _gate(settings, rules, stock, clock)
    show_gate(metrics, gate, rules)
    picks = GuardedPicks(
        stock.picks,
        gate.dependencies[_RANKING],
        gate.dependencies,
        late_after_s=_LATE_SHARE * settings.ranking_deadline_ms / 1000,
        monotonic_s=clock.monotonic_s,
        otherwise=None if stock.chain is None else lambda wanted: stock.instead(wanted, _NO_ROOM),
    )
    clusters = _clusters(settings)
    open_ended_ms = settings.open_ended_event_s * 1000
    prefetch = Prefetch(
        settings,
        catalogs=stock.catalogs,
        profiles=stock.profiles,
        picks=picks,
        defaults=stock.defaults,
        schedules=stock.schedules,
        newest=stock.newest,
        device_ring=device_ring,
        clock=clock,
        draw=draw,
        clusters=ClusterChoice(clusters, open_ended_ms=open_ended_ms),
    )
    callers = Callers(profile_ring, settings.tokens, clock.now_ms)
    schema = build_schema(settings)
    library = load_library(settings, schema)
    graphql = GraphQLEndpoint(schema, prefetch, metrics, None, clock, settings=settings, draw=draw, callers=callers)
    artwork = ArtworkEndpoint(
        lambda title_id: stock.catalogs.current.title(title_id),
        metrics,
        None,
        clock,
        cache_entries=settings.artwork_cache_entries,
    )
    scaling = ScalingReport(clusters, stock.schedules, clock, open_ended_ms=open_ended_ms)
    pages = OperationsEndpoints(readiness, schedule_view, metrics, requests, scaling)
    readiness.hold("dgs.schedule_view")
    app = Starlette(
        routes=[
            Route("/graphql", GraphiQLPage(graphql) if settings.graphiql else graphql),
            *(asset_routes() if settings.graphiql else ()),
            Route("/artwork/{path:path}", artwork),
            Route("/healthz", pages.healthz),
            Route("/readyz", pages.readyz),
            Route("/metrics", pages.metrics),
            Route("/requests", pages.requests),
            Route("/scaling", pages.scaling),
        ]
    )
    return Dgs(
        settings,
        app=app,
        stock=stock,
        gate=gate,
        rules=rules,
        fast_path=lambda fallback: FastPath(
            settings,
            library=library,
            fallback=fallback,
            catalogs=stock.catalogs,
            profiles=stock.profiles,
            place_of=stock.place_of,
            schedules=stock.schedules,
            picks=picks,
            defaults=stock.defaults,
            prefetch=prefetch,
            caller_of=callers.caller,
            clock=clock,
            draw=draw,
        ),
        library=library,
        metrics=metrics,
        requests=requests,
        clock=clock,
        readiness=readiness,
    )


def _gate(settings: DgsSettings, rules: RulesetFile, stock: Stock, clock: Clock) -> PriorityGate:
    return PriorityGate(
        rules.ruleset,
        schedules=lambda: due_times_of(stock.schedules.known()),
        draw=random.random,
        now_s=clock.monotonic_s(),
        now_ms=clock.now_ms(),
        queue_target_ms=settings.queue_target_ms,
        retry_after_mean_ms=settings.retry_after_mean_ms,
        dependencies=(_RANKING,),
        limit_min=settings.limit_min if stock.chain is not None else max(settings.limit_min, _OWN_AT_ONCE),
        limit_max=max(settings.limit_max, _OWN_AT_ONCE),
    )


def _clusters(settings: DgsSettings) -> Clusters:
    if settings.clusters_path is None:
        return single_cluster(settings.push_urls)
    return load_clusters(settings.clusters_path, named=settings.cluster)
