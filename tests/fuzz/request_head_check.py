"""Request heads against RFC 9112's grammar and against `websockets`: what Hypothesis, atheris and the corpus share.

For one stream of bytes and the slices it comes in:

- the verdict, and what is left over behind the head, do not depend on the slices;
- a whole head is taken if, and only if, it keeps to the grammar and to the rules below, written here as plainly as
  possible; then its fields are those of the grammar;
- what is taken of a GET, the parser of `websockets` takes too, and reads the same in it;
- what is refused has a status this server uses, words, and none of the words shows a header's value.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from typing import TypeVar

from websockets.datastructures import Headers
from websockets.http11 import Request

from push_proxy.request_head import MAX_HEADERS, HeadBuffer, MalformedHead, RequestHead, parse_head

__all__ = ["LINE_LIMIT", "check"]

LINE_LIMIT = 60
_END = b"\r\n\r\n"
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(?P<method>%b) (?P<target>[\x21-\x7e]+) HTTP/1\.1" % _TOKEN)
_GET_TARGET = re.compile(rb"/[^#]*|[Hh][Tt][Tt][Pp][Ss]?://[^/?#]+[^#]*")
_FIELD = re.compile(rb"(?P<name>%b):(?P<value>[\t\x20-\x7e\x80-\xff]*)" % _TOKEN)
_HOST = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]*")
_ONCE = {
    *(b"host", b"origin", b"authorization", b"last-event-id", b"content-length"),
    *(b"sec-websocket-key", b"sec-websocket-version"),
}
_STATUSES = {400, 414, 431, 501, 505}
_Outcome = tuple[str, str, dict[bytes, bytes], bytes] | tuple[int, str, str | None] | None
_T = TypeVar("_T")


def check(stream: bytes, slices: Sequence[bytes], limit: int) -> RequestHead | MalformedHead | None:
    """Read the stream, whole and in slices, and compare; the verdict, for more checks."""
    assert b"".join(slices) == stream
    whole, outcome = _read([stream], limit)
    assert _read(slices, limit)[1] == outcome
    end = stream.find(_END, 0, limit) + len(_END)
    if end < len(_END):
        assert not isinstance(whole, RequestHead)
        assert whole is None or whole.status in (400, 414, 431)
        assert whole is not None or len(stream) < limit
    else:
        assert whole is not None
        _check_whole(stream[:end], whole)
    if isinstance(whole, MalformedHead):
        assert whole.status in _STATUSES
        assert whole.detail
    return whole


def _read(slices: Sequence[bytes], limit: int) -> tuple[RequestHead | MalformedHead | None, _Outcome]:
    """What a buffer makes of it, and the same as plain values; leftovers with it."""
    buffer = HeadBuffer(limit, LINE_LIMIT)
    for number, data in enumerate(slices):
        assert len(buffer._held or b"") < limit
        try:
            head = buffer.feed(data)
        except MalformedHead as exc:
            return exc, (exc.status, exc.detail, exc.field)
        if head is not None:
            assert buffer._held is None
            rest = b"".join([buffer.rest, *slices[number + 1 :]])
            return head, (head.method, head.target, head._fields, rest)
    return None, None


def _check_whole(data: bytes, verdict: RequestHead | MalformedHead) -> None:
    expected = _by_the_grammar(data)
    if isinstance(verdict, MalformedHead):
        assert expected is None, f"{verdict.status} {verdict} for a legal head"
        return
    assert expected is not None, "an illegal head was taken"
    assert verdict._fields.keys() == expected.keys()
    assert {name: verdict.get(name) for name in expected} == expected
    again = parse_head(data, LINE_LIMIT)
    assert (again.method, again.target, again._fields) == (verdict.method, verdict.target, verdict._fields)
    if verdict.method == "GET":
        theirs = _by_websockets(data)
        assert theirs.path == verdict.target
        for name in expected:
            values = theirs.headers.get_all(name.decode())
            assert ", ".join(values).strip(" \t") == verdict.get_all(name.decode())[0]


def _by_the_grammar(data: bytes) -> dict[bytes, bytes] | None:
    """The fields of a legal head; None for any other."""
    first, *lines = data[: -len(_END)].split(b"\r\n")
    request = _REQUEST_LINE.fullmatch(first)
    if request is None or len(first) > LINE_LIMIT or len(lines) > MAX_HEADERS:
        return None
    found: dict[bytes, list[bytes]] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            return None
        found.setdefault(field["name"].lower(), []).append(field["value"].strip(b" \t"))
    if len(found.get(b"host", [])) != 1 or not _HOST.fullmatch(found[b"host"][0]):
        return None
    if any(len(found.get(name, [])) > 1 for name in _ONCE):
        return None
    length = found.get(b"content-length")
    if length and (not re.fullmatch(rb"[0-9]+", length[0]) or int(length[0]) >= 2**64):
        return None
    if b"transfer-encoding" in found:
        return None
    if request["method"] == b"GET":
        if not _GET_TARGET.fullmatch(request["target"]):
            return None
        if length and length[0] != b"0":
            return None
    return {name: b", ".join(values).strip(b" \t") for name, values in found.items()}


def _by_websockets(data: bytes) -> Request:
    buffer = bytearray(data)

    def read_line(limit: int, too_long: type[Exception]) -> Generator[None, None, bytes]:
        end = buffer.index(b"\n") + 1
        line = bytes(buffer[:end])
        del buffer[:end]
        return line
        yield

    def run(steps: Generator[None, None, _T]) -> _T:
        try:
            next(steps)
        except StopIteration as stop:
            result: _T = stop.value
            return result
        raise AssertionError("waits for more")

    request = run(Request.parse(read_line))
    assert isinstance(request.headers, Headers)
    return request
