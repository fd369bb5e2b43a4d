"""Charts and percentile curves as figures of a page: heading, legend, plot, and the same as a table. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from loadtest.report.downsampling import Point, downsampled, in_pieces, stacked
from loadtest.report.markup import Markup, element
from loadtest.report.plot import Frame, Layer, VerticalMark, area_path, curve_class, draw_plot, line_path
from loadtest.report.record import Chart, Mark
from loadtest.report.scales import (
    Axis,
    amount,
    amount_with_unit,
    nines,
    percentile_axis,
    time_axis,
    time_label,
    value_axis,
)

__all__ = [
    "Curve",
    "NamedMark",
    "chart_figure",
    "moment",
    "numbered_marks",
    "own_times",
    "percentile_figure",
    "run_times",
    "vertical_marks",
]

_POINTS_MAX: Final = 600
"""Drawn of one curve."""
_ROWS: Final = (50.0, 90.0, 99.0, 99.9, 99.99)


class Curve(NamedTuple):
    """One curve of a figure, and where the page's script finds its points: `run.chart.series`, or `run.h.histogram`."""

    name: str
    points: Sequence[Point]
    reference: str
    gaps: Sequence[tuple[float, float]] = ()
    cls: str = ""
    """Of its colour; by its place among the curves if empty."""


def run_times(charts: Sequence[Chart], marks: Sequence[Mark]) -> Axis:
    """The time axis all charts of a run share but those that begin at moments of their own."""
    times = _ends([chart for chart in charts if not chart.since])
    times.extend(mark.at_s for mark in marks)
    return time_axis(min([0.0, *times]), max([1.0, *times]))


def own_times(charts: Sequence[Chart]) -> Axis:
    """The time axis of charts that begin at a moment of their own, which is second 0 of it."""
    times = _ends(charts)
    return time_axis(min([0.0, *times]), max([0.0, *times]))


def _ends(charts: Sequence[Chart]) -> list[float]:
    curves = [each.points for chart in charts for each in chart.series if each.points]
    return [at for points in curves for at in (points[0][0], points[-1][0])]


class NamedMark(NamedTuple):
    """Something that happened in one run or in several: its number and label, and when, run by run."""

    number: int
    label: str
    at_s: Sequence[float | None]


def numbered_marks(*runs: Sequence[Mark]) -> list[NamedMark]:
    """The marks of all runs in the order of time. The n-th of a label in one run is the n-th of it in the others."""
    found: dict[tuple[str, int], list[float | None]] = {}
    for index, marks in enumerate(runs):
        seen: dict[str, int] = {}
        for mark in sorted(marks, key=lambda mark: mark.at_s):
            seen[mark.label] = nth = seen.get(mark.label, 0) + 1
            found.setdefault((mark.label, nth), [None] * len(runs))[index] = mark.at_s
    ordered = sorted(found.items(), key=lambda item: min(at for at in item[1] if at is not None))
    return [NamedMark(number, label, tuple(at)) for number, ((label, _), at) in enumerate(ordered, 1)]


def vertical_marks(marks: Sequence[NamedMark], classes: Sequence[str]) -> list[VerticalMark]:
    """One line per run a mark was in, in the order of time."""
    found = [
        VerticalMark(at, str(mark.number), f"{moment(at)}: {mark.label}", classes[index])
        for mark in marks
        for index, at in enumerate(mark.at_s)
        if at is not None
    ]
    return sorted(found, key=lambda mark: mark.at)


def moment(at_s: float) -> str:
    """To a tenth of a second in the first two minutes."""
    return time_label(at_s, 0.1 if abs(at_s) < 120 else 1.0)


def chart_figure(chart: Chart, curves: Sequence[Curve], times: Axis, marks: Sequence[VerticalMark], key: str) -> Markup:
    """One chart over time; marks are of the run, and not drawn where time is another. `key` is unique on the page."""
    curves = [curve for curve in curves if curve.points]
    names = [(curve.cls or curve_class(index), curve.name) for index, curve in enumerate(curves)]
    since = f"Counted from when {chart.since}." if chart.since else ""
    heading = _heading(chart.title, chart.unit, " ".join(part for part in (chart.explains, since) if part))
    if not curves:
        return element("figure", heading, element("p", "Nothing was measured.", cls="none"), cls="plot")
    if chart.stacked and len(curves) > 1:
        frame, layers = _stacked_layers(curves, chart.unit, times, [cls for cls, _ in names])
    else:
        frame, layers = _line_layers(curves, chart.unit, times, [cls for cls, _ in names])
    describes = "; ".join(_in_words(curve, chart.unit) for curve in curves)
    plot = draw_plot(frame, layers, title=chart.title, describes=describes, key=key, marks=() if chart.since else marks)
    return element(
        "figure", heading, _legend(names), plot, _time_table(chart, curves, times),
        cls="plot", data_curves=" ".join(curve.reference for curve in curves), data_unit=chart.unit, data_x="time",
        data_low=f"{times.low:.6g}", data_high=f"{times.high:.6g}", tabindex="0",
    )  # fmt: skip


def percentile_figure(title: str, unit: str, count: int, curves: Sequence[Curve], key: str) -> Markup:
    """Values over percentiles, spread by the number of nines. Points are (percentile, value)."""
    curves = [curve for curve in curves if curve.points]
    heading = _heading(title, unit, f"{count:,} values" if count else "")
    if not curves:
        return element("figure", heading, element("p", "Nothing was recorded.", cls="none"), cls="plot")
    x = percentile_axis(count)
    frame = Frame(x, value_axis(0.0, max(curve.points[-1][1] for curve in curves), unit))
    names = [(curve.cls or curve_class(index), curve.name) for index, curve in enumerate(curves)]
    layers = [
        Layer(line_path([[(nines(at, end=x.high), value) for at, value in curve.points]], frame), f"line {cls}")
        for curve, (cls, _) in zip(curves, names, strict=True)
    ]
    told = "; ".join(
        f"{curve.name}: " + ", ".join(f"{at:g} % within {amount_with_unit(_at(curve, at), unit)}" for at in (50, 99))
        for curve in curves
    )
    plot = draw_plot(frame, layers, title=title, describes=told, key=key)
    rows = [
        (f"{at:g} %", *(amount(_at(curve, at), unit) for curve in curves))
        for at in (*(row for row in _ROWS if nines(row) < x.high), 100.0)
    ]
    table = _table(("percentile", *(_with_unit(curve.name, unit) for curve in curves)), rows)
    return element(
        "figure", heading, _legend(names) if len(curves) > 1 else "", plot, _as_table(table),
        cls="plot", data_curves=" ".join(curve.reference for curve in curves), data_unit=unit, data_x="percentile",
        data_low="0", data_high=f"{x.high:.6g}", tabindex="0",
    )  # fmt: skip


def _line_layers(
    curves: Sequence[Curve], unit: str, times: Axis, classes: Sequence[str]
) -> tuple[Frame, Sequence[Layer]]:
    values = [value for curve in curves for _, value in curve.points]
    frame = Frame(times, value_axis(min(values), max(values), unit))
    layers: list[Layer] = []
    for curve, cls in zip(curves, classes, strict=True):
        pieces = in_pieces(downsampled(curve.points, _POINTS_MAX), curve.gaps)
        if len(curves) == 1 and min(values) >= 0:
            layers.extend(Layer(area_path(piece, _floor(piece), frame), f"wash {cls}") for piece in pieces)
        layers.append(Layer(line_path(pieces, frame), f"line {cls}"))
    return frame, layers


def _stacked_layers(
    curves: Sequence[Curve], unit: str, times: Axis, classes: Sequence[str]
) -> tuple[Frame, Sequence[Layer]]:
    """Areas upon each other, the first at the bottom."""
    sums = stacked([curve.points for curve in curves])
    frame = Frame(times, value_axis(0.0, max(value for _, value in sums[-1]), unit))
    drawn = [downsampled(layer, _POINTS_MAX) for layer in sums]
    floors = [_floor(drawn[0]), *drawn]
    areas = [
        Layer(area_path(upper, lower, frame), f"area {cls}")
        for (lower, upper), cls in zip(pairwise(floors), classes, strict=True)
    ]
    return frame, areas


def _floor(points: Sequence[Point]) -> list[Point]:
    return [(points[0][0], 0.0), (points[-1][0], 0.0)]


def _heading(title: str, unit: str, explains: str) -> Markup:
    named = element("span", unit, cls="unit") if unit and unit not in ("bytes", "B") else ""
    what = element("p", explains) if explains else ""
    return element("figcaption", element("h3", title, " ", named), what)


def _legend(names: Sequence[tuple[str, str]]) -> Markup:
    entries = [element("li", element("i", cls=cls), element("span", name), element("output")) for cls, name in names]
    return element("ul", *entries, cls="legend")


def _time_table(chart: Chart, curves: Sequence[Curve], times: Axis) -> Markup:
    """Least, mean, greatest and when, and the values at the axis' ticks."""
    ticks = [at for at, _ in times.ticks]
    rows = [
        (
            curve.name,
            *(amount(value, chart.unit) for value in (_least(curve), _mean(curve), _greatest(curve)[1])),
            moment(_greatest(curve)[0]),
            *(_nearby(curve, at, chart.unit, min(1.0, (times.high - times.low) / 20)) for at in ticks),
        )
        for curve in curves
    ]
    columns = ("", "least", "mean", "greatest", "when", *(f"at {label}" for _, label in times.ticks))
    return _as_table(_table(columns, rows))


def _as_table(table: Markup) -> Markup:
    return element("details", element("summary", "As a table"), element("div", table, cls="wide"))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    head = element("tr", *(element("th", column, scope="col") for column in columns))
    body = [
        element("tr", element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:])) for row in rows
    ]
    return element("table", element("thead", head), element("tbody", *body))


def _with_unit(name: str, unit: str) -> str:
    return f"{name} ({unit})" if unit else name


def _in_words(curve: Curve, unit: str) -> str:
    at, value = _greatest(curve)
    return f"{curve.name}: at most {amount_with_unit(value, unit)} at {moment(at)}"


def _greatest(curve: Curve) -> Point:
    return max(curve.points, key=lambda point: point[1])


def _least(curve: Curve) -> float:
    return min(value for _, value in curve.points)


def _mean(curve: Curve) -> float:
    """Over points; those of a sampler are evenly spread in time."""
    return sum(value for _, value in curve.points) / len(curve.points)


def _nearby(curve: Curve, at_s: float, unit: str, slack_s: float) -> str:
    """The point nearest in time; a dash outside the curve."""
    if not curve.points[0][0] - slack_s <= at_s <= curve.points[-1][0] + slack_s:
        return "-"
    return amount(min(curve.points, key=lambda point: abs(point[0] - at_s))[1], unit)


def _at(curve: Curve, percent: float) -> float:
    """The value at a percentile: of the last point at or below it, the greatest at 100."""
    return [value for at, value in curve.points if at <= percent][-1]
