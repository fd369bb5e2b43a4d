"""RFC 6455 as a server reads and writes it, sans-I/O: bytes in, events out; frames out as bytes. No extensions.

What the RFC leaves open, and the order in which several violations of one frame are looked for, follow the sans-I/O
protocol of the `websockets` package, the oracle of the tests: lengths need not be minimal, a frame above the limit is
1009 whatever else is wrong with it, a close frame within a fragmented message is 1002. Two things differ on purpose:
a frame that can only fail fails when its header is known, not when its payload arrived, and a control frame of a
legal size never counts against the limit of the message it interrupts.
"""

from __future__ import annotations

from binascii import b2a_base64
from hashlib import sha1
from re import compile as compile_pattern
from struct import Struct
from sys import maxsize
from typing import Final, NamedTuple

from push_proxy.masking import apply_mask

__all__ = [
    "MAX_CONTROL_BYTES",
    "MAX_HEADER_BYTES",
    "NO_CODE",
    "PING",
    "POLICY_VIOLATION",
    "Binary",
    "Closed",
    "Event",
    "Failed",
    "Ping",
    "Pong",
    "Text",
    "WebSocketCodec",
    "accept_key",
    "close_frame",
    "is_key",
    "pong_frame",
    "text_frame",
    "whole_text",
]

PING: Final = b"\x89\x00"
"""A ping without payload: the only one this server sends."""
NO_CODE: Final = 1005
"""What a close frame without a code is told as; never on the wire."""
POLICY_VIOLATION: Final = 1008
"""What a flood of frames fails with."""
MAX_CONTROL_BYTES: Final = 125
MAX_HEADER_BYTES: Final = 14
"""Of a client's frame: two bytes, a length of eight, a mask of four."""

_CONT, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
_FIN, _RSV, _OPCODE = 0x80, 0x70, 0x0F
_MASKED: Final = 0x80
_KNOWN_OPCODES: Final = frozenset((_CONT, _TEXT, _BINARY, _CLOSE, _PING, _PONG))
# RFC 6455, 7.4, and the codes IANA added (1012-1014); 1004, 1005, 1006 and 1015 must not be on the wire.
_STANDARD_CLOSE_CODES: Final = frozenset((1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014))
_PROTOCOL_ERROR, _INVALID_UTF8, _TOO_BIG = 1002, 1007, 1009
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY: Final = compile_pattern(rb"[A-Za-z0-9+/]{22}==").fullmatch
_HEAD16: Final = Struct("!BBH").pack
_HEAD64: Final = Struct("!BBQ").pack


class Text(NamedTuple):
    """A whole text message, of valid UTF-8."""

    data: bytes


class Binary(NamedTuple):
    """A whole binary message."""

    data: bytes


class Ping(NamedTuple):
    """To be answered with `pong_frame(data)`, unless a close frame was sent."""

    data: bytes


class Pong(NamedTuple):
    data: bytes


class Closed(NamedTuple):
    """The client's close frame, the last event. Unless one was sent before, answer `close_frame(code, reason)`."""

    code: int
    reason: str


class Failed(NamedTuple):
    """The client broke the protocol, the last event: close with this code and reason, and read no more."""

    code: int
    reason: str


Event = Text | Binary | Ping | Pong | Closed | Failed
_NO_PAYLOAD_PING: Final = Ping(b"")
_NO_PAYLOAD_PONG: Final = Pong(b"")


class WebSocketCodec:
    """Reads one client's frames, from the end of the handshake to the close frame.

    At rest it holds no buffer. In between, at most one incomplete frame and the fragments of one message: together
    not above `max_message_bytes` plus the headers of one frame, plus `MAX_CONTROL_BYTES` while a control frame arrives.

    A flood of frames too small for that limit costs time: thousands fit into one read, and empty fragments are never
    told to anybody. `max_frames` bounds how many frames of any kind may come until `allow_frames` is called again;
    up to 256 the count costs no memory of its own.
    """

    __slots__ = ("_allowed", "_awaited", "_ended", "_kind", "_limit", "_message", "_partial")

    def __init__(self, max_message_bytes: int, *, max_frames: int = maxsize) -> None:
        assert max_message_bytes > 0
        self._limit = max_message_bytes
        self._allowed = max_frames
        self._partial: bytearray | None = None
        """Of a frame, or of its header."""
        self._awaited = 0
        """Length of `_partial` from which on reading it makes sense."""
        self._message: bytearray | None = None
        """The message's fragments so far; not a list, which a flood of small ones would blow up."""
        self._kind = 0
        """Opcode of the message whose fragments arrive; 0 between messages."""
        self._ended = False

    def feed(self, data: bytes) -> list[Event]:
        """What the bytes complete, in order. After `Closed` or `Failed` whatever follows is ignored."""
        if self._partial is None and not self._kind and self._allowed:
            text = whole_text(data, self._limit)
            if text is not None:
                self._allowed -= 1
                return [Text(text)]
        return self._read(data)

    def allow_frames(self, max_frames: int) -> None:
        """From now on that many frames may come, however many were allowed before; to be called once in a while."""
        if not self._ended:
            self._allowed = max_frames

    def closing(self) -> bool:
        """Whether a close frame was received or a failure told: nothing more will come."""
        return self._ended

    @property
    def allowed_frames(self) -> int:
        """How many more frames may come; none after the end."""
        return self._allowed

    @property
    def idle(self) -> bool:
        """Whether it remembers nothing: a new one would do as well."""
        return self._partial is None and not self._kind and not self._ended

    @property
    def held_bytes(self) -> int:
        """Bytes kept until more arrive."""
        return len(self._partial or b"") + len(self._message or b"")

    def _read(self, data: bytes | bytearray) -> list[Event]:
        """Every frame that is complete; what is left is kept."""
        if self._ended:
            return []
        partial = self._partial
        if partial is not None:
            partial += data
            if len(partial) < self._awaited:
                return []
            data = partial
        events: list[Event] = []
        at, end = 0, len(data)
        while True:
            awaited = 2
            if end - at < awaited:
                break
            first, second = data[at], data[at + 1]
            opcode, length, payload_at = first & _OPCODE, second & 0x7F, at + 6
            if opcode not in _KNOWN_OPCODES:
                return self._fail(events, _PROTOCOL_ERROR, "reserved opcode")
            if not second & _MASKED:
                return self._fail(events, _PROTOCOL_ERROR, "frame not masked")
            if length > MAX_CONTROL_BYTES:
                awaited = 4 if length == 126 else 10
                if end - at < awaited:
                    break
                length = int.from_bytes(data[at + 2 : at + awaited], "big")
                payload_at += awaited - 2
            violation = self._violation(first, opcode, length)
            if violation is not None:
                return self._fail(events, *violation)
            awaited = payload_at + length - at
            if end - at < awaited:
                break
            self._allowed -= 1
            at += awaited
            payload = apply_mask(data[payload_at:at], data[payload_at - 4 : payload_at])
            event = self._frame(first, opcode, payload)
            if event is None:
                continue
            if type(event) is Failed:
                return self._fail(events, *event)
            events.append(event)
            if type(event) is Closed:
                self._end()
                return events
        if at == end:
            self._partial = None
        elif at or partial is None:
            self._partial = bytearray(data[at:])  # a new one: the old may have room for a whole read
        self._awaited = awaited
        return events

    def _violation(self, first: int, opcode: int, length: int) -> tuple[int, str] | None:
        """What makes a frame fail whatever its payload."""
        if not self._allowed:
            return POLICY_VIOLATION, "too many frames in too short a time"
        control = opcode >= _CLOSE
        room = self._limit if self._message is None else self._limit - len(self._message)
        if length > room and not (control and length <= MAX_CONTROL_BYTES):
            return _TOO_BIG, f"message above {self._limit} bytes"
        if first & _RSV:
            return _PROTOCOL_ERROR, "reserved bits set, no extension was negotiated"
        if control:
            if length > MAX_CONTROL_BYTES:
                return _PROTOCOL_ERROR, f"control frame above {MAX_CONTROL_BYTES} bytes"
            if not first & _FIN:
                return _PROTOCOL_ERROR, "fragmented control frame"
        elif opcode == _CONT:
            if not self._kind:
                return _PROTOCOL_ERROR, "continuation of nothing"
        elif self._kind:
            return _PROTOCOL_ERROR, "new message within a fragmented one"
        return None

    def _frame(self, first: int, opcode: int, payload: bytes) -> Event | None:
        """What one whole, legal frame says; None for a fragment that does not end its message."""
        if opcode == _PONG:
            return Pong(payload) if payload else _NO_PAYLOAD_PONG
        if opcode == _PING:
            return Ping(payload) if payload else _NO_PAYLOAD_PING
        if opcode == _CLOSE:
            return self._close(payload)
        kind = self._kind or opcode
        if not first & _FIN:
            if self._message is None:
                self._message = bytearray(payload)
                self._kind = kind
            else:
                self._message += payload
            return None
        if self._message is not None:
            self._message += payload
            payload = bytes(self._message)
            self._message = None
            self._kind = 0
        if kind == _BINARY:
            return Binary(payload)
        return Text(payload) if _is_utf8(payload) else Failed(_INVALID_UTF8, "text is not UTF-8")

    def _close(self, payload: bytes) -> Closed | Failed:
        code, reason = NO_CODE, ""
        if payload:
            if len(payload) == 1:
                return Failed(_PROTOCOL_ERROR, "close frame with half a code")
            try:
                reason = payload[2:].decode()
            except UnicodeDecodeError:
                return Failed(_INVALID_UTF8, "close reason is not UTF-8")
            code = int.from_bytes(payload[:2], "big")
            if not _is_close_code(code):
                return Failed(_PROTOCOL_ERROR, f"close code {code} must not be sent")
        if self._kind:
            return Failed(_PROTOCOL_ERROR, "close frame within a fragmented message")
        return Closed(code, reason)

    def _fail(self, events: list[Event], code: int, reason: str) -> list[Event]:
        self._end()
        events.append(Failed(code, reason))
        return events

    def _end(self) -> None:
        self._ended = True
        self._allowed = 0
        self._partial = self._message = None
        self._kind = 0


def whole_text(data: bytes, max_message_bytes: int) -> bytes | None:
    """The text of one whole unfragmented frame, of ASCII, and nothing more: what a device sends nearly always.

    None for everything else, right or wrong: a codec tells.
    """
    size = len(data)
    if size < 6 or data[0] != 0x81:
        return None
    second = data[1]
    if second == 254:
        if size < 8 or (data[2] << 8) + data[3] != size - 8 or size - 8 > max_message_bytes:
            return None
        payload = apply_mask(data[8:], data[4:8])
    elif second == size + 122 and size < 132 and size - 6 <= max_message_bytes:
        payload = apply_mask(data[6:], data[2:6])
    else:
        return None
    return payload if payload.isascii() else None


def text_frame(payload: bytes) -> bytes:
    """A whole text message; `payload` is UTF-8."""
    size = len(payload)
    if size <= MAX_CONTROL_BYTES:
        return b"\x81%c%b" % (size, payload)
    if size < 0x10000:
        return _HEAD16(0x81, 126, size) + payload
    return _HEAD64(0x81, 127, size) + payload


def close_frame(code: int, reason: str = "") -> bytes:
    """A close frame; NO_CODE gives one without code and reason. A reason above 123 bytes is cut after a character.

    Raises ValueError for a code that must not be on the wire.
    """
    if code == NO_CODE:
        return b"\x88\x00"
    if not _is_close_code(code):
        raise ValueError(f"close code {code} must not be sent")
    told = reason.encode()
    if len(told) > MAX_CONTROL_BYTES - 2:
        told = told[: MAX_CONTROL_BYTES - 2].decode(errors="ignore").encode()
    return _HEAD16(0x88, 2 + len(told), code) + told


def pong_frame(data: bytes) -> bytes:
    """The answer to a ping with this payload."""
    assert len(data) <= MAX_CONTROL_BYTES
    return b"\x8a%c%b" % (len(data), data)


def accept_key(key: bytes) -> bytes:
    """Sec-WebSocket-Accept for a client's Sec-WebSocket-Key."""
    return b2a_base64(sha1(key + _GUID, usedforsecurity=False).digest(), newline=False)


def is_key(key: bytes) -> bool:
    """Whether a Sec-WebSocket-Key is what it must be: 16 bytes in base64."""
    return _KEY(key) is not None


def _is_close_code(code: int) -> bool:
    return 3000 <= code < 5000 or code in _STANDARD_CLOSE_CODES


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
