"""Jittered lifetimes: maps fetched together do not expire together, and none expires near a stage. Pure."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["jittered_ttl_ms"]


def jittered_ttl_ms(
    *,
    now_ms: int,
    mean_ms: int,
    spread: float,
    stage_times: Iterable[int],
    guard_ms: int,
    draw: float,
) -> int:
    """A lifetime drawn uniformly from `mean_ms` x [1 - spread, 1 + spread], keeping clear of the stages.

    Expiry stays at least `guard_ms` away from every time of `stage_times` (ms since the epoch): what lies within is cut
    out and the rest drawn from uniformly, so the expected load is moved aside, not piled up at the edges of a stage.
    Where less than a quarter of the interval is left, the interval grows upwards: a map lives longer rather than
    expire at a stage. `draw` is uniform over [0, 1) and the only randomness.
    """
    assert mean_ms > 0
    assert 0 <= spread < 1
    assert 0 <= draw < 1
    low = now_ms + round(mean_ms * (1 - spread))
    width = max(1, round(mean_ms * 2 * spread))
    guards = _merged((at - guard_ms, at + guard_ms) for at in stage_times)
    high = low + width
    free = _free(low, high, guards)
    while 4 * _length(free) < width:  # each turn passes a guard, so there are at most as many turns as stages
        high = next((end for start, end in guards if start <= high < end), high) + width
        free = _free(low, high, guards)
    at = draw * _length(free)
    for start, end in free:
        if at < end - start:
            return start + int(at) - now_ms
        at -= end - start
    return free[-1][1] - 1 - now_ms


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _free(low: int, high: int, guards: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """What is left of [low, high) outside of the guards, which are sorted and disjoint."""
    free: list[tuple[int, int]] = []
    for start, end in guards:
        if start > low:
            free.append((low, min(start, high)))
        low = max(low, end)
        if low >= high:
            break
    if low < high:
        free.append((low, high))
    return [(start, end) for start, end in free if start < end]


def _length(spans: Iterable[tuple[int, int]]) -> int:
    return sum(end - start for start, end in spans)
