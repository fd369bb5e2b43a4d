"""One link's window: batches, acknowledgements, when a node is behind, and what that lets go."""

from __future__ import annotations

import pytest

from contract.broadcast import Broadcast
from contract.schedule import TopicSchedule
from message_router.commit import PartitionProgress
from message_router.delivery import DeliveryWindow


def broadcast(at: int, topic: str = "event:a") -> Broadcast:
    return Broadcast(topic=topic, state_key="live", timestamp=at, prev=0, event_id="a")


def schedule(revision: int, topic: str = "event:a") -> TopicSchedule:
    return TopicSchedule(topic=topic, event_id="a", title="A", revision=revision, version=1, starts_at=1)


@pytest.fixture
def window() -> DeliveryWindow:
    return DeliveryWindow(max_unacked=2, max_pending=3, deadline_s=0.5)


@pytest.fixture
def progress() -> PartitionProgress:
    return PartitionProgress(0)


def offer(window: DeliveryWindow, progress: PartitionProgress, at: int, now_s: float = 0.0) -> None:
    """Offer one entry of the log whose only remaining task is this delivery."""
    work = progress.begin(at)
    window.offer_broadcast(broadcast(at), (work,), now_s)
    work.release()


def test_what_waits_goes_out_in_order_in_one_numbered_batch(
    window: DeliveryWindow, progress: PartitionProgress
) -> None:
    for at in (1, 2):
        offer(window, progress, at)
    window.offer_schedule(schedule(4, "event:b"), (), 0.0)
    batch = window.next_batch(10)
    assert batch is not None
    assert (batch.seq, [one.timestamp for one in batch.broadcasts]) == (1, [1, 2])
    assert [one.topic for one in batch.schedules] == ["event:b"]
    assert window.next_batch(10) is None


def test_a_batch_is_bounded(window: DeliveryWindow, progress: PartitionProgress) -> None:
    for at in (1, 2, 3):
        offer(window, progress, at)
    first, second = window.next_batch(2), window.next_batch(2)
    assert first is not None
    assert second is not None
    assert [len(first.broadcasts), len(second.broadcasts)] == [2, 1]
    assert (first.seq, second.seq) == (1, 2)


def test_an_entry_is_finished_by_its_acknowledgement(window: DeliveryWindow, progress: PartitionProgress) -> None:
    offer(window, progress, 1)
    window.next_batch(10)
    assert progress.committable == 0
    assert window.acked(1)
    assert progress.committable == 2
    assert window.idle


def test_an_acknowledgement_of_nothing_is_told(window: DeliveryWindow, progress: PartitionProgress) -> None:
    offer(window, progress, 1)
    window.next_batch(10)
    assert not window.acked(2)
    assert window.acked(1)
    assert not window.acked(1)


def test_one_missed_deadline_makes_the_node_behind_and_frees_what_waited_for_it(
    window: DeliveryWindow, progress: PartitionProgress
) -> None:
    offer(window, progress, 1, now_s=10.0)
    window.next_batch(10)
    offer(window, progress, 2, now_s=10.3)  # not even sent yet
    assert window.next_deadline_s() == 10.5
    assert not window.expire(10.49)
    assert window.expire(10.5)
    assert window.behind
    assert progress.committable == 3
    assert not window.expire(99.0), "it becomes behind once"


def test_a_node_behind_is_sent_to_but_not_awaited(window: DeliveryWindow, progress: PartitionProgress) -> None:
    offer(window, progress, 1)
    window.next_batch(10)
    window.expire(1.0)
    offer(window, progress, 2, now_s=1.0)
    assert progress.committable == 3
    batch = window.next_batch(10)
    assert batch is not None
    assert batch.broadcasts[0].timestamp == 2
    assert window.next_deadline_s() is None


def test_it_is_awaited_again_once_it_acknowledged_everything_sent(
    window: DeliveryWindow, progress: PartitionProgress
) -> None:
    offer(window, progress, 1)
    window.next_batch(10)
    window.expire(1.0)
    offer(window, progress, 2)
    window.next_batch(10)
    window.acked(1)
    assert window.behind, "batch 2 is still out"
    window.acked(2)
    assert not window.behind
    offer(window, progress, 3)
    assert progress.committable == 3, "awaited again"


def test_caught_up_only_when_nothing_waits_to_be_sent_either(
    window: DeliveryWindow, progress: PartitionProgress
) -> None:
    offer(window, progress, 1)
    window.next_batch(10)
    window.expire(1.0)
    offer(window, progress, 2)
    window.acked(1)
    assert window.behind


def test_batches_out_are_bounded_and_room_is_made_by_acknowledgements(
    window: DeliveryWindow, progress: PartitionProgress
) -> None:
    for at in (1, 2):
        offer(window, progress, at)
        assert window.next_batch(10) is not None
    for at in (3, 4, 5):
        offer(window, progress, at)
    assert window.next_batch(10) is None
    assert not window.overflowing
    window.acked(1)
    batch = window.next_batch(10)
    assert batch is not None
    assert len(batch.broadcasts) == 3


def test_too_many_waiting_overflow(window: DeliveryWindow, progress: PartitionProgress) -> None:
    for at in range(1, 5):
        offer(window, progress, at)
    assert window.overflowing


def test_of_two_schedules_of_a_topic_the_higher_revision_goes_out_once(
    window: DeliveryWindow, progress: PartitionProgress
) -> None:
    works = [progress.begin(offset) for offset in (1, 2, 3)]
    for revision, work in zip((4, 6, 5), works, strict=True):
        window.offer_schedule(schedule(revision), (work,), 0.0)
        work.release()
    batch = window.next_batch(10)
    assert batch is not None
    assert [one.revision for one in batch.schedules] == [6]
    window.acked(1)
    assert progress.committable == 4, "all three are finished by the one that went out"


def test_closing_lets_everything_go_and_is_idempotent(window: DeliveryWindow, progress: PartitionProgress) -> None:
    offer(window, progress, 1)
    window.next_batch(10)
    offer(window, progress, 2)
    window.close()
    window.close()
    assert progress.committable == 3
    assert window.idle
    assert not window.acked(1)
