"""Comparisons that a drifting machine cannot fool: alternating rounds, the median of per-round ratios, quartiles."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec

__all__ = ["Ratio", "Round", "alternate", "ratio_of_rounds"]

_A = TypeVar("_A")
_B = TypeVar("_B")


class Round(msgspec.Struct, frozen=True):
    """What one round measured of both sides, in the same unit."""

    a: float
    b: float


class Ratio(msgspec.Struct, frozen=True):
    """a / b over rounds."""

    median: float
    q1: float
    q3: float
    rounds: int


async def alternate(
    a: Callable[[int], Awaitable[_A]], b: Callable[[int], Awaitable[_B]], *, rounds: int
) -> list[tuple[_A, _B]]:
    """Run A B, A B, ... `rounds` times, each given its round's number. Whatever drifts, drifts under both."""
    assert rounds >= 1, "at least one round"
    return [(await a(number), await b(number)) for number in range(rounds)]


def ratio_of_rounds(rounds: Sequence[Round]) -> Ratio:
    """Median and quartiles of a/b per round; the quartiles of one or two rounds are its extremes."""
    if not rounds:
        raise ValueError("no rounds")
    if any(each.b <= 0 for each in rounds):
        raise ValueError("a ratio to nothing")
    ratios = sorted(each.a / each.b for each in rounds)
    if len(ratios) < 3:
        q1, q3 = ratios[0], ratios[-1]
    else:
        q1, _, q3 = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(statistics.median(ratios), q1, q3, len(ratios))
