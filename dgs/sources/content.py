"""Source `catalog`: the content-based ranking of the DGS itself, as a source among others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from dgs.model import Profile
from dgs.picks import Missing
from dgs.ports import Need, RecommendationSource
from dgs.recommend import ContentRecommendations
from dgs.sources.answers import Unanswered
from dgs.sources.catalog import Catalog
from dgs.stage_map import Recommendations

__all__ = ["CatalogRecommendations"]

_PER_TURN: Final = 2
"""Rankings computed before the loop serves others: each is some 0.3 ms."""


class CatalogRecommendations:
    """BatchRecommendations computed here, by `ranking` as it is at each time; without it by one of its own.

    Its own is made at once, blocking, and made again, in a thread, for a new catalog.
    """

    name = "catalog"

    def __init__(
        self,
        catalog: Callable[[], Catalog],
        *,
        ranking: Callable[[], RecommendationSource] | None = None,
    ) -> None:
        self._catalog = catalog
        self._of = catalog()
        self._own = None if ranking is not None else ContentRecommendations(self._of.titles)
        self._current = ranking or self._own_ranking
        self._building: asyncio.Task[None] | None = None

    async def recommend(
        self, profiles: Sequence[Profile], need: Need, deadline_s: float
    ) -> Sequence[Recommendations | Missing]:
        """See BatchRecommendations; the first is always computed, however little time there is."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + deadline_s
        if self._own is not None and self._catalog() is not self._of and self._building is None:
            self._building = asyncio.create_task(self._build(), name="rank_new_catalog")
        ranking = self._current()
        answers: list[Recommendations | Missing] = []
        for count, profile in enumerate(profiles):
            if count and loop.time() >= until_s:
                answers += [Unanswered("late")] * (len(profiles) - count)
                break
            if count and count % _PER_TURN == 0:
                await asyncio.sleep(0)
            answers.append(ranking.recommend(profile, need.k, because=need.because, per_because=need.per_because))
        return answers

    def _own_ranking(self) -> RecommendationSource:
        assert self._own is not None
        return self._own

    async def _build(self) -> None:
        """Rank by the new catalog once that is possible; until then by the old one: most titles are the same."""
        try:
            catalog = self._catalog()
            self._own = await asyncio.to_thread(ContentRecommendations, catalog.titles)
            self._of = catalog
        finally:
            self._building = None

    async def aclose(self) -> None:
        """Leave a ranking that is being built; idempotent."""
        if self._building is not None:
            self._building.cancel()
