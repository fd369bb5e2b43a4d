"""One chunk: profiles in, picks made and written, the chunk marked as done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from contract.errors import Forbidden, NotFound
from dgs.audience import choose_audience
from dgs.materialise.job import JobPlan
from dgs.picks import Picks, Wanted
from dgs.places import places_of
from dgs.ports import MaterialisedStore, PicksSource, ProfileSource

__all__ = ["ChunkMaker", "Made"]

_DEADLINE_S: Final = 60.0
"""For the picks of a chunk: a ranking service has its own, this is for one that has none."""
_MARKED_FOR: Final = 0.9
"""Share of the picks' time for which a chunk counts as done: no picks may be gone while it does."""


class Made(NamedTuple):
    written: int
    left_out: int
    """Profiles there are no own picks of: unknown, not served in their region, or nobody could choose for them."""


class ChunkMaker:
    """Writes before it marks: a chunk that was interrupted is made again, to the same picks."""

    def __init__(
        self, plan: JobPlan, source: PicksSource, profiles: ProfileSource, store: MaterialisedStore, *, keep_s: int
    ) -> None:
        self._plan = plan
        self._source = source
        self._place = places_of(profiles, entries=1)
        self._store = store
        self._keep_s = keep_s
        self._job = plan.id

    async def make(self, chunk: int, profile_ids: Sequence[str]) -> Made:
        """Raises StoreUnavailable; cancel-safe and idempotent."""
        wanted = [each for each in map(self._wanted, profile_ids) if each is not None]
        found = await self._source.find(wanted, _DEADLINE_S)
        by_topic: dict[tuple[str, int], dict[str, Picks]] = {}
        for each in wanted:
            picks = found.get(each)
            if isinstance(picks, Picks) and not picks.degraded:
                by_topic.setdefault((each.topic, each.version), {})[each.profile_id] = picks
        for (topic, version), group in by_topic.items():
            await self._store.write(topic, version, group, keep_s=self._keep_s)
        await self._store.done(self._job, chunk, keep_s=max(1, round(self._keep_s * _MARKED_FOR)))
        written = sum(map(len, by_topic.values()))
        return Made(written, len(profile_ids) - written)

    def _wanted(self, profile_id: str) -> Wanted | None:
        try:
            schedule = choose_audience(self._plan.schedules, self._place(profile_id).region)
        except (NotFound, Forbidden):
            return None
        return Wanted(schedule.topic, schedule.revision, schedule.version, profile_id)
