"""Sources that fail, picks that do not fit, and budgets: always a map, and the answer says what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from dgs_world import HOUR_MS, World

from contract.errors import StoreUnavailable
from dgs.answer_budget import OVER_BUDGET, BudgetedPicks
from dgs.catalog_picks import CatalogPicks
from dgs.catalogs import CatalogIndex, CatalogInUse
from dgs.default_picks import DefaultPicks
from dgs.distinct import DistinctAnswers
from dgs.picks import Missing, Picks, Wanted
from dgs.prefetch import Prefetch
from dgs.schema import RequestContext, build_schema
from dgs.settings import DgsSettings
from dgs.sources.catalog import DEMO_CATALOG, Catalog, load_catalog
from dgs.sources.profiles import SeededProfiles
from tests.support.read_through import ReadThroughNewest, ReadThroughSchedules

EVENT = "{ prefetchEvent(eventId: %s, profileId: %s) { ttlSeconds byKey } }"
TITLES = tuple(load_catalog(DEMO_CATALOG).titles)


class Source:
    """Picks of a profile from the catalog, spoilt as a test wants; counts what it is asked."""

    def __init__(self, inner: CatalogPicks) -> None:
        self.inner = inner
        self.fails: Exception | None = None
        self.answers: dict[str, Picks | Missing] = {}
        self.held: dict[str, Picks] = {}
        self.asked: list[int] = []

    def at_once(self, wanted: Wanted) -> Picks | None:
        return self.held.get(wanted.profile_id)

    async def find(self, wanted: Sequence[Wanted], deadline_s: float) -> Mapping[Wanted, Picks | Missing]:
        self.asked.append(len(wanted))
        if self.fails is not None:
            raise self.fails
        found = dict(await self.inner.find(wanted, deadline_s))
        found.update({each: self.answers[each.profile_id] for each in wanted if each.profile_id in self.answers})
        return found


class Kitchen:
    """A Prefetch over in-memory stores with a source of the test's own, asked through the schema."""

    def __init__(self, world: World, *, budget: int = 0, **settings: Any) -> None:
        self.world = world
        self.settings = DgsSettings(**settings)
        index = CatalogIndex(TITLES[:400], cohorts=16)
        self.catalogs = CatalogInUse(index)
        self.profiles = SeededProfiles(Catalog(TITLES[:400]))
        self.schedules = ReadThroughSchedules(world.view)
        self.defaults = DefaultPicks(self.catalogs, per_row=4, now_ms=world.clock.now_ms)
        self.source = Source(
            CatalogPicks(self.catalogs, self.profiles, self.schedules.schedule, world.clock, per_row=4)
        )
        self.counted = DistinctAnswers(budget=budget)
        self.prefetch = Prefetch(
            self.settings,
            catalogs=self.catalogs,
            profiles=self.profiles,
            picks=BudgetedPicks(self.source, self.counted, self.defaults, self.profiles, self.schedules),
            defaults=self.defaults,
            schedules=self.schedules,
            newest=ReadThroughNewest(world.log),
            device_ring=world.ring,
            clock=world.clock,
            draw=lambda: 0.5,
        )
        self.schema = build_schema(self.settings)

    async def ask(self, document: str, **variables: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        context = RequestContext(self.prefetch)
        found = await self.schema.execute(document, variable_values=variables, context_value=context)
        assert not found.errors, found.errors
        assert found.data is not None
        return found.data, context.extensions

    async def event(self, profile: str = "p-1", event: str = "tyson-paul") -> tuple[dict[str, Any], dict[str, Any]]:
        data, extensions = await self.ask(EVENT % (f'"{event}"', f'"{profile}"'))
        return data["prefetchEvent"], extensions


@pytest.fixture
def bare() -> World:
    return World()


async def test_a_source_that_fails_costs_nobody_the_map(bare: World) -> None:
    """The cohort's titles, a tenth of the lifetime, and what and why in the extensions."""
    kitchen = Kitchen(bare)
    await bare.plan(starts_in_ms=30 * HOUR_MS)
    good, nothing = await kitchen.event()
    assert nothing == {}
    kitchen.source.fails = StoreUnavailable("10.0.0.7:6379 refused")
    found, extensions = await kitchen.event()
    assert extensions == {
        "degraded": [{"what": "picks", "eventId": "tyson-paul", "source": "cohort", "why": "store_unavailable"}]
    }
    assert set(found["byKey"]) == set(good["byKey"])
    assert found["byKey"] != good["byKey"]
    assert all(entry["rows"][0]["titles"] for entry in found["byKey"].values())
    assert found["ttlSeconds"] * 10 == pytest.approx(good["ttlSeconds"], rel=0.01)


@pytest.mark.parametrize(
    ("fails", "why"),
    [(RuntimeError("a plug-in's bug"), "nobody could choose"), (TimeoutError(), "nobody could choose in time")],
)
async def test_whatever_a_source_raises_is_its_own_trouble(bare: World, fails: Exception, why: str) -> None:
    """Bugs and time-outs too; nothing of their text reaches a device."""
    kitchen = Kitchen(bare)
    await bare.plan()
    kitchen.source.fails = fails
    found, extensions = await kitchen.event()
    assert extensions["degraded"][0]["why"] == why
    assert found["byKey"]["live"]["rows"]


async def test_a_profile_the_source_does_not_have_gets_its_cohorts_map(bare: World) -> None:
    """`Missing` is said, and two of a cohort see the same."""
    kitchen = Kitchen(bare)
    await bare.plan()
    kitchen.source.answers = {"p-1": Missing("no history there")}
    _, extensions = await kitchen.event("p-1")
    assert extensions["degraded"][0]["why"] == "no history there"
    _, extensions = await kitchen.event("p-2")
    assert extensions == {}


async def test_picks_that_do_not_fit_are_not_shown(bare: World) -> None:
    """Made of another catalog, or for other stages: the default instead, never a wrong title or an error."""
    kitchen = Kitchen(bare)
    await bare.plan()
    profile = kitchen.profiles.profile("p-1")
    schedule = (await kitchen.schedules.ensure("tyson-paul"))[0]
    fitting = kitchen.source.inner.pick(schedule, profile)
    for layout in (
        type(fitting.layout)(fitting.layout.stages, "another"),
        type(fitting.layout)(fitting.layout.stages[1:], fitting.layout.catalog),
    ):
        kitchen.source.held["p-1"] = fitting._replace(layout=layout)
        _, extensions = await kitchen.event()
        assert extensions["degraded"][0]["why"] == "made for other stages or another catalog"
    kitchen.source.held["p-1"] = fitting
    assert (await kitchen.event())[1] == {}


async def test_picks_of_the_catalog_before_are_still_shown(bare: World) -> None:
    """A reload takes no map away: titles are those the picks were made of."""
    kitchen = Kitchen(bare)
    await bare.plan()
    schedule = (await kitchen.schedules.ensure("tyson-paul"))[0]
    kitchen.source.held["p-1"] = kitchen.source.inner.pick(schedule, kitchen.profiles.profile("p-1"))
    before, _ = await kitchen.event()
    kitchen.catalogs.swap(CatalogIndex(TITLES[400:800], cohorts=16))
    assert await kitchen.event() == (before, {})


async def test_cold_maps_of_one_answer_are_asked_for_together(bare: World) -> None:
    """Home with three events is one batch; what memory has is not asked for."""
    kitchen = Kitchen(bare)
    for number in range(3):
        await bare.plan(f"e-{number}", starts_in_ms=(number + 1) * HOUR_MS)
    data, _ = await kitchen.ask('{ prefetchHome(profileId: "p-1") { event { id } } }')
    assert [each["event"]["id"] for each in data["prefetchHome"]] == ["e-0", "e-1", "e-2"]
    assert kitchen.source.asked == [3]


async def test_beyond_the_budget_answers_are_shared(bare: World) -> None:
    """Twenty profiles, a budget of five: five own maps, the others their cohort's, and they are told."""
    kitchen = Kitchen(bare, budget=5)
    await bare.plan()
    own, shared = set(), set()
    for number in range(20):
        found, extensions = await kitchen.event(f"p-{number}")
        if extensions:
            assert extensions["degraded"][0]["why"] == OVER_BUDGET
        (shared if extensions else own).add(str(found["byKey"]["live"]))
    assert len(own) == 5
    assert len(shared) < 15
    assert max(kitchen.counted.counts("event:tyson-paul", 7).values()) == 5
    assert kitchen.counted.stats()["refused"] == 15
    # Those who had their own keep it.
    assert (await kitchen.event("p-0"))[1] == {}


async def test_a_title_leads_to_its_event(bare: World) -> None:
    """By id, else by name; null without an event near, for other regions only, or without the title."""
    kitchen = Kitchen(bare)
    by_name, by_id = TITLES[7], TITLES[8]
    document = 'query($t: ID!) { prefetchTitle(titleId: $t, profileId: "p-1") { event { id } } }'

    async def led_to(title_id: str) -> str | None:
        data, _ = await kitchen.ask(document, t=title_id)
        return data["prefetchTitle"] and data["prefetchTitle"]["event"]["id"]

    assert await led_to(by_name.id) is None
    await bare.plan("later", title=by_name.name, starts_in_ms=20 * HOUR_MS)
    await bare.plan("sooner", title=by_name.name.upper(), starts_in_ms=HOUR_MS)
    await bare.plan("far", title=TITLES[9].name, starts_in_ms=40 * 24 * HOUR_MS)
    await bare.plan("away", title=TITLES[10].name, audience="aq", regions=("AQ",))
    await bare.plan(by_id.id, title="Another name")
    assert await led_to(by_name.id) == "sooner"
    assert await led_to(by_id.id) == by_id.id
    assert await led_to(TITLES[9].id) is None
    assert await led_to(TITLES[10].id) is None
    assert await led_to("no-such-title") is None


async def test_headings_speak_the_devices_language(bare: World) -> None:
    """The device's locale, else the profile's; the titles are the same."""
    kitchen = Kitchen(bare)
    await bare.plan()
    document = """query($l: String) { prefetchEvent(eventId: "tyson-paul", profileId: "p-1",
        device: {kind: TV, locale: $l}) { default { headline rows { heading titles { id } } } } }"""
    found = {}
    for locale in ("en", "de-AT", "fr-CA", "es-MX", "pt-BR", "ja-JP", "sv"):
        data, _ = await kitchen.ask(document, l=locale)
        found[locale] = data["prefetchEvent"]["default"]["rows"][0]
    assert found["de-AT"]["heading"] == "Für dich ausgewählt"
    assert found["sv"] == found["en"]
    assert len({row["heading"] for row in found.values()}) == 6
    assert len({str(row["titles"]) for row in found.values()}) == 1
