"""Stage maps: every key present, every stage different, wording right, tiny catalogs survived."""

from __future__ import annotations

from contract.schedule import PlannedStage, TopicSchedule
from dgs.model import ShownTitle, StageContent, Title
from dgs.recommend import ContentRecommendations
from dgs.shelf import catalog_digest, make_picks, stage_content
from dgs.sources.catalog import Catalog
from dgs.sources.profiles import SeededProfiles
from dgs.stage_map import Recommendations, titles_needed

KEYS = ("upcoming", "starting_soon", "live", "ended", "replay")


def show(title: Title) -> ShownTitle:
    return ShownTitle(
        id=title.id,
        name=title.name,
        synopsis=None,
        year=title.year,
        maturity=None,
        genres=title.genres,
        runtime_minutes=None,
        artwork=(),
    )


def schedule(*keys: str, title: str = "The Fight") -> TopicSchedule:
    stages = tuple(PlannedStage(key=key, order=order, due_at=1000 * order) for order, key in enumerate(keys))
    return TopicSchedule(topic="t", event_id="e", title=title, revision=1, version=1, starts_at=2000, stages=stages)


def titles(count: int, prefix: str = "t") -> tuple[Title, ...]:
    return tuple(Title(id=f"{prefix}{number}", name=f"{prefix.upper()}{number}") for number in range(count))


def content_of(
    plan: TopicSchedule, recommendations: Recommendations, *, per_row: int = 4, language: str = "en"
) -> StageContent:
    """The map of a catalog that has what is recommended."""
    found = dict.fromkeys(recommendations.ranked)
    for seen, near in recommendations.because:
        found |= dict.fromkeys((seen, *near))
    catalog = tuple(found)
    picks = make_picks(
        plan,
        recommendations,
        index_of={title.id: index for index, title in enumerate(catalog)},
        per_row=per_row,
        catalog=catalog_digest(catalog),
        now_ms=0,
        source="catalog",
    )
    return stage_content(
        plan,
        picks,
        lambda index: show(catalog[index]),
        name_of=lambda index: catalog[index].name,
        language=language,
    )


def ids(content: StageContent, key: str) -> list[list[str]]:
    return [[title.id for title in row.titles] for row in content.by_key()[key].rows]


def test_every_stage_then_cancelled_and_default() -> None:
    """The keys of the map are the event's stages, `cancelled` and `default`, in rising order."""
    content = content_of(schedule(*KEYS), Recommendations(titles(60)))
    assert [entry.key for entry in content.stages] == [*KEYS, "cancelled"]
    assert list(content.by_key()) == [*KEYS, "cancelled", "default"]
    assert [entry.order for entry in (*content.stages, content.default)] == list(range(7))
    assert [entry.starts_at for entry in content.stages] == [0, 1000, 2000, 3000, 4000, None]
    assert content.default.starts_at is None


def test_no_title_appears_twice() -> None:
    """Stages draw from different slices of the ranking and from the neighbours of different watched titles."""
    because = ((Title(id="s1", name="S1"), titles(9, "a")), (Title(id="s2", name="S2"), titles(9, "b")))
    content = content_of(schedule(*KEYS), Recommendations(titles(60), because), per_row=5)
    shown = [title for key in content.by_key() for row in ids(content, key) for title in row]
    assert len(shown) == len(set(shown)) == 5 * 9
    assert ids(content, "upcoming") == [["t0", "t1", "t2", "t3", "t4"]]
    assert ids(content, "live") == [["t10", "t11", "t12", "t13", "t14"], ["a0", "a1", "a2", "a3", "a4"]]
    assert ids(content, "ended")[1][0] == "b0"


def test_wording() -> None:
    """Headlines and headings name the event; braces in a title are not filled in again."""
    seen = (Title(id="s", name="{event}"), titles(9, "a"))
    content = content_of(schedule(*KEYS, title="{key} Night"), Recommendations(titles(60), (seen,)))
    entries = content.by_key()
    assert entries["upcoming"].rows[0].heading == "Before {key} Night"
    assert entries["starting_soon"].headline == "Starting soon: {key} Night"
    assert entries["live"].headline == "Live now: {key} Night"
    assert entries["live"].rows[1].heading == "Because you watched {event}"
    assert entries["ended"].rows[0].heading == "More like this"
    assert entries["cancelled"].rows[0].heading == "Watch instead"
    assert content.default.headline == "{key} Night"


def test_a_stage_of_the_operators_own() -> None:
    """An unknown key is worded from itself; a headline of the schedule wins everywhere."""
    plan = TopicSchedule(
        topic="t",
        event_id="e",
        title="The Fight",
        revision=1,
        version=1,
        starts_at=0,
        stages=(
            PlannedStage(key="half_time", order=3),
            PlannedStage(key="live", order=1, due_at=7, headline="Here we go"),
            PlannedStage(key="cancelled", order=9, due_at=5, headline="Called off"),
        ),
    )
    content = content_of(plan, Recommendations(titles(60)))
    assert [(entry.key, entry.headline) for entry in content.stages] == [
        ("live", "Here we go"),
        ("half_time", "Half time: The Fight"),
        ("cancelled", "Called off"),
    ]
    assert content.stages[-1].starts_at is None


def test_a_catalog_smaller_than_the_map() -> None:
    """Titles repeat rather than leave a row empty, never within a row; without any title rows are empty."""
    content = content_of(schedule(*KEYS), Recommendations(titles(6)))
    for key in content.by_key():
        for row in ids(content, key):
            assert len(row) == len(set(row)) == 4
    assert ids(content_of(schedule("live"), Recommendations(titles(2))), "live") == [["t0", "t1"]]
    assert ids(content_of(schedule("live"), Recommendations(())), "live") == [[]]


def test_titles_needed_is_enough() -> None:
    """A ranking of that length never runs out."""
    plan = schedule(*KEYS)
    content = content_of(plan, Recommendations(titles(titles_needed(plan, 6))), per_row=6)
    shown = [title for key in content.by_key() for row in ids(content, key) for title in row]
    assert len(shown) == len(set(shown))


def test_maps_differ_between_profiles_and_stages(demo_catalog: Catalog) -> None:
    """Of 500 generated profiles at least 95 % have a map of their own, and within each map all stages differ."""
    source, recommendations = SeededProfiles(demo_catalog, 1), ContentRecommendations(demo_catalog.titles)
    plan = schedule("upcoming", "starting_soon", "live", "ended")
    maps, live = set(), set()
    for number in range(500):
        picks = recommendations.recommend(
            source.profile(f"p-{number}"), titles_needed(plan, 4), because=6, per_because=24
        )
        content = content_of(plan, picks)
        rows = {key: str(ids(content, key)) for key in content.by_key()}
        assert len(set(rows.values())) == len(rows)
        assert all(len(row) == 4 for key in rows for row in ids(content, key))
        maps.add(str(rows))
        live.add(rows["live"])
    assert len(maps) >= 475
    assert len(live) >= 475
