"""Heads judged by their shape are judged as they would have been one by one; so are frames that were read before.

Method: Hypothesis edits one good head anywhere, and a subscribe frame; whatever the short way accepts, the long way
must accept with the same key, token and protocol.
"""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import MalformedFrame, Unauthorized
from contract.frames import decode_client_frame
from push_proxy.handshake import Accept, judge_request
from push_proxy.judged_heads import MAX_SHAPES, JudgedHeads, cut_head
from push_proxy.known_frames import MAX_KNOWN, KnownFrames
from push_proxy.request_head import MalformedHead, parse_head
from push_proxy.session import Grant
from push_proxy.websocket import is_key

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HEAD = (
    b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: " + KEY + b"\r\nSec-WebSocket-Protocol: stagecue.v1\r\nAuthorization: Bearer a.b.c\r\n\r\n"
)
_PIECES = st.sampled_from(
    [
        *(b"", b"\r\n", b"\n", b"\0", b" ", b":", b"x", b"a.b.c", KEY, b"stagecue.v1", b"graphql-transport-ws"),
        *(b"\r\nSec-WebSocket-Key: ", b"\r\nAuthorization: Bearer ", b"\r\nHost: y", b"\r\nOrigin: https://tv"),
        b"\r\n\r\n",
    ]
)
_EDITS = st.lists(st.tuples(st.integers(0, len(HEAD)), st.integers(0, 30), _PIECES), max_size=3)


def edited(edits: list[tuple[int, int, bytes]]) -> bytes:
    head = HEAD
    for at, length, piece in edits:
        head = head[:at] + piece + head[at + length :]
    return head


def judged(head: bytes) -> tuple[str, str] | None:
    """Protocol and token of a head that begins a stream, by the long way."""
    tokens: list[str] = []

    def verify(token: str) -> Grant:
        tokens.append(token)
        if not token:
            raise Unauthorized("no token", field="token")
        return Grant.of("p", "d", 1.0)

    try:
        verdict = judge_request(
            parse_head(head),
            verify=verify,
            room=lambda: "yes",
            retry_after_s=lambda why: 1,
            origin_allowed=lambda origin: True,
            check_events=lambda events: None,
        )
    except MalformedHead:
        return None
    if not isinstance(verdict, Accept) or not verdict.by_header or verdict.protocol == "sse":
        return None
    return verdict.protocol, tokens[-1]


@given(_EDITS, st.sampled_from([KEY, b"AAAAAAAAAAAAAAAAAAAAAA==", b"not a key", b""]), st.binary(max_size=12))
def test_the_short_way_accepts_nothing_the_long_way_would_not(
    edits: list[tuple[int, int, bytes]], key: bytes, token: bytes
) -> None:
    """A shape is learned from one head and used for another, whose key and token may be anything."""
    heads = JudgedHeads()
    first = edited(edits)
    cut, protocol = cut_head(first), judged(first)
    if cut is None or protocol is None:
        return
    heads.learn(cut.shape, protocol[0])  # type: ignore[arg-type]
    second = first.replace(cut.key, key, 1).replace(cut.token, token, 1) if cut.key and cut.token else first
    again = cut_head(second)
    if again is None or heads.protocol(again.shape) is None or not is_key(again.key):
        return
    assert judged(second) == (protocol[0], again.token.decode("latin-1").strip()) or not _plain(again.token)


def _plain(token: bytes) -> bool:
    """Whether it could be a token at all: what could not is refused by `verify` on either way."""
    return bool(token) and all(0x21 <= byte < 0x7F for byte in token)


def test_the_usual_head_goes_the_short_way() -> None:
    """Another device's head has the same shape, and its own key and token."""
    ours = cut_head(HEAD)
    theirs = cut_head(HEAD.replace(KEY, b"AAAAAAAAAAAAAAAAAAAAAA==").replace(b"a.b.c", b"longer.token.here"))
    assert ours is not None
    assert theirs is not None
    assert ours.shape == theirs.shape
    assert (theirs.key, theirs.token) == (b"AAAAAAAAAAAAAAAAAAAAAA==", b"longer.token.here")


@pytest.mark.parametrize(
    "head", [HEAD[:-1], HEAD + b"x", HEAD + HEAD, HEAD.replace(b"Bearer", b"Basic"), b"", b"\r\n\r\n"]
)
def test_what_is_not_one_usual_head_goes_the_long_way(head: bytes) -> None:
    """Half a head, two of them, one without a bearer token."""
    assert cut_head(head) is None


def test_shapes_and_frames_are_bounded() -> None:
    """Clients choose both."""
    heads, frames = JudgedHeads(), KnownFrames()
    for number in range(2 * MAX_SHAPES):
        heads.learn(b"%d" % number, "v1")
    for number in range(2 * MAX_KNOWN):
        frames.read(b'{"type":"subscribe","topics":{"event:%d":null}}' % number)
    assert len(heads) <= MAX_SHAPES
    assert len(frames) <= MAX_KNOWN
    frames.read(b'{"type":"subscribe","topics":{%b}}' % b",".join(b'"event:%d":0' % number for number in range(60)))
    frames.read(b'{"type":"ack","topic":"t","timestamp":1}')
    assert len(frames) <= MAX_KNOWN


@given(st.text(max_size=30), st.one_of(st.none(), st.integers(0, 2**40)))
def test_a_frame_read_before_is_read_alike(topic: str, cursor: int | None) -> None:
    """The same frame, and for what is none the same error."""

    frames = KnownFrames()
    data = msgspec.json.encode({"type": "subscribe", "topics": {topic: cursor}})
    assert frames.read(data) == frames.read(data) == decode_client_frame(data)
    assert frames.read(data) is frames.read(data)
    with pytest.raises(MalformedFrame):
        frames.read(data[:-1])
