"""One WebSocket of a device over gevent: the `websockets` package's sans-I/O client on a socket of its own greenlet.

What happens is put into the device's inbox in order, with the moment it came; the device's own greenlet reads it.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from typing import Final, Protocol

import gevent
import msgspec
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import Event
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI, parse_uri

from contract.close_codes import CloseCode
from contract.frames import SUBPROTOCOL
from loadtest.users.caller import reason_of, tls_context

__all__ = ["Arrived", "Beat", "DeviceSocket", "Ended", "Inbox", "Opened"]

_MESSAGE_MAX_BYTES: Final = 1 << 20
_RECEIVE_BYTES: Final = 64 * 1024
_LOG: Final = logging.getLogger("loadtest.users.websocket")


class Opened(msgspec.Struct, frozen=True):
    """The handshake succeeded."""

    conn: int


class Arrived(msgspec.Struct, frozen=True):
    """A message, and when it came: milliseconds of the wall clock, with fractions."""

    conn: int
    at_ms: float
    payload: bytes


class Beat(msgspec.Struct, frozen=True):
    """A ping: the connection lives."""

    conn: int


class Ended(msgspec.Struct, frozen=True):
    """Closed with `code`, refused with `status`, or broken (1006)."""

    conn: int
    code: int
    status: int = 0
    """Of a refused handshake; 0: none."""
    retry_after_ms: int = 0
    opened: bool = False
    """Whether the handshake had succeeded."""
    reason: str = ""
    """Of low cardinality; why there was no handshake, where that is known."""


class Inbox(Protocol):
    """Of the above, bounded: a device that does not keep up leaves its messages to the kernel, and so to the node."""

    def put(self, item: Opened | Arrived | Beat | Ended) -> None:
        """Waits while it is full."""


class DeviceSocket:
    """Opens at once, in a greenlet of its own. `send` and `close` are for the device's greenlet."""

    def __init__(
        self,
        conn: int,
        url: str,
        token: str,
        inbox: Inbox,
        spawn: Callable[[Callable[[], None]], None],
        *,
        timeout_s: float,
    ) -> None:
        self.conn = conn
        self._uri: WebSocketURI = parse_uri(url)
        self._token = token
        self._inbox = inbox
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None
        self._protocol: ClientProtocol | None = None
        self._parts: list[bytes] = []
        self._opened = False
        self._at_end = False
        spawn(self._run)

    def send(self, payload: bytes) -> None:
        """One text message; nothing where the connection is no longer open."""
        if self._opened and self._protocol is not None and self._protocol.close_sent is None:
            self._protocol.send_text(payload)
            self._flush()

    def close(self, code: int) -> None:
        """Say goodbye where that can be heard, and let go at once: a device that leaves does not wait."""
        protocol = self._protocol
        if self._opened and protocol is not None and protocol.close_sent is None and code != CloseCode.GOING_AWAY:
            protocol.send_close(code)
            self._flush()
        found, self._socket = self._socket, None
        if found is not None:
            found.close()

    # its greenlet
    def _run(self) -> None:
        ended = Ended(self.conn, 1006)
        try:
            with gevent.Timeout(self._timeout_s, TimeoutError("handshake")):
                self._connect()
                found = self._read_until_opened()
            ended = found if found is not None else self._read_to_the_end()
        except (OSError, TimeoutError) as exc:
            _LOG.debug("connection %d: %s", self.conn, exc)
            ended = Ended(self.conn, 1006, opened=self._opened, reason=reason_of(exc))
        finally:
            self._opened = False
            found_socket, self._socket = self._socket, None
            if found_socket is not None:
                found_socket.close()
        self._inbox.put(ended)

    def _connect(self) -> None:
        made = socket.create_connection((self._uri.host, self._uri.port), timeout=self._timeout_s)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._uri.secure:
            made = tls_context().wrap_socket(made, server_hostname=self._uri.host)
        self._socket = made
        protocol = ClientProtocol(
            self._uri, subprotocols=[Subprotocol(SUBPROTOCOL)], max_size=_MESSAGE_MAX_BYTES, logger=_LOG
        )
        request = protocol.connect()
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        protocol.send_request(request)
        self._protocol = protocol
        self._flush()

    def _read_until_opened(self) -> Ended | None:
        """None once the handshake succeeded; the frames that came with it are handled too."""
        assert self._protocol is not None
        while not self._opened:
            for event, at_ms in self._receive():
                if isinstance(event, Response) and self._protocol.handshake_exc is None:
                    self._opened = True
                    self._inbox.put(Opened(self.conn))
                elif isinstance(event, Frame):
                    self._frame(event, at_ms)
            if self._protocol.handshake_exc is not None:
                return _refused(self.conn, self._protocol.handshake_exc)
            if self._at_end and not self._opened:
                return Ended(self.conn, 1006, reason="connection lost")
        if self._socket is not None:
            self._socket.settimeout(None)  # the device itself judges silence, by what the node announced
        return None

    def _read_to_the_end(self) -> Ended:
        protocol = self._protocol
        assert protocol is not None
        while not self._at_end and protocol.close_rcvd is None and protocol.parser_exc is None:
            for event, at_ms in self._receive():
                if isinstance(event, Frame):
                    self._frame(event, at_ms)
        code = 1006 if protocol.close_rcvd is None else protocol.close_rcvd.code
        return Ended(self.conn, code, opened=True)

    def _receive(self) -> list[tuple[Event, float]]:
        """What came, and when; pings are answered. Sets `_at_end` when nothing more will come."""
        assert self._protocol is not None
        if self._socket is None:
            self._at_end = True  # the device left
            return []
        received = self._socket.recv(_RECEIVE_BYTES)
        at_ms = time.time() * 1000
        if received:
            self._protocol.receive_data(received)
        else:
            self._at_end = True
            self._protocol.receive_eof()
        self._flush()
        return [(event, at_ms) for event in self._protocol.events_received()]

    def _frame(self, frame: Frame, at_ms: float) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.CONT):
            self._parts.append(bytes(frame.data))
            if frame.fin:
                payload = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
                self._parts.clear()
                self._inbox.put(Arrived(self.conn, at_ms, payload))
        elif frame.opcode is Opcode.PING:
            self._inbox.put(Beat(self.conn))

    def _flush(self) -> None:
        assert self._protocol is not None
        for piece in self._protocol.data_to_send():
            if piece and self._socket is not None:
                try:
                    self._socket.sendall(piece)
                except OSError as exc:
                    _LOG.debug("connection %d: %s", self.conn, exc)  # the reader finds out too
                    return


def _refused(conn: int, exc: Exception) -> Ended:
    if not isinstance(exc, InvalidStatus):
        return Ended(conn, 1006, reason="not WebSocket")
    status = exc.response.status_code
    retry_after = exc.response.headers.get("Retry-After", "")
    # 401 and 403 will be the same tomorrow; everything else may pass.
    code = int(CloseCode.BAD_TOKEN) if status in (401, 403) else 1006
    return Ended(conn, code, status, int(retry_after) * 1000 if retry_after.isdigit() else 0)
