"""Picks made of what a chain of recommendation sources chose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from contract.clock import Clock
from contract.errors import NotFound
from contract.schedule import TopicSchedule
from dgs.catalog_picks import BECAUSE_TITLES, SPARE_REASONS
from dgs.catalogs import CatalogInUse
from dgs.model import Profile
from dgs.picks import Missing, Picks, Wanted
from dgs.ports import Need, ProfileSource
from dgs.shelf import make_picks
from dgs.sources.answers import Chosen
from dgs.stage_map import reasons_needed, titles_needed

__all__ = ["Chooser", "ChosenPicks", "need_of"]


class Chooser(Protocol):
    """Several sources in order; see `dgs.sources.chain`."""

    async def choose(self, profiles: Sequence[Profile], need: Need, deadline_s: float) -> Sequence[Chosen]:
        """One for each, whatever fails."""
        ...


def need_of(schedule: TopicSchedule, per_row: int) -> Need:
    """What a map of this schedule can use."""
    return Need(titles_needed(schedule, per_row), reasons_needed(schedule) + SPARE_REASONS, BECAUSE_TITLES)


class ChosenPicks:
    """PicksSource that remembers nothing: a cache goes in front of it."""

    name = "sources"

    def __init__(
        self,
        chooser: Chooser,
        catalogs: CatalogInUse,
        profiles: ProfileSource,
        schedule_of: Callable[[str], TopicSchedule | None],
        clock: Clock,
        *,
        per_row: int,
    ) -> None:
        self._chooser = chooser
        self._catalogs = catalogs
        self._profiles = profiles
        self._schedule_of = schedule_of
        self._clock = clock
        self._per_row = per_row

    def at_once(self, wanted: Wanted) -> Picks | None:
        """None: a source is never asked in passing."""
        return None

    async def find(self, wanted: Sequence[Wanted], deadline_s: float) -> Mapping[Wanted, Picks | Missing]:
        """See PicksSource; profiles of one topic are asked for together. Cancel-safe."""
        found: dict[Wanted, Picks | Missing] = {}
        by_topic: dict[str, list[tuple[Wanted, Profile]]] = {}
        for each in wanted:
            try:
                by_topic.setdefault(each.topic, []).append((each, self._profiles.profile(each.profile_id)))
            except NotFound as exc:
                found[each] = Missing(exc.message)
        for topic, group in by_topic.items():
            schedule = self._schedule_of(topic)
            if schedule is None:
                found.update((each, Missing("its schedule is gone")) for each, _ in group)
                continue
            need = need_of(schedule, self._per_row)
            answers = await self._chooser.choose([profile for _, profile in group], need, deadline_s)
            for (each, _), chosen in zip(group, answers, strict=True):
                found[each] = self._made(schedule, chosen)
        return found

    def _made(self, schedule: TopicSchedule, chosen: Chosen) -> Picks:
        index = self._catalogs.current
        picks = make_picks(
            schedule,
            chosen.recommendations,
            index_of=index.index_of,
            per_row=self._per_row,
            catalog=index.digest,
            now_ms=self._clock.now_ms(),
            source=chosen.source,
            degraded=chosen.degraded,
        )
        return picks._replace(why=chosen.why or "") if chosen.degraded else picks
