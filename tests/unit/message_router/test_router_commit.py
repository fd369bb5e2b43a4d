"""What may be committed: the highest contiguous finished offset."""

from __future__ import annotations

import pytest

from message_router.commit import PartitionProgress


def test_nothing_begun_nothing_new_to_commit() -> None:
    assert PartitionProgress(42).committable == 42


def test_an_unfinished_offset_holds_back_all_above_it() -> None:
    progress = PartitionProgress(0)
    works = {offset: progress.begin(offset) for offset in (3, 7, 8)}
    works[8].release()
    works[7].release()
    assert (progress.committable, progress.in_flight) == (0, 3)
    works[3].release()
    assert (progress.committable, progress.in_flight) == (9, 0)


def test_an_entry_is_finished_when_the_last_holder_lets_go() -> None:
    progress = PartitionProgress(0)
    work = progress.begin(5)
    work.hold()
    work.hold()
    for _ in range(2):
        work.release()
        assert not work.finished
    work.release()
    assert work.finished
    assert progress.committable == 6


def test_each_rise_is_announced() -> None:
    rises: list[int] = []
    progress = PartitionProgress(0, lambda: rises.append(progress.committable))
    one, two, three = (progress.begin(offset) for offset in (1, 2, 3))
    two.release()
    one.release()
    three.release()
    assert rises == [3, 4]


def test_letting_go_twice_or_going_back_is_a_broken_invariant() -> None:
    progress = PartitionProgress(10)
    work = progress.begin(10)
    work.release()
    with pytest.raises(AssertionError):
        work.release()
    with pytest.raises(AssertionError):
        work.hold()
    with pytest.raises(AssertionError):
        progress.begin(10)
