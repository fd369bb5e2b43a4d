"""Picks from the catalog's ranking, and where profiles are."""

from __future__ import annotations

import asyncio

import pytest

from contract.clock import ManualClock
from contract.errors import InvalidRequest, NotFound
from contract.schedule import PlannedStage, TopicSchedule
from dgs.catalog_picks import BECAUSE_TITLES, SPARE_REASONS, CatalogPicks
from dgs.catalogs import CatalogIndex, CatalogInUse
from dgs.model import Profile
from dgs.picks import Missing, Picks, Wanted
from dgs.places import places_of
from dgs.ports import Place
from dgs.recommend import ContentRecommendations
from dgs.shelf import make_picks
from dgs.sources.catalog import Catalog
from dgs.sources.profiles import CsvProfiles, SeededProfiles
from dgs.stage_map import reasons_needed, titles_needed

SCHEDULE = TopicSchedule(
    topic="t",
    event_id="e",
    title="E",
    revision=1,
    version=2,
    starts_at=0,
    stages=tuple(
        PlannedStage(key=key, order=order) for order, key in enumerate(("upcoming", "live", "ended", "replay"))
    ),
)


def wanted(profile_id: str, topic: str = "t") -> Wanted:
    return Wanted(topic, 1, 2, profile_id)


def test_picks_are_those_of_the_recommendations(demo_catalog: Catalog) -> None:
    """By places in the catalog or by titles: the same picks for two hundred profiles, reasons included."""
    catalogs, source = CatalogInUse(CatalogIndex(demo_catalog.titles)), SeededProfiles(demo_catalog, 1)
    picks = CatalogPicks(catalogs, source, {"t": SCHEDULE}.get, ManualClock(), per_row=5)
    recommendations = ContentRecommendations(demo_catalog.titles)
    because = 0
    for number in range(200):
        profile = source.profile(f"p-{number}")
        by_titles = make_picks(
            SCHEDULE,
            recommendations.recommend(
                profile,
                titles_needed(SCHEDULE, 5),
                because=reasons_needed(SCHEDULE) + SPARE_REASONS,
                per_because=BECAUSE_TITLES,
            ),
            index_of=catalogs.current.index_of,
            per_row=5,
            catalog=catalogs.current.digest,
            now_ms=ManualClock().now_ms(),
            source="catalog",
        )
        assert picks.pick(SCHEDULE, profile) == by_titles
        because += sum(row.because for _, rows in by_titles.layout.stages for row in rows)
    assert because > 300


async def test_a_batch_has_an_answer_for_everybody(demo_catalog: Catalog) -> None:
    """An unknown profile or topic is Missing and costs the others nothing; memory has none."""
    known = CsvProfiles({f"p-{number}": Profile(id=f"p-{number}", region="US") for number in range(9)})
    index = CatalogIndex(demo_catalog.titles[:80])
    picks = CatalogPicks(CatalogInUse(index), known, {"t": SCHEDULE}.get, ManualClock(), per_row=4)
    asked = [*(wanted(f"p-{number}") for number in range(9)), wanted("stranger"), wanted("p-1", "gone")]
    assert picks.at_once(asked[0]) is None
    found = await picks.find(asked, 1.0)
    assert set(found) == set(asked)
    assert all(isinstance(found[each], Picks) for each in asked[:9])
    assert found[asked[9]] == Missing("no profile 'stranger'")
    assert found[asked[10]] == Missing("its schedule is gone")


async def test_a_batch_lets_others_have_their_turn(demo_catalog: Catalog) -> None:
    """The loop runs something else between a few rankings."""
    index = CatalogIndex(demo_catalog.titles[:80])
    source = SeededProfiles(demo_catalog, 1)
    picks = CatalogPicks(CatalogInUse(index), source, {"t": SCHEDULE}.get, ManualClock(), per_row=4)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await picks.find([wanted(f"p-{number}") for number in range(40)], 1.0)
    counting.cancel()
    assert turns >= 9


def test_places_are_remembered_and_refusals_are_not(demo_catalog: Catalog) -> None:
    """From a source that tells them cheaply, and from one that knows profiles only."""
    source = SeededProfiles(demo_catalog, 1)
    place = places_of(source, entries=10)
    assert place("p-1") == Place(source.profile("p-1").region, source.profile("p-1").locale)
    assert place("p-1") is place("p-1")
    with pytest.raises(InvalidRequest):
        place("a b")
    known = {"ada": Profile(id="ada", region="GB", locale="en-GB")}
    by_profile = places_of(CsvProfiles(known), entries=10)
    assert by_profile("ada") == ("GB", "en-GB")
    for _ in range(2):
        with pytest.raises(NotFound):
            by_profile("bob")
