"""Goal: recovery is when every channel was live at all its devices for good, not when the first frame came again."""

from __future__ import annotations

import pytest

from loadtest.bench.faults.recovery import Announced, Phase, Receipt, arrival_counts, recovery_of, was_live

FOLLOWERS = {0: {1, 2}, 1: {2, 3}}
ROWS = [
    Announced(channel, f"t{channel}", at + channel, at + channel) for channel in (0, 1) for at in range(0, 9_000, 300)
]


def receipts(*, delay_ms: float = 10.0, dead: range = range(0), live: bool = True) -> list[Receipt]:
    return [
        Receipt(device, row.topic, row.timestamp, row.since_ms + delay_ms, live)
        for row in ROWS
        if row.since_ms not in dead
        for device in FOLLOWERS[row.channel]
    ]


def phase(at_ms: float = 3_000, until_ms: float = 9_000, bound_s: float | None = 3.0) -> Phase:
    return Phase(name="killed", at_ms=at_ms, until_ms=until_ms, bound_s=bound_s)


def test_what_nothing_happened_to_shows_the_next_broadcast() -> None:
    found = recovery_of(phase(3_050), ROWS, arrival_counts(ROWS, receipts()), FOLLOWERS)
    assert found.seconds == pytest.approx(0.261)
    assert found.slowest == 1
    assert found.held


def test_recovery_ends_when_the_last_device_had_the_first_of_an_unbroken_run() -> None:
    late = [Receipt(3, "t1", 4_501, 4_501 + 400.0, True)]
    given = [r for r in receipts(dead=range(3_000, 4_500)) if (r.device, r.timestamp) != (3, 4_501)] + late
    found = recovery_of(phase(), ROWS, arrival_counts(ROWS, given), FOLLOWERS)
    assert found.seconds == pytest.approx(1.901)
    assert found.slowest == 1


def test_one_late_broadcast_after_all_seemed_well_counts() -> None:
    given = [r if r.timestamp != 6_000 else Receipt(r.device, r.topic, r.timestamp, 7_001.0, True) for r in receipts()]
    found = recovery_of(phase(), ROWS, arrival_counts(ROWS, given), FOLLOWERS)
    assert found.seconds == pytest.approx(3.31)
    assert not found.held


def test_one_device_left_out_is_no_recovery() -> None:
    given = [r for r in receipts() if (r.device, r.topic) != (2, "t0")]
    found = recovery_of(phase(), ROWS, arrival_counts(ROWS, given), FOLLOWERS)
    assert (found.seconds, found.slowest, found.held) == (None, 0, False)


def test_replayed_frames_are_not_live() -> None:
    assert recovery_of(phase(), ROWS, arrival_counts(ROWS, receipts(live=False)), FOLLOWERS).seconds is None


def test_a_repeat_does_not_make_a_replayed_one_live_nor_count_twice() -> None:
    row = ROWS[0]
    given = [Receipt(1, row.topic, row.timestamp, 5.0, False), Receipt(1, row.topic, row.timestamp, 6.0, True)]
    assert arrival_counts([row], given)[row.topic, row.timestamp].devices == 0
    given = [Receipt(1, row.topic, row.timestamp, 5.0, True), Receipt(1, row.topic, row.timestamp, 6.0, True)]
    found = arrival_counts([row], given)[row.topic, row.timestamp]
    assert (found.devices, found.last_ms) == (1, 5.0)


def test_silence_until_the_next_step_is_no_recovery() -> None:
    found = recovery_of(phase(3_000, 4_500), ROWS, arrival_counts(ROWS, receipts(dead=range(3_000, 9_000))), FOLLOWERS)
    assert found.seconds is None


def test_what_the_next_step_may_have_hit_says_nothing_about_this_one() -> None:
    given = receipts(dead=range(5_800, 9_000))
    found = recovery_of(phase(3_000, 6_000), ROWS, arrival_counts(ROWS, given), FOLLOWERS)
    assert found.held


def test_a_phase_without_a_bound_holds_whatever_it_took() -> None:
    found = recovery_of(phase(bound_s=None), ROWS, arrival_counts(ROWS, []), FOLLOWERS)
    assert found.held
    assert found.seconds is None


def test_before_the_fault_everything_must_have_been_live() -> None:
    before = phase(0, 3_000)
    assert was_live(before, ROWS, arrival_counts(ROWS, receipts(dead=range(3_000, 9_000))), FOLLOWERS)
    assert not was_live(before, ROWS, arrival_counts(ROWS, receipts(dead=range(600, 601))), FOLLOWERS)
    assert not was_live(before, ROWS, arrival_counts(ROWS, receipts(delay_ms=1_001)), FOLLOWERS)
