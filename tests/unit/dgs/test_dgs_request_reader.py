"""What is a request and what is not: framing, limits, strictness. No loop, no sockets."""

from __future__ import annotations

import pytest

from dgs.http.known_heads import KnownHeads
from dgs.http.request_reader import MAX_HEADERS, RequestReader
from dgs.serving import Ask

POST = b"POST /graphql HTTP/1.1\r\nHost: dgs\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\nhello"
GET = b"GET /artwork/a.svg?x=1 HTTP/1.1\r\nHost: dgs\r\n\r\n"
CHUNKED = b"POST /graphql HTTP/1.1\r\nHost: dgs\r\nTransfer-Encoding: chunked\r\n\r\n"


def reader(**limits: int) -> RequestReader:
    return RequestReader("192.0.2.1", **limits)


def refused(data: bytes, **limits: int) -> tuple[int, str]:
    """Status and field of what is wrong with these bytes."""
    one = reader(**limits)
    assert list(one.feed(data, 1.0)) == []
    assert one.malformed is not None, "nothing was found wrong"
    assert list(one.feed(GET, 2.0)) == [], "nothing is told after it"
    return one.malformed.status, one.malformed.field


def test_a_whole_request_in_one_read() -> None:
    (ask,) = reader().feed(POST, 7.5)
    assert ask == Ask(
        "POST",
        "/graphql",
        "",
        {b"host": b"dgs", b"content-type": b"application/json", b"content-length": b"5"},
        b"hello",
        "192.0.2.1",
        7.5,
    )


def test_path_and_query_are_told_apart_and_absolute_targets_are_read() -> None:
    """A proxy may send the absolute form (RFC 9112, 3.2.2): the path is what it names."""
    for target, path, query in (
        (b"/a?b=c?d", "/a", "b=c?d"),
        (b"http://dgs:8400/a%20b?c", "/a%20b", "c"),
        (b"HTTPS://dgs", "/", ""),
        (b"http://dgs?q", "/", "q"),
    ):
        (ask,) = reader().feed(b"GET " + target + b" HTTP/1.1\r\nHost: dgs\r\n\r\n", 0.0)
        assert (ask.path, ask.query) == (path, query)
    (ask,) = reader().feed(b"OPTIONS * HTTP/1.1\r\nHost: dgs\r\n\r\n", 0.0)
    assert ask.path == "*"


def test_pipelined_requests_are_told_in_order_and_only_as_far_as_there_is_room() -> None:
    one = reader()
    assert [ask.path for ask in one.feed((GET + POST) * 3, 1.0, room=4)] == ["/artwork/a.svg", "/graphql"] * 2
    assert one.begun
    assert one.held_bytes == len(GET + POST)
    assert [ask.path for ask in one.feed(b"", 2.0, room=4)] == ["/artwork/a.svg", "/graphql"]
    assert not one.begun


def test_without_room_nothing_is_told_or_lost() -> None:
    one = reader()
    assert list(one.feed(GET, 1.0, room=0)) == []
    assert one.held_bytes == len(GET)
    (ask,) = one.feed(b"", 2.0)
    assert ask.arrived_s == 2.0


@pytest.mark.parametrize(
    ("body", "content"),
    [
        (b"0\r\n\r\n", b""),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"2;a=b;c\r\nhe\r\n03\r\nllo\r\n000\r\nX: y\r\nZ:\r\n\r\n", b"hello"),
        (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    ],
)
def test_chunked_bodies(body: bytes, content: bytes) -> None:
    """Extensions and trailers are read over; what follows is the next request."""
    first, second = reader().feed(CHUNKED + body + GET, 1.0)
    assert (first.body, second.path) == (content, "/artwork/a.svg")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"5\r\nhelloX\r\n", 400),
        (b"5\nhello\r\n", 400),
        (b"-5\r\n", 400),
        (b"0x5\r\nhello\r\n", 400),
        (b" 5\r\nhello\r\n", 400),
        (b"\r\n", 400),
        (b"5;\x01\r\n", 400),
        (b"100000000\r\n", 400),
        (b"FFFFFFFF\r\n", 413),
        (b"0\r\nno colon\r\n", 400),
        (b"0\r\n" + b"A: b\r\n" * 1000, 431),
        (b"1" + b";" * 300, 400),
    ],
)
def test_lies_about_chunks(body: bytes, status: int) -> None:
    """Refused as soon as the line that lies is there, whatever would follow."""
    assert refused(CHUNKED + body) == (status, "body")


def test_a_body_that_grows_by_chunks_is_bounded() -> None:
    assert refused(CHUNKED + b"400\r\n" + b"x" * 1024 + b"\r\n1\r\n", max_body_bytes=1024) == (413, "body")


@pytest.mark.parametrize(
    ("head", "status", "field"),
    [
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400, ""),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n", 501, "Transfer-Encoding"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n", 400, ""),
        (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n", 400, "Transfer-Encoding"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400, ""),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n", 400, "Content-Length"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n", 400, "Content-Length"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n", 400, "Content-Length"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n", 400, "Content-Length"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n", 400, "Content-Length"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 65537\r\n", 413, "body"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nExpect: magic\r\n", 417, "Expect"),
        (b"GET / HTTP/1.1\r\n", 400, "Host"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n", 400, "Host"),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n", 400, "Host"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\nauthorization: Bearer y\r\n", 400, "Authorization"),
        (b"GET / HTTP/2.0\r\nHost: a\r\n", 505, "request line"),
        (b"GET / HTTP/1.1 \r\nHost: a\r\n", 400, "request line"),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n", 400, "request line"),
        (b"GET /\r\nHost: a\r\n", 400, "request line"),
        (b"GET /a b HTTP/1.1\r\nHost: a\r\n", 400, "request line"),
        (b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n", 400, "request line"),
        (b"GET /#a HTTP/1.1\r\nHost: a\r\n", 400, "request line"),
        (b"GET a HTTP/1.1\r\nHost: a\r\n", 400, "request line"),
        (b"GET http://user@a/ HTTP/1.1\r\nHost: a\r\n", 400, "request line"),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n", 400, "request line"),
        (b"G(T / HTTP/1.1\r\nHost: a\r\n", 400, "request line"),
        (b"GET / HTTP/1.1\nHost: a\r\n", 400, "request line"),
        (b"\x16\x03\x01\x02\x00", 400, "request line"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n", 400, "headers"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n", 400, "headers"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n", 400, "headers"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n", 400, "headers"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\nY: b\r\n", 400, "headers"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * MAX_HEADERS, 431, "headers"),
        (b"GET /" + b"a" * 8_000 + b" HTTP/1.1\r\nHost: a\r\n", 414, "request line"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 65_536 + b"\r\n", 431, "headers"),
    ],
)
def test_what_is_refused(head: bytes, status: int, field: str) -> None:
    """One way to read every request that passes; smuggling needs two."""
    found = refused(head + b"\r\n")
    assert found[0] == status
    assert not field or found[1] == field


def test_an_authorization_is_never_repeated() -> None:
    one = reader()
    one.feed(b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer se\x00cret\r\n\r\n", 0.0)
    assert one.malformed is not None
    assert "cret" not in str(one.malformed)


def test_field_values_lose_the_blanks_around_them_and_lists_are_joined() -> None:
    (ask,) = reader().feed(
        b'GET / HTTP/1.1\r\nHost: \t a \r\nIf-None-Match: "a"\r\nx: \r\nIF-NONE-MATCH: "b" \r\n\r\n', 0.0
    )
    assert dict(ask.fields) == {b"host": b"a", b"if-none-match": b'"a", "b"', b"x": b""}
    (ask,) = reader().feed(b"GET / HTTP/1.1\r\nHost: a\r\nX: y \t\r\n\r\n", 0.0)
    assert ask.fields[b"x"] == b"y"


@pytest.mark.parametrize(
    ("head", "last"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: te, close\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: te\r\nConnection: close\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: closed\r\n", False),
        (b"GET / HTTP/1.0\r\n", True),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n", False),
    ],
)
def test_which_request_is_the_last(head: bytes, last: bool) -> None:
    """After it nothing is read; an offer to upgrade is not taken up."""
    one = reader()
    assert len(one.feed(head + b"\r\n" + GET, 0.0)) == (1 if last else 2)
    assert one.last is last
    assert not one.begun


def test_a_client_that_waits_for_a_word() -> None:
    """`Expect: 100-continue`: asked for once the head is there and the body is not, and not again once it is."""
    one = reader()
    head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    assert list(one.feed(head, 0.0)) == []
    assert one.continue_wanted
    (ask,) = one.feed(b"ok", 1.0)
    assert (ask.body, one.continue_wanted) == (b"ok", False)
    assert len(one.feed(head + b"ok", 2.0)) == 1
    assert not one.continue_wanted


def test_empty_lines_between_requests_are_nobodys() -> None:
    assert [ask.path for ask in reader().feed(b"\r\n\r\n" + GET + b"\r\n" + GET, 0.0)] == ["/artwork/a.svg"] * 2


def test_the_longest_head_there_may_be() -> None:
    """One byte more is too much, in one piece as byte by byte."""
    for pad, status in ((0, None), (1, 431)):
        head = b"GET / HTTP/1.1\r\nHost: a\r\nX: "
        head += b"y" * (1024 - len(head) - 4 + pad) + b"\r\n\r\n"
        whole, dripped = reader(max_head_bytes=1024), reader(max_head_bytes=1024)
        whole.feed(head, 0.0)
        for at in range(len(head)):
            dripped.feed(head[at : at + 1], 0.0)
        assert (whole.malformed and whole.malformed.status) == status
        assert whole.malformed == dripped.malformed


def test_a_head_like_one_before_is_read_the_short_way_and_says_the_same() -> None:
    """Token and length differ; whatever else does is another head. What is refused is never known."""
    known = KnownHeads(100)

    def ask(token: bytes, body: bytes, more: bytes = b"") -> bytes:
        return b"POST /graphql HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %b\r\n%bContent-Length: %d\r\n\r\n%b" % (
            token,
            more,
            len(body),
            body,
        )

    def head(data: bytes) -> bytes:
        return data[: data.index(b"\r\n\r\n") + 4]

    assert known.read(head(ask(b"a", b"x"))) is None
    (first,) = RequestReader("h", known_heads=known).feed(ask(b"a", b"x"), 0.0)
    assert known.read(head(ask(b"b.c-d", b"xyz"))) is not None
    assert known.read(head(ask(b"b", b"x", b"Accept: y\r\n"))) is None
    assert known.read(head(ask(b"b", b"x" * 101))) is None, "too large: the reader says so"
    assert known.read(head(ask(b"b c", b"x"))) is None
    (second,) = RequestReader("h", known_heads=known).feed(ask(b"b.c-d", b"xyz"), 0.0)
    assert (second.body, second.fields[b"authorization"]) == (b"xyz", b"Bearer b.c-d")
    assert first.fields[b"authorization"] == b"Bearer a", "each has its own fields"
    trace = b"traceparent: 00-%032x-%016x-01\r\n"
    followed = ask(b"a", b"x", trace % (7, 8))
    read = known.read(head(followed))
    assert read is not None
    assert read[3] == RequestReader("h").feed(followed, 0.0)[0].fields
    assert known.read(head(ask(b"a", b"x", trace % (7, 8) * 2))) is None
    assert known.read(head(ask(b"a", b"x", b"traceparent: 00\r\n"))) is None
    twice = ask(b"a", b"x", b"Content-Length: 1\r\n")
    for _ in range(2):
        reader = RequestReader("h", known_heads=known)
        assert reader.feed(twice, 0.0) == ()
        assert reader.malformed is not None
