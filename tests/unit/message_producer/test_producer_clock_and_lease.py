"""The dispatcher's clock and the rules of its lease (R3)."""

from __future__ import annotations

from contract.clock import ManualClock
from message_producer.anchored_clock import OFFSET_MAX_MS, AnchoredClock
from message_producer.lease import claim, released
from message_producer.store import LeaseRow

LENGTH = 1500
NOW = 1_700_000_000_000


def test_it_follows_the_monotonic_clock_not_a_stepped_wall_clock() -> None:
    clock = ManualClock(NOW)
    anchored = AnchoredClock(clock)
    anchored.anchor(NOW + 40, clock.monotonic_s())
    clock.advance_ms(1000)
    clock.step_ms(3_600_000)
    assert anchored.now_ms() == NOW + 1040


def test_a_reading_may_be_old_by_the_time_it_is_used() -> None:
    """The commit between reading the database's clock and anchoring takes 200 ms; the clock is not late by them."""
    clock = ManualClock(NOW)
    anchored = AnchoredClock(clock)
    reading, read_at_s = clock.now_ms(), clock.monotonic_s()
    clock.advance_ms(200)
    anchored.anchor(reading, read_at_s)
    assert anchored.now_ms() == NOW + 200
    assert anchored.offset_ms(reading, read_at_s) == 0


def test_small_offsets_are_slewed_away() -> None:
    clock = ManualClock(NOW)
    anchored = AnchoredClock(clock)
    for step in range(40):
        clock.advance_ms(400)
        truth, read_at_s = clock.now_ms() + 30, clock.monotonic_s()
        assert anchored.correct(truth, read_at_s)
        assert abs(anchored.offset_ms(truth, read_at_s)) <= max(0, 30 - 2 * (step + 1)) + 1
    assert clock.now_ms() + 29 <= anchored.now_ms() <= clock.now_ms() + 30


def test_it_never_runs_backwards_while_slewing() -> None:
    clock = ManualClock(NOW)
    anchored = AnchoredClock(clock)
    seen = [anchored.now_ms()]
    for _ in range(20):
        clock.advance_ms(400)
        anchored.correct(clock.now_ms() - 400, clock.monotonic_s())
        seen.append(anchored.now_ms())
    assert seen == sorted(set(seen))


def test_an_offset_beyond_the_bound_is_reported_either_way() -> None:
    clock = ManualClock(NOW)
    anchored = AnchoredClock(clock)
    assert anchored.correct(NOW + OFFSET_MAX_MS, 0.0)
    anchored.anchor(NOW, 0.0)
    assert not anchored.correct(NOW + OFFSET_MAX_MS + 1, 0.0)
    assert not anchored.correct(NOW - OFFSET_MAX_MS - 1, 0.0)
    assert anchored.offset_ms(NOW - 700, 0.0) == 700


def take(
    row: LeaseRow, me: str = "me", epoch: int | None = None, *, alone: bool = False
) -> tuple[LeaseRow | None, bool]:
    return claim(row, me, epoch, NOW, length_ms=LENGTH, alone=alone)


def test_a_free_or_ended_lease_is_taken_and_the_epoch_rises() -> None:
    assert take(LeaseRow()) == (LeaseRow("me", 1, NOW + LENGTH), True)
    assert take(LeaseRow("other", 7, NOW)) == (LeaseRow("me", 8, NOW + LENGTH), True)


def test_a_running_lease_is_respected() -> None:
    assert take(LeaseRow("other", 7, NOW + 1)) == (None, False)
    assert take(LeaseRow("other", 7, NOW + LENGTH)) == (None, False)


def test_a_lease_that_ends_further_off_than_its_length_is_void() -> None:
    assert take(LeaseRow("other", 7, NOW + LENGTH + 1)) == (LeaseRow("me", 8, NOW + LENGTH), True)


def test_the_holder_renews_under_the_same_epoch_even_late() -> None:
    assert take(LeaseRow("me", 7, NOW - 9000), epoch=7) == (LeaseRow("me", 7, NOW + LENGTH), True)


def test_the_holder_of_an_older_epoch_competes_like_anyone() -> None:
    assert take(LeaseRow("me", 8, NOW + 1), epoch=7) == (None, False)


def test_who_is_alone_takes_over_at_once() -> None:
    assert take(LeaseRow("dead", 7, NOW + LENGTH), alone=True) == (LeaseRow("me", 8, NOW + LENGTH), True)


def test_only_ones_own_lease_is_released() -> None:
    assert released(LeaseRow("me", 7, NOW), "me", 7) == LeaseRow("me", 7, 0)
    assert released(LeaseRow("me", 8, NOW), "me", 7) is None
    assert released(LeaseRow("other", 7, NOW), "me", 7) is None
