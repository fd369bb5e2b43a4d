"""Goal: what is written is read back from any of its files, whole or not at all, and slips are named."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import msgspec
import pytest
from hdrh.histogram import HdrHistogram

from loadtest.bench.histogram import LatencyHistogram
from loadtest.report.atomic import write_whole
from loadtest.report.differences import bar_differences, devices_of, environment_differences, incomparable_because
from loadtest.report.files import (
    FORMAT,
    UnreadableReport,
    keep_histogram,
    read_record,
    write_comparison,
    write_report,
)
from loadtest.report.histograms import read_histogram
from loadtest.report.record import Bar, Chart, Series
from tests.support.run_records import MACHINE, some_record


def test_a_report_is_read_back_from_directory_json_and_page(tmp_path: Path) -> None:
    record = some_record(question="</script> < & > \u2028 ?")
    page = write_report(record, tmp_path / "new" / "there")
    assert page == tmp_path / "new" / "there" / "report.html"
    expected = msgspec.json.encode(record)
    for path in (page.parent, page, page.parent / "run.json"):
        assert msgspec.json.encode(read_record(path)) == expected
    (page.parent / "run.json").unlink()
    assert msgspec.json.encode(read_record(page.parent)) == expected, "the page alone is enough"
    assert sorted(path.name for path in page.parent.iterdir()) == ["report.html"], "nothing half-written is left"


def test_numbers_that_are_none_are_left_out_and_hold_no_promise(tmp_path: Path) -> None:
    points = [(2, 1), (0, math.inf), (1, math.nan), (0, 3)]
    record = some_record(
        bars=[Bar(name="x", bar="<= 1", measured=math.nan, held=True)],
        charts=[Chart(title="c", unit="", series=[Series(name="s", points=points)])],
    )
    found = read_record(write_report(record, tmp_path))
    assert found.bars[0].measured is None
    assert not found.bars[0].held
    assert [tuple(point) for point in found.charts[0].series[0].points] == [(0, 3), (2, 1)]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "not a report"),
        ("{}", "not a report"),
        ('{"format": "1"}', "not a report"),
        (f'{{"format": {FORMAT + 1}}}', "written by a newer version"),
        ('{"format": 1, "scenario": 3}', "a part that cannot be read"),
        ("<html>a page</html>", "not the report of one run"),
        ("\udcff", "not a report"),
    ],
)
def test_what_is_no_report_is_said(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UnreadableReport, match=told) as caught:
        read_record(tmp_path)
    assert str(path) in str(caught.value)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnreadableReport, match="no report here"):
        read_record(tmp_path)
    with pytest.raises(UnreadableReport, match="no such file"):
        read_record(tmp_path / "gone")


def test_fields_of_later_versions_are_passed_over(tmp_path: Path) -> None:
    page = write_report(some_record(), tmp_path)
    fields = json.loads((tmp_path / "run.json").read_text())
    assert next(iter(fields)) == "format"
    (tmp_path / "run.json").write_text(json.dumps({**fields, "unheard_of": 1}))
    assert read_record(tmp_path) == read_record(page)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "kept").touch()
    with pytest.raises(OSError, match="there"):
        write_whole(tmp_path / "there", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_histograms_are_kept_as_the_library_reads_them(tmp_path: Path) -> None:
    chance = random.Random(1)
    latencies = LatencyHistogram()
    latencies.record_all_ms(chance.lognormvariate(3, 0.7) for _ in range(5_000))
    found = keep_histogram(tmp_path, "to device, live", latencies)
    raw = HdrHistogram.decode((tmp_path / found.path).read_bytes())
    assert raw.get_total_count() == found.count == 5_000
    assert raw.get_value_at_percentile(99) / 1000 == pytest.approx(found.p99)
    assert found.p99 == pytest.approx(latencies.percentile_ms(99), rel=2e-3)
    assert found.max == pytest.approx(latencies.max_ms, rel=2e-3)
    assert (found.unit, found.per_unit) == ("ms", 1000)
    assert read_histogram(tmp_path / found.path).get_total_count() == 5_000


def test_a_percentile_curve_rises_to_the_most(tmp_path: Path) -> None:
    latencies = LatencyHistogram()
    latencies.record_all_ms(float(number) for number in range(1, 10_001))
    found = keep_histogram(tmp_path, "x", latencies.encode())
    percents, values = zip(*found.curve, strict=True)
    assert list(percents) == sorted(percents)
    assert list(values) == sorted(values)
    assert found.curve[-1] == (100.0, found.max)
    assert len(found.curve) < 200
    for percent, value in found.curve:
        assert value == pytest.approx(max(1, percent * 100), rel=5e-3, abs=1.1)


def test_an_encoded_histogram_of_another_unit_and_an_empty_one(tmp_path: Path) -> None:
    counted = HdrHistogram(1, 1_000_000, 3)
    for value in (3, 5, 8):
        counted.record_value(value)
    found = keep_histogram(tmp_path, "retries", counted.encode().decode(), "tries")
    assert (found.count, found.p50, found.max, found.path) == (3, 5, 8, "histograms/retries.hdr")
    empty = keep_histogram(tmp_path, "nothing", HdrHistogram(1, 1_000_000, 3), "tries")
    assert (empty.count, empty.max, list(empty.curve)) == (0, 0, [])
    with pytest.raises(ValueError, match="not an HDR histogram"):
        keep_histogram(tmp_path, "broken", "QUJD", "tries")


def test_names_of_histograms_stay_in_their_directory_and_apart(tmp_path: Path) -> None:
    names = ["../../etc/x", "a b", "a-b", "A b", "", "\u00e9", "x" * 500]
    paths = [keep_histogram(tmp_path, name, LatencyHistogram()).path for name in names]
    assert len(set(paths)) == len(names)
    assert {(tmp_path / path).resolve().parent for path in paths} == {(tmp_path / "histograms").resolve()}


def test_runs_made_alike_compare_and_others_do_not() -> None:
    a = some_record()
    assert incomparable_because(a, some_record(answer="No.", verdict="failed")) == []
    slower = some_record(envelope={**a.envelope, "machine": {**MACHINE, "cores": 4, "memory_bytes": 8_000_000_000}})
    assert incomparable_because(a, slower) == [
        "machine: cores 2 in A, 4 in B",
        "machine: memory 24 GB in A, 8 GB in B",
    ]
    assert incomparable_because(a, some_record(devices=10)) == ["devices: 1,000 in A, 10 in B"]
    assert "B is partial" in incomparable_because(a, some_record(verdict="partial"))[0]
    late = some_record(envelope={**a.envelope, "valid": False, "invalid_because": "late"})
    assert incomparable_because(late, a) == ["A is invalid: late"]
    assert "two scenarios" in incomparable_because(a, some_record(scenario="other"))[0]
    assert incomparable_because(a, some_record(envelope={})) == ["machine: not told by B"]


def test_devices_are_those_told_or_those_reached() -> None:
    assert devices_of(some_record(devices=5)) == 5
    assert devices_of(some_record(devices=None, envelope={"devices": 6})) == 6
    assert devices_of(some_record(devices=None)) == 1000
    assert devices_of(some_record(devices=None, reach=[])) is None


@pytest.mark.parametrize(
    ("bar", "a", "b", "turn", "told"),
    [
        ("<= 12 s", 4.0, 3.0, "better", "\u22121 s (\u221225 %)"),
        ("<= 12 s", 4.0, 5.0, "worse", "+1 s (+25 %)"),
        (">= 12 s", 4.0, 5.0, "better", "+1 s (+25 %)"),
        ("= 0", 0.0, 8.0, "worse", "+8 s"),
        ("= 5", 9.0, 4.0, "better", "\u22125 s (\u221255.6 %)"),
        ("about the same", 4.0, 5.0, "other", "+1 s (+25 %)"),
        ("<= 12 s", 4.0, 4.0, "same", "none"),
        ("<= 12 s", 4.0, None, "unknown", ""),
    ],
)
def test_a_promise_moves_for_better_or_worse(bar: str, a: float, b: float | None, turn: str, told: str) -> None:
    runs = [some_record(bars=[Bar(name="x", bar=bar, measured=value, unit="s")]) for value in (a, b)]
    (found,) = bar_differences(runs[0], runs[1])
    assert (found.turn, found.told) == (turn, told)


def test_promises_of_one_run_alone_are_listed_too() -> None:
    other = some_record(bars=[Bar(name="new", bar="<= 1", measured=1.0)])
    found = bar_differences(some_record(), other)
    assert [(each.name, each.a is None, each.b is None, each.turn) for each in found] == [
        ("last_s", False, True, "unknown"), ("missed", False, True, "unknown"), ("new", True, False, "unknown"),
    ]  # fmt: skip


def test_what_runs_were_made_with_is_told_line_by_line() -> None:
    a = some_record()
    b = some_record(envelope={**a.envelope, "versions": {"python": "3.12.0", "uvloop": "1"}})
    found = environment_differences(a, b)
    assert {line.label: line.differs for line in found["Versions"]} == {"python": True, "uvloop": True}
    assert not any(line.differs for line in found["Machine"])
    assert [(line.label, line.a) for line in found["Memory"]] == [("push", "1.2 GB")]


def test_a_comparison_is_one_page_with_both_runs(tmp_path: Path) -> None:
    a = some_record()
    b = some_record(title="<i>after</i>", bars=[Bar(name="last_s", bar="<= 12 s", measured=3.0, unit="s", held=True)])
    path = write_comparison(a, b, tmp_path / "both" / "ab.html")
    text = path.read_text()
    assert "Comparable" in text
    assert "NOT COMPARABLE" not in text
    assert "\u25b2 better" in text
    assert "<i>after" not in text
    assert 'data-curves="0.0.0 1.0.0"' in text
    assert 'data-curves="0.h.0 1.h.0"' in text
    with pytest.raises(UnreadableReport, match="not the report of one run"):
        read_record(path)
    since = Chart(title="Shown", unit="", since="it was due", series=[Series(name="x", points=[(0, 0), (0.05, 9)])])
    late = Chart(title="Shown", unit="", since="it was due", series=[Series(name="x", points=[(0, 0), (0.2, 9)])])
    text = write_comparison(some_record(charts=[since]), some_record(charts=[late]), path).read_text()
    assert 'data-curves="0.0.0 1.0.0" data-unit="" data-x="time" data-low="0" data-high="0.2"' in text
    twice = some_record(reach=[*a.reach, msgspec.structs.replace(a.reach[0], missed=77)])
    assert ">live (2)<" in write_comparison(a, twice, path).read_text()
    loud = write_comparison(a, some_record(devices=3), path).read_text()
    assert "<title>NOT COMPARABLE" in loud
    assert '<body class="invalid">' in loud
    assert "1,000 in A, 3 in B" in loud
