"""What sources answer besides recommendations: why not, what was said before, what everybody likes. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

from dgs.model import Profile, Title
from dgs.picks import Missing
from dgs.ports import Need
from dgs.sources.catalog import Catalog
from dgs.stage_map import Recommendations

__all__ = ["POPULAR", "Chosen", "StaleAnswers", "Unanswered", "popular_for"]

POPULAR = "popular"
"""Source of what is shown when no source could choose."""


class Unanswered(Missing):
    """Missing because the source failed, not because it has nothing: what is shown instead is degraded."""

    __slots__ = ()


class Chosen(NamedTuple):
    """Recommendations for one profile, whoever they came from."""

    recommendations: Recommendations
    source: str
    degraded: bool = False
    """A source before this one failed, or this is what it said some time ago, or nobody could choose."""
    why: str | None = None
    """What failed, in low-cardinality words; None if nothing did."""


class _Kept(NamedTuple):
    at_s: float
    answer: Recommendations


class StaleAnswers:
    """The last answer for each profile and need, some 1 KB each: least recently used ones go first.

    An answer outlives the catalog it was given with; titles that are gone drop out of it.
    """

    __slots__ = ("_kept", "_max_entries", "_stale_s")

    def __init__(self, *, stale_s: float, max_entries: int) -> None:
        self._stale_s = stale_s
        self._max_entries = max_entries
        self._kept: OrderedDict[tuple[str, Need], _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, profile_id: str, need: Need, answer: Recommendations, now_s: float) -> None:
        if self._stale_s <= 0 or self._max_entries <= 0:
            return
        key = profile_id, need
        self._kept[key] = _Kept(now_s, answer)
        self._kept.move_to_end(key)
        if len(self._kept) > self._max_entries:
            self._kept.popitem(last=False)

    def find(self, profile_id: str, need: Need, by_id: Mapping[str, Title], now_s: float) -> Recommendations | None:
        """What was said at most `stale_s` ago, in titles of today's catalog; None if nothing of it is left."""
        kept = self._kept.get((profile_id, need))
        if kept is None:
            return None
        if now_s - kept.at_s > self._stale_s:
            del self._kept[profile_id, need]
            return None
        self._kept.move_to_end((profile_id, need))
        ranked = _of_today(kept.answer.ranked, by_id)
        because = tuple(
            (by_id[seen.id], _of_today(near, by_id)) for seen, near in kept.answer.because if seen.id in by_id
        )
        return Recommendations(ranked, because) if ranked else None


def popular_for(catalog: Catalog, profile: Profile, need: Need) -> Recommendations:
    """The catalog's most voted titles, without those the profile watched unless there are no others."""
    watched = {viewing.title_id for viewing in profile.history}
    unseen = tuple(title for title in catalog.popular if title.id not in watched)[: need.k]
    return Recommendations(unseen or catalog.popular[: need.k])


def _of_today(titles: tuple[Title, ...], by_id: Mapping[str, Title]) -> tuple[Title, ...]:
    return tuple(by_id[title.id] for title in titles if title.id in by_id)
