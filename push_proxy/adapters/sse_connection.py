"""A device that reads server-sent events: one request, one topic, and nothing more to be heard from it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from contract.close_codes import CloseCode
from contract.frames import NODE_FULL, UNKNOWN_TOPIC, GoawayFrame, SubscribeFrame, encode_frame
from contract.runtime.socket_table import SocketTransport
from push_proxy.adapters.connection import Connection, discard
from push_proxy.forms import PreparedFrame
from push_proxy.session import Grant
from push_proxy.sse import HEARTBEAT, EventsRequest, EventStream, refusal_events, sse_form

if TYPE_CHECKING:
    from push_proxy.adapters.device_listener import DeviceListener
    from push_proxy.admission import Source

__all__ = ["SseConnection"]

_MAX_HEARD_BYTES: Final = 4096
"""What a client may send behind its request before it is cut off; there is nothing to send."""
_CODES: Final = {UNKNOWN_TOPIC: CloseCode.REFUSED_FOR_NOW, NODE_FULL: CloseCode.REFUSED_FOR_NOW}


class SseConnection(Connection):
    """An answer without an end. What the protocol cannot say is left out: no acks, no renewal the device asks for.

    A device that cannot answer cannot be asked for a sign of life. Instead something is always on its way to it, at the
    latest a comment every `ping_s`, and the kernel ends a connection whose peer took nothing for
    `ping_s + pong_deadline_s` (TCP_USER_TIMEOUT, RFC 5482): one that vanished, or reads nothing.
    """

    __slots__ = ("_heard", "_request", "_stream")
    protocol = "sse"

    def __init__(
        self,
        listener: DeviceListener,
        transport: asyncio.Transport,
        source: Source,
        request: EventsRequest,
    ) -> None:
        super().__init__(listener, transport, source, sse_form)
        self._request = request
        self._heard = 0
        self._stream = EventStream(request.cursor, listener.draw())
        self.write = self._write_event

    # From the head reader.

    def begin(self, grant: Grant | None, opening: bytes) -> None:
        transport = self._transport
        assert transport is not None
        self._notice_silence(transport)
        transport.write(opening)
        super().begin(grant, b"")
        self._follow()
        del self._request  # of use no more

    def refuse(self, code: CloseCode, goaway: GoawayFrame | None, opening: bytes) -> None:
        transport = self._transport
        assert transport is not None
        assert goaway is not None
        transport.write(opening + refusal_events(goaway, self._request.cursor))
        self.finish(code)
        self.write = discard

    def _follow(self) -> None:
        """Subscribe to the one topic, by the same rules as a subscribe frame."""
        session, listener = self.session, self._listener
        assert session is not None
        topic, cursor, _, held = self._request
        actions = session.received(
            encode_frame(SubscribeFrame({topic: cursor}, {topic: held} if held is not None else {})),
            now_s=listener.clock.monotonic_s(),
            now_ms=listener.clock.now_ms(),
            latest_of=listener.node.latest_of,
            verify=listener.verify,
        )
        self.carry_out(actions)
        if not session.topics:
            self.close(CloseCode.FORBIDDEN)  # said why; what can be known beforehand was refused before

    def _notice_silence(self, transport: asyncio.Transport) -> None:
        if not hasattr(socket, "TCP_USER_TIMEOUT"):
            return  # not Linux: the kernel's own patience counts
        settings = self._listener.settings
        option = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * (settings.ping_s + settings.pong_deadline_s)))
        with contextlib.suppress(OSError):  # gone already: connection_lost follows
            if isinstance(transport, SocketTransport):
                transport.set_option(*option)
            else:
                transport.get_extra_info("socket").setsockopt(*option)

    # What the protocol adds to a connection.

    def ping(self) -> None:
        session = self.session
        assert session is not None
        if self._transport is not None and not self.congested:
            self._transport.write(HEARTBEAT)
        session.pong(self._listener.clock.monotonic_s())  # nobody will answer: the kernel judges

    def finish(self, code: CloseCode) -> None:
        """The end of the answer: what is written still goes out, and EventSource comes back by its `retry`."""
        if self._transport is not None:
            self._transport.close()

    # DevicePort.

    def _write_event(self, event: bytes, /) -> None:
        if self._transport is not None:
            self._transport.write(self._stream.tailor(event))

    def send(self, frames: Sequence[PreparedFrame], /) -> None:
        transport = self._transport
        if self.congested or transport is None or self.write is discard:
            super().send(frames)
            return
        tailor = self._stream.tailor
        transport.write(b"".join([tailor(frame.in_form(sse_form)) for frame in frames]))

    def unfollow(self, topic: str, code: str, message: str) -> None:
        """Without its topic there is nothing left to stream."""
        super().unfollow(topic, code, message)
        self.close(_CODES.get(code, CloseCode.FORBIDDEN))

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        self._heard += len(data)
        if self._heard > _MAX_HEARD_BYTES:
            self.abort()
