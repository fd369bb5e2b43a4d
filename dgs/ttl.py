"""Jittered lifetimes: maps fetched together do not expire together, and none expires near a stage. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["Spans", "free_spans", "jittered_ttl_ms", "shared_ttl_s", "spread_in"]

Spans = tuple[tuple[int, int], ...]
"""(from, up to) in ms since the epoch, ascending and disjoint, none empty."""


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
    spans = free_spans(now_ms=now_ms, mean_ms=mean_ms, spread=spread, stage_times=stage_times, guard_ms=guard_ms)
    return spread_in(spans, draw) - now_ms


def free_spans(*, now_ms: int, mean_ms: int, spread: float, stage_times: Iterable[int], guard_ms: int) -> Spans:
    """When something made now may expire, as `jittered_ttl_ms` says; at least one span.

    The same for all that is made of one topic in the same second: kept for it, a draw costs the spans alone.
    """
    assert mean_ms > 0
    assert 0 <= spread < 1
    low = now_ms + round(mean_ms * (1 - spread))
    width = max(1, round(mean_ms * 2 * spread))
    guards = _merged((at - guard_ms, at + guard_ms) for at in stage_times)
    high = low + width
    free = _free(low, high, guards)
    while 4 * _length(free) < width:  # each turn passes a guard, so there are at most as many turns as stages
        high = next((end for start, end in guards if start <= high < end), high) + width
        free = _free(low, high, guards)
    return tuple(free)


def shared_ttl_s(*, now_ms: int, smallest_s: int, stage_times: Iterable[int], guard_s: int) -> int:
    """How long an answer of several maps is kept: the least of their lifetimes, clear of the stages of all of them.

    `smallest_s` keeps clear of its own event's stages alone. If it ends within `guard_s` of another's, the answer ends
    earlier: where it lay in the guard decides where in the free time of the half before, so that what was spread stays
    spread. Without any free time before the guard it ends behind it: longer rather than at a stage.
    """
    times = list(stage_times)
    end = now_ms + smallest_s * 1000
    # Told in whole seconds, a lifetime ends up to one earlier than it was drawn.
    guards = _merged((at - guard_s * 1000, at + guard_s * 1000) for at in times)
    struck = next(((start, stop) for start, stop in guards if start < end < stop), None)
    if struck is None:
        return smallest_s
    start, stop = struck
    wide = _merged((at - guard_s * 1000, at + guard_s * 1000 + 1000) for at in times)
    free = _free(now_ms + smallest_s * 500, start, wide) or _free(now_ms + 1000, start, wide)
    if not free:
        behind = next(last for first, last in wide if first <= end < last)
        free = _free(behind, behind + stop - start, wide)
    return max(1, (spread_in(free, (end - start) / (stop - start)) - now_ms) // 1000)


def spread_in(spans: Sequence[tuple[int, int]], draw: float) -> int:
    """The moment, in ms since the epoch, at the share `draw` of the spans' whole length; `draw` lies in [0, 1)."""
    assert 0 <= draw < 1
    at = draw * _length(spans)
    for start, end in spans:
        if at < end - start:
            return start + int(at)
        at -= end - start
    return spans[-1][1] - 1


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
    return sum([end - start for start, end in spans])
