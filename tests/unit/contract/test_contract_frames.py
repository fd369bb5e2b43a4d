"""The device protocol's frames: golden bytes, and errors that name the field and the rule."""

from __future__ import annotations

import pytest

from contract.broadcast import Broadcast
from contract.errors import MalformedFrame
from contract.frames import (
    MAX_CLIENT_FRAME_BYTES,
    AckFrame,
    AckRequest,
    BroadcastFrame,
    ContinuityFrame,
    Held,
    ScheduleFrame,
    SubscribeFrame,
    WelcomeFrame,
    broadcast_frame,
    decode_client_frame,
    decode_server_frame,
    encode_frame,
    schedule_frame,
)
from contract.schedule import PlannedStage, TopicSchedule

GOLDEN = [
    (
        SubscribeFrame({"event:tyson-paul": 1731722400123}, {"event:tyson-paul": Held(7, 12)}),
        b'{"type":"subscribe","topics":{"event:tyson-paul":1731722400123},'
        b'"held":{"event:tyson-paul":{"version":7,"revision":12}}}',
    ),
    (SubscribeFrame({"event:a": None}), b'{"type":"subscribe","topics":{"event:a":null}}'),
    (AckFrame("event:a", 5), b'{"type":"ack","topic":"event:a","timestamp":5}'),
    (
        WelcomeFrame("n1", 1, 3600.0, 25.0, 5000, 60000),
        b'{"type":"welcome","node":"n1","server_time":1,"lifetime_s":3600.0,"ping_s":25.0,'
        b'"reconnect_window_ms":5000,"refetch_window_ms":60000}',
    ),
    (
        ContinuityFrame("event:a", "complete", None, 0),
        b'{"type":"continuity","topic":"event:a","verdict":"complete","state_key":null,"latest":0}',
    ),
    (
        BroadcastFrame("event:a", "live", 9, 4, ack=AckRequest(100, 30000)),
        b'{"type":"broadcast","topic":"event:a","state_key":"live","timestamp":9,"prev":4,'
        b'"ack":{"one_in":100,"within_ms":30000}}',
    ),
    (
        BroadcastFrame("event:a", "live", 9, 4, replayed=True, skipped=(5, 6)),
        b'{"type":"broadcast","topic":"event:a","state_key":"live","timestamp":9,"prev":4,"replayed":true,'
        b'"skipped":[5,6]}',
    ),
    (
        ScheduleFrame("event:a", 13, 7, {"live": 17, "replay": None}),
        b'{"type":"schedule","topic":"event:a","revision":13,"version":7,"times":{"live":17,"replay":null}}',
    ),
]


@pytest.mark.parametrize(
    ("frame", "golden"), GOLDEN, ids=[f"{at}-{type(frame).__name__}" for at, (frame, _) in enumerate(GOLDEN)]
)
def test_frames_keep_their_bytes_on_the_wire(frame, golden):
    """A change of these bytes is a change of the protocol, so it must be made on purpose."""
    assert encode_frame(frame) == golden
    decode = decode_client_frame if isinstance(frame, SubscribeFrame | AckFrame) else decode_server_frame
    assert decode(golden) == frame


HOLDS = b'{"type":"subscribe","topics":{"event:a":1},"held":{"event:a":{"version":%b,"revision":%b}}}'


@pytest.mark.parametrize(
    ("data", "field", "said"),
    [
        (b"not json", "frame", "not JSON"),
        (b"", "frame", "not JSON"),
        (b"\xff\xfe", "frame", ""),
        (b"[]", "frame", "object"),
        (b'{"type":"subscribe","topics":{},"later":' + b"[" * 8000 + b"]" * 8000 + b"}", "frame", "nested"),
        (b"{}", "frame", "type is one of"),
        (b'{"type":"cue"}', "type", "subscribe, unsubscribe, ack, auth, hole"),
        (b'{"type":"subscribe"}', "frame", "topics"),
        (b'{"type":"subscribe","topics":{"event:a":"yesterday"}}', "topics[...]", "int | null"),
        (b'{"type":"subscribe","topics":{"event:a":1.5}}', "topics[...]", "int | null"),
        (b'{"type":"ack","topic":"event:a"}', "frame", "timestamp"),
        (HOLDS % (b"9" * 4000, b"1"), "held[...].version", "<= 9007199254740991"),
        (HOLDS % (b"1", b"9007199254740992"), "held[...].revision", "<= 9007199254740991"),
        (HOLDS % (b"-1", b"1"), "held[...].version", ">= 0"),
        (b'{"type":"subscribe","topics":{"' + b"a" * MAX_CLIENT_FRAME_BYTES + b'":null}}', "frame", "at most 16384"),
    ],
)
def test_a_bad_device_frame_names_field_and_rule(data, field, said):
    with pytest.raises(MalformedFrame) as caught:
        decode_client_frame(data)
    assert caught.value.field == field
    assert said in str(caught.value)


def test_what_a_device_holds_may_be_as_new_as_numbers_go():
    frame = decode_client_frame(HOLDS % (b"0", b"9007199254740991"))
    assert isinstance(frame, SubscribeFrame)
    assert frame.held == {"event:a": Held(0, 2**53 - 1)}


def test_devices_ignore_what_they_do_not_know():
    """A newer node may say more: unknown fields are dropped, unknown types are None, broken ones are errors."""
    assert decode_server_frame(b'{"type":"confetti","colour":"red"}') is None
    assert decode_server_frame(b'{"type":"stale","since":3}') is not None
    with pytest.raises(MalformedFrame):
        decode_server_frame(b'{"type":"broadcast","topic":"event:a","state_key":"live","timestamp":4,"prev":9}')
    with pytest.raises(MalformedFrame):
        decode_server_frame(b"}")


def test_frames_made_of_log_entries_carry_only_what_devices_may_see():
    broadcast = Broadcast(
        topic="event:a", state_key="live", timestamp=9, prev=4, event_id="a", due_at=8, dispatched_at=9
    )
    assert b"due_at" not in encode_frame(broadcast_frame(broadcast, replayed=True))
    schedule = TopicSchedule(
        topic="event:a",
        event_id="a",
        title="A",
        revision=2,
        version=1,
        starts_at=5,
        stages=(PlannedStage(key="live", order=0, due_at=5), PlannedStage(key="replay", order=1)),
    )
    assert schedule_frame(schedule).times == {"live": 5, "replay": None}
