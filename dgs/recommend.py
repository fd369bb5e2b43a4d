"""The default recommendation source: the catalog's TF-IDF ranking, with neighbours remembered per title. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import islice

from dgs.model import Profile, Title, Viewing
from dgs.ranking import TfIdfRanking
from dgs.stage_map import Recommendations

__all__ = ["ContentRecommendations"]

_NEIGHBOURS = 64
"""Kept per watched title: enough for a row after what was watched or already shown is left out."""


class ContentRecommendations:
    """RecommendationSource over one catalog; memory is bounded by the catalog."""

    def __init__(self, titles: Sequence[Title]) -> None:
        self._ranking = TfIdfRanking(titles)
        self._by_id = {title.id: title for title in titles}
        self._neighbours = lru_cache(maxsize=len(self._by_id))(self._rank_neighbours)

    def recommend(self, profile: Profile, k: int, *, because: int, per_because: int) -> Recommendations:
        """See RecommendationSource; deterministic."""
        watched = {viewing.title_id for viewing in profile.history}
        known = (self._by_id[viewing.title_id] for viewing in profile.history if viewing.title_id in self._by_id)
        reasons = (
            (seen, tuple(islice((near for near in self._neighbours(seen.id) if near.id not in watched), per_because)))
            for seen in known
        )
        return Recommendations(self._ranking.rank(profile.history, k), tuple(islice(reasons, because)))

    def _rank_neighbours(self, title_id: str) -> tuple[Title, ...]:
        return self._ranking.rank((Viewing(title_id),), _NEIGHBOURS)
