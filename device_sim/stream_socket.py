"""One WebSocket of a device: bytes on one side, frames and their end told to its `DeviceClient` on the other.

How bytes come and go is a subclass's: `device_table.TableSocket` (a descriptor of the table) or
`transport_socket.TransportSocket` (the loop's own transport).
"""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Final

from contract.close_codes import CloseCode
from contract.errors import MalformedFrame
from contract.frames import SUBPROTOCOL, ClientFrame, ServerFrame, TokenFrame, WelcomeFrame
from device_sim import wire

if TYPE_CHECKING:
    from device_sim.client import Channel, DeviceClient

__all__ = ["StreamSocket"]

_CLOSE_WITHIN_S: Final = 2.0
"""How long a server may take to answer our close frame before the transport is aborted."""
_EMPTY_PING: Final = b"\x89\x00"
_Arrived = list[tuple[bytes, ServerFrame | None]]

_NEW: Final = b""
"""Nothing was written yet."""


class StreamSocket:
    """One WebSocket of a device."""

    __slots__ = ("_close_code", "_closing", "_state", "channel", "client", "conn")

    def __init__(self, client: DeviceClient, conn: int, channel: Channel) -> None:
        self.client = client
        self.conn = conn
        self.channel = channel
        self._state: bytes | wire.FrameParser | None = _NEW
        """The handshake's key while that is under way, and behind a zero byte, which base64 has none of, the answer's
        beginning; then None, or a parser while it holds something incomplete."""
        self._close_code = 1006
        self._closing: asyncio.TimerHandle | None = None

    # how bytes come and go
    def write(self, data: bytes) -> None:
        """Write all of it, or abort."""
        raise NotImplementedError

    def finish(self) -> None:
        """Close behind what was written; `ended` follows."""
        raise NotImplementedError

    def abort(self) -> None:
        """Break it, as a lost network does: no close frame; `ended` follows."""
        raise NotImplementedError

    def reset(self) -> None:
        """Break it so that the peer learns at once."""
        raise NotImplementedError

    def pause(self) -> None:
        """Read no more, until `resume`."""
        raise NotImplementedError

    def resume(self) -> None:
        raise NotImplementedError

    def maroon(self) -> None:
        """The device is gone, the socket stays, unread, and its peer does not learn of it; `ended` was called."""
        raise NotImplementedError

    def read_some(self, limit_bytes: int) -> None:
        """While paused: read so much."""
        raise NotImplementedError

    # from the subclass
    def request(self) -> bytes:
        """The handshake to write, with a new key."""
        context = self.client.context
        key = self._state = base64.b64encode(context.random.randbytes(16))
        return wire.completed_request(context.head_of(self.channel), token=self.client.device.token, key=key)

    def began(self) -> None:
        """The connection stands and `request` was written."""
        self.client.context.stats.open += 1

    def not_begun(self) -> None:
        """`request` could not be written yet; another one will be."""
        self._state = _NEW

    def received(self, data: bytes, at_s: float) -> None:
        """Bytes that came at wall-clock second `at_s`."""
        context = self.client.context
        if self._state is None:
            arrived = context.known_chunks.get(data)
            if arrived is not None:
                self.client.frames_received(self, at_s * 1000.0, arrived)
                return
            if data == _EMPTY_PING:
                self._write(wire.PONG, b"")
                self.client.device.heard(int(at_s * 1000))
                return
        try:
            if type(self._state) is bytes:
                data = self._handshake(data)
                if not data:
                    return
            self._parse(data, at_s * 1000.0)
        except wire.HandshakeRefused as refused:
            context.stats.refused += 1
            self.abort()
            # 401 and 403 will be the same tomorrow; everything else may pass.
            code = CloseCode.BAD_TOKEN if refused.status in (401, 403) else 1006
            self.client.lost(self.conn, code, retry_after_ms=int(refused.retry_after_s * 1000))
        except (wire.ProtocolViolation, MalformedFrame) as exc:
            context.stats.protocol_violations += 1
            self.close(getattr(exc, "code", CloseCode.PROTOCOL_ERROR), violation=True)
            self.client.lost(self.conn, 1006)

    def ended(self) -> None:
        """The connection is over, or never came to be. Once."""
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        client = self.client
        if self.is_open:
            client.context.stats.open -= 1
            self._state = _NEW
        client.detach(self)
        client.lost(self.conn, self._close_code)

    # for the client
    @property
    def is_open(self) -> bool:
        """Whether the connection stands."""
        return self._state != _NEW

    @property
    def upgraded(self) -> bool:
        return type(self._state) is not bytes

    def send(self, frame: ClientFrame) -> None:
        if type(self._state) is not bytes and self._closing is None:
            self._write(wire.TEXT, self.client.context.encode(frame))

    def close(self, code: int, *, violation: bool = False) -> None:
        """Say goodbye with `code` and wait a bounded time for the answer; broken connections are aborted."""
        if self._closing is not None:
            return
        if not self.upgraded or (code == CloseCode.GOING_AWAY and not violation):
            self.abort()
            return
        self._closing = self.client.context.loop.call_later(_CLOSE_WITHIN_S, self.abort)
        self._write(wire.CLOSE, wire.close_payload(code))

    def _handshake(self, data: bytes) -> bytes:
        """Consume the response head; returns what follows it."""
        assert type(self._state) is bytes
        context = self.client.context
        key, _, earlier = self._state.partition(b"\0")
        received = earlier + data
        accept = wire.accept_key(key)
        before, after = context.answer_head
        # An answer that is, byte for byte, one checked before but for the key's hash needs no second look.
        known = before + accept + after
        if before and received.startswith(known):
            rest = received[len(known) :]
        else:
            head, found, rest = received.partition(b"\r\n\r\n")
            if not found:
                if len(received) > wire.MAX_HANDSHAKE_BYTES:
                    raise wire.ProtocolViolation("a response head too large")
                self._state = key + b"\0" + received
                return b""
            wire.parse_handshake_response(head, key, SUBPROTOCOL)
            before, _, after = (head + found).partition(accept)
            context.answer_head = (before, after)
        self._state = None
        context.handshake_over(self)
        self.client.upgraded(self)
        return rest

    def _parse(self, data: bytes, at_ms: float) -> None:
        context, client = self.client.context, self.client
        state = self._state
        whole_text = wire.whole_text(data) if state is None else None
        if whole_text is not None:
            frame = context.decode(whole_text)
            arrived = [(whole_text, frame)]
            if type(frame) is not WelcomeFrame and type(frame) is not TokenFrame:  # every device has its own
                context.know_chunk(data, arrived)
            client.frames_received(self, at_ms, arrived)
            return
        parser = state if isinstance(state, wire.FrameParser) else context.idle_parser
        whole = parser is context.idle_parser
        shared: _Arrived | None = [] if whole else None
        try:
            for opcode, payload in parser.feed(data):
                if opcode == wire.TEXT:
                    frame = context.decode(payload)
                    if type(frame) is WelcomeFrame or type(frame) is TokenFrame:
                        shared = None
                    elif shared is not None:
                        shared.append((payload, frame))
                    client.frames_received(self, at_ms, [(payload, frame)])
                    continue
                shared = None
                if opcode == wire.PING:
                    self._write(wire.PONG, payload)
                    client.device.heard(int(at_ms))
                elif opcode == wire.CLOSE:
                    self._closed_by_peer(payload)
                    return
            if shared and parser.is_idle:
                context.know_chunk(data, shared)
        finally:
            if whole and not parser.is_idle:
                context.idle_parser = wire.FrameParser()
                if self._state is None:
                    self._state = parser
            elif not whole and parser.is_idle and self._state is parser:
                self._state = None

    def _closed_by_peer(self, payload: bytes) -> None:
        self._close_code = wire.parse_close(payload)
        if self._closing is None:
            self._write(wire.CLOSE, payload[:2])
        self.finish()

    def _write(self, opcode: int, payload: bytes) -> None:
        self.write(wire.masked_frame(opcode, payload, self.client.context.random.randbytes(4)))
