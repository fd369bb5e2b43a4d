"""Goal: what is promised is held to what was measured, and an unfinished or invalid run is never called good."""

from __future__ import annotations

import math

import pytest

from loadtest.gameday.bars import BarSpec, Measure, Operator, judged, verdict_of

MEASURES = {"ratio": Measure("x", "one over the other")}


@pytest.mark.parametrize(
    ("op", "value", "measured", "held"),
    [
        (">=", 5, 5.0, True),
        (">=", 5, 4.99, False),
        ("<=", 5, 5.0, True),
        ("<", 5, 5.0, False),
        (">", 5, 5.0, False),
        ("==", 0, 0, True),
        ("==", 0, 1, False),
        ("<=", 5, None, False),
        ("<=", 5, math.nan, False),
        ("<=", 5, -math.inf, False),
    ],
)
def test_a_bar_holds_by_its_operator(op: Operator, value: float, measured: float | None, held: bool) -> None:
    (bar,) = judged([BarSpec(name="ratio", op=op, value=value)], MEASURES, {"ratio": measured})
    assert bar.held is held
    assert (bar.measured is None) is (measured is None or not math.isfinite(measured))


def test_a_bar_reads_as_a_person_says_it() -> None:
    (bar,) = judged([BarSpec(name="ratio", op=">=", value=5)], MEASURES, {})
    assert (bar.bar, bar.unit, bar.means, bar.measured, bar.held) == (">= 5 x", "x", "one over the other", None, False)


def test_verdicts() -> None:
    good = judged([BarSpec(name="ratio", op=">=", value=5)], MEASURES, {"ratio": 6})
    bad = judged([BarSpec(name="ratio", op=">=", value=5)], MEASURES, {"ratio": 4})
    assert verdict_of(good, invalid=(), partial=False) == "held"
    assert verdict_of([*good, *bad], invalid=(), partial=False) == "failed"
    assert verdict_of(good, invalid=("the generator was the limit",), partial=False) == "invalid"
    assert verdict_of(good, invalid=("...",), partial=True) == "partial"
    assert verdict_of([], invalid=(), partial=False) == "failed"
