"""Composition of the DGS: settings and ports in, an ASGI application out."""

from __future__ import annotations

import random
from collections.abc import Callable

import structlog
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp

from contract.clock import Clock
from contract.kv.ports import ReplayLogReader, ScheduleViewReader
from contract.runtime.runner import Readiness
from contract.tokens import KeyRing
from dgs.answer_budget import BudgetedPicks
from dgs.callers import Callers
from dgs.catalog_picks import CatalogPicks
from dgs.catalogs import CatalogIndex, CatalogInUse
from dgs.default_picks import DefaultPicks
from dgs.distinct import DistinctAnswers
from dgs.graphiql import GraphiQLPage, asset_routes
from dgs.http_api import ArtworkEndpoint, GraphQLEndpoint, OperationsEndpoints
from dgs.metrics import DgsMetrics
from dgs.ports import ProfileSource
from dgs.prefetch import Prefetch
from dgs.read_through import ReadThroughNewest, ReadThroughSchedules
from dgs.request_log import RequestLog
from dgs.schema import build_schema
from dgs.settings import DgsSettings
from dgs.sources.catalog import Catalog, CatalogOptions, demo_options, load_catalog
from dgs.sources.profiles import SeededProfiles, load_profiles

__all__ = ["build_dgs"]

_log = structlog.get_logger(__name__)


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
) -> ASGIApp:
    """The service as an ASGI application; reads its files now, blocking (0.1 s for the demo catalog).

    `draw` is uniform over [0, 1): the jitter of lifetimes and token expiry. Raises InvalidRequest naming file, line and
    column when the catalog or the profiles cannot be used.
    """
    catalog = _load_catalog(settings)
    profiles = _load_profiles(settings, catalog)
    metrics = DgsMetrics()
    metrics.catalog_titles.set(len(catalog.titles))
    metrics.catalog_rejected.set(len(catalog.rejected))
    requests = RequestLog(
        window_ms=settings.request_log_window_s * 1000,
        started_ms=clock.now_ms(),
    )
    catalogs = CatalogInUse(CatalogIndex(catalog.titles, cohorts=settings.cohorts))
    schedules = ReadThroughSchedules(schedule_view)
    defaults = DefaultPicks(catalogs, per_row=settings.titles_per_row, now_ms=clock.now_ms)
    picks = BudgetedPicks(
        CatalogPicks(catalogs, profiles, schedules.schedule, clock, per_row=settings.titles_per_row),
        DistinctAnswers(budget=settings.distinct_budget),
        defaults,
        profiles,
        schedules,
    )
    prefetch = Prefetch(
        settings,
        catalogs=catalogs,
        profiles=profiles,
        picks=picks,
        defaults=defaults,
        schedules=schedules,
        newest=ReadThroughNewest(replay_log),
        device_ring=device_ring,
        clock=clock,
        draw=draw,
    )
    graphql = GraphQLEndpoint(
        build_schema(settings),
        prefetch,
        metrics,
        requests,
        clock,
        settings=settings,
        draw=draw,
        callers=Callers(profile_ring, settings.tokens, clock.now_ms),
    )
    artwork = ArtworkEndpoint(catalog.by_id.get, metrics, requests, clock, cache_entries=settings.artwork_cache_entries)
    operations = OperationsEndpoints(readiness, schedule_view, metrics, requests)
    readiness.hold("dgs.schedule_view")
    return Starlette(
        routes=[
            Route("/graphql", GraphiQLPage(graphql) if settings.graphiql else graphql),
            *(asset_routes() if settings.graphiql else ()),
            Route("/artwork/{path:path}", artwork),
            Route("/healthz", operations.healthz),
            Route("/readyz", operations.readyz),
            Route("/metrics", operations.metrics),
            Route("/requests", operations.requests),
        ]
    )


def _load_catalog(settings: DgsSettings) -> Catalog:
    base = demo_options(settings.catalog_path)
    options = CatalogOptions(
        newest_year=settings.catalog_newest_year or base.newest_year, repair=settings.catalog_repair or base.repair
    )
    catalog = load_catalog(settings.catalog_path, strict=settings.catalog_strict, options=options)
    _log.info(
        "catalog_loaded",
        path=str(settings.catalog_path),
        titles=len(catalog.titles),
        rejected=len(catalog.rejected),
        corrected=len(catalog.corrected),
    )
    for row in catalog.rejected[:20]:
        _log.warning("catalog_row_left_out", line=row.line, column=row.column, why=row.why)
    return catalog


def _load_profiles(settings: DgsSettings, catalog: Catalog) -> ProfileSource:
    if settings.profiles_path is None:
        return SeededProfiles(catalog, settings.profile_seed)
    return load_profiles(settings.profiles_path, catalog, default_region=settings.default_region)
