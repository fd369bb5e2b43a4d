"""Many short-lived TCP connections in one thread: sockets on one epoll, callbacks, one queue of deadlines. Linux.

An event loop's transport costs a connection some 100 us; a herd of naive clients has to be able to ask faster than the
server answers, or it is no herd.
"""

from __future__ import annotations

import os
import select
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final

from loadtest.bench.histogram import LatencyHistogram

__all__ = ["Net", "Wire"]

_EVENTS_PER_TURN: Final = 1_024
_READ_BYTES: Final = 65_536
_LONGEST_SLEEP_S: Final = 0.2
_READ: Final = select.EPOLLIN
_WRITE: Final = select.EPOLLOUT


class Net:
    """Owns the epoll. `run` turns until `stop`; everything happens in callbacks on that thread."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._wires: dict[int, Wire] = {}
        self._readers: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = 0
        self._stopped = False
        self.lag = LatencyHistogram()
        """How late timers were called, one in sixteen of them; of one size, however many there were."""

    @property
    def lag_p99_ms(self) -> float:
        """Of `lag`; 0 where no timer was looked at."""
        return self.lag.percentile_ms(99) or 0.0

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        self._readers[fd] = callback
        self._epoll.register(fd, _READ)

    def at(self, moment_s: float, callback: Callable[[], None]) -> None:
        """Call it then, CLOCK_MONOTONIC. There is no taking back: what is called looks whether it is still wanted."""
        self._numbers += 1
        heappush(self._timers, (moment_s, self._numbers, callback))

    def soon(self, callback: Callable[[], None]) -> None:
        """Call it in the next turn: in this one, who always fails would keep all others from theirs."""
        self.at(time.monotonic(), callback)

    def run(self) -> None:
        while not self._stopped:
            self.turn()

    def stop(self) -> None:
        self._stopped = True

    def close(self) -> None:
        for wire in list(self._wires.values()):
            wire.close()
        self._epoll.close()

    def turn(self) -> None:
        timers = self._timers
        wait_s = _LONGEST_SLEEP_S
        if timers:
            wait_s = min(wait_s, max(0.0, timers[0][0] - time.monotonic()))
        for fd, event in self._epoll.poll(wait_s, _EVENTS_PER_TURN):
            wire = self._wires.get(fd)
            if wire is not None:
                wire.on_event(event)
            elif fd in self._readers:
                self._readers[fd]()
        now_s = time.monotonic()
        while timers and timers[0][0] <= now_s:
            due_s, number, callback = heappop(timers)
            if number % 16 == 0:
                self.lag.record_ms((now_s - due_s) * 1000)
            callback()

    # for wires
    def keep(self, fd: int, wire: Wire, events: int) -> None:
        self._wires[fd] = wire
        self._epoll.register(fd, events)

    def watch(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        if self._wires.pop(fd, None) is not None:
            self._epoll.unregister(fd)


class Wire(ABC):
    """One connection, opened when made. Exactly one of `ended` or `close` is its end."""

    __slots__ = ("_fd", "_opening", "_sock", "net")

    def __init__(self, net: Net, address: tuple[str, int], source: str | None) -> None:
        self.net = net
        self._opening = True
        self._sock: socket.socket | None = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._fd = self._sock.fileno()
        self._sock.setblocking(False)
        try:
            if source is not None:
                # The port is chosen at connect, so that it must be free for this pair of ends alone.
                self._sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
                self._sock.bind((source, 0))
            self._sock.connect_ex(address)
        except OSError:
            # Told from the loop, as every other end is.
            net.soon(self._failed)
            return
        net.keep(self._fd, self, _WRITE | _READ)

    # what a subclass does
    @abstractmethod
    def opened(self) -> None: ...

    @abstractmethod
    def received(self, data: bytes) -> None: ...

    @abstractmethod
    def ended(self) -> None:
        """The peer closed it, it broke, or it never came to be."""

    # what it may do
    @property
    def closed(self) -> bool:
        return self._sock is None

    def send(self, data: bytes) -> None:
        """All of it at once: requests are small, and buffers empty."""
        if self._sock is None:
            return
        try:
            if self._sock.send(data) != len(data):
                self._failed()
        except OSError:
            self._failed()

    def close(self, *, reset: bool = False) -> None:
        """End it; `reset`: as a crashed client or a pulled cable would, and without a port that waits."""
        sock, self._sock = self._sock, None
        if sock is None:
            return
        self.net.forget(self._fd)
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        sock.close()

    # from the net
    def on_event(self, event: int) -> None:
        if self._sock is None:
            return
        if self._opening:
            if self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._failed()
                return
            if not event & _WRITE:
                return
            self._opening = False
            self.net.watch(self._fd, _READ)
            self.opened()
            return
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._failed()
            return
        if data:
            self.received(data)
        else:
            self._failed()

    def _failed(self) -> None:
        if self._sock is None:
            return
        self.close()
        self.ended()


_BIND_ADDRESS_NO_PORT: Final = 24
_RESET: Final = b"\x01\x00\x00\x00\x00\x00\x00\x00"
"""struct linger {1, 0}."""
