"""Lives of connections: their range, their mean, and what a due stage does to their end."""

from __future__ import annotations

import pytest

from push_proxy.due_times import DueTimes
from push_proxy.lifetimes import deferred_end_ms, draw_lifetime_s, mean_lifetime_s

ALMOST_ONE = 1.0 - 2**-53


def test_lives_lie_within_their_range() -> None:
    """The ends of the draw are the ends of the range; more draw, more life."""
    assert draw_lifetime_s(0.0, min_s=60.0, max_s=14_400.0) == 60.0
    assert draw_lifetime_s(ALMOST_ONE, min_s=60.0, max_s=14_400.0) == pytest.approx(14_400.0)
    lives = [draw_lifetime_s(n / 100, min_s=60.0, max_s=14_400.0) for n in range(100)]
    assert lives == sorted(lives)
    assert lives[50] < mean_lifetime_s(min_s=60.0, max_s=14_400.0)


def test_the_mean_is_the_one_told() -> None:
    """Averaged over evenly spread draws."""
    draws = [(n + 0.5) / 20_000 for n in range(20_000)]
    mean_s = sum(draw_lifetime_s(draw, min_s=60.0, max_s=14_400.0) for draw in draws) / len(draws)
    assert mean_lifetime_s(min_s=60.0, max_s=14_400.0) == pytest.approx(mean_s, rel=1e-3)
    assert 3_300 < mean_s < 3_450


def test_a_range_of_one_length() -> None:
    """Tests want lives of a known length."""
    assert draw_lifetime_s(0.7, min_s=5.0, max_s=5.0) == mean_lifetime_s(min_s=5.0, max_s=5.0) == 5.0


def test_an_end_near_a_stage_is_put_off() -> None:
    """Not by a fixed time: what is left of the life is drawn anew, from the guard's end on."""
    guards = DueTimes([1_000_000]).guards(before_ms=60_000, after_ms=60_000)
    assert deferred_end_ms(939_999, guards, draw=0.5, max_s=100.0) is None
    assert deferred_end_ms(1_060_001, guards, draw=0.5, max_s=100.0) is None
    ends = [deferred_end_ms(at, guards, draw=n / 10, max_s=100.0) for at in (940_000, 1_060_000) for n in range(10)]
    assert ends[:10] == ends[10:]
    assert len(set(ends)) == 10
    assert all(end is not None and 1_060_001 <= end < 1_160_001 for end in ends)
