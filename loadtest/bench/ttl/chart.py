"""The night as a picture: one self-contained HTML file with an SVG, which asks nobody for anything. Pure."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from loadtest.bench.ttl.simulation import HOUR_S, Night, Refreshes

__all__ = ["Panel", "draw_chart", "nice_ceiling"]

_WIDTH: Final = 1080
_LEFT, _RIGHT = 84, 28
_PANEL_HEIGHT: Final = 190
_GAP: Final = 74
_TOP: Final = 30
_BIN_S: Final = 60
_FIRST_HOUR: Final = 12
"""The clock's hour at which the night begins, for people."""
_Series = np.ndarray[Any, np.dtype[np.float64]]

_STYLE: Final = """
:root { color-scheme: light dark; --paper: #fbfaf7; --ink: #23211f; --quiet: #6f6a63; --line: #dcd7cf;
  --fixed: #c2451e; --jittered: #1f6f8b; --guard: #e9e2d3; }
@media (prefers-color-scheme: dark) { :root { --paper: #17181a; --ink: #eceae6; --quiet: #a19c94; --line: #35373b;
  --fixed: #f0794f; --jittered: #5cb8d6; --guard: #2a2a2c; } }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 36px 20px 48px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 6px; letter-spacing: -0.01em; }
p { margin: 0 0 12px; max-width: 76ch; color: var(--quiet); }
.figures { display: flex; flex-wrap: wrap; gap: 14px 56px; margin: 22px 0 26px; }
.figures div { display: flex; align-items: baseline; gap: 14px; }
.figures b { font-size: 40px; line-height: 1; font-variant-numeric: tabular-nums; letter-spacing: -0.02em; }
.figures span { max-width: 26ch; color: var(--quiet); font-size: 14px; line-height: 1.35; }
.fixed { color: var(--fixed); } .jittered { color: var(--jittered); }
svg { width: 100%; height: auto; display: block; }
svg text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: var(--quiet);
  font-variant-numeric: tabular-nums; }
svg .title { font-size: 15px; font-weight: 600; fill: var(--ink); }
svg .stage { font-size: 12px; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .axis { stroke: var(--quiet); stroke-width: 1; }
svg .guard { fill: var(--guard); }
svg .due { stroke: var(--quiet); stroke-width: 1; stroke-dasharray: 2 3; }
svg .mean { stroke: var(--ink); stroke-width: 1.2; stroke-dasharray: 6 4; }
svg .area.fixed { fill: var(--fixed); } svg .area.jittered { fill: var(--jittered); fill-opacity: 0.28; }
svg .area.jittered.solid { fill-opacity: 1; }
svg .curve { fill: none; stroke: var(--jittered); stroke-width: 1.8; stroke-linejoin: round; }
footer { margin-top: 22px; font-size: 13px; color: var(--quiet); }
"""


class Panel(NamedTuple):
    """One pair of axes."""

    title: str
    kind: str
    """`fixed` or `jittered`: its colour."""
    refreshes: Refreshes
    top: float
    """Of its scale, in refreshes per second."""
    closely: bool = False
    """Show the minute's mean beside its busiest second."""


def draw_chart(
    night: Night, *, fixed: Refreshes, jittered: Refreshes, peaks: tuple[float, float], mean: float, guard_s: int
) -> str:
    """The page. `peaks`: peak-to-mean of both; `mean`: refreshes per second over the hours with traffic."""
    whole, close = nice_ceiling(float(fixed.per_s.max())), nice_ceiling(float(jittered.per_s.max()))
    hours, minutes = divmod(round(fixed.mean_ttl_s / 60), 60)
    lives = f"{hours} h {minutes:02d} min"
    panels = (
        Panel(f"Every map lives {lives}", "fixed", fixed, whole),
        Panel(f"Lifetimes as dgs/ttl.py draws them, {lives} on average: same scale", "jittered", jittered, whole),
        Panel(f"The same, {whole / close:.0f} times enlarged", "jittered", jittered, close, closely=True),
    )
    height = _TOP + len(panels) * (_PANEL_HEIGHT + _GAP)
    svg = "\n".join(_panel(panel, number, night, mean, guard_s) for number, panel in enumerate(panels))
    surge = round(night.devices * night.surge_share)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Refreshes through a night</title><style>{_STYLE}</style></head><body><main>
<h1>A join surge echoes for the whole night, unless lifetimes differ</h1>
<p>{night.devices:,} devices prefetch an event's stage map; {surge:,} of them within minutes of a notification at
{_clock(night.surge_at_s)}. Each refreshes when its map expires. Both pictures have the same arrivals and the same mean
lifetime; only its spread differs.</p>
<div class="figures"><div><b class="fixed">{peaks[0]:.0f}&times;</b><span>the mean in the busiest second, with fixed
lifetimes</span></div><div><b class="jittered">{peaks[1]:.1f}&times;</b><span>with jittered ones, chance
included</span></div></div>
<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="Refreshes per second through the night, fixed and jittered">
{svg}
</svg>
<footer>Refreshes per second, in bins of one second; drawn is each minute's busiest, and where enlarged its mean as a
line. Dashed: the mean over the hours with traffic, {mean:,.0f} per second. Shaded: within {guard_s // 60} minutes of a
stage, where no jittered map expires.</footer>
</main></body></html>
"""


def nice_ceiling(value: float) -> float:
    """A round number at or above `value`, a third above it at most."""
    power = 10.0 ** np.floor(np.log10(max(value, 1.0)))
    return float(next(step * power for step in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= value))


def _panel(panel: Panel, number: int, night: Night, mean: float, guard_s: int) -> str:
    top = _TOP + number * (_PANEL_HEIGHT + _GAP) + 26
    floor = top + _PANEL_HEIGHT
    seconds = night.hours * HOUR_S

    def x(at_s: float) -> float:
        return _LEFT + at_s / seconds * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return floor - min(value, panel.top) / panel.top * _PANEL_HEIGHT

    parts = [f'<text class="title" x="{_LEFT}" y="{top - 26}">{html.escape(panel.title)}</text>']
    for _, at in night.stages_s if panel.kind == "jittered" and panel.closely else ():
        left, right = x(at - guard_s), x(at + guard_s)
        parts.append(
            f'<rect class="guard" x="{left:.1f}" y="{top}" width="{right - left:.1f}" height="{_PANEL_HEIGHT}"/>'
        )
    for share in (0.0, 0.5, 1.0):
        at_y = y(panel.top * share)
        kind = "axis" if share == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at_y:.1f}" y2="{at_y:.1f}"/>')
        label = f"{panel.top * share:,.0f}" + (" /s" if share == 1 else "")
        parts.append(f'<text x="{_LEFT - 10}" y="{at_y + 4:.1f}" text-anchor="end">{label}</text>')
    peaks, means = _binned(panel.refreshes.per_s)
    solid = "" if panel.closely else " solid"
    parts.append(f'<path class="area {panel.kind}{solid}" d="{_steps(peaks, x, y, floor)}"/>')
    if panel.closely:
        parts.append(f'<path class="curve" d="{_line(means, x, y)}"/>')
        parts.append(f'<line class="mean" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(mean):.1f}" y2="{y(mean):.1f}"/>')
    for key, at in _labelled(night.stages_s) if number == 0 or panel.closely else ():
        parts.append(f'<line class="due" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{top}" y2="{floor}"/>')
        anchor = "end" if key.startswith("starting") else "start"
        shift = -5 if anchor == "end" else 5
        name = html.escape(key.replace("_", " "))
        parts.append(f'<text class="stage" x="{x(at) + shift:.1f}" y="{top - 6}" text-anchor="{anchor}">{name}</text>')
    parts.extend(
        f'<text x="{x(hour * HOUR_S):.1f}" y="{floor + 19}" text-anchor="middle">{_clock(hour * HOUR_S)}</text>'
        for hour in range(0, night.hours + 1, 2)
    )
    return "\n".join(parts)


def _labelled(stages: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Stages whose names would not lie on another's: a later one within half an hour goes unnamed."""
    found: list[tuple[str, int]] = []
    for key, at in stages:
        if not found or at - found[-1][1] >= 1_800 or found[-1][0].startswith("starting"):
            found.append((key, at))
    return found


def _binned(per_s: np.ndarray[Any, Any]) -> tuple[_Series, _Series]:
    """Each minute's busiest second, and its mean."""
    minutes = per_s.reshape(-1, _BIN_S)
    return minutes.max(axis=1).astype(float), minutes.mean(axis=1)


def _steps(values: _Series, x: Any, y: Any, floor: float) -> str:
    """An area whose top is flat over each bin; bins of nothing are left out."""
    parts: list[str] = []
    open_at: int | None = None
    for index, value in enumerate([*values, 0.0]):
        if value > 0:
            if open_at is None:
                parts.append(f"M{x(index * _BIN_S):.1f} {floor:.1f}")
                open_at = index
            parts.append(f"V{y(value):.1f}H{x((index + 1) * _BIN_S):.1f}")
        elif open_at is not None:
            parts.append(f"V{floor:.1f}Z")
            open_at = None
    return "".join(parts)


def _line(values: _Series, x: Any, y: Any) -> str:
    """A line through every tenth minute's mean of ten: the shape without the grain."""
    smooth = values[: len(values) // 10 * 10].reshape(-1, 10).mean(axis=1)
    points = [f"{x((index * 10 + 5) * _BIN_S):.1f} {y(value):.1f}" for index, value in enumerate(smooth)]
    return "M" + "L".join(points)


def _clock(at_s: int) -> str:
    return f"{(_FIRST_HOUR + at_s // HOUR_S) % 24:02d}:{at_s % HOUR_S // 60:02d}"
