"""Goal: bins lose and invent no event, whatever the moments; a peak is at least the mean."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from loadtest.gameday.bins import counted, peak, peak_to_mean, points

moments = st.lists(st.floats(-5.0, 25.0, allow_nan=False), max_size=200).map(lambda each: np.array(sorted(each), float))
widths = st.sampled_from([0.05, 0.1, 0.25, 0.5, 1.0, 3.0])
spans = st.tuples(st.floats(0.0, 10.0), st.floats(0.01, 12.0))


@given(moments, spans, widths)
def test_every_event_of_the_span_is_in_one_bin(at_s: np.ndarray, span: tuple[float, float], width_s: float) -> None:
    begin_s, end_s = span[0], span[0] + span[1]
    found = counted(at_s, begin_s, end_s, width_s=width_s)
    assert found.sum() == np.count_nonzero((at_s >= begin_s) & (at_s < end_s))
    assert len(found) in (math.ceil(round(span[1] / width_s, 6)), math.ceil(round(span[1] / width_s, 6)) + 1, 1)
    assert peak(at_s, begin_s, end_s, width_s=width_s) == found.max()


@given(moments, spans, widths)
def test_a_peak_is_no_less_than_the_mean(at_s: np.ndarray, span: tuple[float, float], width_s: float) -> None:
    begin_s, end_s = span[0], span[0] + span[1]
    found = peak_to_mean(at_s, begin_s, end_s, width_s=width_s)
    if counted(at_s, begin_s, end_s, width_s=width_s).any():
        assert found is not None
        assert found >= 1 - 1e-9
    else:
        assert found is None


@given(moments, spans, widths, st.floats(-100, 100))
def test_a_curve_rises_in_time_and_carries_all_counts(
    at_s: np.ndarray, span: tuple[float, float], width_s: float, zero_s: float
) -> None:
    begin_s, end_s = span[0], span[0] + span[1]
    found = points(at_s, begin_s, end_s, width_s=width_s, zero_s=zero_s)
    assert [at for at, _ in found] == sorted(at for at, _ in found)
    assert sum(value for _, value in found) == counted(at_s, begin_s, end_s, width_s=width_s).sum()


def test_a_span_of_whole_bins_has_no_bin_more() -> None:
    at_s = np.array([0.05, 0.15, 0.25, 0.299])
    assert counted(at_s, 0.0, 0.3, width_s=0.1).tolist() == [1, 1, 2]
    assert counted(at_s, 0.0, 0.1 * 3, width_s=0.1).tolist() == [1, 1, 2]
