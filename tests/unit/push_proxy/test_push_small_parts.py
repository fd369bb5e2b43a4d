"""Reach tally, a followed topic's frames and answers, settings: the small pure parts."""

from __future__ import annotations

import pytest

from contract.broadcast import Broadcast
from contract.frames import AckRequest, encode_frame
from contract.replay_log import TopicLog
from contract.schedule import TopicSchedule
from push_proxy.followed import MAX_READY_ANSWERS, FollowedTopic, ReadyAnswer
from push_proxy.forms import v1_form
from push_proxy.reach_tally import ReachTally
from push_proxy.settings import PushSettings

# Reach.


def test_tally_reports_absolute_counts_that_changed() -> None:
    """Each report has what changed since the last one, as it stands."""
    tally = ReachTally("n1", "i1")
    tally.begin("t", 10, subscribers=3, now_s=0.0)
    tally.written("t", 10, 3, now_s=0.0)
    tally.begin("t", 20, subscribers=3, now_s=0.0)
    first = {count.timestamp: count for count in tally.report()}
    assert (first[10].node_id, first[10].incarnation, first[10].subscribers, first[10].written) == ("n1", "i1", 3, 3)
    assert tally.report() == ()
    tally.acked("t", 10, now_s=0.0)
    tally.replayed("t", 10, now_s=0.0)
    tally.gap_told("t", 10, now_s=0.0)
    tally.hole_told("t", 10, now_s=0.0)
    (again,) = tally.report()
    assert (again.written, again.acked, again.replayed, again.gaps, again.holes) == (3, 1, 1, 1, 1)
    tally.report_all_again()
    assert {count.timestamp for count in tally.report()} == {10, 20}


def test_tally_keeps_the_first_time_a_router_delivered_a_broadcast() -> None:
    """None until delivered over a link; later deliveries, of another router say, change and report nothing."""
    tally = ReachTally("n1", "i1")
    tally.replayed("t", 10, now_s=0.0)
    assert [count.routed_at for count in tally.report()] == [None]
    tally.routed("t", 10, at_ms=500, now_s=0.0)
    assert [(count.routed_at, count.replayed) for count in tally.report()] == [(500, 1)]
    tally.routed("t", 10, at_ms=900, now_s=0.1)
    tally.routed("t", 10, at_ms=400, now_s=0.2)  # the wall clock stepped back meanwhile
    assert tally.report() == ()
    tally.acked("t", 10, now_s=0.3)
    assert [(count.routed_at, count.acked) for count in tally.report()] == [(500, 1)]


def test_tally_does_not_time_a_broadcast_that_left_it() -> None:
    """A late redelivery of one that left must not be reported as its first: the stored time is the true one."""
    tally = ReachTally("n1", "i1", max_broadcasts=1)
    tally.routed("t", 10, at_ms=500, now_s=0.0)
    tally.routed("t", 20, at_ms=600, now_s=0.0)
    assert [(count.timestamp, count.routed_at) for count in tally.report()] == [(20, 600)]
    tally.routed("t", 10, at_ms=700, now_s=0.0)
    assert tally.report() == ()


def test_tally_is_bounded_and_never_restarts_a_count() -> None:
    """Oldest leave by number and by age; a straggler of one that left does not begin it again from zero."""
    tally = ReachTally("n1", "i1", max_broadcasts=2, max_age_s=100.0)
    for timestamp in (1, 2, 3):
        tally.written("t", timestamp, 5, now_s=0.0)
    assert len(tally) == 2
    tally.report()
    tally.acked("t", 1, now_s=0.0)
    assert tally.report() == ()
    tally.written("t", 4, 1, now_s=101.0)
    assert len(tally) == 1


# Topics.


def test_followed_topic_caches_and_takes_the_higher_revision() -> None:
    """Frames are prepared once and anew when what they say changed; an older schedule is not taken."""
    topic = FollowedTopic("t", ack=AckRequest(100, 30_000))
    entry = Broadcast(topic="t", state_key="live", timestamp=10, prev=0, event_id="x")
    assert topic.replay_frame(entry) is topic.replay_frame(entry)
    assert b'"replayed":true' in topic.replay_frame(entry).in_form(v1_form)
    assert b'"one_in":100' in topic.live_frame(entry).in_form(v1_form)
    before = topic.continuity_frame("complete")
    assert topic.continuity_frame("complete") is before
    topic.state.accept(entry, 0.0)
    assert b'"latest":10' in topic.continuity_frame("complete").in_form(v1_form)
    plan = TopicSchedule(topic="t", event_id="x", title="X", revision=3, version=1, starts_at=0)
    older = TopicSchedule(topic="t", event_id="x", title="X", revision=2, version=1, starts_at=0)
    assert topic.put_schedule(plan)
    assert not topic.put_schedule(older)
    assert topic.prepared_schedule is not None
    assert b'"revision":3' in topic.prepared_schedule.in_form(v1_form)


def _followed() -> FollowedTopic:
    """Read and fresh at time 0, with one broadcast."""
    topic = FollowedTopic("t", ack=None)
    log = TopicLog("t")
    entry = Broadcast(topic="t", state_key="live", timestamp=10, prev=0, event_id="x")
    log.append(entry)
    topic.state.absorb(log.snapshot(), read=topic.state.begin_read(), started_at_s=0.0)
    return topic


def _answer(topic: FollowedTopic) -> ReadyAnswer:
    return ReadyAnswer(b"frames", "complete", (10,), topic="t", latest=topic.state.latest, revision=topic.revision)


def test_an_answer_is_ready_for_whoever_stands_where_another_stood() -> None:
    """Same form, same cursor, same knowledge of the schedule; nobody else."""
    topic = _followed()
    answer = _answer(topic)
    assert topic.ready_answer(v1_form, 0, -1, 0.0) is None
    topic.keep_answer(v1_form, 0, -1, answer)
    assert topic.ready_answer(v1_form, 0, -1, 0.0) is answer
    assert topic.ready_answer(v1_form, 10, -1, 0.0) is None
    assert topic.ready_answer(v1_form, 0, 5, 0.0) is None
    assert topic.ready_answer(encode_frame, 0, -1, 0.0) is None


def test_an_answer_is_not_ready_when_it_might_be_another_one() -> None:
    """A new broadcast, another schedule, memory that may not answer any more: it is judged anew."""
    topic = _followed()
    topic.keep_answer(v1_form, 0, -1, _answer(topic))
    assert topic.ready_answer(v1_form, 0, -1, 60.0) is None, "not compared with the log for too long"
    topic.put_schedule(TopicSchedule(topic="t", event_id="x", title="X", revision=3, version=1, starts_at=0))
    assert topic.ready_answer(v1_form, 0, -1, 0.0) is None
    topic.keep_answer(v1_form, 0, -1, _answer(topic))
    topic.state.accept(Broadcast(topic="t", state_key="end", timestamp=20, prev=10, event_id="x"), 0.0)
    assert topic.ready_answer(v1_form, 0, -1, 0.0) is None


def test_ready_answers_are_bounded() -> None:
    """Cursors are the devices' own: no more answers are kept than a log has entries, and some."""
    topic = _followed()
    for cursor in range(3 * MAX_READY_ANSWERS):
        topic.keep_answer(v1_form, cursor, -1, _answer(topic))
    known = [cursor for cursor in range(3 * MAX_READY_ANSWERS) if topic.ready_answer(v1_form, cursor, -1, 0.0)]
    assert 0 < len(known) <= MAX_READY_ANSWERS


# Settings.


def test_settings_relations() -> None:
    """What cannot work together is refused by name."""
    with pytest.raises(ValueError, match="lifetime_max_s"):
        PushSettings(lifetime_min_s=10, lifetime_max_s=5)
    with pytest.raises(ValueError, match="pong_deadline_s"):
        PushSettings(ping_s=5, pong_deadline_s=5)
    with pytest.raises(ValueError, match="3 s"):
        PushSettings(anti_entropy_s=2, kv_timeout_s=2)
    with pytest.raises(ValueError, match="token_renew_before_s"):
        PushSettings(token_lifetime_s=300, token_renew_before_s=270)
    assert PushSettings().resolved_node_id(8402).endswith("-8402")
    assert PushSettings(node_id="n7").resolved_node_id(1) == "n7"
