"""What every recommendation source owes the DGS: a fake, the catalog's ranking, a ranking service, the template."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack

import pytest

from contract.errors import Unavailable
from dgs.breaker import Breaker
from dgs.model import Profile, Viewing
from dgs.picks import Missing
from dgs.ports import BatchRecommendations, Need
from dgs.sources.answers import popular_for
from dgs.sources.catalog import DEMO_CATALOG, Catalog, load_catalog
from dgs.sources.content import CatalogRecommendations
from dgs.sources.http_recommend import HttpRecommendations
from dgs.sources.profiles import SeededProfiles
from dgs.stage_map import Recommendations
from tests.support.ranking_services import example_module, serving

NEED = Need(k=12, because=2, per_because=6)
WHOLE = load_catalog(DEMO_CATALOG)
CATALOG = Catalog(WHOLE.titles[::8])
LATER = Catalog(WHOLE.titles[::16])


class Fake:
    """The simplest source that keeps the contract."""

    name = "fake"

    def __init__(self, catalog: Callable[[], Catalog]) -> None:
        self._catalog = catalog

    async def recommend(
        self, profiles: Sequence[Profile], need: Need, deadline_s: float
    ) -> Sequence[Recommendations | Missing]:
        return [popular_for(self._catalog(), profile, need) for profile in profiles]


class Around:
    """A source, and the catalog it is told of."""

    def __init__(self) -> None:
        self.catalog = CATALOG
        self.source: BatchRecommendations

    def current(self) -> Catalog:
        return self.catalog


@pytest.fixture(params=["fake", "catalog", "http", "template"])
async def around(request: pytest.FixtureRequest) -> AsyncIterator[Around]:
    made = Around()
    async with AsyncExitStack() as stack:
        if request.param == "fake":
            made.source = Fake(made.current)
        elif request.param == "catalog":
            made.source = CatalogRecommendations(made.current)
        elif request.param == "template":
            charts = example_module("stagecue_charts/source.py")
            made.source = charts.Charts({"default": [title.id for title in CATALOG.popular]}, made.current)
        else:
            app = example_module("ranking_server.py").create_app(CATALOG)
            url = await stack.enter_async_context(serving(app))
            source = HttpRecommendations(url, made.current, breaker=Breaker(jitter=lambda: 0.5), deadline_s=20.0)
            stack.push_async_callback(source.aclose)
            made.source = source
        yield made


def someone(number: int) -> Profile:
    return SeededProfiles(CATALOG).profile(f"p-{number}")


class TestEveryRecommendationSource:
    async def test_one_for_each_in_order(self, around: Around) -> None:
        """A profile gets the same alone and among others, in any order, also when it is there twice."""
        profiles = [someone(number) for number in (1, 2, 3, 2)]
        together = await around.source.recommend(profiles, NEED, 10.0)
        assert len(together) == 4
        assert together[1] == together[3]
        backwards = await around.source.recommend(profiles[::-1], NEED, 10.0)
        assert list(backwards) == list(together)[::-1]
        (alone,) = await around.source.recommend([profiles[2]], NEED, 10.0)
        assert alone == together[2]

    async def test_titles_of_the_catalog_no_more_than_needed(self, around: Around) -> None:
        """Every title is the catalog's own, none twice, none watched; lists are no longer than asked for."""
        for need in (NEED, Need(3, 0, 6), Need(40, 1, 2)):
            for answer in await around.source.recommend([someone(number) for number in range(5)], need, 10.0):
                assert isinstance(answer, Recommendations)
                assert 0 < len(answer.ranked) <= need.k
                assert len({title.id for title in answer.ranked}) == len(answer.ranked)
                assert len(answer.because) <= need.because
                shown = [*answer.ranked, *(title for _, near in answer.because for title in near)]
                assert all(around.catalog.by_id[title.id] is title for title in shown)
                assert all(len(near) <= need.per_because for _, near in answer.because)

    async def test_nothing_watched_is_ranked(self, around: Around) -> None:
        """What the profile has seen is not recommended to it."""
        profile = someone(7)
        (answer,) = await around.source.recommend([profile], NEED, 10.0)
        assert isinstance(answer, Recommendations)
        assert not {title.id for title in answer.ranked} & {seen.title_id for seen in profile.history}

    async def test_a_profile_without_history_is_a_value(self, around: Around) -> None:
        """Recommendations, or Missing with a reason: never an error for the others."""
        nobody = Profile(id="new", region="US")
        odd = Profile(id="odd", region="US", history=(Viewing("no-such-title"),))
        answers = await around.source.recommend([nobody, someone(1), odd], NEED, 10.0)
        assert isinstance(answers[1], Recommendations)
        for answer in answers:
            assert isinstance(answer, Recommendations) or answer.why

    async def test_nobody_asked_nobody_answered(self, around: Around) -> None:
        assert list(await around.source.recommend([], NEED, 10.0)) == []

    async def test_many_at_once_do_not_mix(self, around: Around) -> None:
        """Forty callers at the same moment each get what they get alone."""
        alone = {number: (await around.source.recommend([someone(number)], NEED, 10.0))[0] for number in range(8)}
        answers = await asyncio.gather(
            *(around.source.recommend([someone(index % 8)], NEED, 10.0) for index in range(40))
        )
        assert [answer for (answer,) in answers] == [alone[index % 8] for index in range(40)]

    async def test_a_caller_that_leaves_costs_no_other(self, around: Around) -> None:
        """Cancelled at any of its steps: whoever asks with it and after it is served."""
        for steps in range(4):
            leaving = asyncio.ensure_future(around.source.recommend([someone(1), someone(2)], NEED, 10.0))
            staying = asyncio.ensure_future(around.source.recommend([someone(2)], NEED, 10.0))
            for _ in range(steps):
                await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.wait({leaving})
            assert isinstance((await staying)[0], Recommendations)

    async def test_no_time_left(self, around: Around) -> None:
        """At once whatever can be had: answers, Missing, or Unavailable; and it works again afterwards."""
        try:
            answers = await around.source.recommend([someone(1), someone(2)], NEED, 0.0)
        except Unavailable:
            pass
        else:
            assert len(answers) == 2
        assert isinstance((await around.source.recommend([someone(3)], NEED, 10.0))[0], Recommendations)

    async def test_a_new_catalog_is_taken_up(self, around: Around) -> None:
        """After a reload its titles are shown, soon and without a start."""
        await around.source.recommend([someone(1)], NEED, 10.0)
        around.catalog = LATER
        for _ in range(500):
            (answer,) = await around.source.recommend([someone(1)], NEED, 10.0)
            assert isinstance(answer, Recommendations)
            if all(LATER.by_id.get(title.id) is title for title in answer.ranked):
                return
            await asyncio.sleep(0.01)
        pytest.fail("titles of the old catalog are still ranked")
