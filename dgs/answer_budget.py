"""No more distinct answers than there is a budget for: whoever comes later shares the answer of a cohort."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from contract.errors import BroadcastSystemError
from dgs.default_picks import DefaultPicks
from dgs.distinct import DistinctAnswers
from dgs.picks import Missing, Picks, Wanted
from dgs.ports import PicksSource, ProfileSource, ScheduleReader

__all__ = ["OVER_BUDGET", "BudgetedPicks"]

OVER_BUDGET: Final = "more distinct answers than the budget allows"


class BudgetedPicks:
    """PicksSource that counts what another one answers; a cache goes in front of it, or it counts in vain.

    What was not the source's own choice (degraded picks) is passed on uncounted: there are at most as many of those as
    cohorts.
    """

    name = "budget"

    def __init__(
        self,
        inner: PicksSource,
        counted: DistinctAnswers,
        defaults: DefaultPicks,
        profiles: ProfileSource,
        schedules: ScheduleReader,
    ) -> None:
        self._inner = inner
        self.counted = counted
        self._defaults = defaults
        self._profiles = profiles
        self._schedules = schedules

    def at_once(self, wanted: Wanted) -> Picks | None:
        found = self._inner.at_once(wanted)
        return None if found is None else self._judge(wanted, found)

    async def find(self, wanted: Sequence[Wanted], deadline_s: float) -> Mapping[Wanted, Picks | Missing]:
        found = await self._inner.find(wanted, deadline_s)
        return {
            each: picks if isinstance(picks, Missing) else self._judge(each, picks) for each, picks in found.items()
        }

    def _judge(self, wanted: Wanted, picks: Picks) -> Picks:
        if picks.degraded or self.counted.admit(wanted.topic, wanted.version, picks):
            return picks
        schedule = self._schedules.schedule(wanted.topic)
        if schedule is None:
            return picks
        try:
            profile = self._profiles.profile(wanted.profile_id)
        except BroadcastSystemError:
            profile = None
        return self._defaults.of(schedule, profile, OVER_BUDGET)
