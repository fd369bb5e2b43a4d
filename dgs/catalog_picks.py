"""Picks computed here and now from profiles and the catalog's ranking: the last resort that always answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from contract.clock import Clock
from contract.errors import NotFound
from contract.schedule import TopicSchedule
from dgs.catalogs import CatalogInUse
from dgs.model import Profile
from dgs.picks import Missing, Picks, Wanted
from dgs.ports import ProfileSource
from dgs.shelf import index_picks
from dgs.stage_map import reasons_needed, stage_keys, titles_needed

__all__ = ["BECAUSE_TITLES", "SPARE_REASONS", "CatalogPicks"]

SPARE_REASONS: Final = 1
"""A watched title too like the one before it may have no neighbours left to show."""
BECAUSE_TITLES: Final = 24
_PER_TURN: Final = 4
"""Rankings, 0.2 ms each, before the loop serves others."""


class CatalogPicks:
    """PicksSource that ranks; remembers nothing, so that a cache in front of it is the only one."""

    name = "catalog"

    def __init__(
        self,
        catalogs: CatalogInUse,
        profiles: ProfileSource,
        schedule_of: Callable[[str], TopicSchedule | None],
        clock: Clock,
        *,
        per_row: int,
    ) -> None:
        self._catalogs = catalogs
        self._profiles = profiles
        self._schedule_of = schedule_of
        self._clock = clock
        self._per_row = per_row

    def pick(self, schedule: TopicSchedule, profile: Profile) -> Picks:
        """What this profile sees of the topic, from scratch in about 0.15 ms; deterministic."""
        index = self._catalogs.current
        found = index.recommendations.recommend_indexes(
            profile,
            titles_needed(schedule, self._per_row),
            because=reasons_needed(schedule) + SPARE_REASONS,
            per_because=BECAUSE_TITLES,
        )
        return index_picks(
            stage_keys(schedule),
            found.ranked,
            found.because,
            per_row=self._per_row,
            catalog=index.digest,
            now_ms=self._clock.now_ms(),
            source=self.name,
        )

    def at_once(self, wanted: Wanted) -> Picks | None:
        """None: ranking is too dear to be asked for in passing."""
        return None

    async def find(self, wanted: Sequence[Wanted], deadline_s: float) -> Mapping[Wanted, Picks | Missing]:
        """See PicksSource; a few rankings, then others have their turn. Cancel-safe."""
        found: dict[Wanted, Picks | Missing] = {}
        for count, each in enumerate(wanted):
            if count and count % _PER_TURN == 0:
                await asyncio.sleep(0)
            schedule = self._schedule_of(each.topic)
            if schedule is None:
                found[each] = Missing("its schedule is gone")
                continue
            try:
                found[each] = self.pick(schedule, self._profiles.profile(each.profile_id))
            except NotFound as exc:
                found[each] = Missing(exc.message)
        return found
