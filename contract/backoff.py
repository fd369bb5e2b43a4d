"""Pauses between attempts, pure: doubling, capped, jittered."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Backoff", "Jitter"]

Jitter = Callable[[], float]
"""Uniform over [0, 1): `random.random`, or a seeded one."""


class Backoff:
    """The n-th pause is uniform over the upper half of min(cap, first * 2^n): spread, yet never close to none."""

    __slots__ = ("_cap_s", "_first_s", "_jitter", "_next_s")

    def __init__(self, *, first_s: float, cap_s: float, jitter: Jitter) -> None:
        assert 0 < first_s <= cap_s
        self._first_s = self._next_s = first_s
        self._cap_s = cap_s
        self._jitter = jitter

    def next_s(self) -> float:
        """The pause before the next attempt, in seconds."""
        whole, self._next_s = self._next_s, min(self._cap_s, self._next_s * 2)
        return whole * (0.5 + self._jitter() / 2)

    def reset(self) -> None:
        """It worked: the next failure starts over."""
        self._next_s = self._first_s
