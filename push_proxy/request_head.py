"""One HTTP/1.1 request head (RFC 9112), sans-I/O: bytes in, a RequestHead or the reason why it is none.

The request line is read here, for `httptools` is generous with it; the header fields are read by `httptools`, which is
not. Whatever the pieces a head arrives in, the verdict is the same. Details never show a header's value: it may be a
token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from contract.errors import InvalidRequest
from contract.header_fields import FirstValues, JoinedValues

__all__ = ["MAX_HEADERS", "MAX_REQUEST_LINE_BYTES", "HeadBuffer", "MalformedHead", "RequestHead", "parse_head"]

MAX_HEADERS: Final = 100
"""Header lines of one request; browsers send about 15."""
MAX_REQUEST_LINE_BYTES: Final = 8_000
"""What RFC 9112 asks every server to take at least; a token in the query fits many times."""

_END: Final = b"\r\n\r\n"
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_request_line = re.compile(rb"(%b) ([\x21-\x7e]+) HTTP/([0-9]\.[0-9])\r\n" % _TOKEN).match
_is_token = re.compile(_TOKEN).fullmatch
_is_version = re.compile(rb"HTTP/[0-9]\.[0-9]").fullmatch
# Of a GET: origin-form, or absolute-form (RFC 9112, 3.2), without a fragment.
_is_get_target = re.compile(r"(?:/|https?://[^/?#]+)[^#]*", re.IGNORECASE).fullmatch
_is_host = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]*").fullmatch
_bare_line_feed = re.compile(rb"(?<!\r)\n").search
_control_character = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search

_HEADERS_ONLY: Final = b"GET / HTTP/1.1\r\n"
_TLS_HANDSHAKE: Final = 0x16
_NOT_REPEATABLE: Final[Mapping[bytes, str]] = {
    name.lower().encode(): name
    for name in (
        "Authorization",
        "Content-Length",
        "Host",
        "Last-Event-ID",
        "Origin",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Version",
    )
}


class MalformedHead(InvalidRequest):
    """A request no part of this server can take: the HTTP status, what is wrong, and where."""

    code = "malformed_head"

    def __init__(self, status: int, detail: str, field: str | None = None) -> None:
        super().__init__(detail, field=field)
        self.status = status
        self.detail = detail
        self.http_status = status


class RequestHead:
    """Method, target and header fields of one request.

    It has exactly one Host, no field given twice that must not be, no transfer coding, and no body if it is a GET.
    """

    __slots__ = ("_fields", "method", "target")

    def __init__(self, method: str, target: str, fields: dict[bytes, bytes]) -> None:
        self.method = method
        """As sent: methods are case-sensitive, and any token is one."""
        self.target = target
        """ASCII without blanks. Of a GET: `/path?query`, or absolute."""
        self._fields = fields

    def get(self, name: bytes) -> bytes | None:
        """A field's value by its lower-case name, without white space around it; of a repeated one, all, by commas."""
        value = self._fields.get(name)
        return None if value is None else value.strip(b" \t")

    def get_all(self, name: str) -> Sequence[str]:
        """The same by a name in any case, as text: no value, or one."""
        value = self.get(name.lower().encode("latin-1"))
        return () if value is None else (value.decode("latin-1"),)


class HeadBuffer:
    """Collects the bytes of one head, and never more than `max_head_bytes` of them."""

    __slots__ = ("_held", "_max_head_bytes", "_max_line_bytes", "_searched", "rest")

    def __init__(self, max_head_bytes: int, max_line_bytes: int = MAX_REQUEST_LINE_BYTES) -> None:
        assert max_head_bytes > 2 * len(_END)
        self._max_head_bytes = max_head_bytes
        self._max_line_bytes = min(max_line_bytes, max_head_bytes - len(_END))
        self._held: bytearray | None = None
        self._searched = 0
        self.rest = b""
        """Once the head is told: what came behind it, the first bytes of what follows."""

    def feed(self, data: bytes) -> RequestHead | None:
        """The head, once it is whole; then feed no more. Raises MalformedHead as early as nothing can mend it."""
        buffer: bytes | bytearray = data
        if self._held is not None:
            self._held += data
            buffer = self._held
        end = buffer.find(_END, max(0, self._searched - len(_END) + 1), self._max_head_bytes)
        if end < 0:
            self._wait(buffer)
            return None
        end += len(_END)
        self.rest = bytes(buffer[end:])
        self._held = None
        return parse_head(bytes(buffer[:end]), self._max_line_bytes)

    def _wait(self, buffer: bytes | bytearray) -> None:
        """Keep an unfinished head, unless it is hopeless already."""
        limit = self._max_head_bytes
        _check_start(buffer, self._max_line_bytes)
        if _bare_line_feed(buffer, self._searched, limit):
            raise _bare_line_feed_error()
        if len(buffer) >= limit:
            raise MalformedHead(431, f"request head above {limit} bytes", "headers")
        self._searched = len(buffer)
        if self._held is None:
            self._held = bytearray(buffer)


def parse_head(data: bytes, max_line_bytes: int = MAX_REQUEST_LINE_BYTES) -> RequestHead:
    """Read one whole head, empty line included and nothing behind it. Raises MalformedHead."""
    try:
        return _parse(data, max_line_bytes)
    except MalformedHead:
        # Said first whatever else is wrong: one that arrives in pieces is refused for it before the rest is there.
        if _bare_line_feed(data) and data.find(b"\n") < max_line_bytes + 2 and _is_token(data[:1]):
            raise _bare_line_feed_error() from None
        raise


def _parse(data: bytes, max_line_bytes: int) -> RequestHead:
    line = _request_line(data)
    if line is None or line.end() > max_line_bytes + 2:
        _check_start(data, max_line_bytes)
        raise _request_line_error(data)
    method, target, version = line.groups()
    if version != b"1.1":
        raise MalformedHead(505, f"HTTP/{version.decode()} is not spoken here; use HTTP/1.1", "request line")
    head = RequestHead(method.decode(), target.decode(), _read_fields(data, line.end()))
    _check_fields(head)
    return head


def _read_fields(data: bytes, at: int) -> dict[bytes, bytes]:
    """The header fields that begin at `at`, by lower-case name."""
    lines = data.count(b"\n") - 2  # one that passes has no line feed elsewhere
    if lines > MAX_HEADERS:
        raise MalformedHead(431, f"more than {MAX_HEADERS} header lines", "headers")
    block = _HEADERS_ONLY + data[at:]
    as_sent: dict[bytes, bytes] = {}
    _run(FirstValues(as_sent), block)
    fields = {name.lower(): value for name, value in as_sent.items()}
    if len(fields) == lines:
        return fields
    repeated = JoinedValues(_NOT_REPEATABLE)
    _run(repeated, block)
    if repeated.wrong is not None:
        raise MalformedHead(400, "given more than once", repeated.wrong)
    return repeated.fields


def _run(callbacks: FirstValues | JoinedValues, block: bytes) -> None:
    try:
        HttpRequestParser(callbacks).feed_data(block)
    except HttpParserUpgrade:
        pass  # told for every upgrade
    except HttpParserError as exc:
        raise _header_error(block, str(exc)) from exc


def _check_start(data: bytes | bytearray, max_line_bytes: int) -> None:
    """What the first bytes tell: not HTTP at all, or a request line without end."""
    if data and not _is_token(data[:1]):
        if data[0] == _TLS_HANDSHAKE:
            raise MalformedHead(400, "TLS where plain HTTP is spoken", "request line")
        raise MalformedHead(400, "does not begin with a method", "request line")
    if len(data) >= max_line_bytes + 2 and data.find(b"\n", 0, max_line_bytes + 2) < 0:
        raise MalformedHead(414, f"request line above {max_line_bytes} bytes", "request line")


def _check_fields(head: RequestHead) -> None:
    host = head.get(b"host")
    if host is None:
        raise MalformedHead(400, "missing", "Host")
    if not _is_host(host):
        raise MalformedHead(400, "not a host", "Host")
    if head.get(b"transfer-encoding") is not None:
        raise MalformedHead(501, "transfer codings are not understood; no request here has a body", "Transfer-Encoding")
    if head.method != "GET":
        return  # whoever answers it refuses the method, whatever else it brings
    if not _is_get_target(head.target):
        raise MalformedHead(400, "the target is neither /path?query nor an http URL without fragment", "request line")
    if head.get(b"content-length") not in (None, b"0"):
        raise MalformedHead(400, "no request here has a body", "Content-Length")


def _request_line_error(data: bytes) -> MalformedHead:
    line = data[: data.index(b"\r\n")]
    method, _, after = line.partition(b" ")
    target, _, version = after.rpartition(b" ")
    if not _is_token(method):
        what = "a method has only letters, digits and !#$%&'*+-.^_`|~"
    elif not target and not version.startswith(b"HTTP/"):
        what = "no protocol version; say METHOD target HTTP/1.1"
    elif not _is_version(version):
        what = "the protocol version is not like HTTP/1.1"
    else:
        what = "the target has a blank, a control character or one that is not ASCII, or is missing"
    return MalformedHead(400, what, "request line")


def _header_error(data: bytes, reason: str) -> MalformedHead:
    """Say which header line httptools did not like, and why; its own reason where that is all one knows."""
    name = b""
    for line in data[: -len(_END)].split(b"\r\n")[1:]:
        if line[:1] in (b" ", b"\t"):
            return MalformedHead(400, "a line that begins with white space continues no header", _shown(name))
        name, colon, value = line.partition(b":")
        if not colon:
            return MalformedHead(400, "a header line without a colon", _shown(name))
        if name != name.rstrip(b" \t"):
            return MalformedHead(400, "white space before the colon", _shown(name.rstrip(b" \t")))
        if not _is_token(name):
            return MalformedHead(400, "a character no header name may have", _shown(name))
        if _control_character(value):
            return MalformedHead(400, "a control character in the value", _shown(name))
    field = next((name for name in ("Content-Length", "Transfer-Encoding") if name in reason), "headers")
    return MalformedHead(400, f"not HTTP/1.1: {reason}", field)


def _bare_line_feed_error() -> MalformedHead:
    return MalformedHead(400, "a line that ends in LF alone; lines end in CR LF", "request head")


def _shown(name: bytes) -> str:
    """A header's name for people: as sent if it is readable, and not long."""
    return name[:60].decode() if name.strip() and name.isascii() and not _control_character(name) else "headers"
