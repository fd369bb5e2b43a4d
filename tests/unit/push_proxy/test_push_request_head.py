"""Request heads: what a legal one tells, and the status, place and words with which others are refused."""

from __future__ import annotations

import pytest

from push_proxy.request_head import (
    MAX_HEADERS,
    MAX_REQUEST_LINE_BYTES,
    HeadBuffer,
    MalformedHead,
    RequestHead,
    parse_head,
)

TOKEN = "eyJhbGciOiJIUzI1NiJ9.secret.signature"
UPGRADE = (
    b"GET /v1/stream?x=1 HTTP/1.1\r\n"
    b"Host: push.example:8402\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: stagecue.v1\r\n"
    b"Authorization: Bearer " + TOKEN.encode() + b"\r\n"
    b"\r\n"
)
LIMIT = 16_384


def head(*lines: bytes, first: bytes = b"GET / HTTP/1.1", host: bool = True) -> bytes:
    return b"\r\n".join([first, *([b"Host: a"] if host else []), *lines, b"", b""])


def refused(data: bytes) -> MalformedHead:
    with pytest.raises(MalformedHead) as caught:
        parse_head(data)
    assert caught.value.http_status == caught.value.status
    assert caught.value.detail in str(caught.value)
    return caught.value


def test_an_upgrade_tells_everything() -> None:
    """Names in any case, values without what surrounds them."""
    request = parse_head(UPGRADE)
    assert (request.method, request.target) == ("GET", "/v1/stream?x=1")
    assert request.get(b"host") == b"push.example:8402"
    assert request.get(b"authorization") == b"Bearer " + TOKEN.encode()
    assert request.get_all("SEC-websocket-Key") == ("dGhlIHNhbXBsZSBub25jZQ==",)
    assert request.get(b"origin") is None
    assert request.get_all("Origin") == ()


def test_white_space_around_values() -> None:
    """Blanks and tabs on either side belong to nobody."""
    request = parse_head(head(b"A:b", b"C: \t d e \t ", b"E:", b"F:  "))
    assert [request.get(name) for name in (b"a", b"c", b"e", b"f")] == [b"b", b"d e", b"", b""]


def test_repeated_fields_are_joined() -> None:
    """As RFC 9110 allows for lists: a subprotocol may be offered in lines of its own, in any case of letters."""
    request = parse_head(
        head(b"Sec-WebSocket-Protocol: a", b"X: y", b"sec-websocket-protocol:b, c", b"Sec-WebSocket-Protocol: a")
    )
    assert request.get(b"sec-websocket-protocol") == b"a, b, c, a"
    assert request.get_all("Sec-WebSocket-Protocol") == ("a, b, c, a",)
    assert request.get(b"x") == b"y"


def test_values_beyond_ascii() -> None:
    """Allowed by RFC 9110 as opaque bytes, read as Latin-1."""
    assert parse_head(head(b"X: \xe9\xff")).get_all("x") == ("éÿ",)


@pytest.mark.parametrize(
    "method", ["POST", "HEAD", "OPTIONS", "DELETE", "CONNECT", "PRI", "get", "FOO", "M-SEARCH", "A!#"]
)
def test_any_method_is_told_not_judged(method: str) -> None:
    """Whether one is possible depends on the path; a body it announces is then nobody's trouble."""
    first = f"{method} * HTTP/1.1".encode()
    assert parse_head(head(first=first)).method == method
    assert parse_head(head(b"Content-Length: 5", first=first)).target == "*"


@pytest.mark.parametrize(
    "target", ["/", "//", "/a?b=c&d=%20", "/;!~'()", "http://host/path?q", "HTTPS://host", "http://h?q"]
)
def test_targets_of_a_get(target: str) -> None:
    """Origin-form and absolute-form."""
    assert parse_head(head(first=f"GET {target} HTTP/1.1".encode())).target == target


@pytest.mark.parametrize(
    "target", ["*", "a", "host:80", "/a#b", "http://host/#b", "ftp://host/", "http://", "http:///a"]
)
def test_targets_no_get_has(target: str) -> None:
    """Among them a fragment, which stays in the browser."""
    error = refused(head(first=f"GET {target} HTTP/1.1".encode()))
    assert (error.status, error.field) == (400, "request line")
    assert "target" in error.detail


@pytest.mark.parametrize(
    ("first", "status", "words"),
    [
        (b"GET / HTTP/1.0", 505, "HTTP/1.0"),
        (b"GET / HTTP/2.0", 505, "HTTP/2.0"),
        (b"PRI * HTTP/2.0", 505, "HTTP/2.0"),
        (b"GET / HTTP/1.2", 505, "HTTP/1.2"),
        (b"GET / HTTP/0.9", 505, "HTTP/0.9"),
        (b"GET / HTTP/11", 400, "version"),
        (b"GET / HTTP/1.11", 400, "version"),
        (b"GET / http/1.1", 400, "version"),
        (b"GET / HTTP/1.1 ", 400, "version"),
        (b"GET / ICE/1.0", 400, "version"),
        (b"GET /", 400, "no protocol version"),
        (b"GET", 400, "no protocol version"),
        (b"GET  HTTP/1.1", 400, "target"),
        (b"GET HTTP/1.1", 400, "target"),
        (b"GET  / HTTP/1.1", 400, "target"),
        (b"GET /  HTTP/1.1", 400, "target"),
        (b"GET /a b HTTP/1.1", 400, "target"),
        (b"GET /\xc3\xa9 HTTP/1.1", 400, "target"),
        (b"GET /\x7f HTTP/1.1", 400, "target"),
        (b"GET /\x00 HTTP/1.1", 400, "target"),
        (b"GET\t/\tHTTP/1.1", 400, "method"),
        (b"G(T / HTTP/1.1", 400, "method"),
        (b"G\xc9T / HTTP/1.1", 400, "method"),
        (b" GET / HTTP/1.1", 400, "begin"),
        (b"\r\nGET / HTTP/1.1", 400, "begin"),
        (b"{}", 400, "begin"),
        (b"\x00", 400, "begin"),
        (b"\x16\x03\x01\x02\x00", 400, "TLS"),
    ],
)
def test_request_lines(first: bytes, status: int, words: str) -> None:
    """The status is the RFC's, the words say what to change."""
    error = refused(head(first=first))
    assert (error.status, error.field) == (status, "request line")
    assert words in error.detail


@pytest.mark.parametrize(
    ("lines", "status", "field", "words"),
    [
        ([], 400, "Host", "missing"),
        ([b"Host: a", b"Host: a"], 400, "Host", "more than once"),
        ([b"Host: a", b"hOST: b"], 400, "Host", "more than once"),
        ([b"Host: a/b"], 400, "Host", "not a host"),
        ([b"Host: a b"], 400, "Host", "not a host"),
        ([b"Host: a", b"Sec-WebSocket-Key: x", b"Sec-WebSocket-Key: x"], 400, "Sec-WebSocket-Key", "more than once"),
        (
            [b"Host: a", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 8"],
            400,
            "Sec-WebSocket-Version",
            "more than",
        ),
        ([b"Host: a", b"Authorization: x", b"Authorization: y"], 400, "Authorization", "more than once"),
        ([b"Host: a", b"Origin: x", b"Origin: y"], 400, "Origin", "more than once"),
        ([b"Host: a", b"Last-Event-ID: 1", b"Last-Event-ID: 2"], 400, "Last-Event-ID", "more than once"),
        ([b"Host : a"], 400, "Host", "before the colon"),
        ([b"Host\t: a"], 400, "Host", "before the colon"),
        ([b" Host: a"], 400, "headers", "white space"),
        ([b"Host: a", b" b"], 400, "Host", "white space"),
        ([b"Host: a", b"X-Y: b", b"\tc"], 400, "X-Y", "white space"),
        ([b"Host: a", b"nonsense"], 400, "nonsense", "without a colon"),
        ([b"Host: a", b": b"], 400, "headers", "character"),
        ([b"Host: a", b"X(Y: b"], 400, "X(Y", "character"),
        ([b"Host: a", b"X\xc9: b"], 400, "headers", "character"),
        ([b"Host: a", b"X\x01: b"], 400, "headers", "character"),
        ([b"Host: a", b"X: b\x00c"], 400, "X", "control character"),
        ([b"Host: a", b"X: b\x7f"], 400, "X", "control character"),
        ([b"Host: a", b"X: b\rY: c"], 400, "X", "control character"),
        ([b"Host: a", b"X: b\r"], 400, "X", "control character"),
        ([b"Host: a", b"Content-Length: 5"], 400, "Content-Length", "body"),
        ([b"Host: a", b"Content-Length: +5"], 400, "Content-Length", "Content-Length"),
        ([b"Host: a", b"Content-Length: "], 400, "Content-Length", "Content-Length"),
        ([b"Host: a", b"Content-Length: " + b"9" * 30], 400, "Content-Length", "Content-Length"),
        ([b"Host: a", b"Content-Length: 0", b"Content-Length: 0"], 400, "Content-Length", "Content-Length"),
        ([b"Host: a", b"Transfer-Encoding: "], 400, "Transfer-Encoding", "Transfer-Encoding"),
        ([b"Host: a", b"Transfer-Encoding: chunked"], 501, "Transfer-Encoding", "transfer codings"),
    ],
)
def test_headers(lines: list[bytes], status: int, field: str, words: str) -> None:
    """Each wrong line is named."""
    error = refused(head(*lines, host=False))
    assert (error.status, error.field) == (status, field)
    assert words in error.detail


def test_both_kinds_of_body_length() -> None:
    """How requests are smuggled."""
    assert refused(head(b"Content-Length: 5", b"Transfer-Encoding: chunked")).status == 400


def test_an_empty_body_may_be_announced() -> None:
    """Some devices say so of every request."""
    assert parse_head(head(b"Content-Length: 0")).get(b"content-length") == b"0"


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX:\n\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: a\r\nX: y\n\r\n\r\n",
    ],
)
def test_bare_line_feeds(data: bytes) -> None:
    """Some servers take them for an end of line and some do not: the difference is a way to smuggle."""
    error = refused(data)
    assert error.status == 400
    assert "LF" in error.detail


def test_too_many_headers() -> None:
    """Each costs memory and time, however short."""
    assert parse_head(head(*[b"X%d: y" % i for i in range(MAX_HEADERS - 1)])).get(b"x7") == b"y"
    assert refused(head(*[b"X%d: y" % i for i in range(MAX_HEADERS)])).status == 431
    assert refused(head(*[b"X: y"] * MAX_HEADERS)).status == 431


def test_request_line_at_and_above_its_limit() -> None:
    """A target that fits, and one byte more."""
    fits = b"GET /" + b"a" * (MAX_REQUEST_LINE_BYTES - 14) + b" HTTP/1.1"
    assert len(parse_head(head(first=fits)).target) == MAX_REQUEST_LINE_BYTES - 13
    error = refused(head(first=fits.replace(b"/a", b"/aa")))
    assert (error.status, error.field) == (414, "request line")


def test_no_value_is_ever_shown() -> None:
    """A refusal goes to logs and to whoever asked; a value may be a token."""
    broken = [
        UPGRADE.replace(b"Bearer ", b"Bearer\x01"),
        UPGRADE.replace(b"Authorization:", b"Authorization :"),
        UPGRADE.replace(b"Authorization: ", b"Authorization: \r\n "),
        UPGRADE.replace(b"\r\n\r\n", b"\nX: y\r\n\r\n"),
        UPGRADE.replace(b"\r\n\r\n", b"\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\n\r\n"),
        UPGRADE.replace(b"Host: ", b"Host: " + TOKEN.encode() + b"/"),
        UPGRADE.replace(b"?x=1", b"?access_token=" + TOKEN.encode() + b" "),
        UPGRADE.replace(b"?x=1", b"?access_token=" + TOKEN.encode() + b"#"),
    ]
    for data in broken:
        assert "secret" not in str(refused(data))


# Piece by piece.


def feed_all(data: bytes, step: int, limit: int = LIMIT) -> RequestHead | MalformedHead | None:
    buffer = HeadBuffer(limit)
    for at in range(0, len(data), step):
        try:
            request = buffer.feed(data[at : at + step])
        except MalformedHead as exc:
            return exc
        if request is not None:
            assert buffer.rest == data[data.index(b"\r\n\r\n") + 4 : at + step]
            return request
    return None


def test_a_head_may_arrive_in_any_pieces() -> None:
    """Cut at every byte, and byte by byte; what follows it is kept for whoever takes over."""
    data = UPGRADE + b"\x81\x85more"
    for cut in range(1, len(data)):
        buffer = HeadBuffer(LIMIT)
        request = buffer.feed(data[:cut])
        assert (request is None) == (cut < len(UPGRADE))
        if request is None:
            request = buffer.feed(data[cut:])
            assert buffer.rest == data[len(UPGRADE) :]
        assert request is not None
        assert request.get(b"host") == b"push.example:8402"
    assert isinstance(feed_all(data, 1), RequestHead)


def test_64_kb_of_headers() -> None:
    """431, as soon as the limit is reached, in one piece or in many, with an end or without."""
    endless = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: " + b"y" * 65_536
    for data in (endless, endless + b"\r\n\r\n"):
        for step in (1000, 4096, 16_384, len(data)):
            error = feed_all(data, step)
            assert isinstance(error, MalformedHead)
            assert (error.status, error.field) == (431, "headers")


def test_a_head_of_just_the_limit() -> None:
    """The limit itself is allowed."""
    filler = LIMIT - len(UPGRADE) - len(b"X: \r\n")
    data = UPGRADE[:-2] + b"X: " + b"y" * filler + b"\r\n\r\n"
    for step in (1, 1000, LIMIT):
        assert isinstance(feed_all(data, step), RequestHead)
    error = feed_all(data.replace(b"X: ", b"X: y"), 1000)
    assert isinstance(error, MalformedHead)
    assert error.status == 431


def test_a_small_limit_holds_for_the_request_line_too() -> None:
    """A limit below that of request lines, which then never apply."""
    assert isinstance(feed_all(head(), 3, limit=64), RequestHead)
    error = feed_all(b"GET /" + b"a" * 2000, 10, limit=64)
    assert isinstance(error, MalformedHead)
    assert error.status == 414


@pytest.mark.parametrize(
    ("data", "status", "at_byte"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, 1),
        (b"\r\n", 400, 1),
        (b"GET /" + b"a" * 9000, 414, MAX_REQUEST_LINE_BYTES + 2),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400, 15),
        (b"GET / HTTP/1.1\r\nHost: a\n\n", 400, 24),
    ],
)
def test_hopeless_heads_are_refused_early(data: bytes, status: int, at_byte: int) -> None:
    """Not only when the deadline of the handshake ends the wait for an end that will never come."""
    buffer = HeadBuffer(LIMIT)
    for at in range(at_byte - 1):
        assert buffer.feed(data[at : at + 1]) is None
    with pytest.raises(MalformedHead) as caught:
        buffer.feed(data[at_byte - 1 : at_byte])
    assert caught.value.status == status
