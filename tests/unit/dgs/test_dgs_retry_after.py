"""Refused devices return spread out, in time for the next stage, and are told how much they may repeat."""

from __future__ import annotations

import json
from math import ceil
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgs.priority.refusals import refusal
from dgs.priority.retry_after import LEAST_MS, STAGE_MARGIN_MS, retry_budget, return_after, stretched_ms
from dgs.serving import Verdict

BINS = 20
CHI_SQUARE_19_999 = 43.82
"""The 99.9 % quantile of chi-square with 19 degrees of freedom."""


@given(
    st.floats(100, 60_000),
    st.one_of(st.none(), st.integers(-10_000, 300_000)),
    st.floats(0, 1, exclude_max=True),
)
def test_nobody_returns_at_a_stage(mean_ms: float, until_stage_ms: int | None, draw: float) -> None:
    """In time: `Retry-After` in whole seconds, rounded up, has passed a second before the stage. Else it is said."""
    back = return_after(mean_ms, until_stage_ms, draw)
    assert 0 <= back.after_ms <= mean_ms * 3 / 2
    if until_stage_ms is not None and back.in_time:
        assert ceil(back.after_ms / 1000) * 1000 <= until_stage_ms - STAGE_MARGIN_MS + 1000
        assert ceil(back.after_ms / 1000) * 1000 < until_stage_ms
    if not back.in_time:
        assert until_stage_ms is not None
        assert until_stage_ms < STAGE_MARGIN_MS + max(LEAST_MS, mean_ms * 3 / 2)


@pytest.mark.parametrize(
    ("until_stage_ms", "first", "last"),
    [(None, 2_000, 6_000), (60_000, 2_000, 6_000), (8_000, 2_000, 6_000), (7_000, 2_000, 5_000), (3_500, 500, 1_500)],
)
@pytest.mark.parametrize("seed", range(5))
def test_returns_are_spread_evenly(until_stage_ms: int | None, first: int, last: int, seed: int) -> None:
    """Chi-square over 20 bins of the window there is, 10,000 devices; mean 4 s."""
    random = Random(seed)
    counts = [0] * BINS
    for _ in range(10_000):
        back = return_after(4_000, until_stage_ms, random.random())
        assert back.in_time
        assert first <= back.after_ms < last
        counts[(back.after_ms - first) * BINS // (last - first)] += 1
    expected = 10_000 / BINS
    assert sum((count - expected) ** 2 / expected for count in counts) < CHI_SQUARE_19_999


def test_a_stage_too_near_leaves_no_moment() -> None:
    """Under three seconds: the cohort's map instead; the time told is the usual one, beyond the stage."""
    assert return_after(4_000, 3_000, 0.5).in_time
    assert return_after(4_000, 2_999, 0.5) == (4_000, False)
    assert return_after(4_000, -1, 0.0) == (2_000, False)


def test_returns_stretch_with_what_is_refused() -> None:
    """One in four served: four times as late; eight times at most."""
    assert [stretched_ms(4_000, share) for share in (1.0, 0.5, 0.25, 0.01, 0.0)] == [
        4_000,
        8_000,
        16_000,
        32_000,
        32_000,
    ]
    assert [retry_budget(share) for share in (1.0, 0.5, 0.0)] == [0.1, 0.05, 0.0]


@pytest.mark.parametrize(
    ("after_ms", "seconds"), [(0, 0), (1, 1), (1_000, 1), (1_001, 2), (63_001, 64), (100_500, 101)]
)
def test_a_refusal_says_when_and_how_much(after_ms: int, seconds: int) -> None:
    """503 in HTTP's words and in GraphQL's; whole seconds are rounded up, never down."""
    answer = refusal(Verdict("bulk", False, None, after_ms), 0.05)
    assert answer.status == 503
    lines = answer.head.decode().split("\r\n")
    assert lines[-1] == ""
    assert f"Retry-After: {seconds}" in lines
    assert "Cache-Control: no-store" in lines
    (error,) = json.loads(answer.body)["errors"]
    assert error["extensions"] == {"code": "overloaded", "retryAfterMs": after_ms, "retryBudget": 0.05}
    assert error["message"]
