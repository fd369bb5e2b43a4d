"""Names, cursors, close codes, errors and the clock."""

from __future__ import annotations

import pytest

from contract import errors
from contract.broadcast import Broadcast, decode_broadcast, encode_broadcast
from contract.clock import ManualClock
from contract.close_codes import CloseCode, may_reconnect, reason
from contract.cursor import FUTURE_TOLERANCE_MS, check_cursor
from contract.errors import BroadcastSystemError, InvalidRequest, MalformedCursor
from contract.names import check_audience, check_event_id, check_stage_key, kv_log, kv_log_floor, topic_of
from contract.schedule import PlannedStage, TopicSchedule, decode_schedule, encode_schedule


def test_names_that_are_allowed():
    assert check_event_id("tyson-paul.2024_1") == "tyson-paul.2024_1"
    assert check_stage_key("starting_soon") == "starting_soon"
    assert check_audience("us-east") == "us-east"
    assert topic_of("tyson-paul") == "event:tyson-paul"
    assert topic_of("tyson-paul", "de") == "event:tyson-paul@de"


@pytest.mark.parametrize("name", ["", "A", "a b", "a" * 65, "-a", "a-", "é", "a\n", "a/b", "a@b", "{a}"])
def test_names_that_are_refused_name_field_and_rule(name):
    with pytest.raises(InvalidRequest, match="starting") as caught:
        check_event_id(name, "event_id")
    assert caught.value.field == "event_id"


def test_keys_of_a_topic_share_a_cluster_slot():
    tag = "{event:a}"
    assert tag in kv_log("event:a")
    assert tag in kv_log_floor("event:a")


def test_cursors():
    """R15: null, zero and anything up to five minutes ahead is fine; beyond is an error that says what to do."""
    assert check_cursor(None, now_ms=0, latest=0) is None
    assert check_cursor(0, now_ms=10, latest=0) == 0
    assert check_cursor(FUTURE_TOLERANCE_MS + 10, now_ms=10, latest=0) == FUTURE_TOLERANCE_MS + 10
    assert check_cursor(FUTURE_TOLERANCE_MS + 50, now_ms=10, latest=50) == FUTURE_TOLERANCE_MS + 50
    for cursor in (-1, FUTURE_TOLERANCE_MS + 51):
        with pytest.raises(MalformedCursor) as caught:
            check_cursor(cursor, now_ms=10, latest=50, field="topics.event:a")
        assert caught.value.field == "topics.event:a"


def test_close_code_ranges_say_what_a_device_does():
    for code in CloseCode:
        assert may_reconnect(code) == (not 4500 <= code < 5000)
        assert len(reason(code).encode()) <= 123, "RFC 6455, 5.5: a control frame holds 125 bytes"
        if code >= 4000:
            assert reason(code), f"{code.name} tells people nothing"
    assert may_reconnect(1006)


def test_every_error_has_its_own_code_and_says_field_and_rule():
    kinds = [getattr(errors, name) for name in errors.__all__]
    assert len({kind.code for kind in kinds}) == len(kinds)
    error = InvalidRequest("-2 is negative", field="coverage_threshold", rule="0 to 1")
    assert str(error) == "coverage_threshold: -2 is negative (0 to 1)"
    assert all(issubclass(kind, BroadcastSystemError) for kind in kinds)


def test_records_survive_the_wire():
    broadcast = Broadcast(topic="event:a", state_key="live", timestamp=9, prev=4, event_id="a", due_at=8)
    assert decode_broadcast(encode_broadcast(broadcast)) == broadcast
    schedule = TopicSchedule(
        topic="event:a",
        event_id="a",
        title="A",
        revision=2,
        version=1,
        starts_at=5,
        regions=("DE",),
        stages=(PlannedStage(key="live", order=0, due_at=5, headline="Live"),),
    )
    assert decode_schedule(encode_schedule(schedule)) == schedule


def test_a_broken_chain_is_refused_at_birth():
    with pytest.raises(AssertionError, match="broken chain"):
        Broadcast(topic="t", state_key="live", timestamp=4, prev=4, event_id="a")


def test_the_manual_clock_steps_only_the_wall():
    clock = ManualClock(1000)
    clock.advance_ms(500)
    clock.step_ms(-3_600_000)
    assert (clock.now_ms(), clock.monotonic_s()) == (1500 - 3_600_000, 0.5)
