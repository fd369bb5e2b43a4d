"""The shelf on indexes against the plain one on titles it replaced, which says what a stage map is."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from contract.names import CANCELLED, DEFAULT_STATE
from contract.schedule import PlannedStage, TopicSchedule
from dgs.model import Row, ShownTitle, StageContent, StageEntry, Title
from dgs.shelf import catalog_digest, fits, make_picks, stage_content
from dgs.stage_map import Recommendations

BECAUSE = "Because you watched {seen}"
LOOKS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "upcoming": ("Coming up: {event}", ("Before {event}",)),
    "starting_soon": ("Starting soon: {event}", ("While you wait",)),
    "live": ("Live now: {event}", ("Live now: {event}", BECAUSE)),
    "ended": ("{event} has ended", ("More like this", BECAUSE)),
    "replay": ("Watch the replay: {event}", ("After the replay",)),
    CANCELLED: ("{event} is cancelled", ("Watch instead",)),
    DEFAULT_STATE: ("{event}", ("Picked for you",)),
}
OTHER = ("{key}: {event}", ("{key}: {event}",))


class PlainShelf:
    """Hands out titles one by one, as the map is read."""

    def __init__(self, picks: Recommendations, per_row: int) -> None:
        self.ranked = endless(picks.ranked)
        self.size = len(picks.ranked)
        self.reasons = iter(picks.because)
        self.per_row = per_row
        self.used: set[str] = set()

    def next(self) -> tuple[Title, ...]:
        row: dict[str, Title] = {}
        for _ in range(2 * self.size):
            if len(row) == min(self.per_row, self.size):
                break
            title = next(self.ranked)
            if title.id not in self.used and title.id not in row:
                row[title.id] = title
                self.used.add(title.id)
            if len(self.used) >= self.size:
                self.used.clear()
        return tuple(row.values())

    def because(self) -> tuple[str, tuple[Title, ...]] | None:
        for seen, near in self.reasons:
            titles = [title for title in near if title.id not in self.used][: self.per_row]
            if len(titles) == self.per_row:
                self.used.update(title.id for title in titles)
                return fill(BECAUSE, {"seen": seen.name}), tuple(titles)
        return None


def endless(titles: Sequence[Title]) -> Iterator[Title]:
    for index in count():
        yield titles[index % len(titles)]


def fill(template: str, words: Mapping[str, str]) -> str:
    return re.sub(r"\{(event|key|seen)\}", lambda match: words[match[1]], template)


def plain_content(
    schedule: TopicSchedule, picks: Recommendations, show: Callable[[Title], ShownTitle], per_row: int
) -> StageContent:
    stages = sorted(
        (stage for stage in schedule.stages if stage.key not in (CANCELLED, DEFAULT_STATE)),
        key=lambda stage: stage.order,
    )
    own = {stage.key: stage.headline for stage in schedule.stages}
    after = stages[-1].order + 1 if stages else 0
    closing = [
        PlannedStage(key=key, order=after + place, headline=own.get(key, ""))
        for place, key in enumerate((CANCELLED, DEFAULT_STATE))
    ]
    shelf = PlainShelf(picks, per_row)
    entries = []
    for stage in (*stages, *closing):
        headline, headings = LOOKS.get(stage.key, OTHER)
        words = {"event": schedule.title, "key": stage.key.replace("_", " ").capitalize()}
        rows = []
        for heading in headings:
            row = shelf.because() if heading == BECAUSE else (fill(heading, words), shelf.next())
            if row is not None:
                rows.append(Row(heading=row[0], titles=tuple(show(title) for title in row[1])))
        entries.append(
            StageEntry(
                key=stage.key,
                order=stage.order,
                starts_at=stage.due_at,
                headline=stage.headline or fill(headline, words),
                rows=tuple(rows),
            )
        )
    return StageContent(stages=tuple(entries[:-1]), default=entries[-1])


def show(title: Title) -> ShownTitle:
    return ShownTitle(
        id=title.id,
        name=title.name,
        synopsis=None,
        year=None,
        maturity=None,
        genres=(),
        runtime_minutes=None,
        artwork=(),
    )


CATALOG = tuple(Title(id=f"t{number}", name=f"T{number} {{event}}") for number in range(60))
INDEX_OF = {title.id: index for index, title in enumerate(CATALOG)}
DIGEST = catalog_digest(CATALOG)
NEAR = st.lists(st.sampled_from(CATALOG), unique=True, max_size=14).map(tuple)
RECOMMENDATIONS = st.builds(
    Recommendations,
    st.lists(st.sampled_from(CATALOG), unique=True, max_size=60).map(tuple),
    st.lists(st.tuples(st.sampled_from(CATALOG), NEAR), max_size=5).map(tuple),
)
STAGE = st.builds(
    PlannedStage,
    key=st.sampled_from([*LOOKS, "half_time", "x"]),
    order=st.integers(-2, 9),
    due_at=st.none() | st.integers(0, 99),
    headline=st.sampled_from(["", "Here we go", "{event}"]),
)
SCHEDULES = st.builds(
    TopicSchedule,
    topic=st.just("t"),
    event_id=st.just("e"),
    title=st.text(max_size=8) | st.just("{key} {event}"),
    revision=st.just(1),
    version=st.just(1),
    starts_at=st.just(0),
    stages=st.lists(STAGE, max_size=8, unique_by=lambda stage: stage.key).map(tuple),
)


@settings(max_examples=300)
@given(SCHEDULES, RECOMMENDATIONS, st.integers(4, 6))
def test_picks_shown_are_the_plain_shelfs_map(
    schedule: TopicSchedule, recommendations: Recommendations, per_row: int
) -> None:
    """For any stages and any recommendations, however few: the same entries, rows, headings and titles."""
    picks = make_picks(
        schedule, recommendations, index_of=INDEX_OF, per_row=per_row, catalog=DIGEST, now_ms=5, source="catalog"
    )
    found = stage_content(
        schedule, picks, lambda index: show(CATALOG[index]), name_of=lambda index: CATALOG[index].name
    )
    assert found == plain_content(schedule, recommendations, show, per_row)
    assert picks.layout.cells == len(picks.cells)
    assert fits(picks, schedule, DIGEST)
    assert not fits(picks, schedule, "another")


@given(SCHEDULES, RECOMMENDATIONS, RECOMMENDATIONS)
def test_equal_picks_have_equal_digests_and_others_do_not(
    schedule: TopicSchedule, one: Recommendations, two: Recommendations
) -> None:
    """The digest says layout and cells, whoever chose them and when."""

    def made(recommendations: Recommendations, now_ms: int, source: str) -> tuple[object, array[int], bytes]:
        picks = make_picks(
            schedule,
            recommendations,
            index_of=INDEX_OF,
            per_row=4,
            catalog=DIGEST,
            now_ms=now_ms,
            source=source,
        )
        return picks.layout, picks.cells, picks.digest

    assert made(one, 1, "catalog") == made(one, 2, "http")
    assert (made(one, 1, "catalog")[:2] == made(two, 1, "catalog")[:2]) == (
        made(one, 1, "catalog")[2] == made(two, 1, "catalog")[2]
    )


@given(RECOMMENDATIONS)
def test_what_the_catalog_does_not_have_is_left_out(recommendations: Recommendations) -> None:
    """Strangers and repetitions in an answer change nothing."""
    stranger = Title(id="stranger", name="S")
    ranked = (stranger, *recommendations.ranked, *recommendations.ranked[:3])
    because = ((stranger, recommendations.ranked), *recommendations.because)
    schedule = TopicSchedule(
        topic="t",
        event_id="e",
        title="E",
        revision=1,
        version=1,
        starts_at=0,
        stages=(PlannedStage(key="live", order=0),),
    )

    def digest(of: Recommendations) -> bytes:
        return make_picks(schedule, of, index_of=INDEX_OF, per_row=4, catalog=DIGEST, now_ms=0, source="http").digest

    assert digest(Recommendations(ranked, because)) == digest(recommendations)
