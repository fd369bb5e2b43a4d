"""Picks of what a chain of sources chose: the same as ranking directly, with who chose and what failed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from contract.clock import ManualClock
from contract.errors import NotFound
from contract.schedule import PlannedStage, TopicSchedule
from dgs.caches.chosen_picks import ChosenPicks, need_of
from dgs.catalog_picks import CatalogPicks
from dgs.catalogs import CatalogIndex, CatalogInUse
from dgs.model import Profile, Viewing
from dgs.picks import Missing, Picks, Wanted
from dgs.ports import BatchRecommendations, Need
from dgs.sources.answers import Unanswered
from dgs.sources.catalog import Catalog
from dgs.sources.chain import RecommendationChain
from dgs.sources.content import CatalogRecommendations
from dgs.stage_map import Recommendations

TOPICS = {
    f"event:{name}": TopicSchedule(
        topic=f"event:{name}", event_id=name, title="T", revision=1, version=1, starts_at=0,
        stages=tuple(PlannedStage(key=key, order=order) for order, key in enumerate(keys)),
    )
    for name, keys in {"night": ("upcoming", "live", "ended"), "cup": ("live",)}.items()
}  # fmt: skip


class Profiles:
    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def profile(self, profile_id: str) -> Profile:
        if profile_id == "nobody":
            raise NotFound("no profile 'nobody'", field="profileId")
        seen = self._catalog.titles[int(profile_id) : int(profile_id) + 9]
        return Profile(id=profile_id, region="US", history=tuple(Viewing(title.id) for title in seen))


class Broken:
    name = "broken"

    async def recommend(
        self, profiles: Sequence[Profile], need: Need, deadline_s: float
    ) -> Sequence[Recommendations | Missing]:
        return [Unanswered("no route to it")] * len(profiles)


@pytest.fixture(scope="module")
def catalogs(demo_catalog: Catalog) -> CatalogInUse:
    return CatalogInUse(CatalogIndex(demo_catalog.titles))


def sources(catalog: Catalog, catalogs: CatalogInUse, *first: BatchRecommendations) -> tuple[ChosenPicks, CatalogPicks]:
    chain = RecommendationChain([*first, CatalogRecommendations(lambda: catalog)], lambda: catalog)
    common = (catalogs, Profiles(catalog), TOPICS.get, ManualClock())
    return ChosenPicks(chain, *common, per_row=4), CatalogPicks(*common, per_row=4)


async def test_the_chain_of_the_catalog_alone_picks_as_the_catalog_does(
    demo_catalog: Catalog, catalogs: CatalogInUse
) -> None:
    """Two topics, six profiles: equal picks, digests included."""
    chosen, direct = sources(demo_catalog, catalogs)
    wanted = [Wanted(topic, 1, 1, str(number)) for topic in TOPICS for number in (0, 700, 3_000)]
    assert await chosen.find(wanted, 5.0) == await direct.find(wanted, 5.0)


async def test_what_failed_is_said_and_nobody_missing_spoils_the_others(
    demo_catalog: Catalog, catalogs: CatalogInUse
) -> None:
    chosen, _ = sources(demo_catalog, catalogs, Broken())
    wanted = [Wanted("event:night", 1, 1, each) for each in ("0", "nobody")] + [Wanted("event:gone", 1, 1, "0")]
    found = await chosen.find(wanted, 5.0)
    picks = found[wanted[0]]
    assert isinstance(picks, Picks)
    assert (picks.source, picks.degraded, picks.why) == ("catalog", True, "broken: no route to it")
    assert found[wanted[1]] == Missing("no profile 'nobody'")
    assert found[wanted[2]] == Missing("its schedule is gone")
    assert chosen.at_once(wanted[0]) is None


def test_what_a_map_needs() -> None:
    assert need_of(TOPICS["event:night"], 4) == Need(k=28, because=3, per_because=24)
