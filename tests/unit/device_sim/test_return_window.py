"""Goal: returns are uniform over the server's window, windows grow per failure and end at the cap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sim.return_window import grown_window_ms, return_delay_ms


@pytest.mark.parametrize(
    ("window", "failures", "expected"),
    [
        (1000, 0, 1000),
        (1000, 1, 2000),
        (1000, 5, 32_000),
        (1000, 50, 32_000),
        (0, 0, 0),
        (0, 1, 200),
        (90_000, 3, 90_000),
    ],
)
def test_growth(window: int, failures: int, expected: int) -> None:
    assert grown_window_ms(window, failures, cap_ms=60_000) == expected


@given(st.integers(0, 10**6), st.integers(0, 100), st.floats(0, 1, exclude_max=True), st.integers(1, 10**6))
def test_a_delay_lies_in_the_window_and_never_above_cap_or_servers_wish(window, failures, draw, cap) -> None:
    delay = return_delay_ms(window, failures, draw, cap_ms=cap)
    assert 0 <= delay <= max(cap, window)
    assert delay <= grown_window_ms(window, failures, cap_ms=cap)


def test_delays_are_spread_evenly() -> None:
    delays = [return_delay_ms(1000, 0, step / 1000, cap_ms=60_000) for step in range(1000)]
    assert delays == list(range(1000))
