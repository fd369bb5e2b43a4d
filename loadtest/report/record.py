"""The record of one run: what was asked, what was measured, and whether it counts. Pure values.

Everything a report shows comes from here, so that two runs can be set side by side long afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

__all__ = ["Bar", "Chart", "Fact", "HistogramFile", "Mark", "RunRecord", "Series", "StageReach", "Verdict"]

Verdict = Literal["held", "failed", "invalid", "partial"]
"""`invalid`: the load generator, not the system, was the limit. `partial`: the run was interrupted."""


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """One promise of the scenario and what became of it."""

    name: str
    """`last_s`: the key of the measurement."""
    bar: str
    """`<= 12 s`, as a person reads it."""
    measured: float | None
    """None: it could not be measured, and does not hold."""
    unit: str = ""
    held: bool = False
    means: str = ""
    """What the number is, in one sentence."""


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """One curve: points (seconds since the run began, value), rising in time."""

    name: str
    points: Sequence[tuple[float, float]]
    gaps: Sequence[tuple[float, float]] = ()
    """Stretches of time (from, to) in which nothing could be measured: the curve is broken there."""


class Mark(msgspec.Struct, frozen=True):
    """Something that happened: a vertical line with a label on every chart."""

    at_s: float
    label: str


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """Curves over the same time and of the same unit."""

    title: str
    unit: str
    series: Sequence[Series]
    explains: str = ""
    """What to look for, in one sentence."""
    stacked: bool = False
    since: str = ""
    """What second 0 of its curves is (`the stage was due`), if that is not when the run began: such a chart has an axis
    of its own, and what stands in it may have happened at other times of the run, or in no run at all."""


class StageReach(msgspec.Struct, frozen=True, kw_only=True):
    """Who got one broadcast, and how long after it was due."""

    state_key: str
    devices: int
    delivered_live: int
    replayed: int
    missed: int
    p50_ms: float | None = None
    p99_ms: float | None = None
    last_ms: float | None = None


class HistogramFile(msgspec.Struct, frozen=True, kw_only=True):
    """One raw histogram (HDR, base64 V2) kept beside the report."""

    name: str
    path: str
    """Relative to the report."""
    unit: str
    count: int
    p50: float
    p90: float
    p99: float
    p999: float
    max: float
    per_unit: float = 1.0
    """Recorded whole numbers per unit: 1000 when microseconds were recorded and the unit is ms."""
    curve: Sequence[tuple[float, float]] = ()
    """(percentile, value), both rising; the last is (100, max)."""


class Fact(msgspec.Struct, frozen=True):
    """One line of a table of facts."""

    label: str
    value: str


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """All of one run."""

    scenario: str
    title: str
    question: str
    """What the run was to find out: "Does the announced window flatten a reconnect storm?"."""
    answer: str
    """What it found, in a sentence or two, numbers included."""
    verdict: Verdict
    bars: Sequence[Bar]
    charts: Sequence[Chart] = ()
    marks: Sequence[Mark] = ()
    reach: Sequence[StageReach] = ()
    histograms: Sequence[HistogramFile] = ()
    facts: Mapping[str, Sequence[Fact]] = {}
    """Heading -> lines: memory by role, CPU by role, settings of the run."""
    devices: int | None = None
    """How many took part; runs of different numbers do not compare."""
    notes: Sequence[str] = ()
    """What a reader must know to judge the run: what was shared, simulated, left out."""
    envelope: Mapping[str, Any] = {}
    """`machine versions commit seed started_at wall_s valid invalid_because`, as every benchmark has it."""
