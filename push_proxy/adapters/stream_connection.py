"""A device that speaks stagecue.v1: one JSON frame per text message, one session, one stream of frames."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from contract.close_codes import CloseCode
from contract.frames import MAX_CLIENT_FRAME_BYTES, ErrorFrame
from contract.runtime.socket_table import SocketTransport
from push_proxy.adapters.connection import discard
from push_proxy.adapters.websocket_connection import WebSocketConnection
from push_proxy.forms import v1_form

if TYPE_CHECKING:
    from push_proxy.adapters.device_listener import DeviceListener
    from push_proxy.admission import Source

__all__ = ["StreamConnection"]


class StreamConnection(WebSocketConnection):
    """Writes to its socket itself, without the transport in between, as long as the kernel takes every byte at once.

    What the kernel does not take spills into the transport; from then on everything goes through it, in order, and the
    connection counts as congested until the transport has no byte left. The descriptor is the transport's, which closes
    it only after `connection_lost`: from there on nothing is written. With TLS the loop's own transport writes, always.
    """

    __slots__ = ()
    protocol = "v1"

    def __init__(self, listener: DeviceListener, transport: asyncio.Transport, source: Source) -> None:
        super().__init__(listener, transport, source, v1_form)
        if isinstance(transport, SocketTransport):
            self.fd = transport.fd
            self.write = self._write_now

    def text(self, data: bytes) -> None:
        listener, session = self._listener, self.session
        if session is None:
            return
        actions = session.received(
            data,
            now_s=listener.clock.monotonic_s(),
            now_ms=listener.clock.now_ms(),
            latest_of=listener.node.latest_of,
            verify=listener.verify,
            read=listener.known_frames.read,
        )
        if len(actions) > 1:
            # Each topic is a log that may be replayed: subscribes without end cost more than their frames say.
            self._frames_left = max(0, self._frames_left - len(actions) + 1)
        if len(actions) == 1 or self.fd < 0 or self.congested:
            self.carry_out(actions)
            return
        # Several topics, one system call.
        answers: list[bytes] = []
        write = self.write
        self.write = gather = answers.append
        try:
            self.carry_out(actions)
        finally:
            if self.write is gather:
                self.write = write
            elif self._transport is not None:
                write = self._transport.write  # it said goodbye: what the kernel does not take must wait there
            if answers:
                write(b"".join(answers))

    def failed(self, code: int, why: str) -> None:
        if code == CloseCode.TOO_BIG:
            # Said in the protocol's own form first: some clients show a close reason to nobody.
            message = f"frame: too large (at most {MAX_CLIENT_FRAME_BYTES} bytes)"
            self.say(ErrorFrame(code="malformed_frame", message=message))
        super().failed(code, why)

    # Writing.

    def _write_now(self, frame: bytes, /) -> None:
        try:
            sent = os.write(self.fd, frame)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # it is gone; the transport will say so
        if sent != len(frame):
            self.spill(frame[sent:])

    def spill(self, rest: bytes, /) -> None:
        transport = self._transport
        if transport is None or self.write is discard:
            return
        self.write = transport.write
        transport.write(rest)
        if not self.congested and self.write is not discard:
            self.write = self._write_now  # there was room again

    def resume_writing(self) -> None:
        if self.fd >= 0 and self.write is not discard:
            self.write = self._write_now
        super().resume_writing()
