"""The catalog in use, and the one before it while picks made of that are still shown. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from dgs.cohorts import CohortModel
from dgs.model import Title
from dgs.recommend import ContentRecommendations
from dgs.shelf import catalog_digest

__all__ = ["CatalogInUse", "CatalogIndex"]

_KEPT: Final = 2


class CatalogIndex:
    """Titles by place and by id, what ranks them, and the cohorts of taste among them.

    Picks name places, and are valid with this digest alone. Making one takes 20 ms per 1,000 titles.
    """

    __slots__ = ("cohorts", "digest", "index_of", "recommendations", "titles")

    def __init__(self, titles: Sequence[Title], *, cohorts: int = 256) -> None:
        self.titles: tuple[Title, ...] = tuple(titles)
        self.digest: str = catalog_digest(self.titles)
        self.index_of: Mapping[str, int] = {title.id: index for index, title in enumerate(self.titles)}
        self.recommendations = ContentRecommendations(self.titles)
        self.cohorts = CohortModel(self.recommendations.ranking, cohorts)

    def title(self, title_id: str) -> Title | None:
        index = self.index_of.get(title_id)
        return None if index is None else self.titles[index]


class CatalogInUse:
    """Swapped whole: who holds an index keeps reading the catalog it began with."""

    def __init__(self, index: CatalogIndex) -> None:
        self._kept: tuple[CatalogIndex, ...] = (index,)

    @property
    def current(self) -> CatalogIndex:
        return self._kept[0]

    def of(self, digest: str) -> CatalogIndex | None:
        """The catalog that picks were made of, if it is this one or the one before."""
        return next((index for index in self._kept if index.digest == digest), None)

    def swap(self, index: CatalogIndex) -> bool:
        """Use another one; False if it says the same. `CatalogIndex(...)` is the dear part: make it off the loop."""
        if index.digest == self.current.digest:
            return False
        self._kept = (index, *self._kept)[:_KEPT]
        return True
