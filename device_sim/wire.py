"""RFC 6455 on the client's side, as little as a device needs: handshake, masked frames, a frame parser. No I/O.

Text, ping, pong and close; fragmented messages are joined; extensions are never offered. Anything a server must not
send is a ProtocolViolation with the close code to answer with.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from typing import Final

from contract.close_codes import CloseCode

try:
    from websockets.speedups import apply_mask
except ImportError:  # no C extension on this platform
    from websockets.utils import apply_mask

__all__ = [
    "CLOSE",
    "MAX_MESSAGE_BYTES",
    "PING",
    "PONG",
    "TEXT",
    "FrameParser",
    "HandshakeRefused",
    "ProtocolViolation",
    "accept_key",
    "close_payload",
    "completed_request",
    "handshake_head",
    "handshake_request",
    "masked_frame",
    "parse_close",
    "parse_handshake_response",
    "whole_text",
]

TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10
MAX_MESSAGE_BYTES: Final = 1 << 20
"""A node's largest frame is far below; more means a broken peer."""
MAX_HANDSHAKE_BYTES: Final = 16 * 1024
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class ProtocolViolation(Exception):
    """The server broke RFC 6455; `code` is what to close with."""

    def __init__(self, message: str, code: int = CloseCode.PROTOCOL_ERROR) -> None:
        super().__init__(message)
        self.code = code


class HandshakeRefused(Exception):
    """The answer was not 101: `status`, and `retry_after_s` where the server gave one."""

    def __init__(self, status: int, retry_after_s: float = 0.0) -> None:
        super().__init__(f"handshake answered with {status}")
        self.status = status
        self.retry_after_s = retry_after_s


def accept_key(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept value a server must answer `key` with."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def handshake_head(host: str, path: str, *, subprotocol: str) -> bytes:
    """The upgrade request but for who asks: the same for all devices of a channel."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {subprotocol}\r\n"
    ).encode()


def completed_request(head: bytes, *, token: str, key: bytes) -> bytes:
    """The upgrade request; `key` is 16 random bytes in base64."""
    if token:
        return b"%bAuthorization: Bearer %b\r\nSec-WebSocket-Key: %b\r\n\r\n" % (head, token.encode(), key)
    return b"%bSec-WebSocket-Key: %b\r\n\r\n" % (head, key)


def handshake_request(host: str, path: str, *, subprotocol: str, token: str, key: bytes) -> bytes:
    """The whole upgrade request."""
    return completed_request(handshake_head(host, path, subprotocol=subprotocol), token=token, key=key)


def parse_handshake_response(head: bytes, key: bytes, subprotocol: str) -> None:
    """Check a response head (up to the empty line). Raises HandshakeRefused or ProtocolViolation."""
    lines = head.split(b"\r\n")
    parts = lines[0].split(b" ", 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].isdigit():
        raise ProtocolViolation(f"not an HTTP response: {lines[0][:80]!r}")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip()
    status = int(parts[1])
    if status != 101:
        retry_after = headers.get(b"retry-after", b"")
        raise HandshakeRefused(status, float(retry_after) if retry_after.isdigit() else 0.0)
    if headers.get(b"upgrade", b"").lower() != b"websocket" or headers.get(b"sec-websocket-accept") != accept_key(key):
        raise ProtocolViolation("the upgrade was not accepted as RFC 6455 demands")
    if headers.get(b"sec-websocket-protocol") != subprotocol.encode():
        raise ProtocolViolation(f"the server did not choose {subprotocol}")
    if b"sec-websocket-extensions" in headers:
        raise ProtocolViolation("the server chose an extension nobody offered")


def masked_frame(opcode: int, payload: bytes, mask: bytes) -> bytes:
    """One final frame as a client must send it: masked with 4 random bytes."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65536:
        head = bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0xFF)) + size.to_bytes(8, "big")
    return head + mask + apply_mask(payload, mask)


def close_payload(code: int, reason: str = "") -> bytes:
    return code.to_bytes(2, "big") + reason.encode()[:123]


def parse_close(payload: bytes) -> int:
    """The close code; 1005 when the frame carries none (RFC 6455, section 7.1.5)."""
    if len(payload) == 0:
        return 1005
    if len(payload) == 1:
        raise ProtocolViolation("a close frame of one byte")
    return int.from_bytes(payload[:2], "big")


def whole_text(received: bytes) -> bytes | None:
    """The message, if `received` is one whole text frame below 64 KiB, as most are; None: let a parser see."""
    if len(received) < 2 or received[0] != 0x81:
        return None
    size = received[1]
    if size < 126:
        return received[2:] if size == len(received) - 2 else None
    if size == 126 and len(received) >= 4 and int.from_bytes(received[2:4], "big") == len(received) - 4:
        return received[4:]
    return None


class FrameParser:
    """Bytes in, (opcode, payload) out. Keeps nothing but an incomplete frame or message: usually b'' and None."""

    __slots__ = ("_fragments", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._fragments: bytearray | None = None

    @property
    def is_idle(self) -> bool:
        """Whether it keeps nothing, and may serve another connection."""
        return not self._rest and self._fragments is None

    def feed(self, received: bytes) -> Iterator[tuple[int, bytes]]:
        """Whole messages and control frames in `received` and what was kept. Raises ProtocolViolation."""
        if self._rest:
            received = self._rest + received
            self._rest = b""
        position, end = 0, len(received)
        while end - position >= 2:
            first, second = received[position], received[position + 1]
            if first & 0x70 or second & 0x80:
                raise ProtocolViolation("reserved bits or a masked frame from a server")
            size, start = second, position + 2
            if size >= 126:
                start = position + (4 if size == 126 else 10)
                if end < start:
                    break
                size = int.from_bytes(received[position + 2 : start], "big")
                if size > MAX_MESSAGE_BYTES:
                    raise ProtocolViolation(f"a frame of {size} bytes", CloseCode.TOO_BIG)
            if end < start + size:
                break
            position = start + size
            message = self._frame(first & 0x0F, bool(first & 0x80), received[start:position])
            if message is not None:
                yield message
        if position < end:
            self._rest = received[position:]

    def _frame(self, opcode: int, final: bool, payload: bytes) -> tuple[int, bytes] | None:
        if opcode >= 8:
            if opcode > PONG or not final or len(payload) > 125:
                raise ProtocolViolation("an unknown, fragmented or oversized control frame")
            return opcode, payload
        if opcode == 0:
            if self._fragments is None:
                raise ProtocolViolation("a continuation of nothing")
            self._fragments += payload
            if len(self._fragments) > MAX_MESSAGE_BYTES:
                raise ProtocolViolation("a message too large", CloseCode.TOO_BIG)
            if not final:
                return None
            payload, self._fragments = bytes(self._fragments), None
            return TEXT, payload
        if opcode == BINARY:
            raise ProtocolViolation("stagecue.v1 is JSON in text frames", CloseCode.UNSUPPORTED_DATA)
        if opcode != TEXT or self._fragments is not None:
            raise ProtocolViolation("an unknown opcode, or a message inside a message")
        if final:
            return TEXT, payload
        self._fragments = bytearray(payload)
        return None
