"""Events counted in bins of time: peaks, curves, peak to mean. Pure.

Peaks are told per bin, not as rates: what a server must take is what comes within that time.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["BIN_S", "counted", "peak", "peak_to_mean", "points"]

BIN_S: Final = 0.1
"""Of herds: the width the promises are made for."""
_Moments = npt.NDArray[np.float64]
_Counts = npt.NDArray[np.int64]


def counted(at_s: _Moments, begin_s: float, end_s: float, *, width_s: float = BIN_S) -> _Counts:
    """Events in [begin_s, end_s), in bins of `width_s` from `begin_s`; the last bin may reach beyond the end.

    What lies outside is left out. At least one bin.
    """
    assert width_s > 0
    # A rounding error must not give a span of exactly n bins another one.
    bins = max(1, int(np.ceil(round((end_s - begin_s) / width_s, 6))))
    inside: Any = at_s[(at_s >= begin_s) & (at_s < end_s)]
    numbers = np.minimum(((inside - begin_s) / width_s).astype(np.int64), bins - 1)
    return np.bincount(numbers, minlength=bins).astype(np.int64)


def peak(at_s: _Moments, begin_s: float, end_s: float, *, width_s: float = BIN_S) -> int:
    """The most events in any bin."""
    return int(counted(at_s, begin_s, end_s, width_s=width_s).max())


def peak_to_mean(at_s: _Moments, begin_s: float, end_s: float, *, width_s: float) -> float | None:
    """The fullest bin over the mean of all; None without events."""
    found = counted(at_s, begin_s, end_s, width_s=width_s)
    return float(found.max() / found.mean()) if found.any() else None


def points(
    at_s: _Moments, begin_s: float, end_s: float, *, width_s: float = BIN_S, zero_s: float = 0.0
) -> list[tuple[float, float]]:
    """A curve of events per bin: (middle of the bin, count), in seconds since `zero_s`."""
    found = counted(at_s, begin_s, end_s, width_s=width_s)
    return [(round(begin_s - zero_s + (number + 0.5) * width_s, 4), float(count)) for number, count in enumerate(found)]
