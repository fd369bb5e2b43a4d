"""Cohorts: profiles of like taste, who can share an answer when not everybody can have one of their own. Pure.

A cohort is a taste somebody could name: a genre, or a genre of one decade. A profile belongs to the one nearest to what
it watched, by the cosine the ranking itself uses. Cohorts are ordered by how many titles they have and then by name, so
that they do not depend on the order of the catalog; number 0 is everyone, for whom popularity speaks.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from dgs.model import Profile
from dgs.ranking import TfIdfRanking, terms_of

__all__ = ["EVERYONE", "Cohort", "CohortModel"]


class Cohort(NamedTuple):
    """A taste shared by many."""

    name: str
    terms: tuple[str, ...]
    """As the ranking has them; none: no taste but the crowd's."""


EVERYONE: Final = Cohort("everyone", ())


class CohortModel:
    """The cohorts of one catalog."""

    def __init__(self, ranking: TfIdfRanking, count: int) -> None:
        """`count` cohorts at most, everyone among them; fewer if the catalog has fewer tastes."""
        assert count >= 1
        self._ranking = ranking
        self.cohorts: tuple[Cohort, ...] = (EVERYONE, *_tastes(ranking, count - 1))
        terms = sorted({term for cohort in self.cohorts for term in cohort.terms})
        self._rows = {term: row for row, term in enumerate(terms)}
        self._weights: npt.NDArray[np.float64] = np.zeros((len(terms), len(self.cohorts)))
        for number, cohort in enumerate(self.cohorts):
            weights = ranking.weigh(cohort.terms)
            norm = math.sqrt(math.fsum(weight * weight for weight in weights.values()))
            for term, weight in weights.items():
                self._weights[self._rows[term], number] = weight / norm

    def __len__(self) -> int:
        return len(self.cohorts)

    def cohort_of(self, profile: Profile) -> int:
        """Number of the profile's cohort; 0 without a history the catalog knows. The same for the same history."""
        index_of = self._ranking.index_of
        watched = [(index_of[seen.title_id], seen.weight) for seen in profile.history if seen.title_id in index_of]
        taste = np.zeros(len(self._rows))
        for term, weight in self._ranking.taste_of(watched).items():
            row = self._rows.get(term)
            if row is not None:
                taste[row] = weight
        # Rounded, so that the order in which it was summed up decides nothing; the first of equals. Nobody is near
        # everyone, so 0 is left for those near none.
        return int(np.round(taste @ self._weights, 9).argmax())

    def rank(self, number: int, k: int) -> list[int]:
        """The best `k` titles for a cohort, as places in the catalog."""
        return self._ranking.rank_terms(self.cohorts[number].terms, k)


def _tastes(ranking: TfIdfRanking, count: int) -> list[Cohort]:
    titles: Counter[tuple[str, ...]] = Counter()
    for title in ranking.titles:
        terms = terms_of(title)
        decades = [term for term in terms if term.startswith("decade:")]
        for genre in (term for term in terms if term.startswith("genre:")):
            titles[genre,] += 1
            titles.update((genre, decade) for decade in decades)
    ordered = sorted(titles, key=lambda terms: (-titles[terms], terms))[:count]
    return [Cohort(", ".join(term.partition(":")[2] for term in terms), terms) for terms in ordered]
