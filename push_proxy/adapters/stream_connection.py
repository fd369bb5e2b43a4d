"""A device that speaks stagecue.v1: one JSON frame per text message, one session, one stream of frames."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from contract.close_codes import CloseCode
from contract.frames import MAX_CLIENT_FRAME_BYTES, ErrorFrame
from push_proxy.adapters.websocket_connection import WebSocketConnection
from push_proxy.forms import v1_form

if TYPE_CHECKING:
    from push_proxy.adapters.device_listener import DeviceListener
    from push_proxy.admission import Source

__all__ = ["StreamConnection"]


class StreamConnection(WebSocketConnection):
    __slots__ = ()
    protocol = "v1"

    def __init__(self, listener: DeviceListener, transport: asyncio.Transport, source: Source) -> None:
        super().__init__(listener, transport, source, v1_form)

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
        self.carry_out(actions)

    def failed(self, code: int, why: str) -> None:
        if code == CloseCode.TOO_BIG:
            # Said in the protocol's own form first: some clients show a close reason to nobody.
            message = f"frame: too large (at most {MAX_CLIENT_FRAME_BYTES} bytes)"
            self.say(ErrorFrame(code="malformed_frame", message=message))
        super().failed(code, why)
