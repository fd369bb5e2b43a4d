"""A straight line through what was measured. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

__all__ = ["Line", "fitted_line"]


class Line(msgspec.Struct, frozen=True):
    """y = a + b x."""

    a: float
    b: float

    def at(self, x: float) -> float:
        return self.a + self.b * x


def fitted_line(points: Sequence[tuple[float, float]]) -> Line:
    """Least squares of the relative error: each point counts as much as its neighbours, however large.

    Unweighted, the largest x alone would decide and `a` be what is left over. Raises ValueError for fewer than two
    different x, or a y that is not above 0.
    """
    if len({x for x, _ in points}) < 2 or any(y <= 0 for _, y in points):
        raise ValueError("a line needs two different x, and y above 0")
    weights = [1 / y**2 for _, y in points]
    total = sum(weights)
    mean_x = sum(weight * x for weight, (x, _) in zip(weights, points, strict=True)) / total
    mean_y = sum(weight * y for weight, (_, y) in zip(weights, points, strict=True)) / total
    spread = sum(weight * (x - mean_x) ** 2 for weight, (x, _) in zip(weights, points, strict=True))
    together = sum(weight * (x - mean_x) * (y - mean_y) for weight, (x, y) in zip(weights, points, strict=True))
    b = together / spread
    return Line(mean_y - b * mean_x, b)
