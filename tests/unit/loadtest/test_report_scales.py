"""Goal: axes end and tick at round numbers, and numbers read as a person writes them."""

from __future__ import annotations

import math

import pytest

from loadtest.report.scales import (
    NINES_MAX,
    amount,
    amount_with_unit,
    nines,
    percentile_axis,
    time_axis,
    time_label,
    value_axis,
)


@pytest.mark.parametrize(
    ("highest", "unit", "labels"),
    [
        (873, "ms", ["0", "250", "500", "750", "1,000"]),
        (1.3e9, "bytes", ["0 B", "500 MB", "1.0 GB", "1.5 GB"]),
        (0.034, "cores", ["0.00", "0.01", "0.02", "0.03", "0.04"]),
        (1_200_000, "/s", ["0", "500k", "1.0M", "1.5M"]),
        (0, "", ["0.00", "0.25", "0.50", "0.75", "1.00"]),
    ],
)
def test_values_tick_at_round_numbers_from_zero_to_above_the_highest(
    highest: float, unit: str, labels: list[str]
) -> None:
    axis = value_axis(0, highest, unit)
    assert [label for _, label in axis.ticks] == labels
    assert axis.low == 0
    assert axis.high >= highest


def test_an_axis_with_negative_values_has_a_tick_at_zero() -> None:
    axis = value_axis(-30, 70, "ms")
    assert axis.low <= -30 < 70 <= axis.high
    assert 0 in [at for at, _ in axis.ticks]


@pytest.mark.parametrize(
    ("high", "labels"),
    [
        (20, ["0 s", "5 s", "10 s", "15 s", "20 s"]),
        (150, ["0 s", "30 s", "60 s", "90 s", "2:00", "2:30"]),
        (9_000, ["0 s", "30:00", "1:00:00", "1:30:00", "2:00:00", "2:30:00"]),
        (0.5, ["0.0 s", "0.1 s", "0.2 s", "0.3 s", "0.4 s", "0.5 s"]),
    ],
)
def test_time_ticks_are_seconds_minutes_or_hours(high: float, labels: list[str]) -> None:
    axis = time_axis(0, high)
    assert [label for _, label in axis.ticks] == labels
    assert axis.high == high, "the axis ends where the run does"


def test_an_axis_of_weeks_or_of_nothing_has_few_ticks() -> None:
    assert 2 <= len(time_axis(0, 5e6).ticks) <= 8
    assert len(time_axis(3, 3).ticks) <= 8


def test_time_before_the_run_has_a_sign() -> None:
    assert [label for _, label in time_axis(0, 0.05).ticks][1] == "0.01 s"
    assert [time_label(at) for at in (-90, -200, 0.2, -0.2)] == ["-90 s", "-3:20", "0 s", "0 s"]


def test_nines_spread_the_rare() -> None:
    assert [round(nines(percent), 9) for percent in (0, 90, 99, 99.9)] == [0, 1, 2, 3]
    assert nines(100) == NINES_MAX
    assert nines(100, end=2.5) == nines(99.99, end=2.5) == 2.5


def test_a_percentile_axis_ends_where_the_values_do() -> None:
    assert [label for _, label in percentile_axis(1_000).ticks] == ["50 %", "90", "99", "max"]
    assert percentile_axis(1_000).high == pytest.approx(3)
    assert percentile_axis(10**9).high == NINES_MAX
    assert percentile_axis(0).high == percentile_axis(1).high == 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"), (1.0, "1"), (1.5, "1.5"), (1_234_567, "1,234,567"), (0.00234, "0.00234"), (123.456, "123"),
        (-4.25, "-4.25"), (math.inf, "-"), (math.nan, "-"), (999.96, "1,000"),
        (0.9996, "0.9996"), (0.95, "0.95"), (-0.99983, "-0.99983"),
    ],
)  # fmt: skip
def test_numbers_in_tables_have_three_digits_or_all(value: float, shown: str) -> None:
    assert amount(value) == shown


def test_units_follow_but_bytes_are_scaled() -> None:
    assert amount_with_unit(4.2, "s") == "4.2 s"
    assert amount_with_unit(1.2e9, "bytes") == "1.2 GB"
    assert amount_with_unit(3, "") == "3"
    assert amount_with_unit(None, "s") == "-"


def test_a_share_stays_on_the_axis() -> None:
    axis = time_axis(10, 20)
    assert [axis.share(at) for at in (0, 10, 15, 20, 99)] == [0, 0, 0.5, 1, 1]
