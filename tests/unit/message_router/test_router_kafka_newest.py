"""The newest broadcast of every topic, kept so that only a first rereading goes through all that Kafka retains."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from contract.broadcast import Broadcast
from contract.log import LogEntry
from message_router.adapters.kafka_reread import NewestBroadcasts


def entry(topic: str, timestamp: int) -> LogEntry:
    return LogEntry(
        0,
        timestamp,
        broadcast=Broadcast(topic=topic, state_key="s", timestamp=timestamp, prev=0, event_id="e"),
    )


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 50))), st.integers(0, 60))
def test_it_agrees_with_all_that_was_read(said: list[tuple[str, int]], since_ms: int) -> None:
    """In whatever order, repeats included: the newest of each topic without one from `since_ms` on, ascending."""
    newest = NewestBroadcasts()
    for topic, timestamp in said:
        newest.note(entry(topic, timestamp))
    expected = {topic: max(at for name, at in said if name == topic) for topic, _ in said}
    found = [(one.broadcast.topic, one.broadcast.timestamp) for one in newest.older_than(since_ms) if one.broadcast]
    assert sorted(found) == sorted((topic, at) for topic, at in expected.items() if at < since_ms)
    assert [at for _, at in found] == sorted(at for _, at in found)


@given(st.integers(1, 30), st.integers(1, 200))
def test_it_stays_within_its_bound(bound: int, topics: int) -> None:
    """What is forgotten is what was silent for longest."""
    newest = NewestBroadcasts(bound)
    for number in range(1, topics + 1):
        newest.note(entry(f"t{number}", number))
        assert len(newest.older_than(10**6)) <= bound
    kept = [one.broadcast.timestamp for one in newest.older_than(10**6) if one.broadcast]
    assert kept == list(range(topics - len(kept) + 1, topics + 1))
    assert kept
