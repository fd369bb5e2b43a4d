"""Spans kept for a second and drawn from are the lifetimes drawn one by one."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from dgs.ttl import free_spans, jittered_ttl_ms, shared_ttl_s, spread_in

NOW = 1_700_000_000_000
TIMES = st.lists(st.integers(NOW - 10_000, NOW + 200_000), max_size=8)


def oracle(now_ms: int, mean_ms: int, spread: float, stage_times: Sequence[int], guard_ms: int) -> list[int]:
    """Every millisecond at which it may expire, by trying each: slow, and plainly right."""

    def guarded(at: int) -> bool:
        return any(stage - guard_ms <= at < stage + guard_ms for stage in stage_times)

    low, width = now_ms + round(mean_ms * (1 - spread)), max(1, round(mean_ms * 2 * spread))
    high = low + width
    while True:
        free = [at for at in range(low, high) if not guarded(at)]
        if 4 * len(free) >= width:
            return free
        while guarded(high):
            high += 1
        high += width


@given(
    mean_ms=st.integers(1, 600),
    spread=st.floats(0, 0.99),
    stages=st.lists(st.integers(NOW - 500, NOW + 3_000), max_size=6),
    guard_ms=st.integers(0, 120),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_spans_are_every_free_moment_and_a_draw_is_uniform_over_them(
    mean_ms: int, spread: float, stages: list[int], guard_ms: int, draw: float
) -> None:
    """The spans hold exactly the milliseconds the rules allow, and a draw falls on the one at its share of them."""
    spans = free_spans(now_ms=NOW, mean_ms=mean_ms, spread=spread, stage_times=stages, guard_ms=guard_ms)
    moments = oracle(NOW, mean_ms, spread, stages, guard_ms)
    assert [at for start, end in spans for at in range(start, end)] == moments
    at = spread_in(spans, draw)
    assert at == moments[min(int(draw * len(moments)), len(moments) - 1)]
    assert at - NOW == jittered_ttl_ms(
        now_ms=NOW, mean_ms=mean_ms, spread=spread, stage_times=stages, guard_ms=guard_ms, draw=draw
    )


@given(
    stages=TIMES,
    guard_ms=st.integers(0, 20_000),
    late_ms=st.integers(0, 1_000),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_spans_a_second_old_keep_off_stages_all_the_same(
    stages: list[int], guard_ms: int, late_ms: int, draw: float
) -> None:
    """The hot path draws from spans made earlier in the second: the guard holds, the lifetime is that much shorter."""
    spans = free_spans(now_ms=NOW, mean_ms=60_000, spread=0.5, stage_times=stages, guard_ms=guard_ms)
    at = spread_in(spans, draw)
    assert all(not stage - guard_ms <= at < stage + guard_ms for stage in stages)
    assert at - (NOW + late_ms) >= 30_000 - late_ms


@given(
    smallest_s=st.integers(1, 30_000),
    stages=st.lists(st.integers(-3_000_000, 40_000_000).map(lambda after: NOW + after), max_size=8),
    guard_s=st.integers(0, 2_000),
)
def test_an_answer_of_several_maps_ends_near_no_stage(smallest_s: int, stages: list[int], guard_s: int) -> None:
    """As it was if that is free; earlier while there is room before, and beyond the guard else."""
    kept_s = shared_ttl_s(now_ms=NOW, smallest_s=smallest_s, stage_times=stages, guard_s=guard_s)

    def free(at_s: int) -> bool:
        return all(abs(NOW + at_s * 1000 - stage) >= guard_s * 1000 for stage in stages)

    assert kept_s >= 1
    assert free(kept_s)
    if kept_s != smallest_s:
        assert any(abs(NOW + smallest_s * 1000 - stage) <= guard_s * 1000 for stage in stages)
    if kept_s > smallest_s:
        assert not any(free(at_s) and free(at_s + 1) and free(at_s + 2) for at_s in range(2, smallest_s - 2))
