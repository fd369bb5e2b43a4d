"""Goal: `bench overload` makes the load it says, reads off its records what happened, and judges that by what is
promised; no server needed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from dgs.priority.ruleset_file import parse_ruleset
from loadtest.bench.overload.command import SHED_EVERYTHING
from loadtest.bench.overload.figures import CpuBound, OverloadFigures, RankingBound, goodput_bound
from loadtest.bench.overload.judge import Served, recovery_s, served_between
from loadtest.bench.overload.plan import CRITICAL, OTHER, Stretch, arrivals_of
from loadtest.bench.overload.ranking_service import Rankings
from loadtest.bench.overload.slots import Slots
from loadtest.bench.peers.http_load import MARKED, RECORD
from stagecue.commands.bench import bench


def records(*rows: tuple[float, float, int, int, int]) -> np.ndarray:
    """(due s, latency ms, status, tag, flags) of each."""
    found = np.zeros(len(rows), dtype=RECORD)
    for record, (due_s, latency_ms, status, tag, flags) in zip(found, rows, strict=True):
        record["due_us"], record["latency_us"] = round(due_s * 1e6), round(latency_ms * 1000)
        record["status"], record["tag"], record["flags"] = status, tag, flags
    return found


def test_arrivals_have_the_rates_of_their_stretches_and_go_through_all_profiles() -> None:
    found = arrivals_of([Stretch(2.0, 50.0, 500.0), Stretch(3.0, 50.0, 3_000.0)], profiles=400, seed=3)
    assert (np.diff(found.at_us) >= 0).all()
    assert found.lasts_s == 5.0
    critical = found.which < 400
    assert critical.sum() == pytest.approx(250, abs=5 * math.sqrt(250))
    early = found.at_us < 2e6
    assert (early & ~critical).sum() == pytest.approx(1_000, abs=5 * math.sqrt(1_000))
    assert (~early & ~critical).sum() == pytest.approx(9_000, abs=5 * math.sqrt(9_000))
    others = found.which[~critical] - 400 * OTHER
    assert list(others[:400]) == list(range(400)), "each profile before one comes again"
    assert list(found.which[critical][:5]) == [0, 1, 2, 3, 4]
    again = arrivals_of([Stretch(2.0, 50.0, 500.0), Stretch(3.0, 50.0, 3_000.0)], profiles=400, seed=3)
    assert (again.at_us == found.at_us).all()


def test_arrivals_are_random_and_not_in_step() -> None:
    """Between Poisson arrivals times vary as much as they last; in step they would not vary at all."""
    gaps = np.diff(arrivals_of([Stretch(10.0, 0.0, 1_000.0)], profiles=10, seed=1).at_us)
    assert 0.9 < gaps.std() / gaps.mean() < 1.1


def test_a_refusal_a_default_map_and_silence_are_no_good_answers() -> None:
    found = records(
        (0.1, 10, 200, CRITICAL, 0),
        (0.2, 900, 200, CRITICAL, 0),
        (0.3, 1, 503, CRITICAL, 0),
        (0.4, 1, 429, CRITICAL, 0),
        (0.5, 1, 200, CRITICAL, MARKED),
        (0.6, 5_000, 0, CRITICAL, 0),
        (0.7, 1, 500, CRITICAL, 0),
        (0.8, 3, 200, OTHER, 0),
        (1.0, 3, 200, CRITICAL, 0),
    )
    served = served_between(found, 0.0, 1.0, tag=CRITICAL)
    assert served[:5] == (7, 2, 2, 1, 2)
    assert served.success == pytest.approx(2 / 7)
    assert served.good_per_s == 1.0, "the other one came after that second"
    assert served.p99_ms == pytest.approx(891.1)
    assert served_between(found, 0.0, 1.0).asked == 8
    nothing = served_between(found, 5.0, 6.0)
    assert (nothing.success, nothing.p99_ms, nothing.good_per_s) == (1.0, None, 0.0)


def test_goodput_counts_what_came_and_not_what_was_put_off() -> None:
    found = records((0.1, 100, 200, OTHER, 0), (0.2, 3_000, 200, OTHER, 0), (0.3, 400, 200, OTHER, 0))
    first, later = served_between(found, 0.0, 1.0), served_between(found, 3.0, 4.0)
    assert (first.good, first.good_per_s) == (3, 2.0)
    assert (later.asked, later.good_per_s) == (0, 1.0)


def test_recovery_lasts_until_the_last_bad_quarter_of_a_second() -> None:
    times = np.arange(0.0, 4.0, 0.01)
    bad = (times >= 1.0) & (times < 1.3)
    rows = [(at, 1.0, 503 if no else 200, OTHER, 0) for at, no in zip(times, bad, strict=True)]
    assert recovery_s(records(*rows), 1.0, 4.0) == pytest.approx(0.5)
    assert recovery_s(records(*rows), 2.0, 4.0) == 0.0
    assert recovery_s(records(*[(at, 1.0, 503, OTHER, 0) for at in times]), 1.0, 4.0) == pytest.approx(3.0)
    relapsed = [*rows, (3.6, 1.0, 503, OTHER, 0)]
    assert recovery_s(records(*relapsed), 1.0, 4.0) == pytest.approx(2.75)


@given(
    slots=st.integers(1, 5),
    batches=st.lists(st.tuples(st.integers(1, 12), st.floats(0, 0.2)), min_size=1, max_size=20),
)
def test_slots_are_never_overbooked_nor_idle_while_someone_waits(
    slots: int, batches: Sequence[tuple[int, float]]
) -> None:
    """Against the plain definition: each profile begins when it is there and a slot is free, in order."""
    service, free, now_s, work = Slots(slots, 0.01), [0.0] * slots, 0.0, 0
    for profiles, gap_s in batches:
        now_s += gap_s
        done_s = service.enter(profiles, now_s)
        expected_s = now_s
        for _ in range(profiles):
            at = min(range(slots), key=lambda index: free[index])
            free[at] = expected_s = max(now_s, free[at]) + 0.01
        assert done_s == pytest.approx(expected_s)
        work += profiles
    assert service.profiles == work
    assert service.busy_s == pytest.approx(work * 0.01)


def test_the_service_answers_every_profile_with_what_was_needed() -> None:
    rankings = Rankings()
    body = (
        b'{"need":{"ranked":24,"because":2,"near":6},"deadlineMs":250,"profiles":['
        b'{"id":"p-1","region":"US","locale":"en-US","history":[{"title":"a","weight":1.0},{"title":"b","weight":0.5},'
        b'{"title":"c","weight":1}]},{"id":"p-2","region":"US","locale":"en","history":[]}]}'
    )
    first, second = msgspec.json.decode(rankings.answer(rankings.asked(body)))["recommendations"]
    assert (first["profile"], second["profile"]) == ("p-1", "p-2")
    assert len(set(first["ranked"])) == len(set(second["ranked"])) == 24
    assert [each["title"] for each in first["because"]] == ["a", "b"]
    assert all(len(each["near"]) == 6 and not set(each["near"]) & set(first["ranked"]) for each in first["because"])
    with pytest.raises(msgspec.DecodeError):
        rankings.asked(b"[]")


def test_the_bound_is_all_for_free_refusals_and_nothing_once_they_cost_a_sixth() -> None:
    assert goodput_bound(6.0, 0.0) == 1.0
    assert goodput_bound(6.0, 0.05) == pytest.approx(0.7368, abs=1e-4)
    assert goodput_bound(6.0, 1 / 6) == pytest.approx(0.0)
    assert goodput_bound(6.0, 0.5) == goodput_bound(6.0, 1.5) == 0.0


def served(asked: int, good: int, *, p99_ms: float = 20.0, lasts_s: float = 20.0) -> Served:
    return Served(asked, good, asked - good, 0, 0, good / lasts_s, p99_ms / 2, p99_ms)


def figures(**changes: object) -> OverloadFigures:
    ranking = RankingBound(
        slots=20,
        slot_ms=5.0,
        sustained_per_s=3_600.0,
        peak_per_s=4_000.0,
        unloaded=served(900, 900, p99_ms=12.0, lasts_s=5.0),
        critical=served(3_600, 3_590, p99_ms=23.0),
        other=served(432_000, 70_000),
        recovery_s=0.5,
        profiles_asked_per_s=3_800.0,
        log_bytes=20_000,
        load_core_share=0.6,
        late_p99_ms=0.4,
    )
    cpu = CpuBound(
        served_us=500.0,
        shed_us=25.0,
        peak_per_s=2_000.0,
        during=served(120_000, 24_000, lasts_s=20.0),
        load_core_share=0.3,
    )
    own = {name: value for name, value in changes.items() if name in RankingBound.__struct_fields__}
    cpus = {name: value for name, value in changes.items() if name in ("served_us", "shed_us", "during")}
    return OverloadFigures(
        load_factor=6.0,
        ranking=msgspec.structs.replace(ranking, **own),
        cpu=msgspec.structs.replace(cpu, **cpus),
        others_cores_invalid=[],
        cores_shared=False,
    )


def test_what_is_promised_holds_at_its_limits_and_falls_short_beyond_each() -> None:
    assert figures().shortfalls() == []
    assert "99.47%" in figures(critical=served(10_000, 9_947)).shortfalls()[0]
    assert "2.08 times" in figures(critical=served(3_600, 3_600, p99_ms=25.0)).shortfalls()[0]
    assert "89% of the peak" in figures(other=served(432_000, 67_600)).shortfalls()[0]
    assert "2.25 s" in figures(recovery_s=2.25).shortfalls()[0]
    assert "CPU-bound goodput is 58%" in figures(during=served(120_000, 23_200)).shortfalls()[0]


def test_keys_are_those_of_the_figures() -> None:
    keys = figures().keys()
    assert keys["critical_success"] == round(3_590 / 3_600, 5)
    assert keys["critical_p99_ratio"] == round(23 / 12, 3)
    assert keys["goodput_ratio"] == round((3_590 + 70_000) / 20 / 4_000, 4)
    assert keys["shed_cost_ratio"] == 0.05
    assert keys["cpu_goodput_ratio"] == 0.6
    assert keys["cpu_goodput_bound"] == 0.7368
    assert keys["log_bytes_per_request"] == round(20_000 / 435_600, 4)
    nobody = Served(100, 0, 100, 0, 0, 0.0, None, None)
    assert figures(critical=nobody).keys()["critical_p99_ratio"] is None
    assert len(figures(critical=nobody).shortfalls()) >= 2


def test_a_load_that_was_late_or_out_of_breath_does_not_count() -> None:
    assert figures().invalid_because() == []
    assert "0.95 of their core" in figures(load_core_share=0.95).invalid_because()[0]
    assert "7.0 ms late" in figures(late_p99_ms=7.0).invalid_because()[0]


def test_the_rules_under_which_everybody_is_refused_are_rules() -> None:
    (rule,) = parse_ruleset(SHED_EVERYTHING, "nobody.toml").rules
    assert (rule.share, rule.when) == (0.0, None)


def test_a_usage_error_is_exit_code_2() -> None:
    runner = CliRunner()
    assert runner.invoke(bench, ["overload", "--load-factor", "1"]).exit_code == 2
    assert "Examples:" in runner.invoke(bench, ["overload", "--help"]).output
