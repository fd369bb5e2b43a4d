"""The sources put together as the service does, while the catalog changes under them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from contract.clock import ManualClock
from dgs.catalogs import CatalogIndex, CatalogInUse
from dgs.model import Profile
from dgs.ports import Need
from dgs.settings import DgsSettings
from dgs.sources.chain import Otherwise, build_chain
from dgs.sources.registry import SourceOptions, load_source
from dgs.sources.reload import CatalogReload
from dgs.stage_map import Recommendations
from tests.support.ranking_services import Speaking, speaking, until

NEED = Need(3, 0, 0)
DEADLINE_S = 20.0


class Composed:
    """What `build_dgs` makes of the settings."""

    def __init__(self, settings: DgsSettings) -> None:
        clock = ManualClock()
        source = load_source("catalog", settings.catalog_source, SourceOptions(settings, clock))
        self.reload = CatalogReload(source, every_s=settings.catalog_reload_s, clock=clock, jitter=lambda: 0.5)
        self.catalogs = CatalogInUse(CatalogIndex(self.reload.current().titles, cohorts=4))
        self.reload.on_new(lambda catalog: CatalogIndex(catalog.titles, cohorts=4), self.catalogs.swap)
        options = SourceOptions(
            settings, clock, self.reload.current, ranking=lambda: self.catalogs.current.recommendations
        )
        profiles = settings.profiles_source or ("file" if settings.profiles_path else "seeded")
        self.profiles = load_source("profiles", profiles, options)
        self.chain = build_chain(options, otherwise=Otherwise("cohort", self.cohort))

    def cohort(self, profile: Profile, need: Need) -> Recommendations:
        index = self.catalogs.current
        ranked = index.cohorts.rank(index.cohorts.cohort_of(profile), need.k)
        return Recommendations(tuple(index.titles[place] for place in ranked))

    async def shown(self) -> tuple[str, list[str]]:
        (answer,) = await self.chain.choose([Profile(id="p-1", region="US")], NEED, DEADLINE_S)
        return answer.source, [title.id for title in answer.recommendations.ranked]


def write(path: Path, *ids: str) -> None:
    path.write_text("id,title,votes\n" + "".join(f"{each},{each},{9 - place}\n" for place, each in enumerate(ids)))


def says(*ids: str) -> Speaking:
    service = Speaking()

    async def answer(asked: dict[str, list[dict[str, str]]]) -> dict[str, object]:
        return {"recommendations": [{"profile": each["id"], "ranked": list(ids)} for each in asked["profiles"]]}

    service.script = answer
    return service


async def test_a_reload_reaches_every_source(tmp_path: Path) -> None:
    """Ranking service, own ranking and cohorts name titles of the new catalog from the turn it is taken in."""
    path = tmp_path / "mine.csv"
    write(path, "a", "b", "c", "d")
    async with speaking() as service:
        service.script = says("d", "new", "a").script
        settings = DgsSettings(
            catalog_path=path, recommendations="http,catalog", ranking_url=service.url, ranking_deadline_ms=20_000
        )
        composed = Composed(settings)
        ready, stop = asyncio.Event(), asyncio.Event()
        serving = asyncio.create_task(composed.chain.run(ready, stop))
        assert await composed.shown() == ("http", ["d", "a"])
        assert composed.profiles.profile("p-1").history
        before = composed.catalogs.current
        write(path, "a", "new", "z")
        assert await composed.reload.look()
        assert composed.catalogs.current is not before
        assert await composed.shown() == ("http", ["new", "a"])
        service.script = says().script
        source, ids = await composed.shown()
        assert (source, set(ids)) == ("http", {"new", "a"})
        stop.set()
        await serving
        await until(lambda: not service.under_way)
        # Closed: what it said before, since it fails; for somebody else the next source.
        assert (await composed.shown())[0] == "http"
        (other,) = await composed.chain.choose([Profile(id="p-2", region="US")], NEED, DEADLINE_S)
        assert (other.source, other.degraded) == ("catalog", True)
        assert {title.id for title in other.recommendations.ranked} == {"a", "new", "z"}


async def test_no_source_left_is_the_cohorts_choice(tmp_path: Path) -> None:
    """With the store as the only one, whoever is not in it gets what the cohort likes."""
    path = tmp_path / "mine.csv"
    write(path, "a", "b", "c", "d")
    composed = Composed(DgsSettings(catalog_path=path, recommendations="materialised"))
    source, ids = await composed.shown()
    assert source == "cohort"
    assert len(ids) == 3
