"""One pair of axes as HTML with an SVG inside. Pure.

The curves are drawn in a square of a thousand units that is stretched to whatever width there is; everything written
stands around it as HTML, so that letters keep their size on a telephone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from loadtest.report.downsampling import Point
from loadtest.report.markup import Markup, element, joined
from loadtest.report.scales import Axis

__all__ = [
    "SIDE",
    "Frame",
    "Layer",
    "VerticalMark",
    "area_path",
    "clustered",
    "curve_class",
    "draw_plot",
    "line_path",
    "steps_path",
]

SIDE: Final = 1000
_COLOURS: Final = 8
_MARK_DISTANCE: Final = 0.045
_GROUP_DISTANCE: Final = 0.07
"""Shares of the width below which a mark shares the badge of the one before, or of those before: `3-4` is wider."""

At = Callable[[float], float]


class Layer(NamedTuple):
    """One path of a plot."""

    path: str
    cls: str
    """`line` or `area`, and the class of its colour."""


class VerticalMark(NamedTuple):
    """A line from top to bottom with a badge above it."""

    at: float
    badge: str
    label: str
    cls: str = ""
    """Of its colour."""


class Frame(NamedTuple):
    """Both axes, and where a value lies in the square."""

    x: Axis
    y: Axis

    def at_x(self, value: float) -> float:
        return self.x.share(value) * SIDE

    def at_y(self, value: float) -> float:
        return (1 - self.y.share(value)) * SIDE


def curve_class(index: int, *, dashed: bool = False) -> str:
    """The class of the n-th curve's colour; dashed once all colours are used, or if asked for."""
    return f"s{index % _COLOURS}" + (" dashed" if dashed or index >= _COLOURS else "")


def line_path(pieces: Iterable[Sequence[Point]], frame: Frame) -> str:
    """Lines through the points of each piece; one point alone is a short dash."""
    parts: list[str] = []
    for piece in pieces:
        spots = [f"{frame.at_x(at):.1f} {frame.at_y(value):.1f}" for at, value in piece]
        parts.append("M" + "L".join(spots) + ("h2" if len(spots) == 1 else ""))
    return "".join(parts)


def area_path(upper: Sequence[Point], lower: Sequence[Point], frame: Frame) -> str:
    """The area between two curves; empty when there is nothing."""
    outline = [*upper, *reversed(lower)]
    if not outline:
        return ""
    return "M" + "L".join(f"{frame.at_x(at):.1f} {frame.at_y(value):.1f}" for at, value in outline) + "Z"


def steps_path(bins: Iterable[Point], width: float, frame: Frame) -> str:
    """The area under bins of `width` that lie side by side, flat over each; bins of nothing are left out."""
    floor = frame.at_y(0.0)
    parts: list[str] = []
    open_until: float | None = None
    for at, value in bins:
        if value > 0:
            if open_until is None:
                parts.append(f"M{frame.at_x(at):.1f} {floor:.1f}")
            open_until = at + width
            parts.append(f"V{frame.at_y(value):.1f}H{frame.at_x(open_until):.1f}")
        elif open_until is not None:
            parts.append(f"V{floor:.1f}Z")
            open_until = None
    if open_until is not None:
        parts.append(f"V{floor:.1f}Z")
    return "".join(parts)


def clustered(marks: Sequence[VerticalMark], axis: Axis) -> list[tuple[float, Sequence[VerticalMark]]]:
    """Marks (rising) whose badges would lie on one another, together: (share of the width, marks). Those outside the
    axis are left out."""
    groups: list[tuple[float, list[VerticalMark]]] = []
    for mark in marks:
        if not axis.low <= mark.at <= axis.high:
            continue
        share = axis.share(mark.at)
        if groups and share - groups[-1][0] < (_MARK_DISTANCE if len(groups[-1][1]) == 1 else _GROUP_DISTANCE):
            groups[-1][1].append(mark)
        else:
            groups.append((share, [mark]))
    return [(share, tuple(group)) for share, group in groups]


def draw_plot(
    frame: Frame,
    layers: Sequence[Layer],
    *,
    title: str,
    describes: str,
    key: str,
    marks: Sequence[VerticalMark] = (),
    bands: Sequence[tuple[float, float]] = (),
    levels: Sequence[float] = (),
) -> Markup:
    """The field with its axes. `key` is unique on the page; `describes` tells in words what is drawn; `bands` are
    shaded stretches of the x axis, `levels` dashed lines across."""
    lines = [
        *(_rect("band", frame.at_x(start), frame.at_x(end)) for start, end in bands),
        *(_line("axis" if at == 0 else "grid", 0, SIDE, frame.at_y(at), frame.at_y(at)) for at, _ in frame.y.ticks),
        *(element("path", cls=layer.cls, d=layer.path) for layer in layers if layer.path),
        # Upon the areas, which would hide them.
        *(
            _line(f"mark {mark.cls}".strip(), frame.at_x(mark.at), frame.at_x(mark.at), 0, SIDE)
            for mark in marks
            if frame.x.low <= mark.at <= frame.x.high
        ),
        *(_line("level", 0, SIDE, frame.at_y(at), frame.at_y(at)) for at in levels),
    ]
    drawing = element(
        "svg", element("title", title, id=f"{key}-t"), element("desc", describes, id=f"{key}-d"), *lines,
        viewBox=f"0 0 {SIDE} {SIDE}", preserveAspectRatio="none", role="img", aria_labelledby=f"{key}-t {key}-d",
    )  # fmt: skip
    return element("div", drawing, _labels(frame), _badges(marks, frame.x), cls="field")


def _labels(frame: Frame) -> Markup:
    """Every other label of the x axis gives way on a narrow screen."""
    many = len(frame.x.ticks) > 4
    x = [
        element("span", label, cls="x odd" if many and index % 2 else "x", style=f"left:{frame.x.share(at):.2%}")
        for index, (at, label) in enumerate(frame.x.ticks)
    ]
    y = [element("span", label, cls="y", style=f"bottom:{frame.y.share(at):.2%}") for at, label in frame.y.ticks]
    return element("div", *y, *x, cls="labels", aria_hidden="true")


def _badges(marks: Sequence[VerticalMark], axis: Axis) -> Markup:
    found = []
    for share, group in clustered(marks, axis):
        badges = list(dict.fromkeys(mark.badge for mark in group))
        badge = badges[0] if len(badges) == 1 else f"{badges[0]}-{badges[-1]}"
        told = "; ".join(mark.label for mark in group)
        found.append(element("span", badge, cls="badge", style=f"left:{share:.2%}", title=told))
    return joined(found)


def _line(cls: str, x1: float, x2: float, y1: float, y2: float) -> Markup:
    return element("line", cls=cls, x1=f"{x1:.1f}", x2=f"{x2:.1f}", y1=f"{y1:.1f}", y2=f"{y2:.1f}")


def _rect(cls: str, left: float, right: float) -> Markup:
    return element("rect", cls=cls, x=f"{left:.1f}", y="0", width=f"{right - left:.1f}", height=SIDE)
