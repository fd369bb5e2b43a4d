"""Cohorts and the picks of those nobody could choose for."""

from __future__ import annotations

from collections import Counter

from contract.schedule import PlannedStage, TopicSchedule
from dgs.catalogs import CatalogIndex, CatalogInUse
from dgs.cohorts import CohortModel
from dgs.default_picks import DefaultPicks
from dgs.model import Profile, Title, Viewing
from dgs.ranking import TfIdfRanking
from dgs.sources.catalog import Catalog
from dgs.sources.profiles import SeededProfiles

SCHEDULE = TopicSchedule(
    topic="t",
    event_id="e",
    title="E",
    revision=1,
    version=1,
    starts_at=0,
    stages=(PlannedStage(key="live", order=0), PlannedStage(key="ended", order=1)),
)


def test_cohorts_follow_taste(demo_catalog: Catalog) -> None:
    """Who watched nothing but one genre lands in a cohort of it; who watched nothing is everyone."""
    model = CohortModel(TfIdfRanking(demo_catalog.titles), 64)
    assert len(model) == 64
    for genre in ("Drama", "Horror", "Western"):
        seen = tuple(Viewing(title.id) for title in demo_catalog.titles if title.genres[:1] == (genre,))[:20]
        cohort = model.cohorts[model.cohort_of(Profile(id="p", region="US", history=seen))]
        assert f"genre:{genre}" in cohort.terms
        assert cohort.name.startswith(genre)
    assert model.cohort_of(Profile(id="p", region="US")) == 0
    assert model.cohort_of(Profile(id="p", region="US", history=(Viewing("gone"),))) == 0


def test_cohorts_do_not_depend_on_the_order_of_the_catalog(demo_catalog: Catalog) -> None:
    """The same cohorts by number, and every profile in the same, when the file is turned round."""
    one = CohortModel(TfIdfRanking(demo_catalog.titles), 256)
    other = CohortModel(TfIdfRanking(demo_catalog.titles[::-1]), 256)
    assert one.cohorts == other.cohorts
    source = SeededProfiles(demo_catalog, 1)
    found = Counter()
    for number in range(400):
        profile = source.profile(f"p-{number}")
        found[one.cohort_of(profile)] += 1
        assert one.cohort_of(profile) == other.cohort_of(profile)
    assert len(found) > 40
    assert max(found.values()) < 100


def test_a_small_catalog_has_few_cohorts() -> None:
    """Everyone at least; as many as there are tastes at most."""
    assert len(CohortModel(TfIdfRanking([Title(id="a", name="A")]), 256)) == 1
    tastes = CohortModel(TfIdfRanking([Title(id="a", name="A", genres=("X",), year=1990)]), 256)
    assert [cohort.name for cohort in tastes.cohorts] == ["everyone", "X", "X, 1990"]
    assert len(CohortModel(TfIdfRanking([Title(id="a", name="A", genres=("X",), year=1990)]), 2)) == 2


def test_default_picks_are_shared_and_say_why(demo_catalog: Catalog) -> None:
    """Equal for a cohort, popular for everyone, degraded, without because-rows."""
    catalogs = CatalogInUse(CatalogIndex(demo_catalog.titles))
    defaults = DefaultPicks(catalogs, per_row=4, now_ms=lambda: 5)
    everyone = defaults.of(SCHEDULE, None, "no answer in time")
    assert (everyone.source, everyone.degraded, everyone.why) == ("cohort", True, "no answer in time")
    assert not any(row.because for _, rows in everyone.layout.stages for row in rows)
    most = max(demo_catalog.titles, key=lambda title: title.votes)
    assert demo_catalog.titles[everyone.cells[0]] == most
    source = SeededProfiles(demo_catalog, 1)
    model = catalogs.current.cohorts
    digests = {}
    for number in range(60):
        profile = source.profile(f"p-{number}")
        digests.setdefault(model.cohort_of(profile), set()).add(defaults.of(SCHEDULE, profile, "").digest)
    assert all(len(each) == 1 for each in digests.values())
    assert len(set().union(*digests.values())) > 10


def test_another_catalog_is_used_from_the_swap_on(demo_catalog: Catalog) -> None:
    """The one before stays readable for picks made of it, an older one does not; an equal one is no change."""
    first = CatalogIndex(demo_catalog.titles[:50])
    catalogs = CatalogInUse(first)
    defaults = DefaultPicks(catalogs, per_row=4, now_ms=lambda: 5)
    before = defaults.of(SCHEDULE, None, "")
    assert not catalogs.swap(CatalogIndex(demo_catalog.titles[:50]))
    second = CatalogIndex(demo_catalog.titles[:60])
    assert catalogs.swap(second)
    assert catalogs.of(before.layout.catalog) is first
    assert defaults.of(SCHEDULE, None, "").layout.catalog == second.digest
    assert catalogs.swap(CatalogIndex(demo_catalog.titles[:70]))
    assert catalogs.of(first.digest) is None
    assert catalogs.of(second.digest) is second
    assert catalogs.current.title("no-such") is None
    assert catalogs.current.title(demo_catalog.titles[3].id) == demo_catalog.titles[3]
