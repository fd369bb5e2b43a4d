"""HTTP/1.1 requests (RFC 9112), sans-I/O: bytes in, whole requests out, or the reason why there is none. Pure.

A request is told only once its body is there. The request line and chunked bodies are read here, for `httptools` is
generous with the one and hides where the other ends; header fields are read by `httptools`, which is strict with them.
Whatever the pieces requests arrive in, what is told is the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from contract.header_fields import FirstValues, JoinedValues
from dgs.http.chunked_body import ChunkedBody
from dgs.http.known_heads import Head, KnownHeads
from dgs.http.malformed import Malformed, MalformedRequest
from dgs.serving import Ask

__all__ = ["MAX_HEADERS", "MAX_REQUEST_LINE_BYTES", "Malformed", "RequestReader"]

MAX_HEADERS: Final = 100
"""Header lines of one request; browsers send about 15."""
MAX_REQUEST_LINE_BYTES: Final = 8_000
"""What RFC 9112 asks every server to take at least."""

_END: Final = b"\r\n\r\n"
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_request_line = re.compile(rb"(%b) ([\x21-\x7e]+) HTTP/([0-9]\.[0-9])\r\n" % _TOKEN).match
_is_token = re.compile(_TOKEN).fullmatch
_absolute_form = re.compile(rb"https?://[^/?#@]+(?=[/?]|$)", re.IGNORECASE).match
_is_host = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]*").fullmatch
_is_length = re.compile(rb"[0-9]{1,15}").fullmatch

_HEADERS_ONLY: Final = b"GET / HTTP/1.1\r\n"
_TLS_HANDSHAKE: Final = 0x16
_SLASH: Final = 0x2F
_CR: Final = 0x0D
_CHUNKED: Final = -1
_METHODS: Final[Mapping[bytes, str]] = {name.encode(): name for name in ("GET", "HEAD", "POST", "OPTIONS")}
_SINGLE: Final[Mapping[bytes, str]] = {
    name.lower().encode(): name
    for name in ("Authorization", "Content-Length", "Content-Type", "Expect", "Host", "Origin", "Transfer-Encoding")
}
"""Of these a second one would leave it to chance which is meant."""


class RequestReader:
    """The requests of one connection. Holds one unfinished request, and what `feed` had no room for."""

    __slots__ = (
        "_buffer",
        "_chunks",
        "_head",
        "_host",
        "_known_heads",
        "_known_host",
        "_max_body_bytes",
        "_max_head_bytes",
        "_max_line_bytes",
        "_searched",
        "continue_wanted",
        "last",
        "malformed",
    )

    def __init__(
        self,
        host: str = "",
        *,
        max_head_bytes: int = 16_384,
        max_body_bytes: int = 65_536,
        max_line_bytes: int = MAX_REQUEST_LINE_BYTES,
        known_heads: KnownHeads | None = None,
    ) -> None:
        """`known_heads`: those of other connections, which must have the same bounds."""
        assert max_head_bytes > 2 * len(_END)
        self._host = host
        self._max_head_bytes = max_head_bytes
        self._max_body_bytes = max_body_bytes
        self._max_line_bytes = min(max_line_bytes, max_head_bytes - len(_END))
        self._buffer: bytes | bytearray = b""
        self._searched = 0
        """So far no head ends in the buffer."""
        self._head: Head | None = None
        """Of the request whose body is awaited."""
        self._chunks: ChunkedBody | None = None
        self._known_host = b""
        self._known_heads = known_heads or KnownHeads(max_body_bytes)
        self.malformed: Malformed | None = None
        """Why nothing more is read; what was told before is to be answered first."""
        self.last = False
        """The request told last is the last one: the client said so."""
        self.continue_wanted = False
        """The client waits for `100 Continue`; set back by whoever says so."""

    @property
    def held_bytes(self) -> int:
        """What waits here: of an unfinished request, and behind it."""
        return len(self._buffer) + (self._chunks.size_bytes if self._chunks is not None else 0)

    @property
    def begun(self) -> bool:
        """Whether part of a request is here."""
        return self._head is not None or len(self._buffer) > 0

    def feed(self, data: bytes, now_s: float, room: int = 64) -> Sequence[Ask]:
        """Requests that are whole by now, at most `room`; those there was no room for are told by `feed(b"", ...)`.

        `now_s` is when they arrived. Nothing is told after `malformed` or `last` was set.
        """
        if self.malformed is not None or self.last:
            return ()
        if not self._buffer and self._head is None and room > 0:
            try:
                ask = self._read_alone(data, now_s)
            except MalformedRequest as exc:
                self._stop(exc.malformed)
                return ()
            if ask is not None:
                return (ask,)
        if self._buffer:
            if not isinstance(self._buffer, bytearray):
                self._buffer = bytearray(self._buffer)
            self._buffer += data
            data = b""
        found: list[Ask] = []
        try:
            rest = self._read_on(self._buffer or data, now_s, room, found)
        except MalformedRequest as exc:
            self._stop(exc.malformed)
            return found
        self._buffer = b"" if self.last else rest
        return found

    def _read_alone(self, data: bytes, now_s: float) -> Ask | None:
        """The one request that `data` is, as nearly always; None: it is less, or more."""
        end = data.find(_END, 0, self._max_head_bytes) + 4
        if end < 4 or data[0] == _CR:
            return None
        head = data[:end]
        found = self._known_heads.read(head)
        if found is None:
            found = self._read_head(head)
            self._known_heads.learn(head, found)
        method, path, query, fields, length, last, _ = found
        if end + length != len(data):
            return None
        self.last = last
        return Ask(method, path, query, fields, data[end:], self._host, now_s)

    def _read_on(self, buffer: bytes | bytearray, now_s: float, room: int, found: list[Ask]) -> bytes | bytearray:
        """Append to `found` what is whole; returns the rest."""
        at = 0
        while len(found) < room and not self.last:
            head = self._head
            if head is None:
                while buffer[at : at + 2] == b"\r\n":  # an empty line before a request is nobody's (RFC 9112, 2.2)
                    at += 2
                end = buffer.find(_END, max(at, at + self._searched - 3), at + self._max_head_bytes)
                if end < 0:
                    self._wait_for_head(buffer, at)
                    break
                end += 4
                self._searched = 0
                head = self._read_head(bytes(buffer[at:end]))
                at = end
            method, path, query, fields, length, last, continues = head
            body, at = self._read_body(length, buffer, at)
            if body is None:
                if self._head is None:
                    self._head, self.continue_wanted = head, continues
                break
            self._head, self.continue_wanted, self.last = None, False, last
            found.append(Ask(method, path, query, fields, body, self._host, now_s))
        return buffer[at:] if at else buffer

    def _stop(self, malformed: Malformed) -> None:
        self.malformed = malformed
        self._buffer, self._head, self._chunks, self.continue_wanted = b"", None, None, False

    # The head.

    def _wait_for_head(self, buffer: bytes | bytearray, at: int) -> None:
        """Refuses a head that is hopeless already."""
        size = len(buffer) - at
        _check_start(bytes(buffer[at : at + self._max_line_bytes + 2]), self._max_line_bytes)
        if size >= self._max_head_bytes:
            raise MalformedRequest(431, f"request head above {self._max_head_bytes} bytes", "headers")
        self._searched = size

    def _read_head(self, data: bytes) -> Head:
        """One whole head, empty line included and nothing behind it."""
        line = _request_line(data)
        if line is None or line.end() > self._max_line_bytes + 2:
            _check_start(data, self._max_line_bytes)
            raise _request_line_error(data)
        method, target, version = line.groups()
        modern = version == b"1.1"
        if not modern and version != b"1.0":
            raise MalformedRequest(505, f"HTTP/{version.decode()} is not spoken here; use HTTP/1.1", "request line")
        fields = _read_fields(data, line.end())
        host = fields.get(b"host")
        if host != self._known_host:
            self._judge_host(host, modern)
        if target[0] != _SLASH or b"#" in target:
            target = _origin_form(method, target)
        path, _, query = target.decode().partition("?")
        connection = fields.get(b"connection")
        last = not modern or (
            connection is not None
            and connection != b"keep-alive"
            and b"close" in {option.strip() for option in connection.lower().split(b",")}
        )
        return (
            _METHODS.get(method) or method.decode(),
            path,
            query,
            fields,
            self._length(fields, modern),
            last,
            b"expect" in fields and _expects(fields, modern),
        )

    def _judge_host(self, host: bytes | None, modern: bool) -> None:
        if host is None:
            if modern:
                raise MalformedRequest(400, "missing", "Host")
            return
        if not _is_host(host):
            raise MalformedRequest(400, "not a host", "Host")
        self._known_host = host

    def _length(self, fields: dict[bytes, bytes], modern: bool) -> int:
        """How the body is framed. Two ways at once are how requests are smuggled: never both."""
        length, coding = fields.get(b"content-length"), fields.get(b"transfer-encoding")
        if coding is not None:
            if length is not None or not modern:
                raise MalformedRequest(400, "a body is framed in one way", "Transfer-Encoding")
            if coding.lower() != b"chunked":
                raise MalformedRequest(501, "only chunked is understood", "Transfer-Encoding")
            return _CHUNKED
        if length is None:
            return 0
        if not _is_length(length):
            raise MalformedRequest(400, "not a number of bytes", "Content-Length")
        size = int(length)
        if size > self._max_body_bytes:
            raise MalformedRequest(413, f"{size} bytes (at most {self._max_body_bytes} bytes)", "body")
        return size

    # The body.

    def _read_body(self, length: int, buffer: bytes | bytearray, at: int) -> tuple[bytes | None, int]:
        """The body, if it is whole, and where it ends."""
        if length >= 0:
            end = at + length
            return (bytes(buffer[at:end]), end) if len(buffer) >= end else (None, at)
        if self._chunks is None:
            self._chunks = ChunkedBody(self._max_body_bytes)
        at = self._chunks.take(buffer, at)
        if not self._chunks.done:
            return None, at
        body = self._chunks.content()
        self._chunks = None
        return body, at


def _read_fields(data: bytes, at: int) -> dict[bytes, bytes]:
    """The header fields that begin at `at`, by lower-case name."""
    lines = data.count(b"\n", at) - 1  # one that passes has no line feed elsewhere
    if lines > MAX_HEADERS:
        raise MalformedRequest(431, f"more than {MAX_HEADERS} header lines", "headers")
    block = _HEADERS_ONLY + data[at:]
    as_sent: dict[bytes, bytes] = {}
    _run(FirstValues(as_sent), block)
    fields = {name.lower(): value.strip(b" \t") for name, value in as_sent.items()}
    if len(fields) == lines:
        return fields
    repeated = JoinedValues(_SINGLE)
    _run(repeated, block)
    if repeated.wrong is not None:
        raise MalformedRequest(400, "given more than once", repeated.wrong)
    return repeated.fields


def _run(callbacks: FirstValues | JoinedValues, block: bytes) -> None:
    try:
        HttpRequestParser(callbacks).feed_data(block)
    except HttpParserUpgrade:
        pass  # an offer, which we do not take up
    except HttpParserError as exc:
        reason = str(exc)
        field = next((name for name in ("Content-Length", "Transfer-Encoding") if name in reason), "headers")
        raise MalformedRequest(400, f"not HTTP/1.1: {reason}", field) from exc


def _expects(fields: dict[bytes, bytes], modern: bool) -> bool:
    if not modern:
        return False  # RFC 9110, 10.1.1: ignored in HTTP/1.0
    if fields[b"expect"].lower() != b"100-continue":
        raise MalformedRequest(417, "only 100-continue is understood", "Expect")
    return True


def _origin_form(method: bytes, target: bytes) -> bytes:
    """Path and query of a target that does not begin with a slash, or has a fragment (RFC 9112, 3.2)."""
    if method == b"OPTIONS" and target == b"*":
        return target
    absolute = _absolute_form(target)
    if absolute is None or b"#" in target:
        raise MalformedRequest(
            400, "the target is neither /path?query nor an http URL without fragment", "request line"
        )
    rest = target[absolute.end() :]
    return rest if rest.startswith(b"/") else b"/" + rest


def _check_start(data: bytes, max_line_bytes: int) -> None:
    """What the first bytes tell: not HTTP at all, or a request line without end."""
    if data and not _is_token(data[:1]):
        if data[0] == _TLS_HANDSHAKE:
            raise MalformedRequest(400, "TLS where plain HTTP is spoken", "request line")
        if data != b"\r":
            raise MalformedRequest(400, "does not begin with a method", "request line")
    line_feed = data.find(b"\n", 0, max_line_bytes + 2)
    if line_feed < 0 and len(data) >= max_line_bytes + 2:
        raise MalformedRequest(414, f"request line above {max_line_bytes} bytes", "request line")
    if line_feed > 0 and data[line_feed - 1] != 0x0D:
        raise MalformedRequest(400, "a line that ends in LF alone; lines end in CR LF", "request line")


def _request_line_error(data: bytes) -> MalformedRequest:
    words = data[: data.index(b"\r\n")].split(b" ")
    if not _is_token(words[0]):
        what = "a method has only letters, digits and !#$%&'*+-.^_`|~"
    elif len(words) < 3:
        what = "say METHOD target HTTP/1.1"
    else:
        what = "the target has a blank, a control character or one that is not ASCII, or the version is none"
    return MalformedRequest(400, what, "request line")
