"""Goal: `bench ttl` counts every refresh once, compares like with like, and draws what it counted."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from loadtest.bench.ttl.chart import draw_chart, nice_ceiling
from loadtest.bench.ttl.command import TtlOptions, simulate
from loadtest.bench.ttl.simulation import (
    Lifetimes,
    Night,
    Refreshes,
    fixed_refreshes,
    hours_with_traffic,
    jittered_refreshes,
    joins_ms,
    peak_to_mean,
)
from stagecue.commands.bench import bench

FEW = Night(devices=3_000)
HOUR_S = 3_600


def test_a_fixed_lifetime_repeats_the_joins_until_the_night_ends() -> None:
    night = Night(devices=2, hours=5, stages_s=())
    found = fixed_refreshes(night, 7_200.0, np.array([0, 5_500]))
    assert list(np.flatnonzero(found.per_s)) == [7_200, 7_205, 14_400, 14_405]
    assert found.per_s.sum() == 4


def test_jittered_refreshes_are_the_services_lifetimes_one_after_another() -> None:
    """Without spread and stages nothing is left to draw: it must be the fixed night, device by device."""
    night = msgspec.structs.replace(FEW, stages_s=())
    joins = joins_ms(night, 1)
    lifetimes = Lifetimes(mean_ms=4 * HOUR_S * 1000, spread=0.0, guard_ms=0)
    found = jittered_refreshes(night, lifetimes, joins, 1)
    assert (found.per_s == fixed_refreshes(night, 4 * HOUR_S, joins).per_s).all()
    assert found.mean_ttl_s == 4 * HOUR_S


def test_joins_are_those_of_the_seed_and_surge_when_they_are_told_to() -> None:
    joins = joins_ms(FEW, 1)
    assert (joins == joins_ms(FEW, 1)).all()
    assert not (joins == joins_ms(FEW, 2)).all()
    assert len(joins) == FEW.devices
    surging = (joins >= FEW.surge_at_s * 1000) & (joins < (FEW.surge_at_s + 600) * 1000)
    assert surging.sum() > FEW.devices * FEW.surge_share * 0.95


def test_the_mean_is_over_the_hours_in_which_either_night_has_traffic() -> None:
    one, other = np.zeros(4 * HOUR_S, dtype=np.int64), np.zeros(4 * HOUR_S, dtype=np.int64)
    one[10], other[HOUR_S * 2 + 5] = 7_200, 1
    seconds = hours_with_traffic(Refreshes(one, 1.0), Refreshes(other, 1.0))
    assert seconds.sum() == 2 * HOUR_S
    assert peak_to_mean(Refreshes(one, 1.0), seconds) == 7_200
    assert peak_to_mean(Refreshes(np.zeros_like(one), 1.0), seconds) == 0.0


def test_both_nights_have_the_same_mean_lifetime_and_the_jittered_one_keeps_clear_of_stages() -> None:
    figures, fixed, jittered = simulate(TtlOptions(), FEW)
    assert fixed.mean_ttl_s == jittered.mean_ttl_s == figures.mean_ttl_s
    assert figures.near_stage_jittered == 0 < figures.near_stage_fixed
    assert figures.peak_to_mean_fixed > 3 * figures.peak_to_mean_jittered
    assert figures.refreshes_fixed == fixed.per_s.sum()
    again, _, _ = simulate(TtlOptions(), FEW)
    assert again == figures


def test_what_falls_short_is_said() -> None:
    figures, _, _ = simulate(TtlOptions(), FEW)
    few = msgspec.structs.replace(figures, peak_to_mean_jittered=3.01, near_stage_jittered=4)
    assert ["3.01 times the mean" in few.shortfalls()[0], "4 maps" in few.shortfalls()[1]] == [True, True]
    assert msgspec.structs.replace(figures, peak_to_mean_jittered=3.0).shortfalls() == []


def test_refreshes_near_a_time_are_those_within_the_guard() -> None:
    per_s = np.zeros(100, dtype=np.int64)
    per_s[[39, 41, 50, 59, 60]] = 1
    assert Refreshes(per_s, 1.0).near([50], 10) == 3


@pytest.mark.parametrize(
    ("value", "ceiling"), [(0.0, 1.0), (1.0, 1.0), (107.0, 120.0), (5_010.0, 6_000.0), (9.1, 10.0)]
)
def test_axes_end_at_round_numbers(value: float, ceiling: float) -> None:
    assert nice_ceiling(value) == pytest.approx(ceiling)


def test_the_picture_is_one_file_that_asks_nobody() -> None:
    figures, fixed, jittered = simulate(TtlOptions(), FEW)
    peaks = (figures.peak_to_mean_fixed, figures.peak_to_mean_jittered)
    page = draw_chart(FEW, fixed=fixed, jittered=jittered, peaks=peaks, mean=figures.mean_per_s, guard_s=900)
    assert not re.search(r"https?:|src=|@import|url\(|<script", page)
    assert page.count("<path") == 4
    assert "nan" not in page
    assert f"{figures.peak_to_mean_fixed:.0f}&times;" in page


def test_the_command_writes_the_picture_and_says_where(tmp_path: Path) -> None:
    chart = tmp_path / "there" / "night.html"
    result = CliRunner().invoke(bench, ["ttl", "--devices", "2000", "--json", "--chart", str(chart)])
    said = msgspec.json.decode(result.stdout.encode())
    assert said["chart"] == str(chart)
    assert chart.is_file()
    assert said["peak_to_mean_fixed"] > said["peak_to_mean_jittered"] > 1
    assert result.exit_code == 1, "two thousand devices are too few for the promise"
    assert CliRunner().invoke(bench, ["ttl", "--devices", "0"]).exit_code == 2
    assert CliRunner().invoke(bench, ["ttl", "--devices", "50", "--chart", str(tmp_path)]).exit_code == 2
