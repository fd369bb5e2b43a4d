"""Goal: whatever was measured, drawing loses no peak, axes hold every value, and no text becomes markup."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from loadtest.report.downsampling import Point, downsampled, in_pieces, stacked
from loadtest.report.markup import element, embedded_json, escaped
from loadtest.report.scales import nice_ceiling, nines, time_axis, value_axis
from loadtest.report.tracks import POINTS_MIN, Track

numbers = st.floats(-1e12, 1e12, allow_nan=False)
times = st.lists(st.floats(0, 1e6, allow_nan=False), min_size=1, max_size=90, unique=True).map(sorted)
curves = times.flatmap(
    lambda at: st.lists(numbers, min_size=len(at), max_size=len(at)).map(
        lambda values: list(zip(at, values, strict=True))
    )
)


@given(curves, st.integers(4, 40))
def test_fewer_points_keep_every_peak(points: list[Point], limit: int) -> None:
    found = downsampled(points, limit)
    assert len(found) <= limit or len(found) == len(points) <= limit
    assert set(found) <= set(points)
    assert found == sorted(found)
    assert found[0] == points[0]
    assert found[-1] == points[-1]
    assert max(value for _, value in found) == max(value for _, value in points)
    assert min(value for _, value in found) == min(value for _, value in points)


@given(curves, st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)).map(lambda pair: (min(pair), max(pair)))))
def test_pieces_are_the_curve_cut_at_gaps(points: list[Point], gaps: list[tuple[float, float]]) -> None:
    pieces = in_pieces(points, gaps)
    assert [point for piece in pieces for point in piece] == points
    assert all(pieces)
    if not gaps:
        assert len(pieces) == 1


@given(st.lists(curves, min_size=1, max_size=4))
def test_stacked_curves_end_in_their_sum(found: list[list[Point]]) -> None:
    layers = stacked(found)
    at_first_time = layers[-1][0]
    expected = sum(points[0][1] for points in found if points[0][0] == at_first_time[0])
    assert abs(at_first_time[1] - expected) <= 1e-6 * max(1.0, *(abs(points[0][1]) for points in found))
    assert all([at for at, _ in layer] == [at for at, _ in layers[0]] for layer in layers)


@given(numbers, numbers, st.sampled_from(["", "bytes", "ms", "/s"]))
def test_every_value_is_on_its_axis_and_ticks_tell_each_other_apart(one: float, other: float, unit: str) -> None:
    axis = value_axis(min(one, other), max(one, other), unit)
    slack = 1e-6 * max(abs(one), abs(other), 1e-300)
    assert axis.low <= min(one, other, 0) + slack
    assert axis.high >= max(one, other, 0) - slack
    labels = [label for _, label in axis.ticks]
    assert 2 <= len(labels) <= 8
    if max(abs(axis.low), abs(axis.high)) > 1e-6:
        assert len(set(labels)) == len(labels)


@given(st.floats(0, 1e7), st.floats(0.01, 1e7))
def test_time_axes_have_few_ticks_within_them(low: float, span: float) -> None:
    axis = time_axis(low, low + span)
    assert len(axis.ticks) <= 8
    slack = span * 1e-8
    assert all(axis.low - slack <= at <= axis.high + slack for at, _ in axis.ticks)


@given(st.floats(0, 1e12))
def test_a_ceiling_is_round_and_near(value: float) -> None:
    assert value <= nice_ceiling(value) <= max(1.0, value * 4 / 3 + 1e-9)


@given(st.floats(0, 100), st.floats(0, 100))
def test_more_percent_never_have_fewer_nines(one: float, other: float) -> None:
    assert nines(min(one, other)) <= nines(max(one, other))


class _Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.extend(attrs)


@given(st.text(max_size=60), st.text(max_size=60))
def test_text_stays_text_inside_elements_and_attributes(text: str, title: str) -> None:
    seen = _Seen()
    seen.feed(element("p", text, title=title))
    assert seen.tags == ["p"]
    assert [name for name, _ in seen.attributes] == ["title"]
    assert escaped(text).encode().decode() == escaped(text), "no half characters, which a file cannot hold"


@given(st.recursive(st.text() | st.floats(allow_nan=False) | st.none(), lambda some: st.lists(some, max_size=4)))
def test_embedded_json_is_the_same_json_and_ends_no_element(found: object) -> None:
    text = embedded_json(json.dumps(found))
    assert json.loads(text) == found
    assert not re.search(r"[<>&]", text)
    assert html.unescape(text) == text


@given(st.lists(st.none() | st.floats(0, 1e9), max_size=400), st.integers(POINTS_MIN, 64))
def test_a_track_stays_within_bounds_and_keeps_its_peak(readings: list[float | None], limit: int) -> None:
    track = Track("x", "value")
    for number, reading in enumerate(readings):
        track.add(float(number), reading)
        if len(track) >= limit:
            track.halve()
    assert len(track) <= limit
    series = track.series()
    measured = [reading for reading in readings if reading is not None]
    assert [value for _, value in series.points if value == max(measured, default=0)] or not measured
    assert [at for at, _ in series.points] == sorted(at for at, _ in series.points)
    assert bool(series.gaps) == (None in readings)
