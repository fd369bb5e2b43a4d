"""What a scenario promises, and whether a run kept it. Pure."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from loadtest.report.record import Bar, Verdict

__all__ = ["BarSpec", "Measure", "Operator", "judged", "verdict_of"]

Operator = Literal["<=", "<", ">=", ">", "=="]
_HOLDS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
    "==": operator.eq,
}


class Measure(msgspec.Struct, frozen=True):
    """A number a kind of run gives."""

    unit: str
    """As it stands behind the number; empty for plain counts."""
    means: str
    """What it is, in one sentence."""


class BarSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[bars]]` of a scenario: `name op value`."""

    name: str
    """Of a measure of the scenario's kind."""
    op: Operator
    value: float
    unit: str = ""
    """The measure's own, unless a reader wants another word for it."""


def judged(
    specs: Sequence[BarSpec], measures: Mapping[str, Measure], measured: Mapping[str, float | None]
) -> list[Bar]:
    """Each bar beside what was measured; one that was not, or is no number, does not hold."""
    return [_judged(spec, measures[spec.name], measured.get(spec.name)) for spec in specs]


def _judged(spec: BarSpec, measure: Measure, measured: float | None) -> Bar:
    unit = spec.unit or measure.unit
    known = measured is not None and math.isfinite(measured)
    return Bar(
        name=spec.name,
        bar=f"{spec.op} {spec.value:g}{' ' if unit else ''}{unit}",
        measured=measured if known else None,
        unit=unit,
        held=known and _HOLDS[spec.op](measured, spec.value),  # type: ignore[arg-type]
        means=measure.means,
    )


def verdict_of(bars: Sequence[Bar], *, invalid: Sequence[str], partial: bool) -> Verdict:
    """`partial` before all: what an interrupted run shows is neither kept nor broken. Then `invalid`, then the bars."""
    if partial:
        return "partial"
    if invalid:
        return "invalid"
    return "held" if bars and all(bar.held for bar in bars) else "failed"
