"""The WebSocket codec agrees with the `websockets` protocol on whatever clients may send, in whatever slices.

How the two are compared, and where they differ on purpose, is told in tests/fuzz/websocket_check.py.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from push_proxy.masking import apply_mask
from push_proxy.websocket import Binary, Closed, Event, Failed, Ping, Pong, Text, close_frame, pong_frame, text_frame
from tests.fuzz.websocket_check import check, cut

# Strategies that depend on nothing are built once: building them costs more than drawing.
_LIMITS = st.sampled_from([125, 126, 200, 1000, 70_000])
_COIN = st.booleans()
_RARELY = st.integers(0, 9).map(lambda draw: draw == 0)
_MASKS = st.binary(min_size=4, max_size=4) | st.just(bytes(4))
_HOW = st.sampled_from([0, 0, 0, 1, 2])
_CONTROL_PAYLOADS = st.binary(max_size=125) | st.sampled_from([b"", b"x" * 125])
_LETTERS = st.text(min_size=1, max_size=20)
_BYTES = st.binary(min_size=1, max_size=20)
_CLOSE_CODES = st.sampled_from([*range(998, 1017), 2999, 3000, 4000, 4999, 5000, 65535]) | st.integers(0, 65535)
_GOOD_CODES = st.sampled_from([None, 1000, 1001, 1011, 1014, 3000, 4999])
_REASONS = st.text(max_size=30)
_FIRST_BYTES = st.sampled_from([0x81, 0x82, 0x01, 0x00, 0x80, 0x88, 0x89, 0x8A, 0xC1, 0x08, 0x83]) | st.integers(0, 255)
_PAYLOADS = (
    st.binary(max_size=40)
    | st.text(max_size=20).map(str.encode)
    | st.builds(lambda code, reason: code.to_bytes(2, "big") + reason, _CLOSE_CODES, st.binary(max_size=6))
    | st.integers(120, 260).map(lambda size: b"a" * size)
)
_CLAIMS = st.sampled_from([0, 1, 125, 126, 127, 1000, 1001, 65535, 65536, 2**31, 2**63 - 1, 2**63, 2**64 - 1])
_CHANGES = st.sampled_from(["bit", "byte", "insert", "delete", "double", "end"])
_BYTE, _BIT, _FEW, _COUNT = st.integers(0, 255), st.integers(0, 7), st.integers(1, 8), st.integers(0, 5)
_slow = settings(max_examples=200, deadline=None, derandomize=True)


def _header(first: int, length: int, how: int, mask: bytes) -> bytes:
    if how == 0 and length < 126:
        return bytes([first, 0x80 | length]) + mask
    if how < 2 and length < 0x10000:
        return bytes([first, 0x80 | 126]) + length.to_bytes(2, "big") + mask
    return bytes([first, 0x80 | 127]) + length.to_bytes(8, "big") + mask


def _frame(draw: st.DrawFn, first: int, payload: bytes) -> bytes:
    """One frame with any mask, its length said in the shortest form or not."""
    mask = draw(_MASKS)
    return _header(first, len(payload), draw(_HOW), mask) + apply_mask(payload, mask)


def _control_frame(draw: st.DrawFn) -> tuple[bytes, Event]:
    payload = draw(_CONTROL_PAYLOADS)
    if draw(_COIN):
        return _frame(draw, 0x89, payload), Ping(payload)
    return _frame(draw, 0x8A, payload), Pong(payload)


def _message(draw: st.DrawFn, limit: int) -> tuple[list[bytes], list[Event]]:
    """One message in any number of fragments, with control frames between them."""
    size = limit - draw(st.integers(0, 1)) if draw(_RARELY) else draw(st.integers(0, min(limit, 300)))
    event: Event
    if draw(_COIN):
        letters = draw(_LETTERS)
        whole = (letters * (size // len(letters) + 1)).encode()[:size].decode(errors="ignore").encode()
        kind, event = 1, Text(whole)
    else:
        whole = (draw(_BYTES) * (size + 1))[:size]
        kind, event = 2, Binary(whole)
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    stream: list[bytes] = []
    events: list[Event] = []
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        stream.append(_frame(draw, (0x80 if last else 0) | (0 if number else kind), piece))
        while not last and draw(_COIN):
            frame, told = _control_frame(draw)
            stream.append(frame)
            events.append(told)
    return stream, [*events, event]


@st.composite
def conversations(draw: st.DrawFn, limit: int) -> tuple[list[bytes], list[Event]]:
    """Everything a client may rightly send, and what must come of it."""
    stream: list[bytes] = []
    events: list[Event] = []
    for _ in range(draw(_COUNT)):
        if draw(_COIN):
            more, told = _message(draw, limit)
            stream += more
            events += told
        else:
            frame, event = _control_frame(draw)
            stream.append(frame)
            events.append(event)
    if draw(_COIN):
        code = draw(_GOOD_CODES)
        reason = draw(_REASONS) if code else ""
        payload = code.to_bytes(2, "big") + reason.encode() if code else b""
        stream.append(_frame(draw, 0x88, payload))
        events.append(Closed(code or 1005, reason))
    return stream, events


@st.composite
def any_frames(draw: st.DrawFn) -> bytes:
    """A frame legal or not: any bits, any opcode, masked or not, a length that is true or not."""
    first, payload = draw(_FIRST_BYTES), draw(_PAYLOADS)
    if draw(_RARELY):
        return _header(first, draw(_CLAIMS), draw(_HOW), bytes(4)) + payload
    if draw(_RARELY):
        return bytes([first, min(len(payload), 125)]) + payload
    return _frame(draw, first, payload)


@st.composite
def mutated(draw: st.DrawFn, stream: bytes) -> bytes:
    """Some bytes of it replaced, left out, doubled, or put in."""
    data = bytearray(stream)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        change = draw(_CHANGES)
        if change == "bit" and at < len(data):
            data[at] ^= 1 << draw(_BIT)
        elif change == "byte" and at < len(data):
            data[at] = draw(_BYTE)
        elif change == "insert":
            data[at:at] = draw(_BYTES)
        elif change == "delete":
            del data[at : at + draw(_FEW)]
        elif change == "double":
            data[at:at] = data[at : at + 4 * draw(_FEW)]
        else:
            del data[at:]
    return bytes(data)


def slices(draw: Callable[[st.SearchStrategy[list[int]]], list[int]], stream: bytes) -> list[bytes]:
    """Any slices, now and then single bytes."""
    return cut(stream, draw(st.lists(st.integers(0, len(stream)), max_size=12)) or range(min(len(stream), 500)))


_HOSTILE = st.lists(any_frames(), max_size=6)


@_slow
@given(data=st.data(), limit=_LIMITS)
def test_legal_conversations(data: st.DataObject, limit: int) -> None:
    """Whatever a client may rightly send is told completely and in order, by both."""
    frames_sent, expected = data.draw(conversations(limit))
    stream = b"".join(frames_sent)
    assert check(stream, slices(data.draw, stream), limit) == expected
    assert check(stream, frames_sent or [b""], limit) == expected


@_slow
@given(data=st.data(), limit=_LIMITS)
def test_mutated_conversations(data: st.DataObject, limit: int) -> None:
    """The same verdict and the same close code when bytes went wrong on the way."""
    frames_sent, _ = data.draw(conversations(limit))
    stream = data.draw(mutated(b"".join(frames_sent)))
    check(stream, slices(data.draw, stream), limit)


@_slow
@given(data=st.data(), limit=_LIMITS, sent=_HOSTILE)
def test_hostile_frames(data: st.DataObject, limit: int, sent: list[bytes]) -> None:
    """The same verdict and the same close code on frames no client should send, after some that it may."""
    before, _ = data.draw(conversations(limit))
    stream = b"".join([*before, *sent])
    check(stream, slices(data.draw, stream), limit)


@_slow
@given(data=st.data(), stream=st.binary(max_size=200))
def test_noise(data: st.DataObject, stream: bytes) -> None:
    """The same verdict on bytes that are no frames at all."""
    check(stream, slices(data.draw, stream), 125)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(payload=st.binary(max_size=200) | st.sampled_from([125, 126, 65535, 65536]).map(lambda size: b"x" * size))
def test_what_is_written_can_be_read(payload: bytes) -> None:
    """Frames of ours, masked as a client's, come back through the codec: their heads say the truth."""
    assert check(_as_client(text_frame(payload)), [_as_client(text_frame(payload))], 70_000)[0] in (
        Text(payload),
        Failed(1007, "text is not UTF-8"),
    )
    if len(payload) <= 125:
        assert check(_as_client(pong_frame(payload)), [_as_client(pong_frame(payload))], 125) == [Pong(payload)]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(code=st.sampled_from([1000, 1011, 3000, 4001, 4999]), reason=st.text(max_size=200))
def test_close_frames_written_can_be_read(code: int, reason: str) -> None:
    """Of a long reason as many whole characters as fit."""
    stream = _as_client(close_frame(code, reason))
    (event,) = check(stream, [stream], 125)
    assert isinstance(event, Closed)
    assert event.code == code
    assert reason.startswith(event.reason)
    assert event.reason == reason or len(event.reason.encode()) > 119


def _as_client(frame: bytes) -> bytes:
    """The same frame, masked with zeros."""
    header = 2 + {126: 2, 127: 8}.get(frame[1], 0)
    return bytes([frame[0], frame[1] | 0x80]) + frame[2:header] + bytes(4) + frame[header:]
