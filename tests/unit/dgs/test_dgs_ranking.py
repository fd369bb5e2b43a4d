"""TF-IDF ranking: the formula by hand, determinism, and that it beats chance on held-out titles."""

from __future__ import annotations

import math

from dgs.model import Title, Viewing
from dgs.ranking import TfIdfRanking, terms_of
from dgs.recommend import ContentRecommendations
from dgs.sources.catalog import Catalog
from dgs.sources.profiles import SeededProfiles

WESTERN = Title(id="w1", name="W1", genres=("Western",), director="Leone", year=1966, votes=5)
WESTERN_2 = Title(id="w2", name="W2", genres=("Western",), director="Leone", year=1968, votes=1)
WESTERN_3 = Title(id="w3", name="W3", genres=("Western",), director="Ford", year=1956, votes=9)
DRAMA = Title(id="d1", name="D1", genres=("Drama",), director="Lumet", year=1957, votes=100)
BARE = Title(id="x", name="X", votes=50)


def test_terms() -> None:
    """Genre, director and decade; unknown facts give none."""
    assert terms_of(WESTERN) == ("genre:Western", "director:Leone", "decade:1960")
    assert terms_of(BARE) == ()


def test_the_formula_by_hand() -> None:
    """idf = ln((1+n)/(1+df)) + 1, unit vectors, cosine: worked out for two titles that share one term."""
    one = Title(id="1", name="1", genres=("A",), director="P")
    two = Title(id="2", name="2", genres=("A",), director="Q")
    common, rare = math.log(3 / 3) + 1, math.log(3 / 2) + 1
    expected = common**2 / (common**2 + rare**2)
    score = TfIdfRanking([one, two]).scores([(0, 0.7)])
    assert math.isclose(score[0], 1.0, abs_tol=1e-6)
    assert math.isclose(score[1], expected, abs_tol=1e-6)


def test_the_nearest_comes_first_and_popularity_breaks_ties() -> None:
    """Same director and decade beat same genre; titles with nothing in common follow by votes."""
    ranking = TfIdfRanking([DRAMA, WESTERN_3, BARE, WESTERN_2, WESTERN])
    assert [title.id for title in ranking.rank([Viewing("w1")], 9)] == ["w2", "w3", "d1", "x"]
    assert [title.id for title in ranking.rank([], 9)] == ["d1", "x", "w3", "w1", "w2"]


def test_watched_titles_are_left_out_and_unknown_ones_ignored() -> None:
    """A repeated or unknown title in the history does no harm; k may exceed what is left."""
    ranking = TfIdfRanking([WESTERN, WESTERN_2])
    history = [Viewing("w1"), Viewing("w1", 0.5), Viewing("gone")]
    assert [title.id for title in ranking.rank(history, 5)] == ["w2"]
    assert ranking.rank([Viewing("w1"), Viewing("w2")], 5) == ()
    assert ranking.rank([], 0) == ()


def test_ranking_the_demo_catalog_is_deterministic(demo_catalog: Catalog) -> None:
    """Two instances agree on every place, and a longer ranking begins with the shorter."""
    one, two = TfIdfRanking(demo_catalog.titles), TfIdfRanking(demo_catalog.titles)
    history = SeededProfiles(demo_catalog, 1).profile("p-5").history
    ranked = one.rank(history, 3200)
    assert ranked == two.rank(history, 3200)
    assert ranked[:40] == one.rank(history, 40)
    assert len(ranked) == 3200 - len(history)


def test_a_held_out_title_ranks_above_chance(demo_catalog: Catalog) -> None:
    """Hold one title out of each of 200 histories, rank by the rest: the mean AUC is far above chance (0.5).

    AUC: the share of unwatched titles that rank below the held-out one. The histories follow a taste model over the
    same facts, so this shows that the ranking recovers taste, not how well it would do on real people.
    """
    source, ranking = SeededProfiles(demo_catalog, 11), TfIdfRanking(demo_catalog.titles)
    areas = []
    for number in range(200):
        held_out, *rest = source.profile(f"p-{number}").history
        order = [title.id for title in ranking.rank(rest, len(demo_catalog.titles))]
        areas.append(1 - order.index(held_out.title_id) / (len(order) - 1))
    assert sum(areas) / len(areas) > 0.65


def test_popularity_alone_does_worse(demo_catalog: Catalog) -> None:
    """The same held-out titles ranked by popularity only: content is what makes the difference."""
    source, ranking = SeededProfiles(demo_catalog, 11), TfIdfRanking(demo_catalog.titles)
    by_content, by_votes = 0.0, 0.0
    popular = [title.id for title in ranking.rank([], 3200)]
    for number in range(100):
        held_out, *rest = source.profile(f"p-{number}").history
        order = [title.id for title in ranking.rank(rest, 3200)]
        by_content += 1 - order.index(held_out.title_id) / len(order)
        by_votes += 1 - popular.index(held_out.title_id) / len(popular)
    assert by_content > by_votes


def test_recommendations_name_reasons(demo_catalog: Catalog) -> None:
    """Reasons are watched titles, newest first; their neighbours are unwatched and near."""
    source = ContentRecommendations(demo_catalog.titles)
    profile = SeededProfiles(demo_catalog, 1).profile("p-3")
    watched = {viewing.title_id for viewing in profile.history}
    picks = source.recommend(profile, 32, because=3, per_because=10)
    assert len(picks.ranked) == 32
    assert [seen.id for seen, _ in picks.because] == [viewing.title_id for viewing in profile.history[:3]]
    for seen, near in picks.because:
        assert len(near) == 10
        assert not watched & {title.id for title in near}
        assert set(terms_of(seen)) & set(terms_of(near[0]))
