"""The default recommendation source: content-based TF-IDF over genre, director and decade. Pure.

A title is a document of a few terms (`genre:Drama`, `director:Sidney Lumet`, `decade:1950`), each occurring once, so
tf is 1. Smoothed inverse document frequency, as scikit-learn's TfidfTransformer defines it (`smooth_idf=True`):

    idf(t) = ln((1 + n) / (1 + df(t))) + 1

Title vectors are scaled to unit length; a profile is the weighted sum of the vectors of what it watched (Rocchio's
positive half), and titles are ranked by the cosine between the two (Manning, Raghavan, Schuetze: Introduction to
Information Retrieval, sections 6.3 and 9.1.1). Equal scores, frequent with so few terms, are ordered by popularity
(votes), then by id.

Titles have at most a dozen terms, so a title is a row of term numbers, padded: scoring the whole catalog is one gather
and one sum per column instead of a matrix product.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from dgs.model import Title, Viewing

__all__ = ["TfIdfRanking", "terms_of"]

_Floats = npt.NDArray[np.float64]
_TIE = 1e-9
"""Popularity's share of a score: below any difference between cosines, which are rounded to 8 digits."""


def terms_of(title: Title) -> tuple[str, ...]:
    """The terms a title is described by; unknown facts give none."""
    terms = [f"genre:{genre}" for genre in title.genres]
    if title.director:
        terms.append(f"director:{title.director}")
    if title.year is not None:
        terms.append(f"decade:{title.year // 10 * 10}")
    return tuple(terms)


class TfIdfRanking:
    """Ranks a fixed catalog for any history; deterministic, safe to share between threads."""

    def __init__(self, titles: Sequence[Title]) -> None:
        self._titles = tuple(titles)
        self._index = {title.id: index for index, title in enumerate(self._titles)}
        documents = [terms_of(title) for title in self._titles]
        vocabulary = {term: number for number, term in enumerate(sorted({t for terms in documents for t in terms}))}
        frequency = Counter(term for terms in documents for term in terms)
        count = len(self._titles)
        idf = {term: math.log((1 + count) / (1 + frequency[term])) + 1 for term in vocabulary}
        width = max((len(terms) for terms in documents), default=0)
        # One extra term with weight 0 is the padding.
        self._terms = np.full((width, count), len(vocabulary), dtype=np.intp)
        self._weights: _Floats = np.zeros((width, count))
        self._vocabulary_size = len(vocabulary) + 1
        for row, terms in enumerate(documents):
            norm = math.sqrt(math.fsum(idf[term] ** 2 for term in terms))
            for column, term in enumerate(terms):
                self._terms[column, row] = vocabulary[term]
                self._weights[column, row] = idf[term] / norm
        self._tie = _popularity_ranks(self._titles) * (_TIE / max(1, count))

    @property
    def titles(self) -> tuple[Title, ...]:
        return self._titles

    def rank(self, history: Iterable[Viewing], k: int) -> tuple[Title, ...]:
        """The best `k` titles not in `history`, best first; fewer if the catalog has no more.

        History titles the catalog does not know are ignored; with none known, the order is popularity.
        """
        assert k >= 0
        watched = [(self._index[seen.title_id], seen.weight) for seen in history if seen.title_id in self._index]
        score = self.scores(watched)
        score[[index for index, _ in watched]] = -np.inf
        k = min(k, len(self._titles) - len({index for index, _ in watched}))
        if k == 0:
            return ()
        best = np.argpartition(score, len(score) - k)[len(score) - k :]
        # No two scores are equal: the popularity share of each title is its own.
        best = best[np.argsort(-score[best], kind="stable")]
        return tuple(self._titles[index] for index in best.tolist())

    def scores(self, watched: Iterable[tuple[int, float]]) -> _Floats:
        """Cosine of every title with the profile, plus the tie-break share; `watched` is (title index, weight)."""
        profile: _Floats = np.zeros(self._vocabulary_size)
        for index, weight in watched:
            for column in range(len(self._terms)):
                profile[self._terms[column, index]] += weight * self._weights[column, index]
        norm = math.sqrt(math.fsum((profile * profile).tolist()))
        if norm > 0:
            profile /= norm
        score: _Floats = np.zeros(len(self._titles))
        for column in range(len(self._terms)):
            score += profile[self._terms[column]] * self._weights[column]
        return np.round(score, 8) + self._tie


def _popularity_ranks(titles: Sequence[Title]) -> _Floats:
    """0 for the least popular title up to n - 1 for the most popular, every rank once."""
    order = sorted(range(len(titles)), key=lambda index: (titles[index].votes, titles[index].rating or 0.0))
    ranks: _Floats = np.empty(len(titles))
    ranks[order] = np.arange(len(titles))
    return ranks
