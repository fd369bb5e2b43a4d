"""Composition of the DGS: settings and ports in; an endpoint, an application and the services behind them out."""

from __future__ import annotations

import random
import socket
import ssl
from collections.abc import Callable
from typing import Final

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
from dgs.ports import PicksSource
from dgs.prefetch import Prefetch
from dgs.priority.dependencies import GuardedPicks
from dgs.priority.gate import PriorityGate
from dgs.priority.phases import due_times_of
from dgs.priority.rules import Ruleset
from dgs.priority.ruleset_file import RulesetFile, RulesetWatch
from dgs.request_log import RequestLog, noting
from dgs.schema import build_schema
from dgs.serving import Answer, Ask, Endpoint, Verdict
from dgs.settings import DgsSettings
from dgs.shown import show_gate, show_server, show_stock
from dgs.stock import OpenStore, Stock, open_stock
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
        look = trusting(fast_path.look, settings.trusted_networks)
        server = DgsServer(
            sock,
            endpoint=fast_path,
            gate=self.gate,
            look=noting(look, self._requests, self._clock.now_ms),
            refuse=self._refuse,
            observe=self._metrics.answered,
            always=_ALWAYS,
            limits=ServerLimits.of(settings),
            clock=clock or self._clock,
            readiness=self._readiness,
            tls=tls,
        )
        show_server(self._metrics, server, fast_path, self._library)
        return server

    async def aclose(self) -> None:
        """Give up on what sources still do. Idempotent."""
        await self.stock.aclose()

    def _refuse(self, ask: Ask, verdict: Verdict) -> Answer:
        return self.gate.refusal(verdict)

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
    stock = open_stock(settings, schedule_view=schedule_view, replay_log=replay_log, clock=clock, open_store=open_store)
    show_stock(metrics, stock)
    rules = RulesetFile(settings.ruleset_path)
    gate = _gate(settings, rules, stock, clock)
    show_gate(metrics, gate, rules)
    picks = _guarded(settings, stock, gate, clock)
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
    pages = OperationsEndpoints(readiness, schedule_view, metrics, requests)
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
        dependencies=(_RANKING,) if stock.chain is not None else (),
        limit_min=settings.limit_min,
        limit_max=settings.limit_max,
    )


def _guarded(settings: DgsSettings, stock: Stock, gate: PriorityGate, clock: Clock) -> PicksSource:
    """Picks by way of the gate where somebody outside chooses; here it is the queue that tells of overload."""
    if stock.chain is None:
        return stock.picks
    return GuardedPicks(
        stock.picks,
        gate.dependencies[_RANKING],
        gate.dependencies,
        late_after_s=_LATE_SHARE * settings.ranking_deadline_ms / 1000,
        monotonic_s=clock.monotonic_s,
        otherwise=lambda wanted: stock.instead(wanted, _NO_ROOM),
    )
