"""The default recommendation source: content-based TF-IDF over genre, director and decade. Pure.

A title is a document of a few terms (`genre:Drama`, `director:Sidney Lumet`, `decade:1950`), each occurring once, so
tf is 1. Smoothed inverse document frequency, as scikit-learn's TfidfTransformer defines it (`smooth_idf=True`):

    idf(t) = ln((1 + n) / (1 + df(t))) + 1

Title vectors are scaled to unit length; a profile is the weighted sum of the vectors of what it watched (Rocchio's
positive half), and titles are ranked by the cosine between the two (Manning, Raghavan, Schuetze: Introduction to
Information Retrieval, sections 6.3 and 9.1.1). Equal scores, frequent with so few terms, are ordered by popularity
(votes), then by id.

Titles with the same terms have the same cosine with everything: they are one *class*, scored once, and half the size of
the demo catalog. A class is a row of term numbers, padded: scoring all of them is one gather, one product and one sum.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

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
        self.index_of: Mapping[str, int] = {title.id: index for index, title in enumerate(self._titles)}
        documents = [terms_of(title) for title in self._titles]
        self._vocabulary = {
            term: number for number, term in enumerate(sorted({t for terms in documents for t in terms}))
        }
        self._term_names = tuple(self._vocabulary)
        frequency = Counter(term for terms in documents for term in terms)
        count = len(self._titles)
        self._idf = idf = {term: math.log((1 + count) / (1 + frequency[term])) + 1 for term in self._vocabulary}
        self._number_classes(documents)
        self._weigh(list(dict.fromkeys(documents)), idf)
        self._ties = _popularity_ranks(self._titles) * (_TIE / max(1, count))
        self._order_members()

    def _number_classes(self, documents: Sequence[tuple[str, ...]]) -> None:
        numbers = {terms: number for number, terms in enumerate(dict.fromkeys(documents))}
        self._classes = [numbers[terms] for terms in documents]
        self._class_of = np.array(self._classes, dtype=np.intp)

    def _weigh(self, classes: Sequence[tuple[str, ...]], idf: Mapping[str, float]) -> None:
        """Term numbers and weights of each class: padded rows to score with, and pairs to add a watched title by."""
        width = max((len(terms) for terms in classes), default=0)
        # One extra term with weight 0 is the padding.
        self._terms = np.full((width, len(classes)), len(idf), dtype=np.intp)
        self._weights: _Floats = np.zeros((width, len(classes)))
        pairs: list[tuple[tuple[int, float], ...]] = []
        for number, terms in enumerate(classes):
            norm = math.sqrt(math.fsum(idf[term] ** 2 for term in terms))
            pairs.append(tuple((self._vocabulary[term], idf[term] / norm) for term in terms))
            for column, (term, weight) in enumerate(pairs[-1]):
                self._terms[column, number] = term
                self._weights[column, number] = weight
        self._pairs = tuple(pairs)

    def _order_members(self) -> None:
        """The titles of each class, most popular first, and the popularity share of the first."""
        members: list[list[int]] = [[] for _ in self._pairs]
        for index in np.argsort(-self._ties, kind="stable").tolist():
            members[self._class_of[index]].append(index)
        self._members = tuple(tuple(each) for each in members)
        self._best_ties = np.array([self._ties[each[0]] for each in members])

    @property
    def titles(self) -> tuple[Title, ...]:
        return self._titles

    def rank(self, history: Iterable[Viewing], k: int) -> tuple[Title, ...]:
        """The best `k` titles not in `history`, best first; fewer if the catalog has no more.

        History titles the catalog does not know are ignored; with none known, the order is popularity.
        """
        index_of = self.index_of
        watched = [(index_of[seen.title_id], seen.weight) for seen in history if seen.title_id in index_of]
        return tuple(self._titles[index] for index in self.rank_indexes(watched, k))

    def rank_indexes(self, watched: Sequence[tuple[int, float]], k: int) -> list[int]:
        """The same as places in the catalog; `watched` is (title index, weight)."""
        return self._best(self._taste(watched), {index for index, _ in watched}, k)

    def rank_terms(self, terms: Iterable[str], k: int) -> list[int]:
        """The best for a title of these terms; without any the catalog has, the order is popularity."""
        taste = {self._vocabulary[term]: weight for term, weight in self.weigh(terms).items()}
        return self._best(taste, frozenset(), k)

    def weigh(self, terms: Iterable[str]) -> dict[str, float]:
        """Inverse document frequencies of those terms the catalog has."""
        return {term: self._idf[term] for term in terms if term in self._idf}

    def taste_of(self, watched: Sequence[tuple[int, float]]) -> dict[str, float]:
        """The terms of what was watched, weighted and summed; not scaled."""
        names = self._term_names
        return {names[term]: weight for term, weight in self._taste(watched).items()}

    def scores(self, watched: Iterable[tuple[int, float]]) -> _Floats:
        """Cosine of every title with the profile, plus the tie-break share; `watched` is (title index, weight)."""
        scores: _Floats = self._class_scores(self._taste(watched))[self._class_of] + self._ties
        return scores

    def _taste(self, watched: Iterable[tuple[int, float]]) -> dict[int, float]:
        taste: dict[int, float] = {}
        class_of, pairs = self._classes, self._pairs
        for index, weight in watched:
            for term, share in pairs[class_of[index]]:
                taste[term] = taste.get(term, 0.0) + weight * share
        return taste

    def _class_scores(self, taste: Mapping[int, float]) -> _Floats:
        profile: _Floats = np.zeros(len(self._vocabulary) + 1)
        norm = math.sqrt(math.fsum([weight * weight for weight in taste.values()]))
        if norm > 0:
            for term, weight in taste.items():
                profile[term] = weight / norm
        products: _Floats = profile.take(self._terms)
        products *= self._weights
        scores: _Floats = np.round(products.sum(axis=0), 8)
        return scores

    def _best(self, taste: Mapping[int, float], watched: set[int] | frozenset[int], k: int) -> list[int]:
        assert k >= 0
        k = min(k, len(self._titles) - len(watched))
        if k == 0:
            return []
        scores = self._class_scores(taste)
        of = np.array(self._candidates(scores, watched, k))
        # No two scores are equal: the popularity share of each title is its own.
        order = np.argsort(-(scores[self._class_of[of]] + self._ties[of]), kind="stable")
        ranked: list[int] = of[order[:k]].tolist()
        return ranked

    def _candidates(self, scores: _Floats, watched: set[int] | frozenset[int], k: int) -> list[int]:
        """Titles among which the best `k` are, in no order: whole classes, best score first, until there are enough."""
        wanted = k + len(watched)
        classes = np.arange(len(scores))
        if wanted < len(scores):
            # A class whose most popular title is not among the first `wanted` of these has none among them.
            best = scores + self._best_ties
            classes = np.argpartition(best, len(best) - wanted)[len(best) - wanted :]
        classes = classes[np.argsort(-scores[classes])]
        found: list[int] = []
        before = math.inf
        for number, score in zip(classes.tolist(), scores[classes].tolist(), strict=True):
            if score < before and len(found) >= k:
                break
            before = score
            found += [index for index in self._members[number][:wanted] if index not in watched]
        return found


def _popularity_ranks(titles: Sequence[Title]) -> _Floats:
    """0 for the least popular title up to n - 1 for the most popular, every rank once."""
    order = sorted(range(len(titles)), key=lambda index: (titles[index].votes, titles[index].rating or 0.0))
    ranks: _Floats = np.empty(len(titles))
    ranks[order] = np.arange(len(titles))
    return ranks
