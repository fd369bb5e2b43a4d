"""Server-sent events, pure: what a request asks for, how frames are written, and which of them move the cursor.

An event's name is its frame's `type`, its data the frame's JSON. A browser's EventSource keeps the last `id` it was
sent and presents it as `Last-Event-ID` when it comes back by itself. So here the *node* moves the cursor, and must do
it by the device's rule (R18): with a broadcast above it, to `latest` on `gap` and on cursor null, never back, and never
before what lies between was sent. Frames are encoded once for every stream by `sse_form`; what differs from stream to
stream is left to `EventStream.tailor`, which is cheap for a broadcast and rare for the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final, NamedTuple, Protocol
from urllib.parse import parse_qs

import msgspec

from contract.cursor import Cursor
from contract.errors import InvalidRequest, MalformedCursor
from contract.frames import (
    UNKNOWN_TOPIC,
    BroadcastFrame,
    ContinuityFrame,
    ErrorFrame,
    GoawayFrame,
    Held,
    ServerFrame,
    WelcomeFrame,
    WindowFrame,
    decode_server_frame,
    encode_frame,
)
from push_proxy.session import MAX_TOPIC_CHARS

__all__ = [
    "EVENTS_PATH",
    "HEARTBEAT",
    "MIN_RETRY_MS",
    "UNKNOWN_TOPIC_WINDOWS",
    "EventStream",
    "EventsRequest",
    "HeaderSource",
    "NotAcceptable",
    "preflight_headers",
    "read_events_request",
    "refusal_events",
    "response_head",
    "retry_ms",
    "sse_form",
]

EVENTS_PATH: Final = "/v1/events"
HEARTBEAT: Final = b":\n\n"
"""A comment: keeps middleboxes from forgetting the connection, and makes the kernel notice a device that is gone."""
MIN_RETRY_MS: Final = 500
"""It waits the same `retry` after every failure: nobody may draw one that asks a dead server in a tight loop."""
UNKNOWN_TOPIC_WINDOWS: Final = 4
"""Reconnect windows over which those return who asked for an unknown topic: EventSource does not back off by itself."""
_MAX_CURSOR_DIGITS: Final = 16
"""A millisecond timestamp has 13; JavaScript counts exactly up to 16."""
_MAX_VERSION_DIGITS: Final = 9
_NO_REVISION: Final = 0
_MAX_QUERY_FIELDS: Final = 16
_TAILORED: Final = (b"event: welcome\n", b"event: continuity\n", b"event: window\n", b"event: error\n")
_SHOWN_CHARS: Final = 40
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\n"
    b"Content-Type: text/event-stream\r\n"
    b"Cache-Control: no-cache, no-store, no-transform\r\n"
    b"X-Accel-Buffering: no\r\n"
    b"Connection: close\r\n"
)


class HeaderSource(Protocol):
    def get_all(self, key: str, /) -> Sequence[str]:
        """Every value of a header, by its name in any case."""
        ...


class NotAcceptable(InvalidRequest):
    """The client takes something else than an event stream."""

    code = "not_acceptable"
    http_status = 406


class EventsRequest(NamedTuple):
    """One topic, followed from a cursor."""

    topic: str
    cursor: Cursor
    cursor_field: str = "cursor"
    """Where the cursor was found."""
    held: Held | None = None
    """The stage map the device said it holds, for coverage (R7)."""


# The request.


def read_events_request(query: str, headers: HeaderSource) -> EventsRequest:
    """What a GET for EVENTS_PATH asks for; raises InvalidRequest (NotAcceptable, MalformedCursor) naming the field.

    The cursor is, in this order: the header `Last-Event-ID` (a browser sends it when it comes back), the parameter
    `lastEventId` (what clients send in its place that may not set the header), the parameter `cursor` (a first contact
    that knows where it stands; it stays in the address when the browser comes back, and must not win then).
    None of them, or `null`: never subscribed. Whether it lies in the future is judged by whoever knows `latest`.
    """
    if any(value.strip().lower() == "websocket" for value in headers.get_all("Upgrade")):
        raise InvalidRequest("not a WebSocket endpoint", field="Upgrade", rule="the WebSocket stream is /v1/stream")
    if not _takes_events(headers.get_all("Accept")):
        raise NotAcceptable("answers are text/event-stream", field="Accept", rule="accept text/event-stream")
    try:
        fields = parse_qs(
            query, keep_blank_values=True, errors="strict", max_num_fields=_MAX_QUERY_FIELDS, encoding="utf-8"
        )
    except UnicodeDecodeError as exc:
        raise InvalidRequest("not UTF-8", field="query", rule="percent-encoded UTF-8") from exc
    except ValueError as exc:
        raise InvalidRequest("too many fields", field="query", rule=f"at most {_MAX_QUERY_FIELDS} fields") from exc
    return EventsRequest(
        _read_topic(fields.get("topic", [])), *_read_cursor(fields, headers), _read_held(fields.get("heldVersion", []))
    )


def _read_topic(topics: Sequence[str]) -> str:
    rule = "name one topic, as in /v1/events?topic=event:tyson-paul"
    if not topics or topics == [""]:
        raise InvalidRequest("no topic", field="topic", rule=rule)
    if len(topics) > 1:
        raise InvalidRequest(
            f"{len(topics)} topics", field="topic", rule="one per stream; open a stream for each, or use /v1/stream"
        )
    if len(topics[0]) > MAX_TOPIC_CHARS:
        raise InvalidRequest(f"{len(topics[0])} characters", field="topic", rule=f"1-{MAX_TOPIC_CHARS} characters")
    return topics[0]


def _read_cursor(fields: dict[str, list[str]], headers: HeaderSource) -> tuple[Cursor, str]:
    for name, values in (
        ("Last-Event-ID", headers.get_all("Last-Event-ID")),
        ("lastEventId", fields.get("lastEventId", ())),
        ("cursor", fields.get("cursor", ())),
    ):
        if len(values) > 1:
            raise MalformedCursor(f"given {len(values)} times", field=name, rule="once at most")
        text = values[0].strip() if values else ""
        if text:
            return None if text == "null" else _cursor(text, name), name
    return None, "cursor"


def _read_held(versions: Sequence[str]) -> Held | None:
    """Of the revision nothing is said: the address stays as it is when a browser comes back, and schedules rise."""
    if not versions or versions == [""]:
        return None
    version = versions[0]
    if len(versions) > 1 or not (version.isascii() and version.isdigit() and len(version) <= _MAX_VERSION_DIGITS):
        raise InvalidRequest("no version", field="heldVersion", rule="once, the `version` of the stage map held")
    return Held(int(version), _NO_REVISION)


def _cursor(text: str, field: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= _MAX_CURSOR_DIGITS:
        return int(text)
    shown = text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}... ({len(text)} characters)"
    raise MalformedCursor(
        f"{shown!r} is no cursor",
        field=field,
        rule="milliseconds since the epoch, 0, or null; leave it out to start over",
    )


def _takes_events(accepts: Sequence[str]) -> bool:
    """Whether an Accept header (RFC 9110, section 12.5.1) allows text/event-stream; none at all allows everything."""
    if not any(value.strip() for value in accepts):
        return True
    best: tuple[int, bool] = (-1, False)
    for value in accepts:
        for part in value.split(","):
            media, *parameters = (piece.strip().lower() for piece in part.split(";"))
            rank = {"*/*": 0, "text/*": 1, "text/event-stream": 2}.get(media, -1)
            refused = any(p.replace(" ", "").partition("=")[::2] in _NOTHING for p in parameters)
            if rank > best[0]:
                best = (rank, not refused)
    return best[1]


_NOTHING: Final = frozenset(("q", zero) for zero in ("0", "0.", "0.0", "0.00", "0.000"))


# The answer.


def response_head(origin: bytes | None = None) -> bytes:
    """The head of an event stream that ends with its connection; `origin` is one that may read it.

    `no-transform` and `X-Accel-Buffering` keep middleboxes from collecting events before they pass them on.
    """
    if origin is None:
        return _HEAD + b"\r\n"
    return b"%bAccess-Control-Allow-Origin: %b\r\nVary: Origin\r\n\r\n" % (_HEAD, origin)


def preflight_headers(origin: str) -> tuple[tuple[str, str], ...]:
    """Of the answer (204) to OPTIONS from an allowed origin: what a page may set that reads the stream with `fetch`."""
    return (
        ("Access-Control-Allow-Origin", origin),
        ("Access-Control-Allow-Methods", "GET"),
        ("Access-Control-Allow-Headers", "Authorization, Last-Event-ID, Cache-Control"),
        ("Access-Control-Max-Age", "86400"),
        ("Vary", "Origin"),
    )


def retry_ms(draw: float, window_ms: int) -> int:
    """A stream's own delay before it comes back (R21): uniform over the window, from MIN_RETRY_MS on."""
    assert 0.0 <= draw < 1.0
    assert window_ms >= 0
    return MIN_RETRY_MS + int(draw * max(0, window_ms - MIN_RETRY_MS))


def sse_form(frame: ServerFrame) -> bytes:
    """One event, the same for every stream. Where it has an `id`, that is its first line: `tailor` may leave it out.

    An `ack` is not asked for: there is no way back.
    """
    if isinstance(frame, BroadcastFrame):
        if frame.ack is not None:
            frame = msgspec.structs.replace(frame, ack=None)
        return b"id: %d\nevent: broadcast\ndata: %b\n\n" % (frame.timestamp, encode_frame(frame))
    if isinstance(frame, ContinuityFrame) and frame.verdict == "gap":
        return b"id: %d\nevent: continuity\ndata: %b\n\n" % (frame.latest, encode_frame(frame))
    event = b"event: %b\ndata: %b\n\n" % (_name(frame), encode_frame(frame))
    if isinstance(frame, GoawayFrame):
        return b"retry: %d\n%b" % (max(MIN_RETRY_MS, frame.reconnect_after_ms), event)
    return event


def refusal_events(goaway: GoawayFrame, cursor: Cursor) -> bytes:
    """The body of a stream that is refused for now: why, when to come back, and the cursor not to be forgotten."""
    event = sse_form(goaway)
    return event if cursor is None else b"id: %d\n%b" % (cursor, event)


def _name(frame: ServerFrame) -> bytes:
    tag = frame.__struct_config__.tag
    assert isinstance(tag, str)
    return tag.encode()


class _EventId(NamedTuple):
    event: bytes
    moves_to: int
    without_id: bytes


def _read_id(event: bytes) -> _EventId:
    end = event.index(b"\n", 4)
    return _EventId(event, int(event[4:end]), event[end + 1 :])


class EventStream:
    """What one stream's device will present as `Last-Event-ID`, and its share of the reconnect window."""

    __slots__ = ("_draw", "_window_ms", "cursor")
    _read: ClassVar[_EventId]
    """Of the last event that had an id: in a fan-out one stream after the other is sent the very same."""

    def __init__(self, cursor: Cursor, draw: float) -> None:
        assert 0.0 <= draw < 1.0
        self.cursor = cursor
        """The last id sent; before the first, where the device said it stands."""
        self._draw = draw
        self._window_ms = 0

    def tailor(self, event: bytes) -> bytes:
        """`event` as this stream is to be sent it; call once per event, in the order they are written."""
        read = EventStream._read
        if event is not read.event:
            if not event.startswith(b"id: "):
                return self._own_lines(event) + event if event.startswith(_TAILORED) else event
            EventStream._read = read = _read_id(event)
        if self.cursor is None or read.moves_to > self.cursor:
            self.cursor = read.moves_to
            return event
        # Below what the device has: a predecessor that came late, or was replayed after one that flowed while the
        # verdict was pending. It is told, not applied, and must not take the cursor back.
        return read.without_id

    def _own_lines(self, event: bytes) -> bytes:
        frame = decode_server_frame(event[event.index(b"data: ") + 6 : -2])
        if isinstance(frame, WelcomeFrame):
            self._window_ms = frame.reconnect_window_ms
            # A client that forgets its id when a new stream begins has it again, and one that named it in the address
            # has it for the first time.
            own_id = b"" if self.cursor is None else b"id: %d\n" % self.cursor
            return own_id + self._retry(1)
        if isinstance(frame, WindowFrame):
            self._window_ms = frame.reconnect_window_ms
            return self._retry(1)
        if isinstance(frame, ErrorFrame):
            return self._retry(UNKNOWN_TOPIC_WINDOWS) if frame.code == UNKNOWN_TOPIC else b""
        if isinstance(frame, ContinuityFrame) and frame.verdict == "complete" and self.cursor is None:
            # Nothing was sent before and nothing is replayed: the verdict itself is the state to take. Had anything
            # been sent while it was pending, what follows would lead from there to `latest`.
            self.cursor = frame.latest
            return b"id: %d\n" % frame.latest
        return b""

    def _retry(self, windows: int) -> bytes:
        return b"retry: %d\n" % retry_ms(self._draw, self._window_ms * windows)


EventStream._read = _read_id(b"id: 0\n\n")
