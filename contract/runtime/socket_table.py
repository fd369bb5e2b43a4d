"""Many plain TCP sockets on one epoll of their own, which the event loop sees as a single reader. Linux.

A loop's own transports cost a connection about a kilobyte and a turn of the loop each time something arrives. Here a
connection is a small object and a place in a list, and whatever is readable is read in batches: a process that holds
thousands of sockets nearly all at rest pays for those alone on which something happens. `SocketTransport` is an
asyncio.Transport in what protocols here use of one. TLS stays with the loop's own.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import Callable
from typing import Final

__all__ = ["AVAILABLE", "ServedListener", "SocketTable", "SocketTransport"]

AVAILABLE: Final = hasattr(select, "epoll")
"""Whether this platform has what it takes."""
_EVENTS_PER_TURN: Final = 64
"""Sockets looked at before the loop goes on with other work: some 2 ms of handshakes."""
_READ_BYTES: Final = 16_384
_ACCEPT_AGAIN_S: Final = 1.0
"""After an accept that failed for want of files or memory (asyncio waits as long)."""
_IN, _OUT = (select.EPOLLIN, select.EPOLLOUT) if AVAILABLE else (1, 4)
_READABLE: Final = ~_OUT
"""Whatever else epoll reports, an error or the peer's end, a read tells more of."""
_BOTH_OVER: Final = select.EPOLLHUP if AVAILABLE else 16
"""Neither end will say anything more; reported for ever, whether asked for or not."""

_OPEN, _WRITTEN, _CLOSING, _OVER = range(4)
"""How far a transport's end has come; above _OPEN nothing new is written, from _CLOSING on nothing is read."""


class SocketTransport(asyncio.Transport):
    """One connection. Its protocol is paused while a byte waits to be written, and goes on once the last one has left.

    `fd` may be written to directly while nothing waits; it is closed only after `connection_lost`.
    """

    __slots__ = ("_ending", "_protocol", "_rest", "_table", "fd")

    def __init__(self, table: SocketTable, fd: int, protocol: asyncio.Protocol) -> None:
        # The base class's constructor would give each connection a dictionary of its own.
        self._table = table
        self._protocol: asyncio.Protocol | None = protocol
        self._rest: bytearray | None = None
        """What the kernel did not take yet."""
        self._ending = _OPEN
        self.fd = fd

    # asyncio.Transport

    def get_extra_info(self, name: str, default: object = None) -> object:
        """Nothing is kept; the protocol was made for the peer's address."""
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None
        return self._protocol

    def is_closing(self) -> bool:
        return self._ending >= _CLOSING

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return len(self._rest) if self._rest is not None else 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is one limit: a single byte that waits."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._ending:
            return
        if self._rest is not None:
            self._rest += data
            return
        try:
            sent = os.write(self.fd, data)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            self._end(exc)
            return
        if sent != len(data):
            self._rest = bytearray(data[sent:])
            self._table._watch(self.fd, _IN | _OUT)
            assert self._protocol is not None
            try:
                self._protocol.pause_writing()
            except Exception as exc:
                self._failed(exc)

    def write_eof(self) -> None:
        """Nothing more will be written; reading goes on."""
        if self._ending == _OPEN:
            self._ending = _WRITTEN
            if self._rest is None:
                self._shut()

    def close(self) -> None:
        """Read no more, write what waits, then close."""
        if self._ending >= _CLOSING:
            return
        self._ending = _CLOSING
        if self._rest is None:
            self._end(None)
        else:
            self._table._watch(self.fd, _OUT)

    def abort(self) -> None:
        self._end(None)

    def set_option(self, level: int, name: int, value: int) -> None:
        """`setsockopt`; raises OSError."""
        sock = socket.socket(fileno=self.fd)
        try:
            sock.setsockopt(level, name, value)
        finally:
            sock.detach()

    # From the table.

    def on_event(self, event: int) -> None:
        if self._rest is not None and event != _IN:
            self._flush()
        if event & _READABLE and self._ending < _CLOSING:
            try:
                data = os.read(self.fd, _READ_BYTES)
            except BlockingIOError:
                return
            except OSError as exc:
                self._end(exc)
                return
            protocol = self._protocol
            assert protocol is not None
            try:
                if data:
                    protocol.data_received(data)
                elif not protocol.eof_received() or event & _BOTH_OVER:
                    self.close()
                else:
                    self._table._watch(self.fd, _OUT if self._rest is not None else 0)
            except Exception as exc:
                self._failed(exc)

    def _flush(self) -> None:
        rest = self._rest
        assert rest is not None
        try:
            del rest[: os.write(self.fd, rest)]
        except BlockingIOError:
            return
        except OSError as exc:
            self._end(exc)
            return
        if rest:
            return
        self._rest = None
        if self._ending >= _CLOSING:
            self._end(None)
            return
        self._table._watch(self.fd, _IN)
        if self._ending == _WRITTEN:
            self._shut()
        assert self._protocol is not None
        try:
            self._protocol.resume_writing()
        except Exception as exc:
            self._failed(exc)

    def _shut(self) -> None:
        sock = socket.socket(fileno=self.fd)
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it is gone: a read will say so
        finally:
            sock.detach()

    def _failed(self, exc: Exception) -> None:
        """A protocol raised: its connection ends, and nobody else's."""
        self._table._report("protocol failed", exc, self)
        self._end(exc)

    def _end(self, exc: Exception | None) -> None:
        if self._ending == _OVER:
            return
        self._ending = _OVER
        self._rest = None
        self._table._forget(self.fd)
        self._table._loop.call_soon(self._gone, exc)

    def _gone(self, exc: Exception | None) -> None:
        protocol, self._protocol = self._protocol, None
        assert protocol is not None
        try:
            protocol.connection_lost(exc)
        except Exception as failure:  # the descriptor must be closed whatever it does
            self._table._report("connection_lost failed", failure, self)
        finally:
            os.close(self.fd)


class ServedListener:
    """A listening socket whose connections the table takes."""

    def __init__(self, table: SocketTable, sock: socket.socket, protocol: Callable[[str], asyncio.Protocol]) -> None:
        self._table = table
        self._sock = sock
        self._protocol = protocol

    def on_event(self, event: int) -> None:
        for _ in range(_EVENTS_PER_TURN):
            try:
                # `accept` would make a socket object, and ask the kernel for what is known.
                fd, address = self._sock._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as exc:
                self._pause(exc)
                return
            self._table._take(fd, self._protocol, address)

    def close(self) -> None:
        """Stop listening; connections stay. Idempotent."""
        fd = self._sock.fileno()
        if fd >= 0:
            self._table._forget(fd)
            if not self._table.closed:
                self._table._poll.unregister(fd)  # a duplicate of the socket may live on
            self._sock.close()

    def _pause(self, exc: OSError) -> None:
        """Out of files or memory: asking again at once would only keep the loop busy."""
        self._table._report("accept failed", exc, None)
        self._table._watch(self._sock.fileno(), 0)
        self._table._loop.call_later(_ACCEPT_AGAIN_S, self._go_on)

    def _go_on(self) -> None:
        fd = self._sock.fileno()
        if fd >= 0 and not self._table.closed:
            self._table._watch(fd, _IN)


class SocketTable:
    """All sockets of one event loop that are not the loop's own. Use it on the loop's thread only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._poll = select.epoll()
        self._at: list[SocketTransport | ServedListener | None] = []
        """By descriptor."""
        self._pace_s = 0.0
        self._paced: asyncio.TimerHandle | asyncio.Handle | None = None
        loop.add_reader(self._poll.fileno(), self._turn)

    @property
    def closed(self) -> bool:
        return self._poll.closed

    def serve(self, sock: socket.socket, protocol: Callable[[str], asyncio.Protocol]) -> ServedListener:
        """Accept on a listening socket, which is the table's from now on; `protocol` is given the peer's host."""
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
        listener = ServedListener(self, sock, protocol)
        self._put(sock.fileno(), listener)
        return listener

    def take(self, sock: socket.socket, protocol: Callable[[str], asyncio.Protocol]) -> None:
        """A connected socket is the table's from now on; `protocol` is given the peer's host."""
        try:
            address = sock.getpeername()
        except OSError:  # it left already
            sock.close()
            return
        self._take(sock.detach(), protocol, address)

    def pace(self, every_s: float) -> None:
        """Look at the sockets this often and not as soon as something happens; 0: as soon as something happens.

        Each look costs the same, whatever it finds, which is as much as a short answer: for whoever is so busy that a
        wait of `every_s` matters less than the looks it saves.
        """
        if self.closed or every_s == self._pace_s:
            return
        self._pace_s = every_s
        if self._paced is None:
            self._loop.remove_reader(self._poll.fileno())
            self._paced = self._loop.call_soon(self._paced_turn)

    def close(self) -> None:
        """End everything at once; protocols hear of it in the loop's next turn. Idempotent."""
        if self.closed:
            return
        if self._paced is not None:
            self._paced.cancel()
            self._paced = None
        for each in tuple(self._at):
            if isinstance(each, SocketTransport):
                each.abort()
            elif each is not None:
                each.close()
        self._loop.remove_reader(self._poll.fileno())
        self._poll.close()

    def _turn(self) -> bool:
        """Returns whether there may be more."""
        at = self._at
        events = self._poll.poll(0, _EVENTS_PER_TURN)
        for fd, event in events:
            who = at[fd]
            if who is not None:  # else it ended in this very turn
                who.on_event(event)
        return len(events) == _EVENTS_PER_TURN

    def _paced_turn(self) -> None:
        if not self._pace_s:
            self._paced = None
            self._loop.add_reader(self._poll.fileno(), self._turn)
            return
        more = self._turn()
        if self.closed:
            return
        if more:
            self._paced = self._loop.call_soon(self._paced_turn)
        else:
            self._paced = self._loop.call_later(self._pace_s, self._paced_turn)

    def _take(self, fd: int, protocol: Callable[[str], asyncio.Protocol], address: tuple[str, int] | str) -> None:
        try:
            os.set_blocking(fd, False)
            made = protocol(address[0] if address else "")
            transport = SocketTransport(self, fd, made)
            self._put(fd, transport)
        except Exception as exc:  # nobody was told of it: there is only the descriptor
            self._forget(fd)
            os.close(fd)
            self._report("connection not served", exc, None)
            return
        try:
            made.connection_made(transport)
        except Exception as exc:
            transport._failed(exc)

    def _put(self, fd: int, who: SocketTransport | ServedListener) -> None:
        at = self._at
        if fd >= len(at):
            at.extend([None] * (fd + 64 - len(at)))
        at[fd] = who
        self._poll.register(fd, _IN)

    def _watch(self, fd: int, events: int) -> None:
        if self._at[fd] is not None:
            self._poll.modify(fd, events)

    def _forget(self, fd: int) -> None:
        # Closing the descriptor, which follows, takes it out of the epoll as well.
        if fd < len(self._at):
            self._at[fd] = None

    def _report(self, message: str, exc: Exception, transport: SocketTransport | None) -> None:
        self._loop.call_exception_handler({"message": f"sockets: {message}", "exception": exc, "transport": transport})
