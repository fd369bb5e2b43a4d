"""Ranking by classes against scoring every title, term by term: the same titles in the same order."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dgs.model import Title, Viewing
from dgs.ranking import TfIdfRanking, terms_of
from dgs.sources.catalog import DEMO_CATALOG, load_catalog
from dgs.sources.profiles import SeededProfiles


class EveryTitle:
    """The formula of `dgs.ranking`, title by title over padded rows; no classes."""

    def __init__(self, titles: list[Title]) -> None:
        self.titles = titles
        self.index = {title.id: index for index, title in enumerate(titles)}
        documents = [terms_of(title) for title in titles]
        vocabulary = {term: number for number, term in enumerate(sorted({t for terms in documents for t in terms}))}
        frequency = Counter(term for terms in documents for term in terms)
        count = len(titles)
        idf = {term: math.log((1 + count) / (1 + frequency[term])) + 1 for term in vocabulary}
        width = max((len(terms) for terms in documents), default=0)
        self.terms = np.full((width, count), len(vocabulary), dtype=np.intp)
        self.weights = np.zeros((width, count))
        self.size = len(vocabulary) + 1
        for row, terms in enumerate(documents):
            norm = math.sqrt(math.fsum(idf[term] ** 2 for term in terms))
            for column, term in enumerate(terms):
                self.terms[column, row] = vocabulary[term]
                self.weights[column, row] = idf[term] / norm
        order = sorted(range(count), key=lambda index: (titles[index].votes, titles[index].rating or 0.0))
        ranks = np.empty(count)
        ranks[order] = np.arange(count)
        self.ties = ranks * (1e-9 / max(1, count))

    def rank(self, history: tuple[Viewing, ...], k: int) -> tuple[Title, ...]:
        watched = [(self.index[seen.title_id], seen.weight) for seen in history if seen.title_id in self.index]
        profile = np.zeros(self.size)
        for index, weight in watched:
            for column in range(len(self.terms)):
                profile[self.terms[column, index]] += weight * self.weights[column, index]
        norm = math.sqrt(math.fsum((profile * profile).tolist()))
        if norm > 0:
            profile /= norm
        score = np.zeros(len(self.titles))
        for column in range(len(self.terms)):
            score += profile[self.terms[column]] * self.weights[column]
        score = np.round(score, 8) + self.ties
        out = {index for index, _ in watched}
        ranked = [index for index in np.argsort(-score, kind="stable").tolist() if index not in out]
        return tuple(self.titles[index] for index in ranked[:k])


TITLES = st.lists(
    st.builds(
        Title,
        id=st.uuids().map(str),
        name=st.just("x"),
        genres=st.lists(st.sampled_from("ABCD"), unique=True, max_size=3).map(tuple),
        director=st.none() | st.sampled_from(["P", "Q", "R"]),
        year=st.none() | st.integers(1900, 2020),
        votes=st.integers(0, 3),
        rating=st.none() | st.floats(0, 10),
    ),
    min_size=1,
    max_size=40,
    unique_by=lambda title: title.id,
)


@settings(max_examples=150)
@given(TITLES, st.data())
def test_classes_rank_as_single_titles_do(titles: list[Title], data: st.DataObject) -> None:
    """Any catalog, any history, any length: equal to the last place, ties and repeated viewings included."""
    ids = st.sampled_from([*(title.id for title in titles), "gone"])
    history = tuple(data.draw(st.lists(st.builds(Viewing, ids, st.floats(0.1, 1)), max_size=12)))
    k = data.draw(st.integers(0, len(titles) + 2))
    assert TfIdfRanking(titles).rank(history, k) == EveryTitle(titles).rank(history, k)


def test_the_demo_catalog_is_ranked_as_ever() -> None:
    """Two hundred generated profiles and the empty history, forty places and all of them."""
    catalog = load_catalog(DEMO_CATALOG)
    plain, ranking = EveryTitle(list(catalog.titles)), TfIdfRanking(catalog.titles)
    profiles = SeededProfiles(catalog, 3)
    for number in range(200):
        history = profiles.profile(f"p-{number}").history
        assert ranking.rank(history, 40) == plain.rank(history, 40)
    assert ranking.rank((), 4_000) == plain.rank((), 4_000)
    assert ranking.rank(history, 4_000) == plain.rank(history, 4_000)
