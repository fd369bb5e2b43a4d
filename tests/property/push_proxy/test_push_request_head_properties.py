"""Request heads: one verdict whatever the slices, and the grammar's verdict on legal, broken and hostile ones.

What is compared with what is told in tests/fuzz/request_head_check.py.
"""

from __future__ import annotations

import base64

from hypothesis import given, settings
from hypothesis import strategies as st

from push_proxy.request_head import MAX_HEADERS, MalformedHead, RequestHead
from tests.fuzz.request_head_check import LINE_LIMIT, check
from tests.fuzz.websocket_check import cut

_slow = settings(max_examples=400, deadline=None, derandomize=True)
_LIMIT = 400
_NAMES = st.sampled_from(
    [
        *("Host", "host", "Origin", "Authorization", "Upgrade", "Connection", "Sec-WebSocket-Key", "X", "x", "A-b_c!"),
        *("Sec-WebSocket-Version", "Sec-WebSocket-Protocol", "Last-Event-ID", "Content-Length", "Transfer-Encoding"),
    ]
)
_VALUES = st.sampled_from(
    [
        *(
            "",
            " ",
            "\t",
            "a",
            "a, b",
            " \t x y \t ",
            "websocket",
            "Upgrade",
            "keep-alive, Upgrade",
            "close",
            "\xe9\xff",
        ),
        *(
            "0",
            "00",
            "5",
            "+5",
            "5 5",
            "99999999999999999999999999",
            "chunked",
            "gzip, chunked",
            "13",
            "event.example:80",
        ),
    ]
)
_METHODS = st.sampled_from(
    ["GET", "GET", "GET", "POST", "HEAD", "OPTIONS", "CONNECT", "PRI", "get", "BREW", "M-SEARCH"]
)
_TARGETS = st.sampled_from(
    [
        "/",
        "/v1/stream",
        "/a?b=c#d",
        "*",
        "host:80",
        "http://h/p?q",
        "HTTP://h",
        "https:///p",
        "//",
        "/%zz",
        "/" + "a" * LINE_LIMIT,
    ]
)
_VERSIONS = st.sampled_from(["HTTP/1.1"] * 6 + ["HTTP/1.0", "HTTP/2.0", "HTTP/11", "http/1.1", "HTTP/1.1 ", ""])
_ENDS = st.sampled_from(["\r\n"] * 30 + ["\n", "\r", "\r\r\n", "\n\n", "\r\n ", "\r\n\t", "\r\n\r\n"])


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """Half of them legal but for what the values say; in the others what servers disagree about is frequent."""
    tidy = draw(st.booleans())
    first = ("GET", draw(st.sampled_from(["/", "/v1/stream?a=b"])), "HTTP/1.1") if tidy else None
    lines = [" ".join(first or (draw(_METHODS), draw(_TARGETS), draw(_VERSIONS)))]
    if tidy or draw(st.integers(0, 9)):
        lines.append("Host: a")
    for _ in range(draw(st.integers(0, 6))):
        colon = ": " if tidy else draw(st.sampled_from([": "] * 12 + [":", ":", " : ", "\t:", "", " "]))
        lines.append(draw(_NAMES) + colon + draw(_VALUES))
    whole = "".join(line + ("\r\n" if tidy else draw(_ENDS)) for line in lines)
    end = draw(st.sampled_from(["\r\n"] * 6 + ["", "\n", "\r", "\r\n\x81\x85"]))
    return (whole + ("\r\n" if tidy else end)).encode("latin-1")


@st.composite
def mutated(draw: st.DrawFn, stream: bytes) -> bytes:
    """Some bytes replaced, left out or put in; control characters and separators more often than others."""
    data = bytearray(stream)
    rubbish = st.sampled_from(b"\r\n\0\t :;,/#()\x7f\x80\xff") | st.integers(0, 255)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data) - 1))
        change = draw(st.sampled_from(["replace", "insert", "delete", "end"]))
        if change == "insert":
            data.insert(at, draw(rubbish))
        elif change == "replace":
            data[at] = draw(rubbish)
        elif change == "delete":
            del data[at : at + draw(st.integers(1, 3))]
        else:
            del data[at + 1 :]
        if not data:
            break
    return bytes(data)


def _cuts(length: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, length), max_size=8) | st.just(list(range(length)))


@_slow
@given(data=st.data(), stream=heads())
def test_heads_as_they_come(data: st.DataObject, stream: bytes) -> None:
    """Taken if and only if the grammar takes it, whatever the slices."""
    check(stream, cut(stream, data.draw(_cuts(len(stream)))), _LIMIT)


@_slow
@given(data=st.data(), stream=heads())
def test_mutated_heads(data: st.DataObject, stream: bytes) -> None:
    """The same for heads that bytes went wrong in."""
    broken = data.draw(mutated(stream))
    check(broken, cut(broken, data.draw(_cuts(len(broken)))), _LIMIT)


@_slow
@given(data=st.data(), stream=st.binary(max_size=300))
def test_noise(data: st.DataObject, stream: bytes) -> None:
    """The same for bytes that are no heads at all."""
    check(stream, cut(stream, data.draw(_cuts(len(stream)))), _LIMIT)


@_slow
@given(
    data=st.data(),
    line=st.integers(1, 2 * LINE_LIMIT),
    filler=st.integers(0, 2 * _LIMIT),
    ended=st.booleans(),
    bare_at=st.integers(0, 3 * _LIMIT) | st.none(),
)
def test_long_heads(data: st.DataObject, line: int, filler: int, ended: bool, bare_at: int | None) -> None:
    """Around every limit the slices decide nothing: a long line, a long head, a bare line feed."""
    stream = b"GET /" + b"a" * line + b" HTTP/1.1\r\nHost: a\r\nX: " + b"y" * filler + (b"\r\n\r\n" if ended else b"")
    if bare_at is not None and bare_at < len(stream):
        stream = stream[:bare_at] + b"\n" + stream[bare_at:]
    verdict = check(stream, cut(stream, data.draw(_cuts(len(stream)))), _LIMIT)
    if bare_at is None or bare_at >= len(stream):
        if line + len("GET / HTTP/1.1") > LINE_LIMIT:
            assert isinstance(verdict, MalformedHead)
            assert verdict.status == 414
        elif len(stream) > _LIMIT:
            assert isinstance(verdict, MalformedHead)
            assert verdict.status == 431
        elif ended:
            assert isinstance(verdict, RequestHead)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(count=st.integers(MAX_HEADERS - 3, MAX_HEADERS + 3), same=st.booleans())
def test_many_headers(count: int, same: bool) -> None:
    """The limit of header lines counts repeated ones too."""
    lines = b"".join(b"X%d:\r\n" % (0 if same else number) for number in range(count - 1))
    stream = b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n"
    verdict = check(stream, cut(stream, list(range(0, len(stream), 7))), 4000)
    if count > MAX_HEADERS:
        assert isinstance(verdict, MalformedHead)
        assert verdict.status == 431
    else:
        assert isinstance(verdict, RequestHead)


_TOKENS = st.text("abcXYZ019-_.", min_size=1, max_size=60)
_KEYS = st.binary(min_size=16, max_size=16).map(lambda key: base64.b64encode(key).decode())


@_slow
@given(data=st.data(), keys=st.tuples(_KEYS, _KEYS), tokens=st.tuples(_TOKENS, _TOKENS))
def test_key_and_token_change_nothing_else(data: st.DataObject, keys: tuple[str, str], tokens: tuple[str, str]) -> None:
    """Heads that differ in good keys and tokens alone have one verdict and the same other fields.

    On this rests that the heads of one kind of device need to be judged only once.
    """
    rest = data.draw(heads()).decode("latin-1").split("\r\n")
    cuts = [data.draw(st.integers(1, len(rest))) for _ in range(2)]
    verdicts = []
    for key, token in zip(keys, tokens, strict=True):
        lines = list(rest)
        lines.insert(cuts[0], f"Sec-WebSocket-Key: {key}")
        lines.insert(cuts[1], f"Authorization: Bearer {token}")
        stream = "\r\n".join(lines).encode("latin-1")
        verdicts.append(check(stream, [stream], 8192))
    one, other = verdicts
    assert type(one) is type(other)
    if isinstance(one, MalformedHead) and isinstance(other, MalformedHead):
        assert (one.status, one.detail, one.field) == (other.status, other.detail, other.field)
    if isinstance(one, RequestHead) and isinstance(other, RequestHead):
        assert (one.method, one.target) == (other.method, other.target)
        own = {b"sec-websocket-key", b"authorization"}
        assert {n: v for n, v in one._fields.items() if n not in own} == {
            n: v for n, v in other._fields.items() if n not in own
        }
