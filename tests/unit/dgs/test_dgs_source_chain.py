"""The order of sources: who is asked, who is passed over, and what everybody gets in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from contract.clock import ManualClock
from contract.errors import InvalidRequest, StoreUnavailable, Unavailable
from dgs.model import Profile, Title, Viewing
from dgs.picks import Missing
from dgs.ports import Need
from dgs.recommend import ContentRecommendations
from dgs.settings import DgsSettings
from dgs.sources.answers import POPULAR, StaleAnswers, Unanswered, popular_for
from dgs.sources.catalog import Catalog
from dgs.sources.chain import Otherwise, RecommendationChain, build_chain, source_order
from dgs.sources.content import CatalogRecommendations
from dgs.sources.registry import SourceOptions
from dgs.stage_map import Recommendations

TITLES = tuple(Title(id=f"t{number}", name="x", votes=number) for number in range(6))
CATALOG = Catalog(TITLES)
NEED = Need(3, 0, 0)
ANY = Recommendations((TITLES[0],))
OTHER = Recommendations((TITLES[1],))
Say = Callable[[Sequence[Profile]], Any]


class Source:
    def __init__(self, name: str, say: Say, stale: Recommendations | None = None) -> None:
        self.name = name
        self.asked: list[list[str]] = []
        self.budgets: list[float] = []
        self._say = say
        self._stale = stale

    async def recommend(self, profiles: Sequence[Profile], need: Need, deadline_s: float) -> Any:
        self.asked.append([profile.id for profile in profiles])
        self.budgets.append(deadline_s)
        said = self._say(profiles)
        return await said if isinstance(said, Awaitable) else said

    def stale(self, profile: Profile, need: Need) -> Recommendations | None:
        return self._stale


def everybody(answer: Any) -> Say:
    return lambda profiles: [answer] * len(profiles)


def raising(error: BaseException) -> Say:
    def say(profiles: Sequence[Profile]) -> Any:
        raise error

    return say


def people(*ids: str) -> list[Profile]:
    return [Profile(id=each, region="US") for each in ids or ("a", "b")]


def chain(*sources: Source) -> RecommendationChain:
    return RecommendationChain(sources, lambda: CATALOG)


async def test_the_first_that_has_something_wins() -> None:
    """Only those a source has nothing for are asked for behind it, and that is not degraded."""
    first = Source("first", lambda profiles: [ANY if profile.id == "a" else Missing("new") for profile in profiles])
    second = Source("second", everybody(OTHER))
    a, b = await chain(first, second).choose(people(), NEED, 5.0)
    assert (a.recommendations, a.source, a.degraded, a.why) == (ANY, "first", False, None)
    assert (b.recommendations, b.source, b.degraded, b.why) == (OTHER, "second", False, None)
    assert second.asked == [["b"]]


@pytest.mark.parametrize(
    ("say", "why"),
    [
        (raising(Unavailable("the service: late")), "bad: the service: late"),
        (raising(StoreUnavailable("gone")), "bad: gone"),
        (raising(ValueError("odd")), "bad: ValueError"),
        (raising(TimeoutError()), "bad: late"),
        (everybody(Unanswered("late")), "bad: late"),
        (everybody(None), "bad: no recommendations"),
        (lambda profiles: [ANY], "bad: a wrong number of answers"),
        (lambda profiles: None, "bad: TypeError"),
        (lambda profiles: asyncio.sleep(30), "bad: late"),
    ],
    ids=["unavailable", "store", "raises", "timeout", "unanswered", "none", "short", "nothing", "late"],
)
async def test_a_source_that_fails_is_passed_over(say: Say, why: str) -> None:
    """Whatever it does: the next one is asked, what it says is degraded, and why is told. Alone: the popular titles."""
    for answer in await chain(Source("bad", say), Source("next", everybody(OTHER))).choose(people(), NEED, 0.02):
        assert (answer.source, answer.degraded, answer.why) == ("next", True, why)
    for answer in await chain(Source("bad", say)).choose(people(), NEED, 0.02):
        assert (answer.source, answer.degraded, answer.why) == (POPULAR, True, why)
        assert [title.id for title in answer.recommendations.ranked] == ["t5", "t4", "t3"]


async def test_what_it_said_before_comes_first() -> None:
    """The last answer of a source that fails wins over the next source; of one that has nothing it does not."""
    next_one = Source("next", everybody(OTHER))
    (before, _) = await chain(Source("bad", raising(Unavailable("down")), stale=ANY), next_one).choose(
        people(), NEED, 5.0
    )
    assert (before.recommendations, before.source, before.degraded) == (ANY, "bad", True)
    assert next_one.asked == []
    (now, _) = await chain(Source("bad", everybody(Missing("gone")), stale=ANY), next_one).choose(people(), NEED, 5.0)
    assert (now.source, now.degraded) == ("next", False)


async def test_an_empty_ranking_is_none() -> None:
    """Nothing ranked means nothing to show: the next source is asked, and in the end everybody gets something."""
    empty = Source("empty", everybody(Recommendations(())))
    (answer, _) = await chain(empty).choose(people(), NEED, 5.0)
    assert (answer.source, answer.degraded, answer.why) == (POPULAR, True, "nobody could choose")


async def test_time_is_left_for_the_next() -> None:
    """A source gets three quarters of what is left while others stand behind it, the last one all."""
    first, second = Source("first", everybody(Missing("x"))), Source("second", everybody(ANY))
    await chain(first, second).choose(people(), NEED, 4.0)
    assert first.budgets == [pytest.approx(3.0, abs=0.1)]
    assert second.budgets == [pytest.approx(4.0, abs=0.5)]


async def test_leaving_is_no_failure() -> None:
    """Cancelling goes through, and counts as nothing."""
    slow = chain(Source("slow", lambda profiles: asyncio.sleep(30)))
    choosing = asyncio.ensure_future(slow.choose(people(), NEED, 60.0))
    await asyncio.sleep(0)
    choosing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await choosing
    assert slow.stats()["slow"]["failed"] == 0


async def test_nobody_and_no_source() -> None:
    assert await chain().choose([], NEED, 1.0) == ()
    (answer,) = await chain().choose(people("a"), NEED, 1.0)
    assert answer.source == POPULAR
    assert chain().names == ()


async def test_what_is_shown_otherwise_may_be_given() -> None:
    """A cohort's choice instead of everybody's: under its own name, degraded all the same."""
    own = RecommendationChain([], lambda: CATALOG, otherwise=Otherwise("cohort", lambda profile, need: OTHER))
    (answer,) = await own.choose(people("a"), NEED, 1.0)
    assert (answer.recommendations, answer.source, answer.degraded) == (OTHER, "cohort", True)
    assert own.stats()["cohort"]["chosen"] == 1


def test_the_chain_of_the_settings() -> None:
    """Sources by name and in order; the store is none of them; an unknown one is refused."""

    def built(text: str) -> RecommendationChain:
        settings = DgsSettings(recommendations=text, ranking_url="http://127.0.0.1:9/")
        return build_chain(SourceOptions(settings, ManualClock(), lambda: CATALOG))

    assert built("http,materialised,catalog").names == ("http", "catalog")
    assert built("materialised").names == ()
    with pytest.raises(InvalidRequest, match="nonesuch"):
        built("catalog,nonesuch")


async def test_the_catalogs_ranking_may_be_one_that_is_there() -> None:
    """Asked for each time, so that a reload's is used at once; none is made besides."""
    rankings = [ContentRecommendations(TITLES), ContentRecommendations(TITLES[:2])]
    source = CatalogRecommendations(lambda: CATALOG, ranking=lambda: rankings[0])
    for expected in (3, 2):
        (answer,) = await source.recommend(people("a"), NEED, 1.0)
        assert isinstance(answer, Recommendations)
        assert len(answer.ranked) == expected
        rankings.pop(0)


def test_popular_titles_leave_out_what_was_watched_unless_that_is_all() -> None:
    """Never an empty row: who has seen everything popular sees it again."""
    seen = Profile(id="a", region="US", history=(Viewing("t5"), Viewing("t3")))
    assert [title.id for title in popular_for(CATALOG, seen, NEED).ranked] == ["t4", "t2", "t1"]
    all_seen = Profile(id="a", region="US", history=tuple(Viewing(title.id) for title in TITLES))
    assert [title.id for title in popular_for(CATALOG, all_seen, NEED).ranked] == ["t5", "t4", "t3"]


def test_stale_answers_are_bounded_by_age_and_number() -> None:
    """Too old ones are gone, the least recently used go first, titles that left the catalog drop out."""
    kept = StaleAnswers(stale_s=10, max_entries=2)
    both = Recommendations(TITLES[:2], ((TITLES[2], (TITLES[3],)), (TITLES[4], (TITLES[5],))))
    kept.keep("a", NEED, both, 0)
    kept.keep("b", NEED, ANY, 1)
    assert kept.find("a", NEED, CATALOG.by_id, 10) == both
    kept.keep("c", NEED, ANY, 2)
    assert kept.find("b", NEED, CATALOG.by_id, 2) is None
    smaller = Catalog((TITLES[1], TITLES[2]))
    assert kept.find("a", NEED, smaller.by_id, 10) == Recommendations((TITLES[1],), ((TITLES[2], ()),))
    assert kept.find("a", NEED, Catalog((TITLES[5],)).by_id, 10) is None
    assert kept.find("a", NEED, CATALOG.by_id, 10.1) is None
    assert len(kept) == 1
    never = StaleAnswers(stale_s=0, max_entries=2)
    never.keep("a", NEED, ANY, 0)
    assert len(never) == 0


@pytest.mark.parametrize(("text", "names"), [("catalog", ("catalog",)), (" http , catalog", ("http", "catalog"))])
def test_the_setting_is_a_list(text: str, names: tuple[str, ...]) -> None:
    assert source_order(text) == names


@pytest.mark.parametrize("text", ["", "http,,catalog", "http,", "http,http"])
def test_lists_that_are_none(text: str) -> None:
    with pytest.raises(InvalidRequest, match="DGS_RECOMMENDATIONS"):
        source_order(text)
