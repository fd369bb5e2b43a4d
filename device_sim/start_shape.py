"""When the devices of a fleet start: moments drawn over a time, level or not. Pure."""

from __future__ import annotations

import math
from typing import Final, Literal

__all__ = ["BURSTS", "StartShape", "start_moment_s"]

StartShape = Literal["uniform", "wave", "burst"]
"""`uniform`: level; `wave`: rising and falling like half a sine, its peak pi/2 times the mean; `burst`: in BURSTS jolts
of equal size and distance, the first at once."""
BURSTS: Final = 5


def start_moment_s(shape: StartShape, draw: float, over_s: float) -> float:
    """The moment in [0, over_s) that `draw`, uniform over [0, 1), stands for."""
    assert 0.0 <= draw < 1.0, "draws lie in [0, 1)"
    if shape == "wave":
        # The inverse of the distribution (1 - cos(pi t / T)) / 2, whose density is half a sine.
        return over_s * math.acos(1.0 - 2.0 * draw) / math.pi
    if shape == "burst":
        return over_s * math.floor(draw * BURSTS) / BURSTS
    return over_s * draw
