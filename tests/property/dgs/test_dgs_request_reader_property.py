"""Requests are the same in whatever pieces they arrive; h11 is the oracle of what they are."""

from __future__ import annotations

from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from dgs.http.known_heads import KnownHeads
from dgs.http.request_reader import RequestReader
from tests.fuzz.dgs_request_check import LIMITS, check, fed

token = st.text("abcXYZ-_!09", min_size=1, max_size=6)
traceparent = st.sampled_from([b"00-%032x-%016x-01" % (number, number) for number in (1, 2)] + [b"00", b""])
value = st.text(" \tabc,;=/\"'09é", max_size=12).map(lambda text: text.encode("latin-1"))


@st.composite
def chunked(draw: st.DrawFn) -> tuple[bytes, bytes]:
    parts = draw(st.lists(st.binary(min_size=1, max_size=20), max_size=3))
    lines = b"".join(
        f"{len(part):{draw(st.sampled_from(['x', 'X', '04x']))}}".encode()
        + draw(st.sampled_from([b"", b";a", b";a=b"]))
        + b"\r\n"
        + part
        + b"\r\n"
        for part in parts
    )
    return lines + b"0\r\n" + draw(st.sampled_from([b"", b"T: u\r\n"])) + b"\r\n", b"".join(parts)


@st.composite
def request(draw: st.DrawFn) -> bytes:
    """A request that is one, mostly."""
    method = draw(st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "PUT", "X!"]))
    target = draw(st.sampled_from(["/", "/graphql", "/a?b=c", "http://h/x?y", "/%20", "*", "nope"]))
    version = draw(st.sampled_from(["1.1", "1.1", "1.1", "1.0"]))
    lines = [f"{method} {target} HTTP/{version}".encode()]
    fields = [b"Host: h"] if draw(st.integers(0, 9)) else []
    for name in draw(st.lists(token, max_size=3)):
        fields.append(name.encode() + b":" + draw(value))
    if draw(st.integers(0, 4)) == 0:
        fields.append(b"Connection: " + draw(st.sampled_from([b"close", b"keep-alive", b"te, Close"])))
    kind = draw(st.sampled_from(["none", "length", "chunked", "both", "odd"]))
    body = b""
    if kind in ("length", "both"):
        body = draw(st.binary(max_size=70))
        fields.append(b"Content-Length: %d" % len(body))
    if kind in ("chunked", "both"):
        body, _ = draw(chunked())
        fields.append(b"Transfer-Encoding: chunked")
    if kind == "odd":
        fields.append(
            draw(st.sampled_from([b"Content-Length: +1", b"Content-Length: 1, 1", b"X", b" y: z", b"a b: c"]))
        )
    return b"\r\n".join([*lines, *draw(st.permutations(fields)), b"", body])


@st.composite
def edited(draw: st.DrawFn) -> bytes:
    """Requests with a few bytes wrong, as an attacker or a broken proxy makes them."""
    data = bytearray(b"".join(draw(st.lists(request(), min_size=1, max_size=3))))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        odd = draw(
            st.sampled_from([b"\r", b"\n", b"\r\n", b"\x00", b" ", b":", b"\t", b"\xff", b"0", b";", b",", b"a"])
        )
        data[at : at + draw(st.integers(0, 2))] = odd
    return bytes(data)


@st.composite
def alike(draw: st.DrawFn) -> list[bytes]:
    """As one device asks again and again, or nearly so: a head in common, another token and another body."""
    names = draw(st.sampled_from([(b"Authorization", b"Content-Length"), (b"authorization", b"content-length")]))
    auth = names[0] + draw(st.sampled_from([b": Bearer ", b": Bearer ", b": Bearer ", b": bearer ", b":Bearer "]))
    length = names[1] + draw(st.sampled_from([b": ", b": ", b": ", b":", b":  "]))
    common = [b"Host: h", b"Accept: a", draw(st.sampled_from([b"X: y", b"Connection: close", b"X:  y ", b" folded"]))]
    lines = [
        *common,
        *[auth] * draw(st.sampled_from([1, 1, 1, 0, 2])),
        *[length] * draw(st.sampled_from([1, 1, 1, 0, 2])),
        *[b"traceparent: "] * draw(st.sampled_from([0, 0, 1, 1, 2])),
    ]
    lines = draw(st.permutations(lines))
    found = []
    for _ in range(draw(st.integers(1, 3))):
        body = draw(st.binary(max_size=12))
        token = draw(st.text("abc-_.= ", min_size=1, max_size=8)).encode()
        filled = [line + (token if line is auth else b"%d" % len(body) if line is length else b"") for line in lines]
        filled = [line + draw(traceparent) if line == b"traceparent: " else line for line in filled]
        found.append(b"\r\n".join([b"POST /graphql HTTP/1.1", *filled, b"", body]))
    return found


@settings(max_examples=300, deadline=None)
@given(st.lists(alike() | st.lists(request() | edited(), max_size=2), min_size=1, max_size=4))
def test_heads_that_were_read_before_make_no_difference(series: list[list[bytes]]) -> None:
    """Every request by a reader that knows all heads before it, and by one that knows none."""
    known = KnownHeads(LIMITS["max_body_bytes"])
    short = 0
    for data in (data for requests in series for data in requests):
        alone = fed([data])
        short += known.read(data[: data.find(b"\r\n\r\n") + 4]) is not None
        reader = RequestReader("h", **LIMITS, known_heads=known)
        found = list(reader.feed(data, 0.0))
        while more := reader.feed(b"", 0.0):
            found += more
        assert (found, reader.malformed, reader.last) == alone
    event("read the short way" if short else "read whole")


streams = st.lists(request(), min_size=1, max_size=4).map(b"".join) | edited()


@settings(max_examples=300, deadline=None)
@given(streams, st.data())
def test_pieces_make_no_difference(stream: bytes, data: st.DataObject) -> None:
    """Whole, byte by byte, and cut anywhere: the same requests, and the same verdict on what is none."""
    whole = fed([stream])
    event("malformed" if whole[1] else "well formed")
    assert fed([stream[at : at + 1] for at in range(len(stream))]) == whole
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=4)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert fed(pieces) == whole
    assert fed([stream], room=1) == whole


@settings(max_examples=400, deadline=None)
@given(streams)
@example(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
@example(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
@example(
    b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1;a\r\nx\r\n0\r\n\r\n"
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
)
def test_what_is_told_is_what_h11_reads(stream: bytes) -> None:
    """We may refuse more than h11 does, and never read a request or its body otherwise: no smuggling past a proxy."""
    asks, malformed, _ = check(stream, [stream[:7], stream[7:]])
    event(f"{len(asks)} requests, {'malformed' if malformed else 'well formed'}")


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(1, 64))
def test_bytes_of_any_kind_are_bounded_and_judged(data: bytes, size: int) -> None:
    """Nothing raises, and what is held stays within a head and a body."""
    reader = RequestReader("h", **LIMITS)
    for at in range(0, len(data), size):
        reader.feed(data[at : at + size], 0.0)
        assert reader.held_bytes <= LIMITS["max_head_bytes"] + LIMITS["max_body_bytes"] + size
