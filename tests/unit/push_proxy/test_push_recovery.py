"""Subscriptions: verdicts, what is replayed, and what a `pending` device is owed (R15, R16)."""

from __future__ import annotations

import pytest

from contract.broadcast import Broadcast
from contract.replay_log import LogSnapshot
from push_proxy.recovery import Answer, Phase, Subscription, Waiting, judge
from push_proxy.topic_state import TopicState
from tests.support.fake_port import FakePort

TOPIC = "event:x"


def b(timestamp: int, prev: int) -> Broadcast:
    return Broadcast(topic=TOPIC, state_key=f"s{timestamp}", timestamp=timestamp, prev=prev, event_id="x")


def read(state: TopicState, *entries: Broadcast, floor: int = 0) -> None:
    state.absorb(LogSnapshot(TOPIC, floor, entries), read=state.begin_read(), started_at_s=0.0)


def known(*entries: Broadcast, floor: int = 0) -> TopicState:
    state = TopicState(TOPIC)
    read(state, *entries, floor=floor)
    return state


def subscribe(state: TopicState, cursor: int | None, *, deadline_s: float = 0.5) -> Subscription:
    return Subscription(FakePort(), TOPIC, waiting=Waiting(cursor, deadline_s, state.reads_begun))


@pytest.mark.parametrize(
    ("cursor", "verdict"),
    [(None, "complete"), (0, "gap"), (9, "gap"), (10, "complete"), (15, "complete"), (30, "complete"), (31, "ahead")],
)
def test_judge(cursor: int | None, verdict: str) -> None:
    """Floor 10, latest 30: below the floor is a gap, the floor itself is complete, above latest is ahead."""
    assert judge(cursor, floor=10, latest=30) == verdict


def test_zero_is_an_ordinary_cursor() -> None:
    """0 lies before the first broadcast: everything is replayed."""
    state = known(b(10, 0), b(20, 10))
    assert subscribe(state, 0).answer(state, 0.0) == Answer("complete", (b(10, 0), b(20, 10)))


def test_null_gets_the_current_state_only() -> None:
    """Never subscribed: complete, nothing replayed."""
    state = known(b(10, 0), b(20, 10))
    assert subscribe(state, None).answer(state, 0.0) == Answer("complete", ())


def test_gap_replays_nothing() -> None:
    """Below the floor the state key is the repair."""
    state = known(b(30, 20), floor=20)
    assert subscribe(state, 10).answer(state, 0.0) == Answer("gap", ())


def test_answered_once() -> None:
    """A settled subscription owes nothing more."""
    state = known(b(10, 0))
    subscription = subscribe(state, 0)
    assert subscription.answer(state, 0.0) is not None
    assert subscription.phase is Phase.LIVE
    assert subscription.answer(state, 0.0) is None


def test_ahead_only_after_a_read_begun_later() -> None:
    """The device knows more than we do: the log is read once to be sure, by a read begun after it said so."""
    state = known(b(10, 0))
    number = state.begin_read()
    subscription = subscribe(state, 30)
    assert subscription.needs_read(state)
    state.absorb(LogSnapshot(TOPIC, 0, (b(10, 0),)), read=number, started_at_s=0.0)
    assert subscription.answer(state, 0.0) is None, "that read began before the device spoke"
    read(state, b(10, 0))
    assert subscription.answer(state, 0.0) == Answer("ahead", ())


def test_ahead_turns_complete_when_the_log_knows_more() -> None:
    """The read brings what the device had: it is complete after all."""
    state = known(b(10, 0))
    subscription = subscribe(state, 20)
    read(state, b(10, 0), b(20, 10), b(30, 20))
    assert subscription.answer(state, 0.0) == Answer("complete", (b(30, 20),))


def test_live_is_held_back_while_waiting() -> None:
    """Until it is answered nothing flows; the answer contains what came meanwhile, in order, once."""
    state = TopicState(TOPIC)
    subscription = subscribe(state, 0)
    state.accept(b(30, 20), 0.0)
    assert not subscription.flow(30)
    read(state, b(10, 0), b(20, 10))
    assert subscription.answer(state, 0.0) == Answer("complete", (b(10, 0), b(20, 10), b(30, 20)))
    assert subscription.flow(40)


def test_pending_then_the_verdict() -> None:
    """At the deadline: pending with what is known; live flows; later the verdict and the rest, nothing twice."""
    state = TopicState(TOPIC)
    state.accept(b(10, 0), 0.0)
    subscription = subscribe(state, 0)
    assert subscription.answer(state, 0.4) is None
    assert subscription.answer(state, 0.5) == Answer("pending", (b(10, 0),))
    assert subscription.flow(40)
    assert not subscription.flow(40), "not twice"
    state.accept(b(40, 30), 0.6)
    state.release_overdue(9.0)
    read(state, b(10, 0), b(20, 10), b(30, 20), b(40, 30))
    assert subscription.answer(state, 0.0) == Answer("complete", (b(20, 10), b(30, 20)))
    assert subscription.waiting is None


def test_pending_null_gets_the_newest_only_and_then_the_chain() -> None:
    """A device at null is sent the newest known; from then on it is owed everything after that."""
    state = TopicState(TOPIC)
    state.accept(b(10, 0), 0.0)
    state.accept(b(20, 10), 0.0)
    subscription = subscribe(state, None)
    assert subscription.answer(state, 0.5) == Answer("pending", (b(20, 10),))
    read(state, b(10, 0), b(20, 10), b(30, 20))
    assert subscription.answer(state, 0.0) == Answer("complete", (b(30, 20),))


def test_pending_is_told_news_before_its_verdict() -> None:
    """While the verdict is owed, what a read brings goes out without one."""
    state = TopicState(TOPIC)
    subscription = subscribe(state, 0)
    assert subscription.answer(state, 0.5) == Answer("pending", ())
    state.accept(b(90, 80), 0.0)  # keeps a hole open
    read(state, b(10, 0))
    assert subscription.answer(state, 0.5) == Answer(None, (b(10, 0),))
    assert subscription.answer(state, 0.5) is None


def test_give_up_does_not_wait() -> None:
    """With the store known to be down there is nothing to wait for."""
    state = TopicState(TOPIC)
    assert subscribe(state, 0).answer(state, 0.0, give_up=True) == Answer("pending", ())


def test_ended_subscription_is_silent() -> None:
    """After unsubscribe or a repeat nothing reaches it, not even a fan-out under way."""
    state = known(b(10, 0))
    subscription = subscribe(state, 0)
    subscription.end()
    assert subscription.answer(state, 0.0) is None
    assert not subscription.flow(20)
