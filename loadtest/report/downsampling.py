"""Long curves with fewer points: the least and the greatest of each stretch stay, so that no peak vanishes. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["Point", "downsampled", "finite", "in_pieces", "stacked"]

Point = tuple[float, float]
"""(seconds, value)"""


def downsampled(points: Sequence[Point], points_max: int) -> list[Point]:
    """At most `points_max` (>= 4) of `points`, which rise in time: of each of equally long stretches of time its least
    and its greatest value, and the first and last of all. Points are never made up or moved."""
    assert points_max >= 4, points_max
    if len(points) <= points_max:
        return list(points)
    stretches = (points_max - 2) // 2
    began, span = points[0][0], (points[-1][0] - points[0][0]) or 1.0
    least: dict[int, int] = {}
    greatest: dict[int, int] = {}
    for index, (at, value) in enumerate(points):
        stretch = min(stretches - 1, int((at - began) / span * stretches))
        if stretch not in least or value < points[least[stretch]][1]:
            least[stretch] = index
        if stretch not in greatest or value > points[greatest[stretch]][1]:
            greatest[stretch] = index
    kept = {0, len(points) - 1, *least.values(), *greatest.values()}
    return [points[index] for index in sorted(kept)]


def finite(points: Sequence[Point]) -> list[Point]:
    """Without what is no number."""
    return [point for point in points if math.isfinite(point[0]) and math.isfinite(point[1])]


def in_pieces(points: Sequence[Point], gaps: Sequence[tuple[float, float]]) -> list[list[Point]]:
    """The points cut where a gap lies between two neighbours; no piece is empty."""
    pieces: list[list[Point]] = []
    for point in points:
        before = pieces[-1][-1][0] if pieces else None
        if before is None or any(start < point[0] and end > before for start, end in gaps):
            pieces.append([])
        pieces[-1].append(point)
    return pieces


def stacked(series: Sequence[Sequence[Point]]) -> list[list[Point]]:
    """Each curve laid upon the ones before it, over the times of all; a curve is 0 where it has not begun or is over,
    and straight between its points."""
    times = sorted({at for points in series for at, _ in points})
    sums = [0.0] * len(times)
    layers: list[list[Point]] = []
    for points in series:
        sums = [under + value for under, value in zip(sums, _at_times(points, times), strict=True)]
        layers.append(list(zip(times, sums, strict=True)))
    return layers


def _at_times(points: Sequence[Point], times: Sequence[float]) -> list[float]:
    found: list[float] = []
    after = 0
    for at in times:
        while after < len(points) and points[after][0] < at:
            after += 1
        if after < len(points) and points[after][0] == at:
            found.append(points[after][1])
        elif after in (0, len(points)):
            found.append(0.0)
        else:
            (left, low), (right, high) = points[after - 1], points[after]
            found.append(low + (high - low) * (at - left) / (right - left))
    return found
