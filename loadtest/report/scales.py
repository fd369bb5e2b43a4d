"""Axes that end and tick at round numbers, and numbers as a person reads them. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

__all__ = [
    "NINES_MAX",
    "Axis",
    "amount",
    "amount_with_unit",
    "nice_ceiling",
    "nines",
    "percentile_axis",
    "time_axis",
    "time_label",
    "value_axis",
]

NINES_MAX: Final = 6.0
"""A percentile axis ends at one in a million at most."""
_TIME_STEPS_S: Final = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05,
    0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 21_600, 43_200, 86_400,
)  # fmt: skip
_STEPS: Final = (1.0, 2.0, 2.5, 5.0, 10.0)
_CEILINGS: Final = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
_LARGE: Final = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


class Axis(NamedTuple):
    """A stretch of numbers and the labelled ticks on it."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]

    def share(self, value: float) -> float:
        """Where `value` lies, 0 at the low end and 1 at the high one; values outside are moved to the nearer end."""
        if self.high <= self.low:
            return 0.0
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


def nice_ceiling(value: float) -> float:
    """A round number at or above `value`, a third above it at most; at least 1."""
    power = 10.0 ** math.floor(math.log10(max(value, 1.0)))
    return float(next(step * power for step in _CEILINGS if step * power >= value))


_LEAST: Final = 1e-300
"""Spans below it, whose quotients round to nothing, are none."""


def value_axis(lowest: float, highest: float, unit: str, *, ticks: int = 4) -> Axis:
    """From 0, or from below the lowest value when that is negative, to a tick at or above the highest."""
    low, high = min(0.0, lowest), max(0.0, highest)
    if high - low < _LEAST:
        low, high = 0.0, 1.0
    step = _nice_step((high - low) / ticks)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    numbers = [index * step for index in range(first, last + 1)]
    return Axis(numbers[0], numbers[-1], [(number, amount(number, unit, step=step)) for number in numbers])


def time_axis(low_s: float, high_s: float, *, ticks: int = 7) -> Axis:
    """Exactly from `low_s` to `high_s`, with ticks at round parts of seconds, seconds, minutes or hours."""
    span = max(high_s - low_s, 1e-3)
    step = next((step for step in _TIME_STEPS_S if span / step <= ticks), _nice_step(span / ticks))
    first, last = math.ceil(low_s / step - 1e-9), math.floor((low_s + span) / step + 1e-9)
    at = [index * step for index in range(first, last + 1)]
    return Axis(low_s, low_s + span, [(number, time_label(number, step)) for number in at])


def time_label(at_s: float, step_s: float = 1.0) -> str:
    """`90 s`, from two minutes on `2:30`, from an hour on `1:00:00`; parts of seconds when ticks are that close."""
    if step_s < 1:
        return f"{at_s:.{max(1, _digits(step_s))}f} s"
    seconds = round(abs(at_s))
    sign = "-" if at_s < -0.5 else ""
    if seconds < 120:
        return f"{sign}{seconds} s"
    minutes, left = divmod(seconds, 60)
    if minutes < 60:
        return f"{sign}{minutes}:{left:02d}"
    return f"{sign}{minutes // 60}:{minutes % 60:02d}:{left:02d}"


def nines(percentile: float, *, end: float = NINES_MAX) -> float:
    """How many nines a percentile has: 90 -> 1, 99 -> 2, 99.9 -> 3; 50 -> 0.3, and 100 -> `end`."""
    beyond = 1.0 - percentile / 100
    return end if beyond <= 0 else min(end, max(0.0, -math.log10(beyond)))


def percentile_axis(count: int) -> Axis:
    """Of nines: as far as `count` values can tell, one nine at least."""
    end = min(NINES_MAX, max(1.0, math.log10(max(count, 1))))
    labels = ((nines(50), "50 %"), (1.0, "90"), (2.0, "99"), (3.0, "99.9"), (4.0, "99.99"), (5.0, "99.999"))
    ticks = [(at, label) for at, label in labels if at <= end - 0.25]
    return Axis(0.0, end, [*ticks, (end, "max")])


def amount(value: float, unit: str = "", *, step: float | None = None) -> str:
    """`1,250`, `12k`, `1.5M`, `0.04`; of bytes with `kB MB GB`, otherwise without the unit.

    With `step`, the distance of ticks, as short as tells neighbours apart; without it to three digits or all of them.
    """
    if not math.isfinite(value):
        return "-"
    size = abs(value)
    if unit in ("bytes", "B"):
        large, suffix = next(((by, f" {name}B") for by, name in _LARGE if size >= by), (1.0, " B"))
    elif step is not None:
        large, suffix = next(((by, name) for by, name in _LARGE if size >= max(by, 10_000)), (1.0, ""))
    else:
        large, suffix = 1.0, ""
    if step is not None:
        digits = _digits(step / large)
    elif large == 1.0 and float(value).is_integer():
        digits = 0
    else:
        digits = max(0, 2 - math.floor(math.log10(size / large))) if size else 0
        if 0.9 < size < 1:
            # A share that is nearly whole is not shown as if it were.
            digits = 1 - math.floor(math.log10(1 - size))
    text = f"{value / large:,.{min(digits, 9)}f}"
    if step is None and "." in text:
        text = text.rstrip("0").rstrip(".")
    return text + suffix


def amount_with_unit(value: float | None, unit: str) -> str:
    """The amount and its unit; a dash for what was not measured."""
    if value is None:
        return "-"
    shown = amount(value, unit)
    return shown if not unit or unit in ("bytes", "B") else f"{shown} {unit}"


def _nice_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in _STEPS if step * power >= rough * (1 - 1e-9))


def _digits(step: float) -> int:
    """Decimals that a multiple of `step` needs."""
    return next((digits for digits in range(9) if abs(round(step, digits) - step) < step * 1e-6), 9)
