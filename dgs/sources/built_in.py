"""The sources that come with the DGS, each made from its settings; entry points of this very package."""

from __future__ import annotations

from pathlib import Path

from contract.errors import InvalidRequest
from dgs.breaker import Breaker
from dgs.settings import DgsSettings
from dgs.sources.catalog import Catalog, CatalogOptions, demo_options, is_demo
from dgs.sources.content import CatalogRecommendations
from dgs.sources.file import FileCatalog
from dgs.sources.http_recommend import HttpRecommendations
from dgs.sources.profiles import CsvProfiles, SeededProfiles, load_profiles
from dgs.sources.registry import SourceOptions
from dgs.sources.sql import SqlCatalog

__all__ = [
    "catalog_recommendations",
    "file_catalog",
    "file_profiles",
    "http_recommendations",
    "seeded_profiles",
    "sql_catalog",
]


def file_catalog(options: SourceOptions) -> FileCatalog:
    """`file`: CSV or JSON at DGS_CATALOG_PATH."""
    settings = options.settings
    path = settings.catalog_path
    return FileCatalog(path, strict=_strict(settings, path), options=_catalog_options(settings, path))


def sql_catalog(options: SourceOptions) -> SqlCatalog:
    """`sql`: DGS_CATALOG_QUERY at DGS_CATALOG_URL."""
    settings = options.settings
    return SqlCatalog(
        settings.catalog_url,
        settings.catalog_query,
        stamp_query=settings.catalog_stamp_query,
        strict=_strict(settings, None),
        options=_catalog_options(settings, None),
    )


def catalog_recommendations(options: SourceOptions) -> CatalogRecommendations:
    """`catalog`: the content-based ranking of the DGS itself."""
    assert options.catalog is not None
    return CatalogRecommendations(options.catalog, ranking=options.ranking)


def http_recommendations(options: SourceOptions) -> HttpRecommendations:
    """`http`: the ranking service at DGS_RANKING_URL."""
    assert options.catalog is not None
    settings = options.settings
    deadline_s = settings.ranking_deadline_ms / 1000
    return HttpRecommendations(
        settings.ranking_url,
        options.catalog,
        breaker=Breaker(probe_s=4 * deadline_s, jitter=options.draw),
        batch=settings.ranking_batch,
        wait_s=0.0,  # the cache of picks in front has gathered them
        at_once=settings.ranking_concurrency,
        deadline_s=deadline_s,
        stale_s=settings.ranking_stale_s,
        observe=options.observe,
    )


def seeded_profiles(options: SourceOptions) -> SeededProfiles:
    """`seeded`: generated from DGS_PROFILE_SEED and the catalog as it is now; a later one changes no history."""
    return SeededProfiles(_catalog(options), options.settings.profile_seed)


def file_profiles(options: SourceOptions) -> CsvProfiles:
    """`file`: CSV at DGS_PROFILES_PATH."""
    path = options.settings.profiles_path
    if path is None:
        raise InvalidRequest("source `file` needs a path", field="DGS_PROFILES_PATH")
    return load_profiles(path, _catalog(options), default_region=options.settings.default_region)


def _catalog(options: SourceOptions) -> Catalog:
    assert options.catalog is not None
    return options.catalog()


def _strict(settings: DgsSettings, path: Path | None) -> bool:
    """Good rows of a rough catalog are kept only if asked; the demo's one bad row is known."""
    if settings.catalog_strict is not None:
        return settings.catalog_strict
    return path is None or not is_demo(path)


def _catalog_options(settings: DgsSettings, path: Path | None) -> CatalogOptions:
    base = demo_options(path) if path is not None else CatalogOptions()
    return CatalogOptions(
        newest_year=settings.catalog_newest_year or base.newest_year, repair=settings.catalog_repair or base.repair
    )
