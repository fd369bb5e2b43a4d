"""HTTP of one user over gevent: one connection kept between requests that follow soon, one `Heard` per request.

The response parser is that of `geventhttpclient`, as in locust's own fast user; its pool is not used, since that sends
a request again unseen when a connection breaks, and every try is to be counted here.
"""

from __future__ import annotations

import errno
import select
import socket
import ssl
from functools import cache
from typing import Final
from urllib.parse import urlsplit

import gevent
import gevent.monkey
from geventhttpclient.response import HTTPConnectionClosed, HTTPParseError, HTTPSocketResponse

from loadtest.users.asking import Heard, HttpRequest
from loadtest.users.figures import NO_FILE, NO_PORT

__all__ = ["CallFailed", "Caller", "reason_of", "tls_context"]

_BLOCK_BYTES: Final = 64 * 1024
_ANSWER_MAX_BYTES: Final = 4 << 20
_INVALID_EOF: Final = 14
"""The parser's own number."""
_poll: Final = gevent.monkey.get_original("select", "poll")
"""Asks the kernel at once; the one of gevent would let others run."""


class CallFailed(Exception):
    """No answer; `str()` is the reason, of low cardinality."""


def reason_of(exc: OSError) -> str:
    """Why there was no answer, or no connection; of low cardinality."""
    if isinstance(exc, TimeoutError):
        return "timeout"
    if isinstance(exc, ConnectionRefusedError):
        return "connection refused"
    if exc.errno in (errno.EMFILE, errno.ENFILE):
        return NO_FILE
    return NO_PORT if exc.errno == errno.EADDRNOTAVAIL else "connection lost"


@cache
def tls_context() -> ssl.SSLContext:
    """One for all of a process: each would read all authorities anew."""
    return ssl.create_default_context()


class Caller:
    """One user's connection to one origin. A request at a time."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        parts = urlsplit(url)
        assert parts.hostname, "an origin has a host"
        self.origin = url
        self._host = parts.hostname
        self._tls = tls_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._head_end = f"Host: {parts.netloc}\r\n"
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None

    def call(self, request: HttpRequest) -> Heard:
        """Send it and read the whole answer within the timeout. Raises CallFailed.

        A kept connection that its server has closed meanwhile is left for a new one before anything is sent: what was
        sent is never sent again here.
        """
        sent = self._bytes(request)
        try:
            with gevent.Timeout(self._timeout_s, TimeoutError("timeout")):
                if self._socket is not None and _has_ended(self._socket):
                    self.close()
                return self._exchange(self._socket or self._connect(), request.method, sent)
        except BaseException as exc:
            self.close()
            if isinstance(exc, OSError):
                raise CallFailed(reason_of(exc)) from exc
            if isinstance(exc, HTTPConnectionClosed):
                raise CallFailed("connection lost") from exc
            if isinstance(exc, HTTPParseError):
                raise CallFailed("connection lost" if _is_cut_short(exc) else "not HTTP") from exc
            raise

    def close(self) -> None:
        """Let the connection go; the next request opens another one."""
        found, self._socket = self._socket, None
        if found is not None:
            found.close()

    def _connect(self) -> socket.socket:
        made = socket.create_connection((self._host, self._port), timeout=self._timeout_s)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = made if self._tls is None else self._tls.wrap_socket(made, server_hostname=self._host)
        return self._socket

    def _exchange(self, connection: socket.socket, method: str, sent: bytes) -> Heard:
        connection.sendall(sent)
        answer = HTTPSocketResponse(connection, block_size=_BLOCK_BYTES, method=method)
        body = bytearray()
        while block := answer.read(_BLOCK_BYTES):
            body += block
            if len(body) > _ANSWER_MAX_BYTES:
                self.close()
                raise CallFailed("answer too large")
        if answer.should_close():
            self.close()
        return Heard(
            answer.status_code,
            bytes(body),
            _text(answer.get("etag")),
            _text(answer.get("cache-control")),
            _seconds(_text(answer.get("retry-after"))),
        )

    def _bytes(self, request: HttpRequest) -> bytes:
        lines = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        length = f"Content-Length: {len(request.body)}\r\n" if request.method != "GET" else ""
        head = f"{request.method} {request.target} HTTP/1.1\r\n{self._head_end}{lines}{length}\r\n"
        return head.encode() + request.body


def _has_ended(kept: socket.socket) -> bool:
    """Whether something came on a connection that waits for nothing: its end, or what nobody asked for."""
    poll = _poll()
    poll.register(kept, select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))


def _is_cut_short(exc: HTTPParseError) -> bool:
    """Whether the answer was HTTP as far as it came: its server died over it."""
    said = str(exc.args[0]) if exc.args else ""
    return _INVALID_EOF in exc.args or "closed" in said or "Incomplete" in said


def _text(found: str | list[str] | None) -> str:
    """One field; the first of several."""
    if isinstance(found, list):
        return found[0] if found else ""
    return found or ""


def _seconds(text: str) -> float | None:
    return float(text) if text.isdigit() else None
