"""Goal: devices start at moments of the shape asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sim.start_shape import BURSTS, StartShape, start_moment_s

SHAPES: tuple[StartShape, ...] = ("uniform", "wave", "burst")
DRAWS = [(number + 0.5) / 10_000 for number in range(10_000)]


@given(st.sampled_from(SHAPES), st.floats(0, 1, exclude_max=True), st.floats(0, 3600, allow_subnormal=False))
def test_every_moment_lies_within(shape: StartShape, draw: float, over_s: float) -> None:
    moment = start_moment_s(shape, draw, over_s)
    assert 0 <= moment <= over_s
    assert moment < over_s or over_s == 0 or draw > 0.999


def share(shape: StartShape, low: float, high: float) -> float:
    return sum(low <= start_moment_s(shape, draw, 1.0) < high for draw in DRAWS) / len(DRAWS)


def test_a_wave_rises_and_falls() -> None:
    """Half a sine: its middle tenth has pi/2 as many as a level one, to half a percent, its first a quarter."""
    assert share("wave", 0.45, 0.55) == pytest.approx(0.1564, abs=0.001)
    assert share("wave", 0.0, 0.1) == share("wave", 0.9, 1.0) == pytest.approx(0.0245, abs=0.001)
    assert share("uniform", 0.0, 0.1) == pytest.approx(0.1, abs=0.001)


def test_bursts_are_few_and_equal() -> None:
    moments = [start_moment_s("burst", draw, 10.0) for draw in DRAWS]
    assert sorted(set(moments)) == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert {moments.count(moment) for moment in set(moments)} == {len(DRAWS) // BURSTS}
