"""Goal: a page shows all of a record, says loudly when a run does not count, asks nobody, and runs nobody's code."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import msgspec
import pytest

from loadtest.report.figures import numbered_marks, vertical_marks
from loadtest.report.page import draw_report
from loadtest.report.plot import Frame, Layer, VerticalMark, clustered, draw_plot, steps_path
from loadtest.report.record import Bar, Chart, Fact, HistogramFile, Mark, RunRecord, Series
from loadtest.report.scales import Axis, time_axis
from loadtest.report.verdicts import Promise, answer_of, promise, reservations, standing
from tests.support.run_records import some_record

NASTY = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)> <b>&amp;"


class Page(HTMLParser):
    """Tags with attributes, and text by tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def drawn(record: RunRecord) -> str:
    return draw_report(record, msgspec.json.encode(record).decode())


def shown(text: str) -> str:
    """What a reader sees: no script, no style, no tags."""
    bare = re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", bare))


def test_everything_a_record_holds_is_on_the_page() -> None:
    words = shown(drawn(some_record()))
    for expected in (
        "Do ten times as many joins", "the last of 1,000 devices", "last_s", "&lt;= 12 s", "4.2 s", "CPU", "push",
        "joins begin", "stage due", "live", "990", "delivery", "42 ms", "Memory", "1.2 GB",
        "Everything shared two cores.", "24 GB", "3.11.2", "aaaaaaaaaa", "2026-01-02 03:04:05 UTC",
    ):  # fmt: skip
        assert expected in words, expected


def test_a_page_asks_nobody_and_runs_only_its_own_script() -> None:
    text = drawn(some_record())
    page = Page(text)
    assert not re.search(r"https?:|\bsrc=|@import|url\(", text)
    assert not page.of("link")
    assert len(page.of("script")) == 2
    assert {attributes.get("type") for attributes in page.of("script")} == {"application/json", None}
    policy = next(each["content"] for each in page.of("meta") if each.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy


def test_names_are_text_wherever_they_stand() -> None:
    plain, nasty = some_record(), some_record(
        scenario=NASTY, title=NASTY, question=NASTY, answer=NASTY, notes=[NASTY],
        bars=[Bar(name=NASTY, bar=NASTY, measured=1.0, unit=NASTY, held=True, means=NASTY)],
        charts=[Chart(title=NASTY, unit=NASTY, explains=NASTY, series=[Series(name=NASTY, points=[(0, 1), (1, 2)])])],
        marks=[Mark(0.5, NASTY)], facts={NASTY: [Fact(NASTY, NASTY)]},
        envelope={"machine": {NASTY: NASTY}, "commit": NASTY, NASTY: NASTY},
        histograms=[
            HistogramFile(
                name=NASTY, path=f"javascript:{NASTY}", unit=NASTY, count=1, p50=1, p90=1, p99=1, p999=1, max=1,
                curve=[(0.0, 1.0), (100.0, 1.0)],
            )
        ],
    )  # fmt: skip
    page = Page(drawn(nasty))
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in Page(drawn(plain)).tags}
    assert len(page.of("script")) == 2
    assert not page.of("img")
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert not any((each.get("href") or "").startswith("javascript") for each in page.of("a"))
    assert any(NASTY in words for words in page.words), "and readable as it is"


@pytest.mark.parametrize("path", ["/etc/passwd", "../../x", "http://x/y", "\\\\host\\x", "a/../../b"])
def test_links_of_a_record_stay_beside_the_report(path: str) -> None:
    record = some_record()
    other = msgspec.structs.replace(record.histograms[0], path=path)
    page = Page(drawn(msgspec.structs.replace(record, histograms=[other])))
    assert {each["href"] for each in page.of("a") if "href" in each} == {"run.json"}


@pytest.mark.parametrize(
    ("record", "word", "told"),
    [
        (some_record(verdict="invalid"), "INVALID: ", "This run does not count"),
        (some_record(envelope={"valid": False, "invalid_because": "a late loop"}), "INVALID: ", "a late loop"),
        (some_record(verdict="partial"), "PARTIAL: ", "Interrupted"),
        (some_record(verdict="failed", bars=[Bar(name="x", bar="<= 1", measured=2.0)]), "FELL SHORT: ", "fell short"),
        (some_record(bars=[Bar(name="x", bar="<= 1", measured=None)]), "FELL SHORT: ", "not measured"),
    ],
)  # fmt: skip
def test_a_run_that_does_not_count_or_hold_says_so_in_title_banner_and_bars(
    record: RunRecord, word: str, told: str
) -> None:
    text = drawn(record)
    assert f"<title>{word}" in text
    assert f'<body class="{standing(record)}">' in text
    assert told in shown(text)
    if standing(record) in ("invalid", "partial"):
        assert not re.search(r'class="(yes|no)"', text), "no promise is shown as kept or broken"


def test_a_held_run_says_held() -> None:
    text = drawn(some_record())
    assert "<title>Join surge</title>" in text
    assert "\u2713 held" in shown(text)


def test_a_verdict_gives_way_to_what_the_record_says_itself() -> None:
    assert standing(some_record()) == "held"
    assert reservations(some_record()) == []
    broken = some_record(bars=[Bar(name="last_s", bar="<= 1 s", measured=2.0)])
    assert standing(broken) == "failed"
    assert "last_s" in reservations(broken)[0]
    assert standing(some_record(verdict="partial", envelope={"valid": False})) == "partial"
    assert reservations(some_record(envelope={"valid": False})) != []
    assert reservations(some_record(envelope={"valid": False, "invalid_because": ["a", "b"]})) == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<= 12 s", Promise("at most", 12)), ("< 2.5x", Promise("at most", 2.5)), ("= 0", Promise("exactly", 0)),
        (">= 50,000", Promise("at least", 50_000)), ("<= 20k", Promise("at most", 20_000)),
        ("\u2265 5 x lower", Promise("at least", 5)),
        ("0", Promise("exactly", 0)), ("none", Promise("exactly", 0)), ("all of them", None), ("", None),
    ],
)  # fmt: skip
def test_a_promise_is_read_from_its_text(text: str, expected: Promise | None) -> None:
    assert promise(Bar(name="x", bar=text, measured=1.0)) == expected


def test_the_answer_of_a_run_that_does_not_count_is_told_as_that() -> None:
    assert answer_of(some_record(answer="Yes.")) == "Yes."
    assert answer_of(some_record(answer="Yes.", verdict="invalid")) == "Its answer, which does not count: Yes."
    assert "Its answer, which does not count: Yes." in shown(drawn(some_record(answer="Yes.", verdict="invalid")))


def test_a_record_with_next_to_nothing_is_a_page_too() -> None:
    bare = RunRecord(scenario="s", title="t", question="q?", answer="a.", verdict="partial", bars=[])
    words = shown(drawn(bare))
    assert "q?" in words
    assert "Promises" not in words
    empty = some_record(charts=[Chart(title="Nothing", unit="", series=[Series(name="x", points=[])])], reach=[])
    assert "Nothing was measured." in drawn(empty)


def test_each_drawing_is_named_described_and_there_as_a_table() -> None:
    text = drawn(some_record())
    page = Page(text)
    drawings = page.of("svg")
    assert len(drawings) == 3
    ids = {each["id"] for _, each in page.tags if "id" in each}
    for each in drawings:
        assert each["role"] == "img"
        assert set((each["aria-labelledby"] or "").split()) <= ids
    assert len(page.of("details")) == 3
    assert "push: at most 0.9 cores at 1.0 s" in text


def test_curves_name_where_the_script_finds_their_points() -> None:
    figures = [each for each in Page(drawn(some_record())).of("figure") if "data-curves" in each]
    assert [each["data-curves"] for each in figures] == ["0.0.0 0.0.1", "0.1.0", "0.h.0"]


def test_a_gap_breaks_a_curve() -> None:
    points = [(0.0, 1.0), (1.0, 2.0), (3.0, 2.0), (4.0, 1.0)]
    whole = some_record(charts=[Chart(title="x", unit="", series=[Series(name="x", points=points)])])
    broken = some_record(charts=[Chart(title="x", unit="", series=[Series(name="x", points=points, gaps=[(2, 2)])])])
    lines = [re.findall(r'<path class="line s0" d="([^"]*)"', drawn(record))[0] for record in (whole, broken)]
    assert [line.count("M") for line in lines] == [1, 2]


def test_a_chart_that_begins_at_a_moment_of_its_own_has_an_axis_of_its_own_and_no_marks() -> None:
    here = Chart(title="Here", unit="", series=[Series(name="x", points=[(0, 1), (90, 2)])])
    since = Chart(
        title="Shown", unit="devices", since="the stage was due", series=[Series(name="x", points=[(0, 0), (0.05, 9)])]
    )
    text = drawn(some_record(charts=[here, since], marks=[Mark(60.0, "due")], histograms=[]))
    first, second = (each for each in Page(text).of("figure") if "data-curves" in each)
    assert (first["data-low"], first["data-high"]) == ("0", "90")
    assert (second["data-low"], second["data-high"]) == ("0", "0.05")
    assert "Counted from when the stage was due." in shown(text)
    assert text.count('class="badge"') == 1
    assert "0.05 s" in shown(text)


def test_badges_that_would_lie_on_each_other_are_one() -> None:
    axis = time_axis(0, 100)
    marks = [VerticalMark(at, str(number), "") for number, at in enumerate((10.0, 11.0, 50.0, 120.0), 1)]
    assert [(share, [mark.badge for mark in group]) for share, group in clustered(marks, axis)] == [
        (0.1, ["1", "2"]),
        (0.5, ["3"]),
    ]


def test_marks_of_two_runs_share_numbers_by_label_and_turn() -> None:
    a = [Mark(1.0, "due"), Mark(5.0, "due"), Mark(3.0, "killed")]
    b = [Mark(1.5, "due"), Mark(0.5, "begun")]
    found = numbered_marks(a, b)
    assert [(mark.number, mark.label, tuple(mark.at_s)) for mark in found] == [
        (1, "begun", (None, 0.5)),
        (2, "due", (1.0, 1.5)),
        (3, "killed", (3.0, None)),
        (4, "due", (5.0, None)),
    ]
    lines = vertical_marks(found, ["s0", "s1"])
    assert [(line.at, line.badge, line.cls) for line in lines] == [
        (0.5, "1", "s1"), (1.0, "2", "s0"), (1.5, "2", "s1"), (3.0, "3", "s0"), (5.0, "4", "s0"),
    ]  # fmt: skip


def test_bins_are_flat_and_those_of_nothing_are_left_out() -> None:
    frame = Frame(Axis(0, 10, []), Axis(0, 4, []))
    assert steps_path([(0, 1.0), (1, 4.0), (2, 0.0), (5, 2.0)], 1, frame) == (
        "M0.0 1000.0V750.0H100.0V0.0H200.0V1000.0ZM500.0 1000.0V500.0H600.0V1000.0Z"
    )
    assert steps_path([(0, 0.0)], 1, frame) == ""


def test_a_drawing_has_bands_levels_and_marks_within_its_axes() -> None:
    frame = Frame(time_axis(0, 10), Axis(0, 4, [(0, "0"), (4, "4")]))
    text = draw_plot(
        frame, [Layer("", "line s0"), Layer("M0 0", "line s1")], title="t", describes="d", key="k",
        marks=[VerticalMark(2.0, "1", "due", "s1"), VerticalMark(99.0, "2", "later")], bands=[(1, 3)], levels=[2.0],
    )  # fmt: skip
    assert '<rect class="band" x="100.0" y="0" width="200.0"' in text
    assert '<line class="level" x1="0.0" x2="1000.0" y1="500.0" y2="500.0">' in text
    assert text.count('class="mark') == 1
    assert '<path class="line s0"' not in text, "a path of nothing is left out"
