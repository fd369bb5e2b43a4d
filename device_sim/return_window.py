"""When to come back (R21): uniform over a window the server gave, which grows with every failure. Pure."""

from __future__ import annotations

from typing import Final

__all__ = ["GROWTH_MAX", "MIN_WINDOW_MS", "grown_window_ms", "return_delay_ms"]

GROWTH_MAX: Final = 5
"""Doublings at most: a window of 30 s ends at 16 minutes."""
MIN_WINDOW_MS: Final = 100
"""Below this a failing server would be asked again in a tight loop."""


def grown_window_ms(window_ms: int, failures: int, *, cap_ms: int) -> int:
    """The window after `failures` attempts in a row that did not end in a welcome.

    Doubles per failure, never above `cap_ms` unless the server itself asked for more. A first return (no failure
    yet) obeys the server's window exactly, even 0; the floor is for retries.
    """
    assert window_ms >= 0, "a window is a length"
    assert failures >= 0, "failures are counted from 0"
    if failures == 0:
        return window_ms
    grown: int = max(window_ms, MIN_WINDOW_MS) << min(failures, GROWTH_MAX)
    return min(grown, max(cap_ms, window_ms))


def return_delay_ms(window_ms: int, failures: int, draw: float, *, cap_ms: int) -> int:
    """Uniform over the grown window; `draw` lies in [0, 1)."""
    assert 0.0 <= draw < 1.0, "draws lie in [0, 1)"
    return int(draw * grown_window_ms(window_ms, failures, cap_ms=cap_ms))
