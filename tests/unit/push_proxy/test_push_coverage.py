"""Counting held maps: what a report says, what it repeats, and that nobody makes it grow."""

from __future__ import annotations

from contract.coverage import CoverageShare
from push_proxy.coverage import MAX_REPEATED, MAX_VERSIONS, CoverageCount, CoverageReports


def test_subscriptions_are_counted_by_the_version_they_hold() -> None:
    """No map counts as version 0; a topic everybody left is told once, as empty."""
    count = CoverageCount()
    kept = [count.joined("event:a", version) for version in (7, 7, 6, None)]
    count.joined("event:b", 1)
    assert kept == [7, 7, 6, 0]
    assert count.report() == (CoverageShare("event:a", {7: 2, 6: 1, 0: 1}), CoverageShare("event:b", {1: 1}))
    assert count.report() == ()
    for version in kept:
        count.left("event:a", version)
    assert count.report() == (CoverageShare("event:a", {}),)
    assert count.report() == ()


def test_nonsense_counts_as_no_map() -> None:
    """Versions below 1 or beyond any event's are not believed; the device counts all the same."""
    count = CoverageCount()
    assert {count.joined("event:a", version) for version in (0, -1, 2**31, 10**400)} == {0}
    assert count.report() == (CoverageShare("event:a", {0: 4}),)


def test_a_newer_map_replaces_the_older_one() -> None:
    count = CoverageCount()
    old = count.joined("event:a", 6)
    count.report()
    count.joined("event:a", 7)
    count.left("event:a", old)
    assert count.report() == (CoverageShare("event:a", {7: 1}),)


def test_a_report_repeats_some_of_the_rest_in_turn() -> None:
    """Every topic has its turn, what changed does not take one, and those nobody follows any more have none."""
    count = CoverageCount()
    for name in "abcd":
        count.joined(f"event:{name}", 1)
    assert len(count.report(repeat=2)) == 4, "everything is new"
    assert [share.topic for share in count.report(repeat=2)] == ["event:a", "event:b"]
    count.left("event:c", 1)
    assert [share.topic for share in count.report(repeat=1)] == ["event:c", "event:d"]
    assert [share.topic for share in count.report(repeat=9)] == ["event:a", "event:b", "event:d"]


def test_after_a_lost_link_everything_is_reported_again() -> None:
    count = CoverageCount()
    count.joined("event:a", 1)
    count.joined("event:b", 2)
    count.report()
    count.report_all_again()
    assert count.report() == (CoverageShare("event:a", {1: 1}), CoverageShare("event:b", {2: 1}))


def test_topics_that_come_and_go_unreported_leave_nothing() -> None:
    """A device that asks for one made-up topic after the other, while no router listens."""
    count = CoverageCount()
    for number in range(1000):
        count.left(f"event:{number}", count.joined(f"event:{number}", 3))
    assert count.report() == ()


def test_made_up_versions_do_not_displace_the_one_most_hold() -> None:
    """Beyond the bound the least held go, and never count for more than they said."""
    count = CoverageCount()
    for _ in range(5):
        count.joined("event:a", 7)
    for version in range(100, 100 + 10 * MAX_VERSIONS):
        count.joined("event:a", version)
        count.joined("event:a", 8)
    (share,) = count.report()
    assert len(share.held) <= MAX_VERSIONS
    assert sum(share.held.values()) == 5 + 20 * MAX_VERSIONS
    assert share.held[7] == 5
    assert share.held[8] >= 10 * MAX_VERSIONS


def test_reports_are_numbered_and_repeat_at_their_interval() -> None:
    """Changes go out at every call; what stands still is repeated, a bounded part at a time."""
    count = CoverageCount()
    reports = CoverageReports(count, begun_at=77, repeat_s=10.0)
    assert reports.due(0.0) is None, "nobody is here: nothing to say"
    for number in range(MAX_REPEATED + 8):
        count.joined(f"event:{number}", 1)
    first = reports.due(1.0)
    assert first is not None
    assert (first.begun_at, first.seq, len(first.shares)) == (77, 1, MAX_REPEATED + 8)
    assert reports.due(9.9) is None
    again = reports.due(10.0)
    assert again is not None
    assert (again.seq, len(again.shares)) == (2, MAX_REPEATED)
    count.joined("event:0", 1)
    changed = reports.due(11.0)
    assert changed is not None
    assert (changed.seq, changed.shares) == (3, (CoverageShare("event:0", {1: 2}),))
    rest = reports.due(20.0)
    assert rest is not None
    assert [share.topic for share in rest.shares] == [f"event:{number}" for number in range(32, 40)]
    reports.report_all_again()
    everything = reports.due(20.1)
    assert everything is not None
    assert len(everything.shares) == MAX_REPEATED + 8
