"""What answers are made of, opened as the settings say: catalog, profiles, schedules, newest broadcasts, picks."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from contract.clock import Clock
from contract.kv.ports import ReplayLogReader, ScheduleViewReader
from contract.runtime.runner import Service
from contract.schedule import TopicSchedule
from dgs.answer_budget import BudgetedPicks
from dgs.caches.chosen_picks import ChosenPicks
from dgs.caches.expiring import Lifetimes
from dgs.caches.latest import LatestEntries
from dgs.caches.picks_cache import CachedPicks
from dgs.caches.schedule_mirror import ScheduleMirror
from dgs.catalog_picks import CatalogPicks
from dgs.catalogs import CatalogIndex, CatalogInUse
from dgs.default_picks import DefaultPicks
from dgs.distinct import DistinctAnswers
from dgs.model import Profile
from dgs.picks import Picks, Wanted
from dgs.places import places_of
from dgs.ports import MaterialisedStore, Need, PicksSource, Place, ProfileSource
from dgs.serving import Outcome
from dgs.settings import DgsSettings
from dgs.sources.catalog import Catalog
from dgs.sources.chain import MATERIALISED, Otherwise, RecommendationChain, build_chain, source_order
from dgs.sources.registry import SourceOptions, load_source
from dgs.sources.reload import CatalogReload
from dgs.stage_map import Recommendations

__all__ = ["OpenStore", "Stock", "open_stock"]

_CATALOG: Final = "catalog"
_PICKS_SPREAD: Final = 0.5
_PICKS_EARLY: Final = 0.2
"""Share of their life's end in which picks are made anew while they are still shown."""
_log = structlog.get_logger(__name__)
OpenStore = Callable[[Callable[[], str]], MaterialisedStore]
"""Makes the store of materialised picks, given what tells the digest of the catalog in use."""


@dataclass(frozen=True, kw_only=True)
class Stock:
    """`services` keep it fresh."""

    catalogs: CatalogInUse
    profiles: ProfileSource
    place_of: Callable[[str], Place]
    schedules: ScheduleMirror
    newest: LatestEntries
    picks: CachedPicks
    defaults: DefaultPicks
    distinct: DistinctAnswers
    reload: CatalogReload
    chain: RecommendationChain | None
    """None: nobody but the catalog's own ranking chooses."""

    @property
    def services(self) -> tuple[Service, ...]:
        return (self.schedules, self.reload)

    def instead(self, wanted: Wanted, why: str) -> Picks | None:
        """What is shown when nobody can wait for a profile's own picks: everybody's."""
        schedule = self.schedules.schedule(wanted.topic)
        return None if schedule is None else self.defaults.of(schedule, None, why)

    async def aclose(self) -> None:
        """Give up on what is under way. Idempotent."""
        await self.picks.aclose()
        if self.chain is not None:
            await self.chain.aclose()


def open_stock(
    settings: DgsSettings,
    *,
    schedule_view: ScheduleViewReader,
    replay_log: ReplayLogReader,
    clock: Clock,
    open_store: OpenStore | None = None,
    draw: Callable[[], float] = random.random,
    observe: Callable[[float, Outcome], None] = lambda took_s, outcome: None,
) -> Stock:
    """Reads catalog and profiles now, blocking. Raises InvalidRequest naming what cannot be used.

    `draw` is uniform over [0, 1): the jitter of polls, retries and caches. `observe` hears how long sources took, as
    far as they tell.
    """
    reload = CatalogReload(
        load_source("catalog", settings.catalog_source, SourceOptions(settings, clock, draw=draw)),
        every_s=settings.catalog_reload_s,
        clock=clock,
        jitter=draw,
    )
    _tell(settings, reload.current())
    catalogs = CatalogInUse(CatalogIndex(reload.current().titles, cohorts=settings.cohorts))
    reload.on_new(lambda catalog: CatalogIndex(catalog.titles, cohorts=settings.cohorts), _swapping(catalogs))
    options = SourceOptions(
        settings,
        clock,
        catalog=reload.current,
        ranking=lambda: catalogs.current.recommendations,
        draw=draw,
        observe=observe,
    )
    profiles = load_source("profiles", settings.profiles_source or _usual_profiles(settings), options)
    schedules = ScheduleMirror(
        schedule_view, clock, poll_s=settings.schedule_poll_s, stale_s=settings.schedule_stale_s, draw=draw
    )
    defaults = DefaultPicks(catalogs, per_row=settings.titles_per_row, now_ms=clock.now_ms)
    distinct = DistinctAnswers(budget=settings.distinct_budget)
    names = source_order(settings.recommendations)
    chain: RecommendationChain | None = None
    source: PicksSource
    if [name for name in names if name != MATERIALISED] == [_CATALOG]:
        source = CatalogPicks(catalogs, profiles, schedules.schedule, clock, per_row=settings.titles_per_row)
    else:
        chain = build_chain(options, otherwise=Otherwise("cohort", _cohort_of(catalogs)))
        source = ChosenPicks(chain, catalogs, profiles, schedules.schedule, clock, per_row=settings.titles_per_row)
    picks = CachedPicks(
        BudgetedPicks(source, distinct, defaults, profiles, schedules),
        schedule_of=schedules.schedule,
        catalog=lambda: catalogs.current.digest,
        clock=clock,
        lifetimes=Lifetimes(
            mean_s=settings.picks_ttl_s,
            spread=_PICKS_SPREAD,
            early=_PICKS_EARLY,
            guard_s=settings.ttl_stage_guard_s,
            draw=draw,
        ),
        draw=draw,
        store=open_store(lambda: catalogs.current.digest) if open_store is not None and MATERIALISED in names else None,
        otherwise=_cohorts(schedules.schedule, profiles, defaults),
        max_bytes=settings.picks_cache_bytes,
        stale_s=settings.ranking_stale_s,
        per_turn=settings.cold_per_turn if chain is None else None,
        gather_s=settings.ranking_batch_wait_ms / 1000 if chain is not None else 0.0,
        batch=settings.ranking_batch,
    )
    return Stock(
        catalogs=catalogs,
        profiles=profiles,
        place_of=places_of(profiles, entries=settings.profile_cache_entries),
        schedules=schedules,
        newest=LatestEntries(replay_log, clock, stale_s=settings.schedule_stale_s),
        picks=picks,
        defaults=defaults,
        distinct=distinct,
        reload=reload,
        chain=chain,
    )


def _cohort_of(catalogs: CatalogInUse) -> Callable[[Profile, Need], Recommendations]:
    """What a profile's cohort would like: for those nobody could choose for."""

    def choose(profile: Profile, need: Need) -> Recommendations:
        index = catalogs.current
        ranked = index.cohorts.rank(index.cohorts.cohort_of(profile), need.k)
        return Recommendations(tuple(index.titles[at] for at in ranked))

    return choose


def _usual_profiles(settings: DgsSettings) -> str:
    return "seeded" if settings.profiles_path is None else "file"


def _swapping(catalogs: CatalogInUse) -> Callable[[CatalogIndex], None]:
    def adopt(index: CatalogIndex) -> None:
        catalogs.swap(index)

    return adopt


def _cohorts(
    schedule_of: Callable[[str], TopicSchedule | None], profiles: ProfileSource, defaults: DefaultPicks
) -> Callable[[Wanted, str], Picks | None]:
    """The picks of the profile's cohort, where its history is at hand."""

    def otherwise(wanted: Wanted, why: str) -> Picks | None:
        schedule = schedule_of(wanted.topic)
        if schedule is None:
            return None
        profile: Profile | None = None
        try:
            profile = profiles.profile(wanted.profile_id)
        except Exception:  # a plug-in's trouble must not become the caller's: everybody's picks, then
            _log.debug("profile_not_at_hand", why=why)
        return defaults.of(schedule, profile, why)

    return otherwise


def _tell(settings: DgsSettings, catalog: Catalog) -> None:
    _log.info(
        "catalog_loaded",
        source=settings.catalog_source,
        titles=len(catalog.titles),
        rejected=len(catalog.rejected),
        corrected=len(catalog.corrected),
    )
    for row in catalog.rejected[:20]:
        _log.warning("catalog_row_left_out", line=row.line, column=row.column, why=row.why)
