"""TopicState: accept by chain, holes, what a read of the log brings, when memory may answer (R13, R14)."""

from __future__ import annotations

import pytest

from contract.broadcast import Broadcast
from contract.replay_log import LogSnapshot
from push_proxy.topic_state import FRESH_FOR_S, HOLE_BOUND_S, MAX_HELD, TopicState

TOPIC = "event:x"


def b(timestamp: int, prev: int, key: str = "") -> Broadcast:
    return Broadcast(topic=TOPIC, state_key=key or f"s{timestamp}", timestamp=timestamp, prev=prev, event_id="x")


def read(state: TopicState, *entries: Broadcast, floor: int = 0, at_s: float = 0.0) -> tuple[Broadcast, ...]:
    return state.absorb(LogSnapshot(TOPIC, floor, entries), read=state.begin_read(), started_at_s=at_s)


@pytest.fixture
def state() -> TopicState:
    """A topic whose log was read and holds 10 and 20."""
    made = TopicState(TOPIC)
    assert read(made, b(10, 0), b(20, 10)) == (b(10, 0), b(20, 10))
    return made


def test_successor_is_accepted(state: TopicState) -> None:
    """prev = latest: sent on at once, latest and state follow."""
    assert state.accept(b(30, 20), 0.0).send == (b(30, 20),)
    assert (state.latest, state.state_key, state.fresh(0.0)) == (30, "s30", True)


def test_repeat_is_dropped_and_a_differing_one_is_an_alarm(state: TopicState) -> None:
    """At or below latest and known: nothing is sent; another payload under the same timestamp is told."""
    assert state.accept(b(20, 10), 0.0) == ((), False, False)
    assert state.accept(b(20, 10, "other"), 0.0) == ((), False, True)


def test_unknown_below_latest_is_kept_and_sent_on(state: TopicState) -> None:
    """What the node never heard of goes out even though newer is known, once."""
    assert state.accept(b(15, 10), 0.0).send == (b(15, 10),)
    assert state.accept(b(15, 10), 0.0).send == ()
    assert [e.timestamp for e in state.after(0)] == [10, 15, 20]
    assert (state.latest, state.state_key) == (20, "s20")


def test_lost_to_the_log_is_sent_once_and_not_kept() -> None:
    """Below the floor the log counts it as lost; devices below may still want it."""
    state = TopicState(TOPIC)
    read(state, b(50, 40), floor=40)
    assert state.accept(b(30, 20), 0.0).send == (b(30, 20),)
    assert state.accept(b(30, 20), 0.0).send == ()
    assert [e.timestamp for e in state.entries] == [50]


def test_hole_holds_until_the_predecessor_comes(state: TopicState) -> None:
    """Above the chain: held, the log is asked for; the missing one releases it in order."""
    assert state.accept(b(40, 30), 0.0) == ((), True, False)
    assert state.hole_open
    assert not state.fresh(0.0)
    assert state.accept(b(30, 20), 0.1).send == (b(30, 20), b(40, 30))
    assert state.fresh(0.1)
    assert state.latest == 40


def test_hole_closed_by_the_log(state: TopicState) -> None:
    """A read brings the missing one, and what was held follows it."""
    state.accept(b(40, 30), 0.0)
    assert read(state, b(10, 0), b(20, 10), b(30, 20)) == (b(30, 20), b(40, 30))
    assert not state.hole_open


def test_held_one_read_from_the_log_goes_out_once(state: TopicState) -> None:
    """The log holds the held one too: it is sent once."""
    state.accept(b(40, 30), 0.0)
    assert read(state, b(10, 0), b(20, 10), b(30, 20), b(40, 30)) == (b(30, 20), b(40, 30))
    assert not state.holding


def test_newest_truth_never_waits(state: TopicState) -> None:
    """After 500 ms the held one goes out with its own prev; the hole stays open and memory does not answer."""
    state.accept(b(40, 30), 1.0)
    assert state.release_overdue(1.0 + HOLE_BOUND_S - 0.01) == ()
    assert state.release_overdue(1.0 + HOLE_BOUND_S) == (b(40, 30),)
    assert state.latest == 40
    assert state.hole_open
    assert not state.fresh(1.0)
    assert state.confirm(40, asked_at_s=1.0), "an open hole asks for a read"
    assert read(state, b(10, 0), b(20, 10), b(30, 20), b(40, 30)) == (b(30, 20),)
    assert not state.hole_open


def test_held_are_bounded(state: TopicState) -> None:
    """One more than MAX_HELD releases all of them."""
    for number in range(MAX_HELD):
        assert state.accept(b(1000 + number, 999 + number), 0.0).send == ()
    assert len(state.accept(b(5000, 4000), 0.0).send) == MAX_HELD + 1
    assert not state.holding


def test_latest_never_falls(state: TopicState) -> None:
    """A log that lost its tail takes nothing away."""
    assert read(state) == ()
    assert (state.latest, state.state_key) == (20, "s20")
    assert read(state, floor=5) == ()
    assert [e.timestamp for e in state.entries] == [10, 20]


def test_floor_rises_and_closes_a_hole(state: TopicState) -> None:
    """When the log declares what is missing lost, nothing is missing any more."""
    state.accept(b(40, 30), 0.0)
    assert state.release_overdue(9.0) == (b(40, 30),)
    read(state, b(40, 30), floor=30)
    assert not state.hole_open
    assert state.floor == 30


def test_floor_above_everything_moves_latest(state: TopicState) -> None:
    """A floor above what is known is the newest timestamp known; the last state known stays named."""
    read(state, floor=100)
    assert (state.latest, state.floor, state.entries, state.state_key) == (100, 100, (), "s20")


def test_freshness_ends_and_returns(state: TopicState) -> None:
    """Memory answers for 3 s after a comparison; a newer tail or a store that was away ends it at once."""
    assert state.fresh(FRESH_FOR_S)
    assert not state.fresh(FRESH_FOR_S + 0.1)
    assert not state.confirm(20, asked_at_s=4.0)
    assert state.fresh(4.0)
    assert state.confirm(30, asked_at_s=4.5)
    assert not state.fresh(4.5)
    read(state, b(30, 20), at_s=4.6)
    assert state.fresh(4.6)
    state.doubt()
    assert not state.fresh(4.6)
    assert state.confirm(30, asked_at_s=5.0), "after a reconnect every topic is reread"


def test_not_fresh_before_the_first_read() -> None:
    """Nothing is certain of a topic never read, not even that it is empty."""
    state = TopicState(TOPIC)
    assert not state.fresh(0.0)
    assert state.accept(b(10, 0), 0.0).send == (b(10, 0),)
    assert not state.fresh(0.0)


def test_memory_is_bounded() -> None:
    """Too many entries: the oldest go and the floor rises to the newest that went."""
    state = TopicState(TOPIC, max_entries=3)
    read(state, *(b(n, n - 1) for n in range(1, 6)))
    assert [e.timestamp for e in state.entries] == [3, 4, 5]
    assert state.floor == 2
    state.accept(b(6, 5), 0.0)
    assert state.floor == 3


def test_a_repeat_below_a_floor_that_rose_over_it_is_not_sent_again() -> None:
    """It was known and sent before the log was trimmed: trimming makes it no news."""
    state = TopicState(TOPIC)
    for entry in (b(10, 0), b(20, 10)):
        assert state.accept(entry, 0.0).send == (entry,)
    assert read(state, b(20, 10), floor=10) == ()
    assert state.accept(b(10, 0), 0.0).send == ()
