"""Server-sent events: requests judged, frames written as events, and which of them move a stream's cursor."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from contract.cursor import Cursor
from contract.errors import InvalidRequest, MalformedCursor
from contract.frames import (
    AckRequest,
    BroadcastFrame,
    ContinuityFrame,
    ErrorFrame,
    GoawayFrame,
    Held,
    ScheduleFrame,
    ServerFrame,
    StaleFrame,
    TokenFrame,
    Verdict,
    WelcomeFrame,
    WindowFrame,
)
from push_proxy.sse import (
    HEARTBEAT,
    MIN_RETRY_MS,
    EventsRequest,
    EventStream,
    NotAcceptable,
    preflight_headers,
    read_events_request,
    refusal_events,
    response_head,
    retry_ms,
    sse_form,
)

T = "event:fight"
WELCOME = WelcomeFrame("n1", 1, 3600.0, 30.0, 10_000, 60_000)


class Headers(dict[str, Sequence[str]]):
    def get_all(self, key: str, /) -> Sequence[str]:
        return self.get(key, ())


def ask(query: str, **headers: str | Sequence[str]) -> EventsRequest:
    named = {name.replace("_", "-"): (value,) if isinstance(value, str) else value for name, value in headers.items()}
    return read_events_request(query, Headers(named))


def broadcast(timestamp: int, prev: int = 0) -> BroadcastFrame:
    return BroadcastFrame(T, f"s{timestamp}", timestamp, prev)


def continuity(verdict: Verdict, latest: int) -> ContinuityFrame:
    return ContinuityFrame(T, verdict, f"s{latest}" if latest else None, latest)


# Requests.


@pytest.mark.parametrize(
    ("query", "headers", "cursor"),
    [
        ("topic=event:fight", {}, None),
        ("topic=event%3Afight&access_token=x.y.z&other=1", {}, None),
        ("topic=event:fight", {"Last_Event_ID": "1731722400123"}, 1731722400123),
        ("topic=event:fight", {"Last_Event_ID": "0"}, 0),
        ("topic=event:fight", {"Last_Event_ID": "null"}, None),
        ("topic=event:fight", {"Last_Event_ID": " "}, None),
        ("topic=event:fight&cursor=20", {}, 20),
        ("topic=event:fight&cursor=", {}, None),
        ("topic=event:fight&cursor=20&lastEventId=30", {}, 30),
        ("topic=event:fight&cursor=20&lastEventId=30", {"Last_Event_ID": "40"}, 40),
        ("topic=event:fight&cursor=20", {"Last_Event_ID": "null"}, None),
    ],
)
def test_where_the_cursor_is_read(query: str, headers: dict[str, str], cursor: Cursor) -> None:
    """The header wins, then what stands for it, then the address; nothing is null."""
    found = ask(query, **headers)
    assert (found.topic, found.cursor) == (T, cursor)
    assert found.cursor_field in (*(name.replace("_", "-") for name in headers), "lastEventId", "cursor")


@pytest.mark.parametrize(
    ("query", "headers", "field", "says"),
    [
        ("", {}, "topic", "no topic"),
        ("topic=", {}, "topic", "no topic"),
        ("topics=event:fight", {}, "topic", "/v1/events?topic="),
        ("topic=a&topic=b", {}, "topic", "2 topics"),
        ("topic=" + "x" * 129, {}, "topic", "1-128"),
        ("topic=%ff", {}, "query", "UTF-8"),
        ("&".join(f"a{n}=1" for n in range(17)), {}, "query", "at most 16"),
        ("topic=a", {"Last_Event_ID": "yesterday"}, "Last-Event-ID", "'yesterday' is no cursor"),
        ("topic=a", {"Last_Event_ID": "-5"}, "Last-Event-ID", "milliseconds since the epoch"),
        ("topic=a", {"Last_Event_ID": "1_000"}, "Last-Event-ID", "no cursor"),
        ("topic=a", {"Last_Event_ID": "1e12"}, "Last-Event-ID", "no cursor"),
        ("topic=a", {"Last_Event_ID": "١٢٣"}, "Last-Event-ID", "no cursor"),
        ("topic=a", {"Last_Event_ID": "9" * 10_000}, "Last-Event-ID", "(10000 characters)"),
        ("topic=a", {"Last_Event_ID": ("1", "2")}, "Last-Event-ID", "2 times"),
        ("topic=a&cursor=1&cursor=2", {}, "cursor", "2 times"),
        ("topic=a&cursor=-1", {}, "cursor", "no cursor"),
        ("topic=a&lastEventId=%00", {}, "lastEventId", "no cursor"),
        ("topic=a", {"Upgrade": "websocket"}, "Upgrade", "/v1/stream"),
    ],
)
def test_what_is_refused(query: str, headers: dict[str, str], field: str, says: str) -> None:
    """Each names the field and what to do, in a few words however long the input was."""
    with pytest.raises(InvalidRequest) as caught:
        ask(query, **headers)
    assert (caught.value.field, caught.value.http_status) == (field, 400)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 300
    assert isinstance(caught.value, MalformedCursor) == (field in ("Last-Event-ID", "cursor", "lastEventId"))


@pytest.mark.parametrize(
    ("query", "held"),
    [
        ("topic=a", None),
        ("topic=a&heldVersion=", None),
        ("topic=a&heldVersion=7", Held(7, 0)),
        ("topic=a&heldVersion=0", Held(0, 0)),
    ],
)
def test_the_map_held_is_told_by_its_version(query: str, held: Held | None) -> None:
    """Without a revision: the schedule is told on every stream, whatever an old address says."""
    assert ask(query).held == held


@pytest.mark.parametrize("version", ["-1", "1.5", "seven", "9" * 10, "\u0667", "1&heldVersion=1"])
def test_a_map_of_no_version_is_refused(version: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        ask(f"topic=a&heldVersion={version}")
    assert refused.value.field == "heldVersion"


@pytest.mark.parametrize(
    "accept",
    ["text/event-stream", "*/*", "text/*", "text/html, text/event-stream;q=0.5", "TEXT/EVENT-STREAM", "", "*/*;q=0.1"],
)
def test_accepted_types(accept: str) -> None:
    """Whoever takes an event stream among other things is served, and who says nothing too."""
    assert ask("topic=a", Accept=accept).topic == "a"


@pytest.mark.parametrize(
    "accept",
    ["application/json", "text/html,application/xhtml+xml", "text/event-stream;q=0, */*", "*/*; q=0.0", "text"],
)
def test_types_not_accepted(accept: str) -> None:
    """An event stream is no answer to who does not take one."""
    with pytest.raises(NotAcceptable) as caught:
        ask("topic=a", Accept=accept)
    assert (caught.value.http_status, caught.value.field) == (406, "Accept")


# Answers.


def test_head() -> None:
    """Nobody on the way may keep or collect it; an allowed origin, and only that one, may read it."""
    head = response_head()
    assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
    assert head.endswith(b"\r\n\r\n")
    assert b"no-cache" in head
    assert b"X-Accel-Buffering: no\r\n" in head
    assert b"Connection: close\r\n" in head
    assert b"Access-Control" not in head
    assert b"Access-Control-Allow-Origin: https://a.example\r\nVary: Origin\r\n" in response_head(b"https://a.example")
    assert ("Access-Control-Allow-Origin", "https://a.example") in preflight_headers("https://a.example")


def test_retry_is_spread_over_the_window_and_never_near_nothing() -> None:
    """A client that repeats one delay for ever must not have drawn an instant."""
    assert retry_ms(0.0, 10_000) == MIN_RETRY_MS
    assert retry_ms(0.5, 10_500) == 5_500
    assert retry_ms(0.999, 10_000) < 10_000
    assert retry_ms(0.9, 0) == MIN_RETRY_MS


@pytest.mark.parametrize(
    ("frame", "lines"),
    [
        (WELCOME, [b"event: welcome"]),
        (broadcast(30, 20), [b"id: 30", b"event: broadcast"]),
        (continuity("complete", 30), [b"event: continuity"]),
        (continuity("ahead", 30), [b"event: continuity"]),
        (continuity("pending", 30), [b"event: continuity"]),
        (continuity("gap", 30), [b"id: 30", b"event: continuity"]),
        (ScheduleFrame(T, 2, 1, {"live": 5}), [b"event: schedule"]),
        (WindowFrame(1, 2), [b"event: window"]),
        (TokenFrame("x"), [b"event: token"]),
        (StaleFrame(), [b"event: stale"]),
        (ErrorFrame("unknown_topic", "line one\nline two\r\n", T), [b"event: error"]),
        (GoawayFrame("drain", 7312, 10_000), [b"retry: 7312", b"event: goaway"]),
        (GoawayFrame("drain", 3, 10_000), [b"retry: %d" % MIN_RETRY_MS, b"event: goaway"]),
    ],
)
def test_form(frame: ServerFrame, lines: list[bytes]) -> None:
    """The frame's type is the event, its JSON the data, in one line whatever it holds; only some carry an id."""
    event = sse_form(frame)
    *head, data, blank, end = event.split(b"\n")
    assert head == lines
    assert (blank, end) == (b"", b"")
    assert b"\r" not in event
    said = json.loads(data.removeprefix(b"data: "))
    assert said["type"] == lines[-1].removeprefix(b"event: ").decode()


def test_form_asks_for_no_ack() -> None:
    """Over a stream of events a device has no way to answer."""
    frame = BroadcastFrame(T, "live", 30, 20, replayed=True, skipped=(10,), ack=AckRequest(100, 30_000))
    data = json.loads(sse_form(frame).split(b"data: ")[1])
    assert data == {
        "type": "broadcast",
        "topic": T,
        "state_key": "live",
        "timestamp": 30,
        "prev": 20,
        "replayed": True,
        "skipped": [10],
    }


def test_heartbeat_is_a_comment() -> None:
    assert HEARTBEAT.startswith(b":")
    assert HEARTBEAT.endswith(b"\n\n")


def test_refusal_keeps_the_cursor() -> None:
    """A client that drops its id when a new stream begins has it back before it comes again."""
    away = GoawayFrame("full", 4000, 10_000)
    assert refusal_events(away, 30) == b"id: 30\n" + sse_form(away)
    assert refusal_events(away, None) == sse_form(away)


# The cursor of a stream.


def ids(stream: EventStream, *frames: ServerFrame) -> list[int | None]:
    """The id each event is sent with."""
    found: list[int | None] = []
    for frame in frames:
        lines = stream.tailor(sse_form(frame)).split(b"\n")
        told = [int(line[4:]) for line in lines if line.startswith(b"id: ")]
        assert len(told) <= 1
        found.append(told[0] if told else None)
    return found


def test_null_takes_latest_with_the_verdict() -> None:
    """Nothing is replayed to one who never subscribed, so the verdict is what it applies."""
    stream = EventStream(None, 0.5)
    assert ids(stream, WELCOME, continuity("complete", 40), ScheduleFrame(T, 1, 1, {}), broadcast(50, 40)) == [
        None,
        40,
        None,
        50,
    ]


def test_null_before_the_first_broadcast_is_zero_then() -> None:
    """From 0 on nothing is missed: back at null, whatever came in between would not be replayed."""
    stream = EventStream(None, 0.5)
    assert ids(stream, WELCOME, continuity("complete", 0)) == [None, 0]
    assert stream.cursor == 0


def test_complete_moves_with_what_is_replayed_and_not_before() -> None:
    """A stream cut between verdict and replay comes back with the cursor it had."""
    stream = EventStream(20, 0.5)
    assert ids(stream, WELCOME, continuity("complete", 40), broadcast(30, 20), broadcast(40, 30)) == [20, None, 30, 40]


def test_gap_moves_to_latest() -> None:
    """Nothing is replayed: the state key is the repair."""
    assert ids(EventStream(10, 0.5), WELCOME, continuity("gap", 40), broadcast(50, 40)) == [10, 40, 50]


def test_ahead_stays_ahead() -> None:
    """Neither the verdict nor what the device already knows takes it back."""
    assert ids(EventStream(41, 0.5), WELCOME, continuity("ahead", 40), broadcast(41, 40), broadcast(42, 41)) == [
        41,
        None,
        None,
        42,
    ]


def test_pending_then_complete_never_moves_back() -> None:
    """What flowed live while the verdict was owed stands; what is replayed below it is told without an id."""
    stream = EventStream(10, 0.5)
    frames = (continuity("pending", 10), broadcast(40, 30), continuity("complete", 40), broadcast(20, 10))
    assert ids(stream, *frames, broadcast(30, 20), broadcast(50, 40)) == [None, 40, None, None, None, 50]


def test_pending_then_gap() -> None:
    stream = EventStream(10, 0.5)
    assert ids(stream, continuity("pending", 10), broadcast(40, 30), continuity("gap", 40)) == [None, 40, None]
    assert stream.cursor == 40


def test_null_that_was_sent_something_while_pending() -> None:
    """It is no longer at null: the replay leads on from there, and the verdict must not skip it."""
    stream = EventStream(None, 0.5)
    frames = (continuity("pending", 0), broadcast(20, 10), continuity("complete", 40), broadcast(30, 20))
    assert ids(stream, *frames, broadcast(40, 30)) == [None, 20, None, 30, 40]


def test_retry_is_the_streams_own() -> None:
    """Told with the welcome, told anew when the window changes; longer for a topic nobody knows."""
    near, far = EventStream(None, 0.0), EventStream(None, 0.99)
    assert near.tailor(sse_form(WELCOME)).startswith(b"retry: 500\nevent: welcome\n")
    assert far.tailor(sse_form(WELCOME)).startswith(b"retry: 9905\nevent: welcome\n")
    assert far.tailor(sse_form(WindowFrame(20_000, 1))).startswith(b"retry: 19805\nevent: window\n")
    assert far.tailor(sse_form(ErrorFrame("unknown_topic", "?", T))).startswith(b"retry: 79205\nevent: error\n")
    assert far.tailor(sse_form(ErrorFrame("node_full", "?", T))).startswith(b"event: error\n")
    assert near.tailor(sse_form(GoawayFrame("drain", 900, 1))).startswith(b"retry: 900\nevent: goaway\n")
