"""What the dispatcher takes, when, and what it leaves alone."""

from __future__ import annotations

from message_producer.agenda import Agenda

NOW_S = 100.0


def agenda(*entries: tuple[int, str], entries_max: int = 8) -> Agenda:
    made = Agenda(entries_max)
    made.begin_reading()
    made.read(entries)
    return made


def test_due_events_are_taken_once_the_longest_overdue_first() -> None:
    made = agenda((30, "c"), (10, "a"), (20, "b"), (40, "a"))
    assert made.take_due(30, NOW_S, 2) == ["a", "b"]
    assert made.take_due(30, NOW_S, 2) == ["c"]
    assert made.take_due(30, NOW_S, 2) == []
    assert made.next_at(NOW_S) is None, "what is in hand is not to be waited for"


def test_nothing_is_taken_before_its_time() -> None:
    made = agenda((31, "a"))
    assert made.take_due(30, NOW_S, 9) == []
    assert made.next_at(NOW_S) == 31


def test_what_follows_is_known_without_reading_again() -> None:
    made = agenda((10, "a"))
    made.take_due(10, NOW_S, 1)
    made.done(["a"], [(50, "a")])
    assert made.next_at(NOW_S) == 50
    assert made.take_due(50, NOW_S, 1) == ["a"]


def test_beyond_the_horizon_of_a_full_page_nothing_is_added() -> None:
    """Else an entry further off would hide those between it and the last one read."""
    made = agenda((10, "a"), (20, "b"), entries_max=2)
    made.take_due(20, NOW_S, 2)
    made.done(["a", "b"], [(15, "a"), (30, "b")])
    assert made.next_at(NOW_S) == 15
    assert made.take_due(30, NOW_S, 2) == ["a"]
    assert made.runs_low


def test_a_page_that_was_not_full_is_all_there_is() -> None:
    assert not agenda((10, "a")).runs_low
    assert Agenda(8).runs_low, "nothing was read yet"


def test_a_reading_older_than_a_dispatch_does_not_bring_it_back() -> None:
    made = agenda((10, "a"), (20, "b"))
    made.begin_reading()
    made.take_due(10, NOW_S, 1)
    made.done(["a"], [(50, "a")])
    made.read([(10, "a"), (20, "b")])  # as the store was before
    assert made.take_due(100, NOW_S, 9) == ["b", "a"]
    made.begin_reading()
    made.done(["a", "b"])
    made.read([(10, "a")])
    assert made.take_due(100, NOW_S, 9) == [], "in hand when the reading began"
    made.begin_reading()
    made.read([(10, "a")])
    assert made.take_due(100, NOW_S, 9) == ["a"]


def test_what_is_held_back_waits_and_holds_nobody_up() -> None:
    made = agenda((10, "locked"), (20, "free"))
    made.hold_back("locked", NOW_S + 0.02)
    assert made.take_due(30, NOW_S, 9) == ["free"]
    assert made.released_in_s(NOW_S) is not None
    assert made.held_back(NOW_S + 1) == []
    assert made.held_back(NOW_S) == ["locked"]
    assert made.take_due(30, NOW_S + 0.02, 9) == ["locked"]
    assert made.released_in_s(NOW_S + 0.03) is None


def test_who_loses_the_lease_forgets_what_is_due_but_not_what_is_in_hand() -> None:
    made = agenda((10, "a"), (20, "b"))
    made.take_due(10, NOW_S, 1)
    made.forget()
    assert made.next_at(NOW_S) is None
    made.begin_reading()
    made.read([(10, "a"), (20, "b")])
    assert made.take_due(20, NOW_S, 9) == ["b"]


def test_what_a_reading_moves_the_horizon_past_is_not_lost() -> None:
    """Dispatched while the store is read, due again beyond the old horizon and within the new one."""
    made = agenda((10, "a"), (20, "b"), entries_max=2)
    made.begin_reading()
    assert made.take_due(10, NOW_S, 1) == ["a"]
    made.done(["a"], [(30, "a")])
    made.read([(20, "b"), (40, "c")])
    assert made.take_due(40, NOW_S, 9) == ["b", "a", "c"]
