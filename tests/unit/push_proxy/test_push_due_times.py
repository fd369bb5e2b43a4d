"""When stages are due, and the spans around them."""

from __future__ import annotations

from push_proxy.due_times import NOTHING_DUE, DueTimes, StageGuards


def test_due_times_are_sorted_once_each_and_bounded() -> None:
    """Manual stages have no time; what lies outside of the horizon is not kept."""
    assert DueTimes([30, None, 10, 30, 20]).times == (10, 20, 30)
    assert DueTimes([5, 10, 20, 30, 31], since_ms=10, until_ms=30).times == (10, 20, 30)


def test_the_next_of_a_moment() -> None:
    """A stage due now is not the next."""
    due = DueTimes([10, 20])
    assert [due.next_after(at) for at in (5, 10, 19, 20)] == [10, 20, 20, None]
    assert NOTHING_DUE.next_after(0) is None


def test_guards_merge_where_they_touch() -> None:
    """Both ends belong to a guard; the first moment after it is clear."""
    guards = DueTimes([100, 130, 300]).guards(before_ms=20, after_ms=10)
    assert guards.spans == ((80, 140), (280, 310))
    assert [guards.covers(at) for at in (79, 80, 120, 140, 141, 300, 311)] == [
        False,
        True,
        True,
        True,
        False,
        True,
        False,
    ]
    assert [guards.clear_from(at) for at in (79, 80, 140, 141, 290, 400)] == [79, 141, 141, 141, 311, 400]


def test_guards_that_never_end_are_not_kept() -> None:
    """Where something is always due nothing would ever end; a stage apart is still guarded."""
    guards = StageGuards([*range(0, 1000, 10), 5000], before_ms=10, after_ms=10, longest_ms=100)
    assert guards.spans == ((4990, 5010),)
    assert guards.clear_from(500) == 500


def test_no_guard_at_all() -> None:
    """Length 0 guards the very moment, nothing due guards nothing."""
    assert DueTimes([10]).guards(before_ms=0, after_ms=0).clear_from(10) == 11
    assert not NOTHING_DUE.guards(before_ms=60, after_ms=60).covers(0)
