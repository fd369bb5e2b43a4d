"""The end of a listener: nobody who has connected is reset, whether or not others listen on the same port.

A port shared with SO_REUSEPORT is one queue of connections per listener, and the kernel resets what waits in the queue
of one that closes. So the queue is emptied first, and while that is done no connection may join it.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol

import structlog

__all__ = [
    "GRACE_S",
    "TLS_WITHIN_S",
    "HandOver",
    "close_listener",
    "is_shared",
    "refuse_new_connections",
    "to_the_loop",
]

GRACE_S: Final = 0.5
"""A handshake begun before new ones were refused is over by then: a slow network's round trip."""
TLS_WITHIN_S: Final = 2.0
"""For all connections that waited in the queue, together."""
_MOST_WAITING: Final = 65_535
"""No listener's queue is longer."""
_MIGRATES: Final = Path("/proc/sys/net/ipv4/tcp_migrate_req")
_SO_ATTACH_FILTER: Final = 26
_TCP_FLAGS_AT: Final = 13
_SYN, _SYN_ACK = 0x02, 0x12
# Classic BPF over a TCP header: drop what has SYN without ACK, keep the rest.
_FILTER: Final = (
    (0x30, 0, 0, _TCP_FLAGS_AT),  # load the byte of flags
    (0x54, 0, 0, _SYN_ACK),  # and it with SYN | ACK
    (0x15, 0, 1, _SYN),  # SYN alone?
    (0x06, 0, 0, 0),  # then drop
    (0x06, 0, 0, 0xFFFF_FFFF),  # else keep
)
_log = structlog.get_logger(__name__)


def is_shared(sock: socket.socket) -> bool:
    """Whether others may listen on the same port."""
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))


def refuse_new_connections(sock: socket.socket) -> bool:
    """Have the kernel ignore requests for new connections to the listener `sock`; handshakes in progress go on.

    A client asks again after a second, and then reaches another listener of the port. Returns whether it works here
    (Linux, any user). What `sock` accepted or accepts is not affected.
    """
    program = b"".join(struct.pack("=HBBI", *line) for line in _FILTER)
    buffer = ctypes.create_string_buffer(program, len(program))
    try:
        sock.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(_FILTER), ctypes.addressof(buffer))
        )
    except OSError as exc:
        _log.warning("listener_cannot_refuse", why=str(exc))
        return False
    return True


class Closable(Protocol):
    """What listens on a socket: an asyncio.Server, or a table's ServedListener."""

    def close(self) -> None: ...


HandOver = Callable[[socket.socket], Awaitable[None]]
"""Serve one accepted connection from now on; returns when that is arranged. Closes it if it cannot be."""


async def close_listener(
    server: Closable, sock: socket.socket, hand_over: HandOver, *, grace_s: float = GRACE_S
) -> int:
    """Close `server`, which serves the listener `sock`; what it had not accepted yet is handed over.

    Every connection made till then is served, but for those that take longer than TLS_WITHIN_S to be handed over.

    Returns how many were still waiting. A port nobody else listens on is closed at once. On a shared one this takes
    `grace_s`, unless the kernel hands waiting connections to the others (`net.ipv4.tcp_migrate_req`). Cancelled, it
    closes the server at once.
    """
    try:
        own = sock.dup()  # the listener lives until both are closed: nobody accepts but we, below
    except OSError as exc:  # out of files: whoever waits is lost, whoever is served need not be
        _log.warning("listener_closed_at_once", why=str(exc))
        server.close()
        return 0
    try:
        own.setblocking(False)
        if is_shared(own) and not _kernel_migrates() and refuse_new_connections(own):
            await asyncio.sleep(grace_s)
        server.close()
        return await _accept_all(own, hand_over)
    finally:
        server.close()
        own.close()


def to_the_loop(protocol: Callable[[], asyncio.BaseProtocol], tls: ssl.SSLContext | None = None) -> HandOver:
    """Have the event loop serve what waited, over `tls` if given."""

    async def hand_over(connection: socket.socket) -> None:
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(protocol, connection, ssl=tls)
        except OSError:  # it left meanwhile, or spoke no TLS
            connection.close()
        except BaseException:
            connection.close()
            raise

    return hand_over


async def _accept_all(own: socket.socket, hand_over: HandOver) -> int:
    waiting: list[socket.socket] = []
    while len(waiting) < _MOST_WAITING:
        try:
            waiting.append(own.accept()[0])
        except ConnectionAbortedError:
            continue  # it left meanwhile; others may wait behind it
        except BlockingIOError:
            break  # the queue is empty
        except OSError as exc:
            _log.warning("accept_failed", why=str(exc))
            break
    own.close()
    try:
        async with asyncio.timeout(TLS_WITHIN_S):
            await asyncio.gather(*(hand_over(connection) for connection in waiting))
    except TimeoutError:
        _log.info("tls_handshakes_cut_off", after_s=TLS_WITHIN_S)
    return len(waiting)


def _kernel_migrates() -> bool:
    try:
        return _MIGRATES.read_text().strip() == "1"
    except OSError:
        return False
