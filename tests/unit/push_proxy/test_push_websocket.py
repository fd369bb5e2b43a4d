"""The WebSocket server codec, frame by frame: what it reads, what it refuses and with which code, what it writes."""

from __future__ import annotations

import base64
import gc
import sys

import pytest

from push_proxy.masking import apply_mask
from push_proxy.websocket import (
    MAX_CONTROL_BYTES,
    MAX_HEADER_BYTES,
    NO_CODE,
    PING,
    Binary,
    Closed,
    Event,
    Failed,
    Ping,
    Pong,
    Text,
    WebSocketCodec,
    accept_key,
    close_frame,
    is_key,
    pong_frame,
    text_frame,
    whole_text,
)

CONT, TEXT, BINARY, CLOSE, PING_, PONG = 0, 1, 2, 8, 9, 10
LIMIT = 1000


def client_frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    length_bytes: int | None = None,
    claim: int | None = None,
) -> bytes:
    """A frame as a client would send it, or would not: it pretends a length of `claim`, said in `length_bytes`."""
    length = len(payload) if claim is None else claim
    if length_bytes is None:
        length_bytes = 0 if length < 126 else 2 if length < 0x10000 else 8
    short = {0: length, 2: 126, 8: 127}[length_bytes]
    mask = b"\x12\x34\xab\xcd" if masked else b""
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode, (0x80 if masked else 0) | short])
    extended = length.to_bytes(length_bytes, "big") if length_bytes else b""
    return head + extended + mask + (apply_mask(payload, mask) if masked else payload)


def read(*chunks: bytes, limit: int = LIMIT) -> list[Event]:
    codec = WebSocketCodec(limit)
    return [event for chunk in chunks for event in codec.feed(chunk)]


def failure(*chunks: bytes, limit: int = LIMIT) -> int:
    """The code the last event fails with."""
    last = read(*chunks, limit=limit)[-1]
    assert isinstance(last, Failed)
    assert last.reason
    assert len(last.reason.encode()) <= MAX_CONTROL_BYTES - 2
    return last.code


def test_masking_is_xor() -> None:
    """Whichever loop was installed: of any length, of bytes and of a buffer."""
    mask = b"\x00\x5a\xa5\xff"
    for size in (*range(40), 1000):
        data = bytes(i * 7 % 256 for i in range(size))
        expected = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
        for same in (data, bytearray(data)):
            assert apply_mask(same, mask) == expected
            assert type(apply_mask(same, bytearray(mask))) is bytes


# Messages.


@pytest.mark.parametrize("size", [0, 1, 7, 125, 126, 127, 128, 131, 132, 500, 65535, 65536, 70000])
def test_whole_text_of_any_size(size: int) -> None:
    """Every form of length, at its edges."""
    payload = bytes(ord("a") + i % 26 for i in range(size))
    assert read(client_frame(TEXT, payload), limit=100_000) == [Text(payload)]


@pytest.mark.parametrize("length_bytes", [2, 8])
@pytest.mark.parametrize("size", [0, 5, 125])
def test_length_need_not_be_minimal(size: int, length_bytes: int) -> None:
    """As the oracle: there is nothing to gain from refusing it."""
    assert read(client_frame(TEXT, b"x" * size, length_bytes=length_bytes)) == [Text(b"x" * size)]


def test_text_beyond_ascii() -> None:
    """Text is handed out as the bytes it came in, once they are known to be UTF-8."""
    payload = "Sesión en vivo – 再生 🎬".encode()
    assert read(client_frame(TEXT, payload)) == [Text(payload)]


@pytest.mark.parametrize("payload", [b"\xff", b"abc\xc3", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80"])
def test_text_that_is_not_utf8(payload: bytes) -> None:
    """Truncated, overlong, surrogates, beyond Unicode: 1007."""
    assert failure(client_frame(TEXT, payload)) == 1007


def test_binary_is_not_judged() -> None:
    """Whether binary messages are welcome is for the protocol above."""
    assert read(client_frame(BINARY, b"\xff\x00")) == [Binary(b"\xff\x00")]


def test_fragments_make_one_message() -> None:
    """A character may be cut between fragments, and fragments may be empty."""
    whole = "naïve 🎬".encode()
    frames = [
        client_frame(TEXT, whole[:3], fin=False),
        client_frame(CONT, b"", fin=False),
        client_frame(CONT, whole[3:9], fin=False),
        client_frame(CONT, whole[9:]),
    ]
    assert read(*frames) == [Text(whole)]
    assert read(b"".join(frames)) == [Text(whole)]


def test_fragmented_text_is_judged_as_a_whole() -> None:
    """Each fragment looks broken alone; only the whole is wrong or right."""
    assert failure(client_frame(TEXT, b"\xc3", fin=False), client_frame(CONT, b"\x28")) == 1007
    assert read(client_frame(BINARY, b"\xc3", fin=False), client_frame(CONT, b"\x28")) == [Binary(b"\xc3\x28")]


def test_control_frames_between_fragments() -> None:
    """They are told at once and do not disturb the message."""
    events = read(
        client_frame(TEXT, b"a", fin=False),
        client_frame(PING_, b"1"),
        client_frame(CONT, b"b", fin=False),
        client_frame(PONG, b"2"),
        client_frame(CONT, b"c"),
        client_frame(TEXT, b"d"),
    )
    assert events == [Ping(b"1"), Pong(b"2"), Text(b"abc"), Text(b"d")]


def test_after_a_fragmented_message_comes_any_other() -> None:
    """No trace of the former message is left in the next one."""
    first = client_frame(BINARY, b"a", fin=False) + client_frame(CONT, b"b")
    assert read(first, client_frame(TEXT, b"c"), first) == [Binary(b"ab"), Text(b"c"), Binary(b"ab")]


def test_several_frames_in_one_read_and_one_frame_in_many() -> None:
    """Where reads end means nothing."""
    stream = client_frame(TEXT, b"one") + client_frame(PING_) + client_frame(TEXT, b"x" * 200) + client_frame(PONG)
    expected = [Text(b"one"), Ping(b""), Text(b"x" * 200), Pong(b"")]
    assert read(stream) == expected
    assert read(*(stream[i : i + 1] for i in range(len(stream)))) == expected
    for cut in range(len(stream) + 1):
        assert read(stream[:cut], stream[cut:]) == expected


@pytest.mark.parametrize("size", [0, 1, 124, 125, 126, 127, 300])
def test_no_part_of_a_frame_is_taken_for_a_whole_one(size: int) -> None:
    """The shortest way through the codec asks for exactly the length that is told: neither less nor more."""
    frame = client_frame(TEXT, b"x" * size)
    for end in range(len(frame)):
        assert read(frame[:end]) == []
    assert read(frame + b"\x81") == [Text(b"x" * size)]


def test_whole_texts_need_no_codec() -> None:
    """One unmasked look tells the usual frame from all others; the others are left to a codec, right or wrong."""
    frame = client_frame(TEXT, b"x" * 100)
    assert whole_text(frame, 100) == b"x" * 100
    others = [
        b"",
        frame[:-1],
        frame + b"\x81",
        client_frame(TEXT, b"x" * 101),
        client_frame(TEXT, b"x" * 130, length_bytes=2),
        client_frame(TEXT, "ä".encode()),
        client_frame(TEXT, b"x", fin=False),
        client_frame(TEXT, b"x", rsv=4),
        client_frame(TEXT, b"x", masked=False),
        client_frame(TEXT, b"x", length_bytes=8),
        client_frame(BINARY, b"x"),
        client_frame(PING_, b"x"),
    ]
    assert [whole_text(other, 100) for other in others] == [None] * len(others)


@pytest.mark.parametrize("rest", [bytes(200), b"\0\x7e" + bytes(198), bytes(7) + b"\x77" + bytes(192)])
def test_the_shortest_way_tells_what_the_long_way_does(rest: bytes) -> None:
    """Every length a frame may claim in its second byte, at every size of a read."""
    for size in range(150):
        for second in range(256):
            data = (bytes([0x81, second]) + rest)[:size]
            codec = WebSocketCodec(LIMIT)
            events = codec._read(data)
            whole = codec.idle and len(events) == 1 and second != 0xFF  # nobody says so short a length in eight bytes
            assert ([Text(text)] if (text := whole_text(data, LIMIT)) is not None else []) == (events if whole else [])


def test_a_codec_says_when_it_remembers_nothing() -> None:
    """Then another one in its place, with what it still allows, would do as well."""
    codec = WebSocketCodec(LIMIT, max_frames=10)
    frame = client_frame(TEXT, b"x", fin=False)
    steps = [
        (frame[:1], False, 10),
        (frame[1:], False, 9),
        (client_frame(PING_), False, 8),
        (client_frame(CONT), True, 7),
        (client_frame(TEXT, b"x") + b"\x81", False, 6),
        (b"\x80" + b"abcd", True, 5),
        (client_frame(CLOSE), False, 0),
    ]
    assert codec.idle
    for data, idle, allowed in steps:
        codec.feed(data)
        assert (codec.idle, codec.allowed_frames) == (idle, allowed)


# Limits.


def test_message_at_and_above_the_limit() -> None:
    """The limit itself is allowed; one more byte is 1009, told by the header alone."""
    assert read(client_frame(TEXT, b"x" * LIMIT)) == [Text(b"x" * LIMIT)]
    assert failure(client_frame(TEXT, b"x" * (LIMIT + 1))) == 1009
    assert failure(client_frame(TEXT, claim=LIMIT + 1)[:4]) == 1009


@pytest.mark.parametrize("limit", [1, 10, 124, 125, 126, 131, 132])
def test_small_limits(limit: int) -> None:
    """Also where the usual frame, whole and short, is above the limit."""
    assert read(client_frame(TEXT, b"x" * limit), limit=limit) == [Text(b"x" * limit)]
    assert failure(client_frame(TEXT, b"x" * (limit + 1)), limit=limit) == 1009


@pytest.mark.parametrize("claim", [2**16, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1])
def test_absurd_lengths(claim: int) -> None:
    """Also with the bit that RFC 6455 wants to be 0."""
    assert failure(client_frame(BINARY, claim=claim, length_bytes=8)) == 1009


def test_the_limit_is_the_message_s_not_the_fragment_s() -> None:
    """Fragments add up."""
    half = client_frame(TEXT, b"x" * (LIMIT // 2), fin=False)
    rest = client_frame(CONT, b"x" * (LIMIT // 2))
    assert read(half, rest) == [Text(b"x" * LIMIT)]
    assert failure(half, client_frame(CONT, b"x" * (LIMIT // 2 + 1))) == 1009
    assert failure(half, client_frame(CONT, b"x" * (LIMIT // 2), fin=False), client_frame(CONT, b"x")) == 1009


def test_a_control_frame_is_no_part_of_the_message_it_interrupts() -> None:
    """A full message may still be interrupted by a ping."""
    full = client_frame(TEXT, b"x" * LIMIT, fin=False)
    assert read(full, client_frame(PING_, b"y" * 125), client_frame(CONT)) == [Ping(b"y" * 125), Text(b"x" * LIMIT)]
    assert read(client_frame(PING_, b"y" * 125), limit=10) == [Ping(b"y" * 125)]


def test_a_flood_of_empty_fragments_holds_nothing() -> None:
    """Nor do a million fragments of one byte cost more than their bytes."""
    codec = WebSocketCodec(LIMIT)
    codec.feed(client_frame(TEXT, b"", fin=False))
    for _ in range(50):
        assert codec.feed(client_frame(CONT, b"", fin=False) * 100) == []
    assert codec.held_bytes == 0
    for _ in range(LIMIT):
        codec.feed(client_frame(CONT, b"x", fin=False))
    assert codec.held_bytes == LIMIT
    assert sys.getsizeof(codec._message) < 2 * LIMIT
    assert codec.feed(client_frame(CONT)) == [Text(b"x" * LIMIT)]
    assert codec.held_bytes == 0


def test_an_unfinished_frame_holds_its_own_bytes_only() -> None:
    """A frame one byte short of the limit is the most one connection can make us keep."""
    codec = WebSocketCodec(LIMIT)
    frame = client_frame(TEXT, b"x" * LIMIT)
    for i in range(len(frame) - 1):
        assert codec.feed(frame[i : i + 1]) == []
        assert codec.held_bytes == i + 1 <= LIMIT + MAX_HEADER_BYTES
    assert codec.feed(frame[-1:]) == [Text(b"x" * LIMIT)]
    assert codec.held_bytes == 0


def test_at_rest_a_codec_is_small() -> None:
    """There are fifteen thousand of them in a process, nearly always idle: no buffer may be left behind."""
    codec = WebSocketCodec(LIMIT)
    fresh = sys.getsizeof(codec)
    whole = client_frame(TEXT, b"a" * 300, fin=False) + client_frame(PING_, b"p") + client_frame(CONT, b"b" * 300)
    for i in range(len(whole)):
        codec.feed(whole[i : i + 1])
    owned = [part for part in gc.get_referents(codec) if isinstance(part, bytearray | bytes | list | dict | tuple)]
    assert owned == []
    assert sys.getsizeof(codec) == fresh <= 200
    assert not hasattr(codec, "__dict__")


@pytest.mark.parametrize(
    "frame",
    [client_frame(PING_), client_frame(TEXT, b"x"), client_frame(TEXT, "ä".encode()), client_frame(BINARY, b"x")],
)
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_a_flood_of_frames_is_cut_off(frame: bytes, step: int) -> None:
    """However many fit into one read, no more are looked at than were allowed; the next one is 1008."""
    codec = WebSocketCodec(LIMIT, max_frames=3)
    flood = frame * 1000
    events = [event for at in range(0, len(flood), step) for event in codec.feed(flood[at : at + step])]
    assert len(events) == 4
    assert events[3] == Failed(1008, "too many frames in too short a time")
    assert codec.closing()


def test_a_flood_of_fragments_is_cut_off() -> None:
    """Nobody but the codec ever sees them."""
    flood = client_frame(TEXT, fin=False) + client_frame(CONT, fin=False) * 1000
    codec = WebSocketCodec(LIMIT, max_frames=100)
    (failed,) = codec.feed(flood)
    assert isinstance(failed, Failed)
    assert failed.code == 1008


def test_whole_frames_one_by_one_are_counted_too() -> None:
    """Whether a frame came alone or in pieces does not matter."""
    codec = WebSocketCodec(LIMIT, max_frames=5)
    frame = client_frame(TEXT, b"x")
    for _ in range(5):
        assert codec.feed(frame) == [Text(b"x")]
    assert isinstance(codec.feed(frame)[0], Failed)


def test_frames_are_allowed_anew() -> None:
    """What was left does not add up; after the end nothing is allowed."""
    codec = WebSocketCodec(LIMIT, max_frames=5)
    frame = client_frame(PING_)
    assert len(codec.feed(frame * 2)) == 2
    codec.allow_frames(4)
    assert codec.feed(frame * 4) == [Ping(b"")] * 4
    codec.allow_frames(1)
    assert codec.feed(client_frame(CLOSE)) == [Closed(NO_CODE, "")]
    codec.allow_frames(1)
    assert codec.feed(client_frame(TEXT, b"late")) == []


# Violations.


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_reserved_opcodes(opcode: int) -> None:
    """1002, as soon as the first two bytes are there."""
    assert failure(client_frame(opcode)[:2]) == 1002


@pytest.mark.parametrize("opcode", [CONT, TEXT, BINARY, CLOSE, PING_, PONG])
def test_unmasked_frames(opcode: int) -> None:
    """1002: a client that does not mask may be a proxy's victim."""
    assert failure(client_frame(opcode, b"", masked=False)) == 1002


@pytest.mark.parametrize("opcode", [TEXT, BINARY, CLOSE, PING_, PONG])
@pytest.mark.parametrize("rsv", range(1, 8))
def test_reserved_bits(opcode: int, rsv: int) -> None:
    """Nothing was negotiated that could set one: a compressed frame is 1002, not rubbish passed on."""
    assert failure(client_frame(opcode, b"ab", rsv=rsv)) == 1002


@pytest.mark.parametrize("opcode", [CLOSE, PING_, PONG])
def test_control_frames_are_short_and_whole(opcode: int) -> None:
    """At most 125 bytes, never in fragments."""
    body = b"\x03\xe8" + b"x" * 123
    assert not isinstance(read(client_frame(opcode, body))[-1], Failed)
    assert failure(client_frame(opcode, body + b"x")) == 1002
    assert failure(client_frame(opcode, body, fin=False)) == 1002


def test_fragments_out_of_order() -> None:
    """A continuation of nothing; a message within a message."""
    assert failure(client_frame(CONT, b"x")) == 1002
    assert failure(client_frame(TEXT, b"x"), client_frame(CONT, b"x")) == 1002
    for opcode in (TEXT, BINARY):
        assert failure(client_frame(TEXT, b"x", fin=False), client_frame(opcode, b"y")) == 1002


def test_what_came_before_a_violation_is_told() -> None:
    """Events of the same read are not lost."""
    events = read(client_frame(TEXT, b"a") + client_frame(PING_, b"b") + client_frame(3))
    assert events[:2] == [Text(b"a"), Ping(b"b")]
    assert isinstance(events[2], Failed)


# Closing.


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4500, 4999])
def test_close_codes_that_may_be_received(code: int) -> None:
    """RFC 6455, 7.4, and what IANA registered since."""
    reason = "bis später"
    assert read(client_frame(CLOSE, code.to_bytes(2, "big") + reason.encode())) == [Closed(code, reason)]


@pytest.mark.parametrize("code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_close_codes_that_may_not(code: int) -> None:
    """Those are 1002."""
    assert failure(client_frame(CLOSE, code.to_bytes(2, "big"))) == 1002


def test_close_without_a_code() -> None:
    """Legal, and told as 1005."""
    assert read(client_frame(CLOSE)) == [Closed(NO_CODE, "")]


def test_malformed_close_frames() -> None:
    """Half a code; a reason that is not UTF-8; a close frame where a message is unfinished."""
    assert read(client_frame(CLOSE, b"\x03")) == [Failed(1002, "close frame with half a code")]
    assert failure(client_frame(CLOSE, b"\x03\xe8\xff")) == 1007
    assert failure(client_frame(TEXT, b"x", fin=False), client_frame(CLOSE, b"\x03\xe8")) == 1002


@pytest.mark.parametrize("last", [client_frame(CLOSE, b"\x03\xe8"), client_frame(3), client_frame(TEXT, b"\xff")])
def test_after_the_end_nothing_counts(last: bytes) -> None:
    """Neither in the same read nor later, and nothing is kept."""
    codec = WebSocketCodec(LIMIT)
    assert not codec.closing()
    codec.feed(client_frame(TEXT, b"x" * 10, fin=False) if last[0] & 15 == 3 else b"")
    assert len(codec.feed(last + client_frame(TEXT, b"late") + b"\x81")) == 1
    assert codec.closing()
    assert codec.feed(client_frame(TEXT, b"later")) == []
    assert codec.feed(b"\x81") == []
    assert codec.held_bytes == 0


# Writing.


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65535, b"\x81\x7e\xff\xff"),
        (65536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_text_frames(size: int, head: bytes) -> None:
    """Final, unmasked, with the shortest length."""
    assert text_frame(b"x" * size) == head + b"x" * size


def test_close_frames() -> None:
    """With code and reason, and the empty one that answers an empty one."""
    assert close_frame(1000) == b"\x88\x02\x03\xe8"
    assert close_frame(4001, "so long") == b"\x88\x09\x0f\xa1so long"
    assert close_frame(NO_CODE) == b"\x88\x00"


@pytest.mark.parametrize("code", [0, 1004, 1006, 1015, 2999, 5000])
def test_close_codes_never_written(code: int) -> None:
    """They are for the inside of a program only."""
    with pytest.raises(ValueError, match=str(code)):
        close_frame(code)


def test_long_close_reasons_are_cut_after_a_character() -> None:
    """At most 123 bytes, and UTF-8 all the same."""
    frame = close_frame(4000, "ä" * 100)
    assert len(frame) == 2 + 2 + 122
    assert frame[1] == len(frame) - 2
    assert frame[4:].decode() == "ä" * 61


def test_ping_and_pong_frames() -> None:
    """A ping carries nothing; a pong what the ping did."""
    assert PING == b"\x89\x00"
    assert pong_frame(b"") == b"\x8a\x00"
    assert pong_frame(b"x" * 125) == b"\x8a\x7d" + b"x" * 125


def test_accept_key() -> None:
    """The example of RFC 6455, 1.3."""
    assert accept_key(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 18])
def test_keys_are_16_bytes_in_base64(size: int) -> None:
    """Neither more nor fewer."""
    assert is_key(base64.b64encode(bytes(range(size)))) == (size == 16)


@pytest.mark.parametrize(
    "key", [b"", b"dGhlIHNhbXBsZSBub25jZQ=", b"dGhlIHNhbXBsZSBub25jZQ==\n", b"dGhlIHNhbXBsZSBub2_jZQ=="]
)
def test_keys_that_are_no_base64(key: bytes) -> None:
    """Padding, alphabet and nothing behind."""
    assert not is_key(key)
