"""What a sampler has seen, within bounds: readings at even times, thinned when there are too many. Pure."""

from __future__ import annotations

import math
from typing import Final, Literal

from loadtest.report.downsampling import Point
from loadtest.report.record import Series

__all__ = ["POINTS_MIN", "Kind", "Track"]

Kind = Literal["value", "rate"]
"""`value`: what a source says is drawn. `rate`: it counts up, and its growth per second is drawn."""
POINTS_MIN: Final = 16


class Track:
    """The readings of one source. A reading of None, or one that is no number, is a gap. A counter that falls began
    anew: what it shows then is its growth."""

    def __init__(self, name: str, kind: Kind) -> None:
        self.name = name
        self.missing = 0
        """Readings that gave nothing, between the first and the last that gave something."""
        self.spoke = False
        """Any reading gave something."""
        self._missing_since = 0
        self._kind = kind
        self._readings: list[tuple[float, float | None]] = []
        self._before: Point | None = None

    def __len__(self) -> int:
        return len(self._readings)

    def add(self, at_s: float, reading: float | None, read_s: float | None = None) -> None:
        """Times rise. A counter's first reading is where it starts, and draws nothing. `read_s`: when it was read, if
        not at `at_s`: growth is over the time between readings. One that was not read again since draws nothing."""
        if reading is None or not math.isfinite(reading):
            self._missing_since += self.spoke
            self._before = None
            self._readings.append((at_s, None))
            return
        self.missing, self._missing_since, self.spoke = self.missing + self._missing_since, 0, True
        if self._kind == "value":
            self._readings.append((at_s, float(reading)))
            return
        read_s = at_s if read_s is None else read_s
        before, self._before = self._before, (read_s, float(reading))
        if before is None or read_s <= before[0]:
            return
        grown = reading - before[1] if reading >= before[1] else reading
        self._readings.append((at_s, grown / (read_s - before[0])))

    def halve(self) -> None:
        """Keep the least and the greatest of every four readings, and a gap where there was one: peaks stay."""
        kept: list[tuple[float, float | None]] = []
        for start in range(0, len(self._readings), 4):
            four = self._readings[start : start + 4]
            values = [(value, at) for at, value in four if value is not None]
            chosen = {at for _, at in (min(values), max(values))} if values else set[float]()
            gap = next((at for at, value in four if value is None), None)
            # Two of four at most, so that memory stays within bounds: a gap stands for the least.
            if gap is not None:
                chosen = {gap, max(values)[1]} if values else {gap}
            kept.extend(reading for reading in four if reading[0] in chosen)
        self._readings = kept

    def series(self) -> Series:
        """The curve, broken where readings are missing."""
        points = [(round(at, 3), value) for at, value in self._readings if value is not None]
        gaps = [(round(at, 3), round(at, 3)) for at, value in self._readings if value is None]
        return Series(name=self.name, points=points, gaps=_joined(gaps, [at for at, _ in points]))


def _joined(gaps: list[tuple[float, float]], measured_s: list[float]) -> list[tuple[float, float]]:
    """Gaps next to each other, with nothing measured between them, as one."""
    found: list[tuple[float, float]] = []
    for start, end in gaps:
        if found and not any(found[-1][1] < at < start for at in measured_s):
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found
