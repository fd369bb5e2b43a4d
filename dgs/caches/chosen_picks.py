"""Picks from the sources of recommendations that are configured, in their order: what a cache asks when it has none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from contract.clock import Clock
from contract.errors import BroadcastSystemError
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

_PER_TURN: Final = 16
"""Histories looked up, some 0.05 ms each, before the loop serves others."""


class Chooser(Protocol):
    """`dgs.sources.chain.RecommendationChain`."""

    async def choose(self, profiles: Sequence[Profile], need: Need, deadline_s: float) -> Sequence[Chosen]:
        """One for each, in order."""
        ...


def need_of(schedule: TopicSchedule, per_row: int) -> Need:
    """What a map of this schedule can use."""
    return Need(titles_needed(schedule, per_row), reasons_needed(schedule) + SPARE_REASONS, BECAUSE_TITLES)


class _Asked(NamedTuple):
    wanted: Wanted
    schedule: TopicSchedule
    profile: Profile


class ChosenPicks:
    """PicksSource over sources that know profiles and titles, not picks; remembers nothing."""

    name = "sources"

    def __init__(
        self,
        chain: Chooser,
        catalogs: CatalogInUse,
        profiles: ProfileSource,
        schedule_of: Callable[[str], TopicSchedule | None],
        clock: Clock,
        *,
        per_row: int,
    ) -> None:
        self._chain = chain
        self._catalogs = catalogs
        self._profiles = profiles
        self._schedule_of = schedule_of
        self._clock = clock
        self._per_row = per_row

    def at_once(self, wanted: Wanted) -> Picks | None:
        """None: sources are asked, not looked at."""
        return None

    async def find(self, wanted: Sequence[Wanted], deadline_s: float) -> Mapping[Wanted, Picks | Missing]:
        """See PicksSource: profiles that need as much are asked for together. Cancel-safe."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + deadline_s
        found: dict[Wanted, Picks | Missing] = {}
        by_need: dict[Need, list[_Asked]] = {}
        for number, each in enumerate(wanted):
            if number and number % _PER_TURN == 0:
                await asyncio.sleep(0)
            asked = self._asked(each)
            if isinstance(asked, Missing):
                found[each] = asked
            else:
                by_need.setdefault(need_of(asked.schedule, self._per_row), []).append(asked)
        left_s = max(0.0, until_s - loop.time())
        for part in await asyncio.gather(*(self._choose(need, some, left_s) for need, some in by_need.items())):
            found.update(part)
        return found

    def _asked(self, wanted: Wanted) -> _Asked | Missing:
        schedule = self._schedule_of(wanted.topic)
        if schedule is None:
            return Missing("its schedule is gone")
        try:
            return _Asked(wanted, schedule, self._profiles.profile(wanted.profile_id))
        except BroadcastSystemError as exc:
            return Missing(exc.message)

    async def _choose(self, need: Need, asked: Sequence[_Asked], deadline_s: float) -> dict[Wanted, Picks]:
        chosen = await self._chain.choose([each.profile for each in asked], need, deadline_s)
        index = self._catalogs.current
        return {
            each.wanted: make_picks(
                each.schedule,
                one.recommendations,
                index_of=index.index_of,
                per_row=self._per_row,
                catalog=index.digest,
                now_ms=self._clock.now_ms(),
                source=one.source,
                degraded=one.degraded,
                why=one.why or "",
            )
            for each, one in zip(asked, chosen, strict=True)
        }
