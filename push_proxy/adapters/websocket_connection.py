"""A WebSocket connection: frames in through the codec, prepared frames out, the closing handshake."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from contract.close_codes import CloseCode, reason
from contract.frames import MAX_CLIENT_FRAME_BYTES
from push_proxy.adapters.connection import Connection, discard
from push_proxy.forms import Form
from push_proxy.websocket import (
    PING,
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
)

if TYPE_CHECKING:
    from push_proxy.adapters.device_listener import DeviceListener
    from push_proxy.admission import Source

__all__ = ["WebSocketConnection"]


class WebSocketConnection(Connection):
    """Everything of RFC 6455 but the handshake; a subclass reads the messages.

    Prepared frames go straight to the transport: every one is whole, unmasked and final, all writes happen on the
    loop's thread, and after the close frame `write` does nothing.
    """

    __slots__ = ("_codec",)

    def __init__(self, listener: DeviceListener, transport: asyncio.Transport, source: Source, form: Form) -> None:
        super().__init__(listener, transport, source, form)
        self._codec = WebSocketCodec(MAX_CLIENT_FRAME_BYTES)

    def text(self, data: bytes) -> None:
        """One whole text message, of valid UTF-8."""
        raise NotImplementedError

    def ping(self) -> None:
        self.write(PING)

    def finish(self, code: CloseCode) -> None:
        self.write(close_frame(code, reason(code)))

    def failed(self, code: int, why: str) -> None:
        """The device broke RFC 6455; it is told in its own form where that helps, then the connection closes."""
        self.close(CloseCode(code))

    def data_received(self, data: bytes) -> None:
        if self.session is not None:
            self.session.alive()
        for event in self._codec.feed(data):
            if type(event) is Text:
                if self.write is not discard:  # closing: whatever still arrives must not subscribe again
                    self.text(event.data)
            else:
                self._rare(event)

    def _rare(self, event: Event) -> None:
        if isinstance(event, Pong):
            if self.session is not None:
                self.session.pong(self._listener.clock.monotonic_s())
                self._listener.schedule(self)
        elif isinstance(event, Ping):
            self._answer_ping(event.data)
        elif isinstance(event, Binary):
            self.close(CloseCode.UNSUPPORTED_DATA)
        elif isinstance(event, Closed):
            self._closed_by_peer(event)
        elif isinstance(event, Failed):
            self.failed(event.code, event.reason)

    def _answer_ping(self, data: bytes) -> None:
        """A pong, unless it could not leave: a flood of pings from one who does not read must not fill our memory."""
        if not self.congested:
            self.write(pong_frame(data))

    def _closed_by_peer(self, event: Closed) -> None:
        transport = self._transport
        if transport is None:
            return
        if self.write is not discard:
            self.write(close_frame(event.code))
            self.write = discard
            self._listener.closing(self, event.code)
        transport.close()  # RFC 6455, 7.1.1: the server closes the TCP connection first
