"""Properties of the pure parts: loading never crashes, ranking is a function, lifetimes keep off stages."""

from __future__ import annotations

import csv
import io
import json
from xml.etree import ElementTree

from hypothesis import given, settings
from hypothesis import strategies as st

from contract.errors import InvalidRequest
from contract.names import CANCELLED, DEFAULT_STATE
from contract.schedule import PlannedStage, TopicSchedule
from dgs.artwork import ART_LANGUAGES, artwork_path, draw, parse_artwork_path
from dgs.model import ArtworkKind, ShownTitle, Title, Viewing
from dgs.ranking import TfIdfRanking
from dgs.request_log import RequestLog
from dgs.shelf import make_picks, stage_content
from dgs.sources.catalog import CatalogOptions, parse_catalog
from dgs.sources.tidy import COLUMNS, BadCell, tidy_row
from dgs.stage_map import Recommendations
from dgs.ttl import jittered_ttl_ms

CELL = st.text(max_size=40) | st.sampled_from(
    ["Jun 12 1998", "1998", "7.1", "-1", "1e9", "²", "٣", "Sting, The", "A/B"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | CELL,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["title", "year", "genres", "votes", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)
TITLES = st.lists(
    st.builds(
        Title,
        id=st.uuids().map(str),
        name=st.just("x"),
        genres=st.lists(st.sampled_from("ABCD"), unique=True, max_size=3).map(tuple),
        director=st.none() | st.sampled_from(["P", "Q", "R"]),
        year=st.none() | st.integers(1900, 2020),
        votes=st.integers(0, 3),
    ),
    min_size=1,
    max_size=30,
    unique_by=lambda title: title.id,
)


@given(st.fixed_dictionaries({names[0]: CELL for names in COLUMNS.values()}), st.integers(1900, 2100))
def test_tidying_a_row_gives_a_title_or_a_reason(row: dict[str, str], newest_year: int) -> None:
    """Whatever is in the cells: a title within its bounds, or BadCell naming one of the file's columns."""
    columns = {ours: names[0] for ours, names in COLUMNS.items()}
    title, column = None, ""
    try:
        title = tidy_row(row, columns, newest_year=newest_year).title
    except BadCell as bad:
        column = bad.column
    if title is None:
        assert column in row
        return
    assert title.name
    assert title.name == " ".join(title.name.split())
    assert title.year is None or 1888 <= title.year <= newest_year
    assert title.rating is None or 0 <= title.rating <= 10
    assert parse_artwork_path(artwork_path(title, ArtworkKind.WIDE, 320, 180, "en")) is not None


@given(st.lists(st.lists(CELL, max_size=6), max_size=8), st.text(max_size=60), st.booleans())
def test_no_csv_crashes_the_loader(rows: list[list[str]], garbage: str, strict: bool) -> None:
    """Well-formed rows and garbage between them: a catalog, or a refusal; every row is accounted for."""
    out = io.StringIO()
    csv.writer(out).writerows([["title", "release_date", "major_genre"], *rows])
    text = out.getvalue() + garbage
    try:
        catalog = parse_catalog(text, "csv", strict=strict, options=CatalogOptions(repair="mac-roman"))
    except InvalidRequest:
        return
    assert len(catalog.by_id) == len(catalog.titles) >= 1
    assert all(2 <= row.line <= text.count("\n") + text.count("\r") + 2 for row in catalog.rejected)
    assert not (strict and catalog.rejected)


@given(JSON, st.integers(0, 80))
def test_no_json_crashes_the_loader(value: object, cut: int) -> None:
    """Any JSON, whole or cut short."""
    text = json.dumps([value, {"title": "Good"}])
    try:
        catalog = parse_catalog(text[: len(text) - cut] if cut < 20 else text, "json")
    except InvalidRequest:
        return
    assert len(catalog.titles) + len(catalog.rejected) == 2


@given(TITLES, st.data())
def test_ranking_is_a_function_of_the_history(titles: list[Title], data: st.DataObject) -> None:
    """Deterministic, complete, without watched titles, and a prefix of itself; catalog order does not matter."""
    watched = data.draw(
        st.lists(st.builds(Viewing, st.sampled_from([title.id for title in titles]), st.floats(0.1, 1)))
    )
    ranking = TfIdfRanking(titles)
    ranked = ranking.rank(watched, len(titles))
    assert ranked == TfIdfRanking(titles).rank(watched, len(titles))
    assert {title.id for title in ranked} == {title.id for title in titles} - {viewing.title_id for viewing in watched}
    k = data.draw(st.integers(0, len(titles)))
    assert ranking.rank(watched, k) == ranked[:k]


@given(
    st.lists(st.integers(-10_000, 60_000), max_size=12),
    st.integers(1, 20_000),
    st.floats(0, 0.95),
    st.integers(0, 5_000),
    st.floats(0, 1, exclude_max=True),
)
def test_lifetimes_keep_off_stages(stages: list[int], mean: int, spread: float, guard: int, draw_: float) -> None:
    """Never within the guard of any stage, never shorter than the range allows, and always found."""
    now = 1_700_000_000_000
    ttl = jittered_ttl_ms(
        now_ms=now,
        mean_ms=mean,
        spread=spread,
        stage_times=[now + at for at in stages],
        guard_ms=guard,
        draw=draw_,
    )
    assert ttl >= round(mean * (1 - spread))
    assert all(not -guard <= ttl - at < guard for at in stages)


@settings(max_examples=60)
@given(
    st.lists(st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True), unique=True, max_size=8),
    st.integers(0, 40),
    st.integers(4, 6),
    st.text(max_size=20),
)
def test_every_key_has_an_entry(keys: list[str], count: int, per_row: int, event: str) -> None:
    """Whatever the stages are called and however small the catalog: all keys, rows without repeats."""
    plan = TopicSchedule(
        topic="t",
        event_id="e",
        title=event,
        revision=1,
        version=1,
        starts_at=0,
        stages=tuple(PlannedStage(key=key, order=order) for order, key in enumerate(keys)),
    )
    titles = tuple(Title(id=f"t{number}", name="T") for number in range(count))
    picks = make_picks(
        plan,
        Recommendations(titles),
        index_of={title.id: index for index, title in enumerate(titles)},
        per_row=per_row,
        catalog="0",
        now_ms=0,
        source="catalog",
    )

    def show(index: int) -> ShownTitle:
        return ShownTitle(
            id=titles[index].id,
            name="T",
            synopsis=None,
            year=None,
            maturity=None,
            genres=(),
            runtime_minutes=None,
            artwork=(),
        )

    content = stage_content(plan, picks, show, name_of=lambda index: titles[index].name)
    assert set(content.by_key()) == {*keys, CANCELLED, DEFAULT_STATE}
    for entry in content.by_key().values():
        for row in entry.rows:
            assert len({title.id for title in row.titles}) == len(row.titles) == min(per_row, count)


@given(
    st.text(min_size=1, max_size=80).filter(lambda text: text.isprintable() and text.strip()),
    st.sampled_from(ArtworkKind),
    st.sampled_from(ART_LANGUAGES),
    st.lists(st.text(max_size=10).filter(str.isprintable), max_size=2).map(tuple),
)
def test_any_name_is_drawn_well_formed(name: str, kind: ArtworkKind, language: str, genres: tuple[str, ...]) -> None:
    """Every printable name and genre parses as XML."""
    title = Title(id="x", name=name, genres=genres)
    ElementTree.fromstring(draw(title, kind, 160, 160, language))


ARRIVALS = st.lists(st.tuples(st.sampled_from(["graphql", "artwork"]), st.integers(0, 50)), max_size=60)


@given(ARRIVALS, st.integers(0, 50), st.integers(0, 50))
def test_the_request_log_agrees_with_counting(arrivals: list[tuple[str, int]], since: int, until: int) -> None:
    """While nothing was forgotten, counts are exact for any window and any order."""
    log = RequestLog(window_ms=1_000, started_ms=0)
    for kind, at in arrivals:
        log.note(kind, at)  # type: ignore[arg-type]
    counts = log.counts(since, until)
    for kind in ("graphql", "artwork"):
        assert getattr(counts, kind) == sum(1 for other, at in arrivals if other == kind and since <= at < until)
    assert counts.complete_since_ms == 0
