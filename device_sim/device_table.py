"""Plain TCP sockets of many devices on one epoll: a device holds a descriptor and a place in a list. Linux.

The push node's `contract.runtime.socket_table` is the same thought for who accepts; a device connects, writes a few
tiny frames and otherwise only reads, so that one object is its transport and its protocol, and reads are
edge-triggered: a socket read until less came than asked for is not looked at again until more arrives.
"""

from __future__ import annotations

import _socket
import asyncio
import contextlib
import errno
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from device_sim.device_loop import EVENTS_PER_TURN, DeviceLoop
from device_sim.stream_socket import StreamSocket

if TYPE_CHECKING:
    from device_sim.client import Channel, DeviceClient

__all__ = ["AVAILABLE", "BIND_ADDRESS_NO_PORT", "DeviceTable", "TableSocket"]

AVAILABLE: Final = hasattr(select, "epoll")
"""Whether this platform has what it takes."""
_READ_BYTES: Final = 4_096
_IN: Final = select.EPOLLIN if AVAILABLE else 1
_READING: Final = _IN | ((select.EPOLLET | select.EPOLLRDHUP) if AVAILABLE else 0)
"""With the peer's end: one that comes together with data is no edge of its own, and would be missed."""
_CONNECTING: Final = _READING | (select.EPOLLOUT if AVAILABLE else 0)
BIND_ADDRESS_NO_PORT: Final = 24
"""<linux/in.h>; without it a bound address shares its ports with nobody, whatever they connect to."""
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER for zero seconds: closing resets the connection."""
_MAROONED_MAX: Final = 2_000
"""Sockets kept open whose devices are gone; beyond it the oldest is closed."""


class TableSocket(StreamSocket):
    """A WebSocket of a device, as a descriptor of the table."""

    __slots__ = ("_table", "fd")

    def __init__(self, client: DeviceClient, conn: int, channel: Channel, table: DeviceTable, fd: int) -> None:
        StreamSocket.__init__(self, client, conn, channel)
        self._table = table
        self.fd = fd
        """-1 once closed."""

    def on_event(self, event: int) -> None:
        """Connected at last, or in trouble; reading is the table's."""
        if not self.is_open:
            if not self._connected():
                return
            self._table.watch(self.fd, _READING)
        self._table.drain(self)

    def connect(self) -> None:
        """Write the handshake if the connection stands already, as it mostly does on one machine; else wait for it."""
        events = _READING if self._connected() else _CONNECTING
        if self.fd >= 0:
            self._table.watch(self.fd, events)

    def _connected(self) -> bool:
        try:
            os.write(self.fd, self.request())
        except BlockingIOError:
            self.not_begun()
            return False
        except OSError:
            self._failed()
            return False
        self.began()
        return self.fd >= 0

    def _failed(self) -> None:
        self.client.context.stats.failed += 1
        self.abort()

    # StreamSocket
    def write(self, data: bytes) -> None:
        if self._table.outbox is not None:
            self._table.outbox.append((self, data))
        else:
            self.write_now(data)

    def write_now(self, data: bytes) -> None:
        if self.fd < 0:
            return
        try:
            whole = os.write(self.fd, data) == len(data)
        except OSError:
            whole = False
        if not whole:
            # A node that does not read a device's few tiny frames is broken; there is no queue to keep for it.
            self.abort()

    def finish(self) -> None:
        self._table.write_out()
        self._end(reset=False)

    def abort(self) -> None:
        self._end(reset=False)

    def reset(self) -> None:
        self._end(reset=True)

    def pause(self) -> None:
        if self.fd >= 0:
            self._table.forget(self.fd)

    def resume(self) -> None:
        if self.fd >= 0:
            self._table.put(self)
            self._table.watch(self.fd, _READING if self.is_open else _CONNECTING)

    def maroon(self) -> None:
        if self.fd >= 0:
            self._table.maroon(self.fd)
            self.fd = -1
            self.ended()

    def read_some(self, limit_bytes: int) -> None:
        if self.fd >= 0:
            self._table.read_once(self, limit_bytes)

    def _end(self, *, reset: bool) -> None:
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        self._table.close_fd(fd, reset=reset)
        # Told in a turn of its own: whoever is in the middle of something need not expect it.
        self._table.loop.call_soon(self.ended)


class DeviceTable:
    """All devices' plain sockets of one event loop. Use it on the loop's thread only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._at: list[TableSocket | None] = []
        """By descriptor."""
        self.outbox: list[tuple[TableSocket, bytes]] | None = None
        """What is to be written at the end of this turn, in order; None between turns."""
        self._marooned: deque[int] = deque()
        self._closed = False
        poll = loop.serve_devices(self._handle) if isinstance(loop, DeviceLoop) else None
        self._is_loops = poll is not None
        if poll is None:
            poll = select.epoll()
            loop.add_reader(poll.fileno(), self._turn)
        self._poll = poll

    def open(
        self, client: DeviceClient, conn: int, channel: Channel, family: int, address: tuple[str, int]
    ) -> TableSocket | None:
        """Begin to connect; None: there is no file or no port for it."""
        try:
            sock = _socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
        except OSError:
            return None
        try:
            if client.source is not None:
                sock.setsockopt(socket.IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1)
                sock.bind((client.source, 0))
            failed = sock.connect_ex(address)
        except OSError as exc:
            failed = exc.errno or errno.EIO
        if failed not in (0, errno.EINPROGRESS):
            sock.close()
            return None
        stream = TableSocket(client, conn, channel, self, sock.detach())
        self.put(stream)
        return stream

    def close(self) -> None:
        """Close every socket at once; devices hear of it in the loop's next turn. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for stream in tuple(self._at):
            if stream is not None:
                stream.abort()
        while self._marooned:
            os.close(self._marooned.popleft())
        if self._is_loops:
            assert isinstance(self.loop, DeviceLoop)
            self.loop.leave_devices()
        else:
            self.loop.remove_reader(self._poll.fileno())
            self._poll.close()

    def put(self, stream: TableSocket) -> None:
        at, fd = self._at, stream.fd
        if fd >= len(at):
            at.extend([None] * (fd + 64 - len(at)))
        at[fd] = stream

    def watch(self, fd: int, events: int) -> None:
        try:
            self._poll.register(fd, events)
        except FileExistsError:
            self._poll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Look at it no more; it stays open."""
        self._at[fd] = None
        with contextlib.suppress(FileNotFoundError):  # it was not looked at yet
            self._poll.unregister(fd)

    def close_fd(self, fd: int, *, reset: bool) -> None:
        self._at[fd] = None
        if reset:
            sock = socket.socket(fileno=fd)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            finally:
                sock.detach()
        os.close(fd)  # which takes it out of the epoll as well

    def maroon(self, fd: int) -> None:
        """Keep it open and unread, as the kernel of a device that lost its power would not, but its peer must think."""
        self.forget(fd)
        self._marooned.append(fd)
        if len(self._marooned) > _MAROONED_MAX:
            os.close(self._marooned.popleft())

    def drain(self, stream: TableSocket) -> None:
        """Read until nothing is left, the peer's end included."""
        while stream.fd >= 0 and self.read_once(stream, _READ_BYTES):
            pass

    def read_once(self, stream: TableSocket, limit_bytes: int) -> bool:
        """Read at most so much; returns whether anything came."""
        try:
            data = os.read(stream.fd, limit_bytes)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data:
            stream.received(data, time.time())
        else:
            stream.abort()
        return bool(data)

    def _turn(self) -> None:
        self._handle(self._poll.poll(0, EVENTS_PER_TURN))

    def _handle(self, events: Sequence[tuple[int, int]]) -> None:
        # First all reads, then all of what was read, then all writes: each part stays in the processor's caches.
        at, read, now_s = self._at, os.read, time.time
        arrived: list[tuple[TableSocket, bytes, float]] = []
        for fd, event in events:
            stream = at[fd]
            if stream is None:
                continue  # it ended in this very turn
            if event != _IN:
                self._tell(stream, event, stream.on_event)
                continue
            try:
                data = read(fd, _READ_BYTES)
            except BlockingIOError:
                continue  # the event was its predecessor's
            except OSError:
                data = b""
            if data:
                arrived.append((stream, data, now_s()))
            else:
                stream.abort()
        self.outbox = []
        for stream, data, at_s in arrived:
            if stream.fd < 0:
                continue  # what another brought ended it
            try:
                stream.received(data, at_s)
                if len(data) == _READ_BYTES:
                    self.drain(stream)
            except Exception as exc:
                self._broken(stream, exc)
        self.write_out()
        self.outbox = None

    def write_out(self) -> None:
        """Write what this turn's inputs have led to so far."""
        while self.outbox:
            waiting, self.outbox = self.outbox, []
            for stream, data in waiting:
                stream.write_now(data)

    def _tell(self, stream: TableSocket, event: int, what: Callable[[int], None]) -> None:
        try:
            what(event)
        except Exception as exc:
            self._broken(stream, exc)

    def _broken(self, stream: TableSocket, exc: Exception) -> None:
        """Its connection ends, and nobody else's."""
        self.loop.call_exception_handler({"message": "a device's socket failed", "exception": exc})
        stream.abort()
