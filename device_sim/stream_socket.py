"""One WebSocket of a device: bytes on one side, frames and their end told to its `DeviceClient` on the other."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import TYPE_CHECKING, Final, cast

from contract.close_codes import CloseCode
from contract.errors import MalformedFrame
from contract.frames import SUBPROTOCOL, ClientFrame, encode_frame
from device_sim import wire

if TYPE_CHECKING:
    from device_sim.client import Channel, DeviceClient

__all__ = ["StreamSocket"]

_CLOSE_WITHIN_S: Final = 2.0
"""How long a server may take to answer our close frame before the transport is aborted."""


class StreamSocket(asyncio.Protocol):
    """One WebSocket of a device."""

    __slots__ = ("_close_code", "_closing", "_key", "_parser", "channel", "client", "conn", "transport")

    def __init__(self, client: DeviceClient, conn: int, channel: Channel) -> None:
        self.client = client
        self.conn = conn
        self.channel = channel
        self.transport: asyncio.Transport | None = None
        self._key: bytes | None = None
        self._parser: wire.FrameParser | None = None
        self._close_code = 1006
        self._closing: asyncio.TimerHandle | None = None

    # asyncio.Protocol
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        client = self.client
        self.transport = cast("asyncio.Transport", transport)
        if not client.attach(self):
            self.transport.abort()
            return
        client.context.stats.open += 1
        self._key = base64.b64encode(client.context.random.randbytes(16))
        channel = self.channel
        self.transport.write(
            wire.handshake_request(
                f"{channel.host}:{channel.port}",
                channel.path,
                subprotocol=SUBPROTOCOL,
                token=client.device.token,
                key=self._key,
            )
        )

    def data_received(self, data: bytes) -> None:
        arrived_s = time.time()
        try:
            if self._parser is None:
                data = self._handshake(data)
                if not data:
                    return
            assert self._parser is not None
            for opcode, payload in self._parser.feed(data):
                if opcode == wire.TEXT:
                    self.client.frame_received(self, arrived_s * 1000.0, payload)
                elif opcode == wire.PING:
                    self._write(wire.PONG, payload)
                    self.client.device.heard(int(arrived_s * 1000))
                elif opcode == wire.CLOSE:
                    self._closed_by_peer(payload)
                    return
        except wire.HandshakeRefused as refused:
            self.client.context.stats.refused += 1
            self._abort()
            # 401 and 403 will be the same tomorrow; everything else may pass.
            code = CloseCode.BAD_TOKEN if refused.status in (401, 403) else 1006
            self.client.lost(self.conn, code, retry_after_ms=int(refused.retry_after_s * 1000))
        except (wire.ProtocolViolation, MalformedFrame) as exc:
            self.client.context.stats.protocol_violations += 1
            self.close(getattr(exc, "code", CloseCode.PROTOCOL_ERROR), violation=True)
            self.client.lost(self.conn, 1006)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        client = self.client
        if self._key is not None:
            client.context.stats.open -= 1
        self.transport = None
        client.detach(self)
        client.lost(self.conn, self._close_code)

    def pause_writing(self) -> None:
        # A node that does not read a device's few tiny frames is broken; there is no queue to keep for it.
        self._abort()

    # for the client
    @property
    def upgraded(self) -> bool:
        return self._parser is not None

    def send(self, frame: ClientFrame) -> None:
        if self._parser is not None and self._closing is None:
            self._write(wire.TEXT, encode_frame(frame))

    def close(self, code: int, *, violation: bool = False) -> None:
        """Say goodbye with `code` and wait a bounded time for the answer; broken connections are aborted."""
        if self.transport is None or self._closing is not None:
            return
        if self._parser is None or (code == CloseCode.GOING_AWAY and not violation):
            self._abort()
            return
        self._write(wire.CLOSE, wire.close_payload(code))
        self._closing = self.client.context.loop.call_later(_CLOSE_WITHIN_S, self._abort)

    def abort(self) -> None:
        """Break it, as a lost network does: no close frame."""
        self._abort()

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def _handshake(self, data: bytes) -> bytes:
        """Consume the response head; returns what follows it."""
        assert self._key is not None
        # The incomplete head is kept in `_key`'s place after a zero byte: base64 has none, and it is rarely needed.
        key, _, earlier = self._key.partition(b"\0")
        received = earlier + data
        head, found, rest = received.partition(b"\r\n\r\n")
        if not found:
            if len(received) > wire.MAX_HANDSHAKE_BYTES:
                raise wire.ProtocolViolation("a response head too large")
            self._key = key + b"\0" + received
            return b""
        wire.parse_handshake_response(head, key, SUBPROTOCOL)
        self._key = b""
        self._parser = wire.FrameParser()
        self.client.context.stats.handshakes += 1
        self.client.upgraded(self)
        return rest

    def _closed_by_peer(self, payload: bytes) -> None:
        self._close_code = wire.parse_close(payload)
        if self._closing is None:
            self._write(wire.CLOSE, payload[:2])
        if self.transport is not None:
            self.transport.close()

    def _write(self, opcode: int, payload: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            mask = self.client.context.random.randbytes(4)
            self.transport.write(wire.masked_frame(opcode, payload, mask))
