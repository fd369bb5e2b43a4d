"""Jittered lifetimes: uniform where they may be, never at a stage, never piled up beside one."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from dgs.ttl import jittered_ttl_ms, shared_ttl_s

NOW = 1_700_000_000_000
HOUR = 3_600_000


def ttl(
    draw: float, *, stages: tuple[int, ...] = (), mean: int = 6 * HOUR, spread: float = 0.5, guard: int = 900_000
) -> int:
    return jittered_ttl_ms(now_ms=NOW, mean_ms=mean, spread=spread, stage_times=stages, guard_ms=guard, draw=draw)


def test_the_range_is_the_mean_and_its_spread() -> None:
    """With no stage near, lifetimes run evenly from half to one and a half of the mean."""
    drawn = [ttl(step / 1000) for step in range(1000)]
    assert drawn[0] == 3 * HOUR
    assert 9 * HOUR - 60_000 < drawn[-1] < 9 * HOUR
    assert {later - earlier for earlier, later in pairwise(drawn)} <= {21_599, 21_600, 21_601}


def test_no_expiry_near_a_stage() -> None:
    """15 minutes on both sides of every stage stay free, wherever in the range they lie."""
    stages = tuple(NOW + round(hours * HOUR) for hours in (2.9, 4, 4.3, 6, 9.1))
    for step in range(5000):
        expiry = NOW + ttl(step / 5000, stages=stages)
        assert all(abs(expiry - stage) >= 900_000 for stage in stages)


def test_what_would_have_expired_there_is_spread_over_the_rest() -> None:
    """No quarter of an hour gets more than its even share: a guard does not move the herd to its edge."""
    stages = (NOW + 6 * HOUR,)
    drawn = Counter(ttl(step / 24_000, stages=stages) // 900_000 for step in range(24_000))
    # 24 quarters, 2 of them guarded: 22 left with an even share each.
    assert max(drawn.values()) <= 24_000 / 22 * 1.01


def test_a_range_full_of_stages_grows_upwards() -> None:
    """A map lives longer rather than expire at a stage: with stages every 20 minutes through the range."""
    stages = tuple(NOW + minutes * 60_000 for minutes in range(0, 600, 20))
    drawn = [ttl(step / 100, stages=stages) for step in range(100)]
    assert min(drawn) >= 595 * 60_000
    assert len(set(drawn)) > 90


@pytest.mark.parametrize("draw", [0.0, 0.5, 0.999999999])
def test_no_spread(draw: float) -> None:
    """Spread 0 is a fixed lifetime, still moved off a stage."""
    assert ttl(draw, spread=0.0) == 6 * HOUR
    assert ttl(draw, spread=0.0, stages=(NOW + 6 * HOUR,)) >= 6 * HOUR + 900_000


def shared(smallest_s: int, *stages_s: int) -> int:
    return shared_ttl_s(
        now_ms=NOW, smallest_s=smallest_s, stage_times=[NOW + at * 1000 for at in stages_s], guard_s=900
    )


def test_an_answer_of_several_maps_expires_near_no_stage_of_any() -> None:
    """Earlier, never later than the first of its maps, and spread as those lifetimes were."""
    assert shared(5_000, 7_200) == 5_000
    moved = [shared(each, 7_200) for each in range(6_301, 8_100)]
    assert max(moved) < 6_300
    assert min(moved) > 3_150
    assert max(Counter(each // 300 for each in moved).values()) < 250, "some 1,800 over some 3,000 s"


def test_an_answer_given_beside_a_stage_lives_past_it() -> None:
    """No moment before it is free: longer, rather than at the stage, and still spread."""
    moved = [shared(each, 600) for each in range(100, 1_400, 100)]
    assert min(moved) >= 1_500
    assert len(set(moved)) == len(moved)
