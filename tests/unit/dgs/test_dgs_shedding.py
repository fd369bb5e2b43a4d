"""Waits that stand are shed by a cubic, the least important first; a burst is not; quotas count."""

from __future__ import annotations

import pytest

from dgs.priority.rules import ClassPlan
from dgs.priority.ruleset_file import RulesetFile
from dgs.priority.shedding import Lane, Quota, Thinning, priority_threshold, served_part
from dgs.serving import CLASSES

PLANS = RulesetFile().ruleset.classes


@pytest.mark.parametrize(("overload", "threshold"), [(0, 1.0), (0.35, 0.957), (0.8, 0.488), (0.95, 0.143), (1, 0.0)])
def test_the_cubic_is_the_published_one(overload: float, threshold: float) -> None:
    """The four points of its graph, and both ends."""
    assert priority_threshold(overload) == pytest.approx(threshold, abs=0.001)


def test_the_least_important_go_first_and_the_first_of_all_last() -> None:
    """At any overload a class is served no more than the one before it; bands do not overlap."""
    for step in range(101):
        parts = [served_part(PLANS[klass], step / 100) for klass in CLASSES]
        assert parts == sorted(parts, reverse=True)
        assert sum(0 < part < 1 for part in parts) <= 1
    assert [served_part(PLANS[klass], 1.0) for klass in CLASSES] == [0, 0, 0, 0]
    assert [served_part(PLANS[klass], 0.9) for klass in CLASSES] == [1, pytest.approx(0.346, abs=0.01), 0, 0]


@pytest.mark.parametrize("part", [0.0, 0.1, 1 / 6, 0.5, 0.99, 1.0])
def test_thinning_is_even(part: float) -> None:
    """Of any hundred in a row its part, give or take one: no luck, no streaks."""
    thinning = Thinning()
    taken = [thinning.take(part) for _ in range(1_000)]
    for start in range(900):
        assert abs(sum(taken[start : start + 100]) - 100 * part) <= 1.001


def test_a_quota_holds_over_any_time() -> None:
    """Asked a thousand times a second for ten: 50 a second and a burst of 5; after a pause the burst, no more."""
    quota = Quota(50, 0.0)
    assert sum(quota.take(ms / 1000) for ms in range(10_000)) == pytest.approx(505, abs=1)
    assert sum(quota.take(100.0) for _ in range(100)) == 5
    none = Quota(0, 0.0)
    assert not any(none.take(float(at_s)) for at_s in range(100))


def test_a_slow_quota_serves_all_the_same() -> None:
    """One in ten seconds is one in ten seconds, not none."""
    quota = Quota(0.1, 0.0)
    assert sum(quota.take(float(at_s)) for at_s in range(100)) == 10


def wait(lane: Lane, wait_s: float, *, from_s: float, for_s: float) -> list[bool]:
    """A request every millisecond, all having waited the same."""
    through = []
    for ms in range(round(for_s * 1000)):
        now_s = from_s + ms / 1000
        lane.note(wait_s, now_s)
        through.append(lane.lets_through(wait_s) or lane.last_resort(now_s))
    return through


def test_a_burst_is_not_shed_and_a_standing_queue_is() -> None:
    """20 ms of wait for an interval: nothing goes. For longer: a part of the class does, and again nothing after."""
    lane = Lane(PLANS["best_effort"], 0.005)
    assert all(wait(lane, 0.02, from_s=0.0, for_s=0.1))
    through = wait(lane, 0.02, from_s=0.1, for_s=1.0)
    assert lane.standing
    assert 0.1 < sum(through) / len(through) < 0.5
    wait(lane, 0.001, from_s=1.1, for_s=0.1)
    assert all(wait(lane, 0.001, from_s=1.2, for_s=0.2))
    assert not lane.standing


def test_a_long_wait_is_shed_even_of_a_burst() -> None:
    """Over an interval (100 ms) nobody is waiting for the answer any more; one a second is served all the same."""
    lane = Lane(PLANS["best_effort"], 0.005)
    assert sum(wait(lane, 0.15, from_s=0.0, for_s=0.1)) == 1


@pytest.mark.parametrize(("share", "served"), [(0.0, 0), (0.01, 10), (1.0, 10)])
def test_a_class_starves_only_if_it_is_told_to(share: float, served: int) -> None:
    """Ten seconds of the worst: one request a second, but none at all for share 0."""
    lane = Lane(ClassPlan(share=share, sheds=(0.8, 1.0)), 0.005)
    assert sum(wait(lane, 5.0, from_s=0.0, for_s=10.0)) == served


def test_share_0_gets_nothing_from_an_idle_server_either() -> None:
    """No wait at all."""
    lane = Lane(ClassPlan(share=0.0, sheds=(0.8, 1.0)), 0.005)
    assert not any(wait(lane, 0.0, from_s=0.0, for_s=2.0))
    assert lane.patience_s < 0


def test_an_empty_interval_ends_a_standing_queue() -> None:
    """Nobody came: there is no queue."""
    lane = Lane(PLANS["bulk"], 0.005)
    wait(lane, 0.05, from_s=0.0, for_s=0.3)
    assert lane.standing
    lane.turn(0.5)
    lane.turn(0.7)
    assert not lane.standing
