"""The night as a picture: one self-contained HTML file, which asks nobody for anything. Pure."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from loadtest.bench.ttl.simulation import HOUR_S, Night, Refreshes
from loadtest.report.document import document
from loadtest.report.downsampling import Point
from loadtest.report.markup import Markup, element
from loadtest.report.plot import Frame, Layer, VerticalMark, draw_plot, line_path, steps_path
from loadtest.report.scales import Axis, nice_ceiling

__all__ = ["Panel", "draw_chart", "nice_ceiling"]

_BIN_S: Final = 60
_SMOOTH: Final = 10
"""Bins of which a curve shows the mean."""
_FIRST_HOUR: Final = 12
"""The clock's hour at which the night begins, for people."""
_COLOURS: Final = {"fixed": "s1", "jittered": "s0"}
_Series = np.ndarray[Any, np.dtype[np.float64]]


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
    surge = round(night.devices * night.surge_share)
    return document(
        "Refreshes through a night",
        element("h1", "A join surge echoes for the whole night, unless lifetimes differ"),
        element(
            "p",
            f"{night.devices:,} devices prefetch an event's stage map; {surge:,} of them within minutes of a "
            f"notification at {_clock(night.surge_at_s)}. Each refreshes when its map expires. Both pictures have the "
            "same arrivals and the same mean lifetime; only its spread differs.",
            cls="quiet",
        ),
        element(
            "div",
            _figure("fixed", f"{peaks[0]:.0f}", "the mean in the busiest second, with fixed lifetimes"),
            _figure("jittered", f"{peaks[1]:.1f}", "with jittered ones, chance included"),
            cls="figures",
        ),
        _stages(night),
        *(_panel(panel, f"p{number}", night, mean, guard_s) for number, panel in enumerate(panels)),
        element(
            "footer",
            "Refreshes per second, in bins of one second; drawn is each minute's busiest, and where enlarged its mean "
            f"as a line. Dashed: the mean over the hours with traffic, {mean:,.0f} per second. Shaded: within "
            f"{guard_s // 60} minutes of a stage, where no jittered map expires.",
        ),
    )


def _figure(kind: str, times: str, means: str) -> Markup:
    number = element("b", times, Markup("&times;"), cls=_COLOURS[kind])
    return element("div", number, element("span", means))


def _stages(night: Night) -> Markup:
    """What the numbers above the panels stand for."""
    entries = [
        element("li", element("b", mark.badge), element("time", _clock(round(mark.at))), mark.label)
        for mark in _marks(night)
    ]
    return element("ul", *entries, cls="marks")


def _marks(night: Night) -> list[VerticalMark]:
    ordered = sorted(night.stages_s, key=lambda stage: stage[1])
    return [VerticalMark(at, str(number), key.replace("_", " ")) for number, (key, at) in enumerate(ordered, 1)]


def _panel(panel: Panel, key: str, night: Night, mean: float, guard_s: int) -> Markup:
    seconds = night.hours * HOUR_S
    x = Axis(0, seconds, [(hour * HOUR_S, _clock(hour * HOUR_S)) for hour in range(0, night.hours + 1, 2)])
    y = Axis(0, panel.top, [(panel.top * share, f"{panel.top * share:,.0f}") for share in (0.0, 0.5, 1.0)])
    frame = Frame(x, y)
    peaks, means = _binned(panel.refreshes.per_s)
    colour = _COLOURS[panel.kind]
    area = steps_path([(index * _BIN_S, float(value)) for index, value in enumerate(peaks)], _BIN_S, frame)
    layers = [Layer(area, f"area light {colour}" if panel.closely else f"area {colour}")]
    if panel.closely:
        layers.append(Layer(line_path([_smooth(means)], frame), f"line {colour}"))
    busiest = int(panel.refreshes.per_s.max(initial=0))
    plot = draw_plot(
        frame,
        layers,
        title=panel.title,
        describes=f"{busiest:,} refreshes in the busiest second",
        key=key,
        marks=_marks(night),
        bands=[(at - guard_s, at + guard_s) for _, at in night.stages_s] if panel.closely else (),
        levels=[mean] if panel.closely else (),
    )
    unit = element("span", "refreshes/s", cls="unit")
    heading = element("figcaption", element("h3", panel.title, " ", unit))
    return element("figure", heading, plot, cls="plot alone")


def _binned(per_s: np.ndarray[Any, Any]) -> tuple[_Series, _Series]:
    """Each minute's busiest second, and its mean."""
    minutes = per_s.reshape(-1, _BIN_S)
    return minutes.max(axis=1).astype(float), minutes.mean(axis=1)


def _smooth(values: _Series) -> list[Point]:
    """Every tenth minute's mean of ten: the shape without the grain."""
    tens = values[: len(values) // _SMOOTH * _SMOOTH].reshape(-1, _SMOOTH).mean(axis=1)
    return [((index + 0.5) * _SMOOTH * _BIN_S, float(value)) for index, value in enumerate(tens)]


def _clock(at_s: int) -> str:
    return f"{(_FIRST_HOUR + at_s // HOUR_S) % 24:02d}:{at_s % HOUR_S // 60:02d}"
