"""The default recommendation source: the catalog's TF-IDF ranking, with neighbours remembered per title. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from dgs.model import Profile, Title
from dgs.ranking import TfIdfRanking
from dgs.stage_map import Recommendations

__all__ = ["ContentRecommendations", "RankedIndexes"]

_NEIGHBOURS = 64
"""Kept per watched title: enough for a row after what was watched or already shown is left out."""


class RankedIndexes(NamedTuple):
    """Recommendations as places in the catalog."""

    ranked: list[int]
    because: Iterator[tuple[int, list[int]]]
    """Made as it is read: most maps need the first few."""


class ContentRecommendations:
    """RecommendationSource over one catalog; memory is bounded by the catalog."""

    def __init__(self, titles: Sequence[Title]) -> None:
        self.ranking = TfIdfRanking(titles)
        self._neighbours = lru_cache(maxsize=len(titles))(self._rank_neighbours)

    def recommend(self, profile: Profile, k: int, *, because: int, per_because: int) -> Recommendations:
        """See RecommendationSource; deterministic."""
        titles = self.ranking.titles
        found = self.recommend_indexes(profile, k, because=because, per_because=per_because)
        return Recommendations(
            tuple(titles[index] for index in found.ranked),
            tuple((titles[seen], tuple(titles[index] for index in near)) for seen, near in found.because),
        )

    def recommend_indexes(self, profile: Profile, k: int, *, because: int, per_because: int) -> RankedIndexes:
        """The same as places in the catalog."""
        index_of = self.ranking.index_of
        watched = [(index_of[seen.title_id], seen.weight) for seen in profile.history if seen.title_id in index_of]
        out = {index for index, _ in watched}

        def reasons() -> Iterator[tuple[int, list[int]]]:
            for seen, _ in watched[:because]:
                yield seen, list(islice((near for near in self._neighbours(seen) if near not in out), per_because))

        return RankedIndexes(self.ranking.rank_indexes(watched, k), reasons())

    def _rank_neighbours(self, index: int) -> array[int]:
        return array("I", self.ranking.rank_indexes(((index, 1.0),), _NEIGHBOURS))
