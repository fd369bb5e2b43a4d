"""The codec against the sans-I/O protocol of `websockets`: one function that Hypothesis, atheris and the corpus share.

What is compared, for one byte stream, the slices it comes in and a limit of message size:

- the events, in order: whole messages, pings, pongs, and the end (the peer's close code and reason, or the code of the
  failure; its reason is for people and differs);
- what is to be written: the oracle answers pings and close frames itself; ours are answered with `pong_frame` and
  `close_frame`, and must give the same bytes;
- the same stream in one piece and in slices: equal, reasons included;
- what is held after each slice;
- the same with a small number of frames allowed: the same events, until they end with 1008;
- the same with a codec made anew whenever the former remembers nothing.

The oracle hands out frames, so its fragments are put together here, and it leaves it to its shells to find that a text
is not UTF-8: at the first whole message that cannot be decoded, the expected end is 1007, and comparing ends there.
Two differences are intended. First, ours fails once a header leaves no other end, the oracle once the payload is
there: before they are compared, the oracle is given what is missing of the frame ours failed at, as zeros. Second, the
oracle counts control frames against the limit of the message they interrupt: before one of a legal size its limit is
raised by that size.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from push_proxy.websocket import (
    MAX_CONTROL_BYTES,
    MAX_HEADER_BYTES,
    Binary,
    Closed,
    Event,
    Failed,
    Ping,
    Pong,
    Text,
    WebSocketCodec,
    close_frame,
    pong_frame,
    whole_text,
)

__all__ = ["check", "cut"]

_TOO_MANY = Failed(1008, "too many frames in too short a time")
_quiet = logging.getLogger("tests.fuzz.oracle")
_quiet.setLevel(logging.CRITICAL)


def check(stream: bytes, slices: Sequence[bytes], limit: int) -> list[Event]:
    """Read the stream, whole and in slices, and compare; the events, for more checks."""
    assert b"".join(slices) == stream
    assert limit >= MAX_CONTROL_BYTES
    events = _read(slices, limit)
    assert events == _read([stream], limit)
    expected, written = _ask_oracle(stream, limit, complete=bool(events) and isinstance(events[-1], Failed))
    assert [_without_words(event) for event in events] == expected
    if not (expected and isinstance(expected[-1], Failed)):
        assert b"".join(map(_answer, events)) == written
    assert _read_lazily(slices, limit) == events
    few = _read(slices, limit, max_frames=3)
    assert few == _read([stream], limit, max_frames=3)
    told = few[:-1] if few and few[-1] == _TOO_MANY else few
    assert told == events[: len(told)]
    assert told == events or told is not few
    assert _read_lazily(slices, limit, max_frames=3) == few
    return events


def cut(stream: bytes, at: Sequence[int]) -> list[bytes]:
    """The stream in slices that end at these places."""
    places = sorted({place for place in at if 0 < place < len(stream)})
    return [stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True)]


def _read(slices: Sequence[bytes], limit: int, max_frames: int = sys.maxsize) -> list[Event]:
    codec = WebSocketCodec(limit, max_frames=max_frames)
    events: list[Event] = []
    for data in slices:
        assert not (codec.closing() and codec.held_bytes)
        new = codec.feed(data)
        events += new
        _check_held(codec, limit)
        ended = bool(events) and isinstance(events[-1], Closed | Failed)
        assert codec.closing() == ended
        assert not any(isinstance(event, Closed | Failed) for event in events[:-1])
    for event in events:
        if isinstance(event, Text | Binary):
            assert len(event.data) <= limit
            assert type(event.data) is bytes
    return events


def _read_lazily(slices: Sequence[bytes], limit: int, max_frames: int = sys.maxsize) -> list[Event]:
    """As a connection does that keeps a codec only while it remembers something."""
    codec: WebSocketCodec | None = None
    events: list[Event] = []
    for data in slices:
        text = whole_text(data, limit) if codec is None and max_frames else None
        if text is not None:
            max_frames -= 1
            events.append(Text(text))
            continue
        codec = codec or WebSocketCodec(limit, max_frames=max_frames)
        events += codec.feed(data)
        max_frames = codec.allowed_frames
        assert not (codec.idle and codec.held_bytes)
        codec = None if codec.idle else codec
    return events


def _check_held(codec: WebSocketCodec, limit: int) -> None:
    """One message's bytes, one header, one control frame: by their length, and by the memory they really take."""
    most = limit + MAX_HEADER_BYTES + MAX_CONTROL_BYTES
    assert codec.held_bytes <= most
    buffers = [buffer for buffer in (codec._partial, codec._message) if buffer is not None]
    assert sum(map(sys.getsizeof, buffers)) <= most * 1.2 + 2 * sys.getsizeof(bytearray())


def _without_words(event: Event) -> Event:
    return Failed(event.code, "") if isinstance(event, Failed) else event


def _answer(event: Event) -> bytes:
    if isinstance(event, Ping):
        return pong_frame(event.data)
    return close_frame(event.code, event.reason) if isinstance(event, Closed) else b""


# The oracle.


class _Piece(NamedTuple):
    """One frame of a stream, or what is there of the last one."""

    data: bytes
    missing: int
    """Bytes until its end, once its header is there."""
    small_control: bool


def _pieces(stream: bytes) -> Iterator[_Piece]:
    """Frame by frame. Knows lengths only: where a stream goes wrong, the oracle stops reading anyhow."""
    at = 0
    while at < len(stream):
        head = stream[at : at + MAX_HEADER_BYTES]
        size, header = _length(head)
        if size is None:
            yield _Piece(stream[at:], 0, False)
            return
        end = at + header + size
        small_control = bool(head[0] & 8) and size <= MAX_CONTROL_BYTES
        yield _Piece(stream[at:end], max(0, end - len(stream)), small_control)
        at = end


def _length(head: bytes) -> tuple[int | None, int]:
    """Length of the payload, None if the header does not say yet, and of the header."""
    if len(head) < 2:
        return None, 0
    extended = {126: 2, 127: 8}.get(head[1] & 127, 0)
    header = 2 + extended + (4 if head[1] & 128 else 0)
    if len(head) < 2 + extended:
        return None, 0
    return int.from_bytes(head[2 : 2 + extended], "big") if extended else head[1] & 127, header


def _ask_oracle(stream: bytes, limit: int, *, complete: bool) -> tuple[list[Event], bytes]:
    """What `websockets` makes of it: events and bytes to write; `complete` its last frame, if it is cut off."""
    oracle = ServerProtocol(state=OPEN, max_size=limit, logger=_quiet)
    for piece in _pieces(stream):
        oracle.max_message_size = limit + MAX_CONTROL_BYTES if piece.small_control else limit
        oracle.receive_data(piece.data)
        if complete and piece.missing and oracle.state is OPEN:
            oracle.receive_data(bytes(min(piece.missing, limit + MAX_CONTROL_BYTES)))
        if oracle.state is not OPEN:
            break
    events: list[Event] = []
    parts: list[bytes] = []
    kind = Opcode.TEXT
    for frame in oracle.events_received():
        assert isinstance(frame, Frame)
        data = bytes(frame.data)
        if frame.opcode is Opcode.PING:
            events.append(Ping(data))
        elif frame.opcode is Opcode.PONG:
            events.append(Pong(data))
        elif frame.opcode is Opcode.CLOSE:
            assert oracle.close_rcvd is not None
            events.append(Closed(int(oracle.close_rcvd.code), oracle.close_rcvd.reason))
        else:
            kind = kind if frame.opcode is Opcode.CONT else frame.opcode
            parts.append(data)
            if frame.fin:
                events.append(_message(kind, b"".join(parts)))
                parts = []
                if isinstance(events[-1], Failed):
                    return events, b""
    if oracle.parser_exc is not None:
        assert oracle.close_sent is not None
        events.append(Failed(int(oracle.close_sent.code), ""))
    return events, b"".join(oracle.data_to_send())


def _message(kind: Opcode, data: bytes) -> Event:
    if kind is Opcode.BINARY:
        return Binary(data)
    try:
        data.decode()
    except UnicodeDecodeError:
        return Failed(1007, "")
    return Text(data)
