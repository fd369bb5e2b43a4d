"""Goal: the harness computes what it says: ratios over rounds, histograms, envelopes, plans, and who fell short."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
import time
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sim.audit import FleetAudit
from loadtest.bench.cpu import CpuMeter
from loadtest.bench.dispatch import LIMITS, DispatchOptions
from loadtest.bench.envelope import Envelope, git_commit, machine, versions
from loadtest.bench.histogram import LatencyHistogram
from loadtest.bench.hops import HOPS, HopFigures, HopRow
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.report import Reporter, shown
from loadtest.bench.rounds import Round, alternate, ratio_of_rounds
from loadtest.bench.system import EmbeddedSystem, free_port_base
from loadtest.bench.validity import GeneratorLimits, GeneratorReport, GeneratorWatch


# rounds
def test_the_ratio_is_the_median_of_per_round_ratios_not_the_ratio_of_medians() -> None:
    rounds = [Round(10, 10), Round(20, 10), Round(90, 30), Round(40, 10), Round(50, 10)]
    ratio = ratio_of_rounds(rounds)
    assert (ratio.median, ratio.q1, ratio.q3, ratio.rounds) == (3.0, 2.0, 4.0, 5)


def test_few_rounds_have_their_extremes_for_quartiles_and_none_is_an_error() -> None:
    assert ratio_of_rounds([Round(3, 1), Round(1, 1)]).q3 == 3.0
    with pytest.raises(ValueError, match="no rounds"):
        ratio_of_rounds([])
    with pytest.raises(ValueError, match="ratio to nothing"):
        ratio_of_rounds([Round(1, 0)])


async def test_rounds_alternate() -> None:
    order: list[str] = []

    async def run(name: str, number: int) -> int:
        order.append(f"{name}{number}")
        return number

    found = await alternate(lambda n: run("a", n), lambda n: run("b", n), rounds=3)
    assert order == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert found == [(0, 0), (1, 1), (2, 2)]


# histogram
@given(st.lists(st.floats(0, 10_000), min_size=1, max_size=200))
def test_percentiles_are_within_a_thousandth_and_the_maximum_exact(values: list[float]) -> None:
    histogram = LatencyHistogram()
    histogram.record_all_ms(values)
    ordered = sorted(values)
    exact = ordered[max(0, -(-len(ordered) * 50 // 100) - 1)]
    found = histogram.percentile_ms(50)
    assert found is not None
    assert found == pytest.approx(exact, rel=0.002, abs=0.002)
    assert histogram.max_ms == ordered[-1]
    assert histogram.percentile_ms(100) <= ordered[-1] + 1e-9


def test_histograms_merge_and_travel() -> None:
    one, other = LatencyHistogram(), LatencyHistogram()
    one.record_all_ms([1.0, 2.0, 3.0])
    other.record_all_ms([100.0, -5.0])
    one.merge(LatencyHistogram.decode(json.loads(json.dumps(other.encode()))))
    assert (one.count, one.below_zero, one.min_ms, one.max_ms) == (5, 1, -5.0, 100.0)
    assert one.summary() == {"p50_ms": 2.0, "p99_ms": 100.0, "max_ms": 100.0}
    assert LatencyHistogram().summary() == {"p50_ms": None, "p99_ms": None, "max_ms": None}


# envelope
def test_the_envelope_carries_what_figures_need() -> None:
    envelope = Envelope(seed=7)
    sealed = json.loads(json.dumps(envelope.seal({"devices": 3})))
    assert sealed["devices"] == 3
    assert sealed["seed"] == 7
    assert sealed["valid"] is True
    assert "invalid_because" not in sealed
    assert {"cores", "memory_bytes", "kernel"} <= machine().keys()
    assert sealed["machine"]["cores"] == os.cpu_count()
    assert datetime.fromisoformat(sealed["started_at"]).tzinfo is not None
    assert sealed["wall_s"] >= 0
    envelope.invalid("too slow")
    envelope.invalid("too slow")
    envelope.invalid("too late")
    assert envelope.seal({})["invalid_because"] == "too slow; too late"


def test_versions_and_commit_are_none_where_there_is_none(tmp_path) -> None:
    assert versions(("no-such-package-here",))["no-such-package-here"] is None
    assert git_commit(tmp_path) is None


# process accounting
def test_cpu_and_memory_of_a_tree_are_counted() -> None:
    code = (
        "import subprocess,sys\n"
        "subprocess.run([sys.executable,'-c','import time\\ns=time.process_time()\\nb=bytearray(40<<20)\\n"
        "while time.process_time()-s<0.4: pass\\nprint(1,flush=True)\\ntime.sleep(60)'])"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        meter = CpuMeter(process.pid)
        assert process.stdout is not None
        process.stdout.readline()
        used = meter.usage()
    finally:
        import psutil

        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        process.wait()
        process.stdout.close()
    assert 0.35 <= used.cpu_s < 3
    assert used.rss_grown_bytes > 30 << 20


# validity
async def test_a_blocked_generator_is_found_out() -> None:
    limits = GeneratorLimits(cores_max=2.0, lag_p99_ms_max=20.0)
    async with GeneratorWatch(limits) as watch:
        for _ in range(4):
            await asyncio.sleep(0.02)
            time.sleep(0.05)  # noqa: ASYNC251 - the point
        await asyncio.sleep(0.01)
        report = watch.report()
    assert report.lag_max_ms >= 40
    assert len(report.invalid_because) == 1
    assert "lagged" in report.invalid_because[0]


async def test_an_idle_generator_is_fine_and_a_busy_one_is_not() -> None:
    async with GeneratorWatch(GeneratorLimits(lag_p99_ms_max=1_000)) as watch:
        await asyncio.sleep(0.1)
        assert watch.report().invalid_because == ()
    async with GeneratorWatch(GeneratorLimits(cores_max=0.05, lag_p99_ms_max=1_000)) as watch:
        until = time.process_time() + 0.3
        while time.process_time() < until:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert "cores" in watch.report().invalid_because[0]


# report
def test_json_leaves_standard_output_alone(capsys) -> None:
    reporter = Reporter(as_json=True)
    with reporter.progress("working", 2) as progress:
        progress(1, 2)
    reporter.note("a note")
    reporter.table("Title", ("a", "b"), [("x", 1.234), ("y", None)])
    reporter.emit({"k": 1})
    streams = capsys.readouterr()
    assert json.loads(streams.out) == {"k": 1}
    assert "1.23" in streams.err
    assert "a note" in streams.err


def test_tables_go_to_standard_output_for_people(capsys) -> None:
    reporter = Reporter(as_json=False)
    reporter.table("Title", ("a",), [(shown(2.0),)])
    reporter.emit({"k": 1})
    streams = capsys.readouterr()
    assert "2.00" in streams.out
    assert "{" not in streams.out


def test_names_in_brackets_are_shown_and_no_markup_and_a_long_line_stays_one(capsys) -> None:
    reporter = Reporter(as_json=False)
    with reporter.progress("[/red] [bold]", 1):
        reporter.note("no such scenario [/red] [bold] " + "x" * 100)
    reporter.table("Storm [/t]", ("a", "b"), [("[/c]", "[d]")], caption="found [/e]")
    streams = capsys.readouterr()
    assert "no such scenario [/red] [bold] " + "x" * 100 in streams.err
    assert [each for each in ("[/t]", "[/c]", "[d]", "[/e]") if each not in streams.out] == []


# system
def test_a_system_that_is_to_die_with_us_is_told_so(tmp_path) -> None:
    assert EmbeddedSystem(tmp_path).command()[1:4] == ["-m", "stagecue", "up"]
    told = EmbeddedSystem(tmp_path, dies_with_us=True).command()
    assert told[1:4] == ["--pdeathsig", "KILL", "--"]
    assert told[5:8] == ["-m", "stagecue", "up"]


# dispatch
@given(st.integers(0, 99), st.integers(1, 10), st.integers(10, 60))
def test_a_plan_is_seeded_ordered_spaced_and_within_the_span(seed: int, events: int, stages: int) -> None:
    options = DispatchOptions(seed=seed, events=events, stages=max(stages, events), span_s=60.0)
    plan = options.plan.requests(first_due_ms=1_700_000_000_000)
    assert plan == options.plan.requests(first_due_ms=1_700_000_000_000)
    assert sum(len(event["stages"]) for event in plan) == options.stages
    for event in plan:
        due = [datetime.fromisoformat(stage["at"]).timestamp() * 1000 for stage in event["stages"]]
        assert all(later - earlier >= 499 for earlier, later in itertools.pairwise(due))
        assert due[0] >= 1_700_000_000_000 - 1
        assert due[-1] <= 1_700_000_060_000


@pytest.mark.parametrize(
    "options", [{"devices": 0}, {"events": 0}, {"stages": 3}, {"events": 21}, {"lead_s": 1.0}, {"span_s": 5.0}]
)
def test_impossible_options_are_refused(options) -> None:
    with pytest.raises(CouldNotRun, match="--"):
        DispatchOptions(**options).check()


def result(
    *, first: float = 10.0, last: float = 20.0, dispatched: float = 1.0, routed: float | None = 3.0, **audit: int
):
    fields = ("devices", "unsubscribed", "missed", "untold", "out_of_order", "wrong_renders")
    zeros = dict.fromkeys((*fields, "unknown_frames", "not_newest", "provisional_renders"), 0)
    hops = dict(zip(HOPS, (dispatched, 2.0, routed, first, last), strict=True))
    return HopFigures(
        rows=[HopRow("t", "live", 1, hops)],
        planned=1,
        devices=1,
        audit=FleetAudit(broadcasts=[], **{**zeros, **audit}),
        generator=GeneratorReport(0.1, 0.0, 1.0, 2.0, ()),
        limits=LIMITS,
    )


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"first": 20.1}, "first_device p99"),
        ({"last": 60.2}, "last_device p99"),
        ({"dispatched": -1.0}, "before their due time"),
        ({"missed": 2}, "2 broadcasts missed"),
        ({"out_of_order": 1}, "out of order"),
        ({"not_newest": 1}, "newest"),
        ({"routed": None}, "without a record: routed"),
    ],
)
def test_what_falls_short_is_said(fields, says) -> None:
    assert result().shortfalls() == []
    (line,) = result(**fields).shortfalls()
    assert says in line


def test_a_free_port_base_is_below_the_ephemeral_range() -> None:
    assert 12_000 <= free_port_base() < 20_000
