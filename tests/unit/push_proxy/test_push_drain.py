"""A drain: who leaves when, and when it may begin."""

from __future__ import annotations

import pytest

from push_proxy.drain import drain_begins_ms, plan_drain
from push_proxy.due_times import NOTHING_DUE, DueTimes


def test_drain_is_spread_and_complete() -> None:
    """Everyone leaves once, evenly, within the time."""
    plan = plan_drain(range(1000), drain_s=5.0)
    assert [connection for part in plan for connection in part.leaving] == list(range(1000))
    assert (len(plan), plan[0].at_s) == (50, 0.0)
    assert all(part.at_s < 5.0 and len(part.leaving) == 20 for part in plan)


def test_drain_of_nobody_and_of_no_time() -> None:
    """No connections: no slices. No time: one slice."""
    assert plan_drain([], drain_s=5.0) == ()
    assert len(plan_drain([1, 2], drain_s=0.0)) == 1


def begins(due: DueTimes, now_s: int, *, guard_s: int = 30, away_s: int = 10, defer_s: int = 300) -> float:
    return (
        drain_begins_ms(now_s * 1000, due, guard_ms=guard_s * 1000, away_ms=away_s * 1000, defer_max_ms=defer_s * 1000)
        / 1000
    )


STAGE = DueTimes([1_000_000])


@pytest.mark.parametrize(
    ("now_s", "begins_s"),
    [
        (900, 900),  # over, and everyone back, long before
        (959, 959),  # 10 s away, then 30 s of guard: just
        (960, 1030),
        (999, 1030),
        (1000, 1030),
        (1029, 1030),
        (1031, 1031),
    ],
)
def test_no_drain_begins_near_a_stage(now_s: int, begins_s: float) -> None:
    """Too near before it, or after: it waits until the stage has passed and was heard of."""
    assert begins(STAGE, now_s) == pytest.approx(begins_s, abs=0.01)


def test_nothing_due_nothing_to_wait_for() -> None:
    """At once."""
    assert begins(NOTHING_DUE, 1000) == 1000


def test_stages_in_a_row_are_waited_for_together() -> None:
    """No drain squeezes in between stages that are too near to each other."""
    due = DueTimes([1_000_000, 1_060_000, 1_120_000])
    assert begins(due, 990) == pytest.approx(1150, abs=0.01)
    apart = DueTimes([1_000_000, 1_075_000])
    assert begins(apart, 990) == pytest.approx(1030, abs=0.01)


@pytest.mark.parametrize(
    ("now_s", "defer_s", "begins_s"),
    [
        (990, 20, 1010),  # the later the better: the stage is past by 10 s then
        (975, 30, 975),  # everyone is back 15 s before it; waiting 30 s would end 5 s after it
        (1005, 5, 1010),
        (990, 0, 990),
    ],
)
def test_the_wait_is_bounded(now_s: int, defer_s: int, begins_s: float) -> None:
    """Whoever stops the node does not wait for ever: then the moment farthest from the stage is taken."""
    assert begins(STAGE, now_s, defer_s=defer_s) == pytest.approx(begins_s, abs=0.01)


def test_between_two_stages_the_middle_is_farthest() -> None:
    """Both within the guard: away from 1020 to 1030, twenty seconds from either."""
    due = DueTimes([1_000_000, 1_050_000])
    assert begins(due, 1000, defer_s=40) == pytest.approx(1020, abs=0.01)
