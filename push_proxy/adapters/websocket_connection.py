"""A WebSocket connection: frames in through the codec, prepared frames out, the closing handshake."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from contract.close_codes import CloseCode, reason
from contract.frames import MAX_CLIENT_FRAME_BYTES
from push_proxy.adapters.connection import Connection, discard
from push_proxy.forms import Form
from push_proxy.websocket import (
    PING,
    POLICY_VIOLATION,
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

if TYPE_CHECKING:
    from push_proxy.adapters.device_listener import DeviceListener
    from push_proxy.admission import Source

__all__ = ["FRAMES_PER_LOOK", "WebSocketConnection"]

FRAMES_PER_LOOK: Final = 256
"""Frames a device may send between two looks of the timer, `ping_s` apart at most: four per topic it may follow."""

_EMPTY_PONG: Final = bytes((0x8A, 0x80))
"""How the answer to our pings, which carry nothing, begins; a mask of four bytes follows."""
_EMPTY_PONG_BYTES: Final = 6


class WebSocketConnection(Connection):
    """Everything of RFC 6455 but the handshake; a subclass reads the messages.

    Prepared frames go straight to the transport: every one is whole, unmasked and final, all writes happen on the
    loop's thread, and after the close frame `write` does nothing.
    """

    __slots__ = ("_codec", "_frames_left")

    def __init__(self, listener: DeviceListener, transport: asyncio.Transport, source: Source, form: Form) -> None:
        super().__init__(listener, transport, source, form)
        self._codec: WebSocketCodec | None = None
        """Only while something incomplete is to be remembered."""
        self._frames_left = FRAMES_PER_LOOK

    def text(self, data: bytes) -> None:
        """One whole text message, of valid UTF-8."""
        raise NotImplementedError

    def ping(self) -> None:
        self.write(PING)

    def finish(self, code: CloseCode) -> None:
        self.write(close_frame(code, reason(code)))

    def failed(self, code: int, why: str) -> None:
        """The device broke RFC 6455; it is told in its own form where that helps, then the connection closes."""
        if code == POLICY_VIOLATION:
            self.close(CloseCode.TOO_MANY_FRAMES, self._listener.goaway("flood"))
        else:
            self.close(CloseCode(code))

    def data_received(self, data: bytes) -> None:
        if self.session is not None:
            self.session.alive()
        codec = self._codec
        if codec is None:
            text = whole_text(data, MAX_CLIENT_FRAME_BYTES)
            if text is not None and self._frames_left:
                self._frames_left -= 1
                if self.write is not discard:  # closing: whatever still arrives must not subscribe again
                    self.text(text)
                return
            if len(data) == _EMPTY_PONG_BYTES and data.startswith(_EMPTY_PONG) and self._frames_left:
                self._frames_left -= 1
                self._ponged()
                return
            codec = self._codec = WebSocketCodec(MAX_CLIENT_FRAME_BYTES, max_frames=self._frames_left)
        allowed = codec.allowed_frames
        for event in codec.feed(data):
            if type(event) is not Text:
                self._rare(event)
            elif self.write is discard:
                continue
            elif self._frames_left:
                self.text(event.data)
            else:
                self.failed(POLICY_VIOLATION, "what came before used up all that may come")
        # A message may have used up more than its frames.
        self._frames_left = max(0, self._frames_left - (allowed - codec.allowed_frames))
        codec.allow_frames(self._frames_left)
        if codec.idle:
            self._codec = None

    def on_time(self, now_s: float) -> None:
        self._frames_left = FRAMES_PER_LOOK
        if self._codec is not None:
            self._codec.allow_frames(FRAMES_PER_LOOK)
        super().on_time(now_s)

    def _rare(self, event: Event) -> None:
        if isinstance(event, Pong):
            self._ponged()
        elif isinstance(event, Ping):
            self._answer_ping(event.data)
        elif isinstance(event, Binary):
            self.close(CloseCode.UNSUPPORTED_DATA)
        elif isinstance(event, Closed):
            self._closed_by_peer(event)
        elif isinstance(event, Failed):
            self.failed(event.code, event.reason)

    def _ponged(self) -> None:
        if self.session is not None:
            self.session.pong(self._listener.clock.monotonic_s())
            self._listener.schedule(self)

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
