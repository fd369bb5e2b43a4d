"""A WebSocket of a device on the loop's own transport: TLS, and platforms without epoll."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, cast

from device_sim.stream_socket import StreamSocket

if TYPE_CHECKING:
    from device_sim.client import Channel, DeviceClient

__all__ = ["TransportSocket"]


class TransportSocket(StreamSocket, asyncio.Protocol):
    """The protocol of one connection."""

    __slots__ = ("_transport",)

    def __init__(self, client: DeviceClient, conn: int, channel: Channel) -> None:
        super().__init__(client, conn, channel)
        self._transport: asyncio.Transport | None = None

    # asyncio.Protocol
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if not self.client.awaits(self.conn):
            self._transport.abort()
            return
        self._transport.write(self.request())
        self.began()

    def data_received(self, data: bytes) -> None:
        self.received(data, time.time())

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:  # not marooned
            self._transport = None
            self.ended()

    def pause_writing(self) -> None:
        # A node that does not read a device's few tiny frames is broken; there is no queue to keep for it.
        self.abort()

    # StreamSocket
    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def finish(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def reset(self) -> None:
        self.abort()

    def pause(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def maroon(self) -> None:
        """As far as a transport allows: it stays open and unread until the loop ends or the peer gives up."""
        self.pause()
        self._transport = None
        self.ended()

    def read_some(self, limit_bytes: int) -> None:
        """A transport does not count bytes: it reads once in a while."""
        self.resume()
        self.client.context.loop.call_soon(self.pause)
