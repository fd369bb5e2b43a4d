"""Anti-entropy: what the store confirmed once and no longer has."""

from __future__ import annotations

from message_router.tails import RecentTails, StoredTail, lost_partitions


def test_a_tail_older_than_confirmed_is_a_loss_of_its_partition() -> None:
    tails = RecentTails(10)
    tails.note("event:a", 0, 100)
    tails.note("event:b", 1, 50)
    expected = tails.expected()
    assert lost_partitions(expected, {"event:a": 100, "event:b": 60}) == set()
    assert lost_partitions(expected, {"event:a": 90, "event:b": 50}) == {0}
    assert lost_partitions(expected, {}) == {0, 1}


def test_a_repeat_of_something_old_lowers_nothing() -> None:
    tails = RecentTails(10)
    tails.note("event:a", 0, 100)
    tails.note("event:a", 0, 40)
    assert tails.expected() == {"event:a": StoredTail(0, 100)}


def test_what_is_stored_after_the_question_was_asked_is_not_missing() -> None:
    tails = RecentTails(10)
    tails.note("event:a", 0, 100)
    expected = tails.expected()
    tails.note("event:a", 0, 200)
    assert lost_partitions(expected, {"event:a": 100}) == set()


def test_the_least_recently_active_topics_are_forgotten_first() -> None:
    tails = RecentTails(2)
    for topic in ("event:a", "event:b", "event:a", "event:c"):
        tails.note(topic, 0, 1)
    assert set(tails.expected()) == {"event:a", "event:c"}


def test_a_revoked_partition_is_somebody_elses() -> None:
    tails = RecentTails(10)
    tails.note("event:a", 0, 1)
    tails.note("event:b", 1, 1)
    tails.forget_partition(0)
    assert set(tails.expected()) == {"event:b"}
