"""Frames nobody should send: a close code says why, or an error frame does and the stream goes on."""

from __future__ import annotations

import asyncio
import json
import random
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hostile_client import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PATIENCE_S,
    PING,
    PONG,
    SUBSCRIBE,
    TEXT,
    Raw,
    frame,
    neighbour_of,
    text,
)
from push_world import TOPIC, World, eventually


@pytest.fixture(autouse=True)
async def unharmed(world: World, caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """Whatever a test does: a neighbour is served, no session of the offender stays, no error of ours is logged."""
    async with neighbour_of(world):
        yield
        await eventually(lambda: b"stagecue_push_connections 1.0" in world.node.metrics.render(), PATIENCE_S)
        await eventually(lambda: b"stagecue_push_subscriptions 1.0" in world.node.metrics.render(), PATIENCE_S)
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio" and record.exc_info] == []


def code(number: int, why: bytes = b"") -> bytes:
    return struct.pack(">H", number) + why


ENDED: dict[str, tuple[int | None, bytes]] = {
    "not masked": (1002, frame(TEXT, b"{}", masked=False)),
    "compressed, though nobody agreed on it": (1002, frame(TEXT, b"\xaa\x56\x2a\xa9\x2c\x48\x05", reserved=4)),
    "the second reserved bit": (1002, frame(TEXT, b"{}", reserved=2)),
    "the third, on a ping": (1002, frame(PING, reserved=1)),
    "a reserved opcode": (1002, frame(3)),
    "a reserved control opcode": (1002, frame(11)),
    "binary": (1003, frame(BINARY, SUBSCRIBE)),
    "binary in fragments": (1003, frame(BINARY, b"\0", fin=False) + frame(CONTINUATION, b"\0")),
    "no UTF-8": (1007, frame(TEXT, b'{"type":"\xff"}')),
    "an overlong form of a slash": (1007, frame(TEXT, b'"\xc0\xaf"')),
    "a surrogate": (1007, frame(TEXT, b'"\xed\xa0\x80"')),
    "a character cut in two by fragments, and not completed": (
        1007,
        frame(TEXT, b'"\xe2\x82', fin=False) + frame(CONTINUATION, b'"'),
    ),
    "a continuation of nothing": (1002, frame(CONTINUATION, b"{}")),
    "a message within a message": (1002, frame(TEXT, b"{", fin=False) + frame(TEXT, b"}")),
    "a fragmented ping": (1002, frame(PING, fin=False)),
    "a long ping": (1002, frame(PING, bytes(126))),
    "a frame that claims 2**62 bytes": (1009, b"\x81\xff" + struct.pack(">Q", 2**62)),
    "a frame that claims 2**63 bytes": (1009, b"\x81\xff" + struct.pack(">Q", 2**63)),
    "one byte more than may be": (1009, frame(TEXT, length=16_385)),
    "fragments that are too much": (1009, frame(TEXT, bytes(16_000), fin=False) + frame(CONTINUATION, bytes(385))),
    "a close without a code": (None, frame(CLOSE)),
    "a close": (1000, frame(CLOSE, code(1000, b"bye"))),
    "a close with a code of one's own": (4321, frame(CLOSE, code(4321))),
    "half a close code": (1002, frame(CLOSE, b"\x03")),
    "a close code that is never sent": (1002, frame(CLOSE, code(1005))),
    "a close code below all": (1002, frame(CLOSE, code(999))),
    "a close code above all": (1002, frame(CLOSE, code(5000))),
    "a close reason that is no UTF-8": (1007, frame(CLOSE, code(1000, b"\xff"))),
    "a close that is too long": (1002, frame(CLOSE, code(1000, bytes(124)))),
    "another HTTP request": (1002, b"GET /v1/stream HTTP/1.1\r\n\r\n"),
    "zeros": (1002, bytes(64)),
}


@pytest.mark.parametrize("name", ENDED)
async def test_the_connection_ends(world: World, name: str) -> None:
    """With RFC 6455's close code, byte by byte as the first frame, and at once behind others; then nothing counts."""
    expected, data = ENDED[name]
    behind = text({"type": "subscribe", "topics": {"event:other": 0}})
    byte_by_byte = [data[at : at + 1] for at in range(len(data))] if len(data) < 1_000 else [data[:9], data[9:]]
    for before, pieces in ((frame(TEXT, SUBSCRIBE), [data + behind]), (b"", byte_by_byte)):
        raw = await Raw.open(world)
        if before:
            await raw.say(before)
            await raw.until("schedule")
        await raw.say(*pieces)
        closed, said = await raw.closed()
        assert closed == expected
        if expected == 1009:
            assert (said[-1]["type"], said[-1]["code"]) == ("error", "malformed_frame")
            assert "16384 bytes" in said[-1]["message"]
        else:
            assert [one for one in said if one["type"] == "error"] == []
        await raw.say(frame(CLOSE, code(1000)))
        await raw.rest()
        raw.cut()


_DEEP = "[" * 7_000 + "]" * 7_000
IN_ERROR: dict[str, tuple[str, str | bytes | dict[str, Any]]] = {
    "text in place of JSON": ("malformed_frame", "hello"),
    "nothing": ("malformed_frame", ""),
    "a number": ("malformed_frame", "1"),
    "null": ("malformed_frame", "null"),
    "a list": ("malformed_frame", "[]"),
    "a byte order mark": ("malformed_frame", b"\xef\xbb\xbf" + SUBSCRIBE),
    "two objects": ("malformed_frame", SUBSCRIBE + SUBSCRIBE),
    "no type": ("malformed_frame", {}),
    "a type of mine": ("malformed_frame", {"type": "broadcast", "topic": TOPIC}),
    "two types": ("malformed_frame", '{"type":"subscribe","type":"ack","topics":{}}'),
    "deep nesting": ("malformed_frame", _DEEP),
    "deep nesting in a later field": ("malformed_frame", f'{{"type":"subscribe","topics":{{}},"later":{_DEEP}}}'),
    "no topics": ("malformed_frame", {"type": "subscribe", "topics": {}}),
    "topics in a list": ("malformed_frame", {"type": "subscribe", "topics": [TOPIC]}),
    "65 topics": ("too_many_topics", {"type": "subscribe", "topics": {f"event:{n}": 0 for n in range(65)}}),
    "a cursor with a fraction": ("malformed_frame", {"type": "subscribe", "topics": {TOPIC: 1.5}}),
    "a cursor that is true": ("malformed_frame", {"type": "subscribe", "topics": {TOPIC: True}}),
    "a cursor in words": ("malformed_frame", {"type": "subscribe", "topics": {TOPIC: "0"}}),
    "a cursor that is no number": ("malformed_frame", f'{{"type":"subscribe","topics":{{"{TOPIC}":NaN}}}}'),
    "a negative cursor": ("malformed_cursor", {"type": "subscribe", "topics": {TOPIC: -1}}),
    "a cursor from the future": ("cursor_in_future", {"type": "subscribe", "topics": {TOPIC: 2**60}}),
    "a cursor of 300 digits": ("cursor_in_future", f'{{"type":"subscribe","topics":{{"{TOPIC}":{"9" * 300}}}}}'),
    "a held map of 4,000 digits": (
        "malformed_frame",
        f'{{"type":"subscribe","topics":{{"{TOPIC}":0}},"held":{{"{TOPIC}":{{"version":{"9" * 4000},"revision":1}}}}}}',
    ),
    "a held map from below zero": (
        "malformed_frame",
        {"type": "subscribe", "topics": {TOPIC: 0}, "held": {TOPIC: {"version": 1, "revision": -(2**70)}}},
    ),
    "a topic nobody has": ("unknown_topic", {"type": "subscribe", "topics": {"event:nobody": 0}}),
    "a topic without a name": ("unknown_topic", {"type": "subscribe", "topics": {"": 0}}),
    "a topic of control characters": ("unknown_topic", {"type": "subscribe", "topics": {"\0\r\n\x1b[2J": 0}}),
    "a topic of half a pair": ("malformed_frame", '{"type":"subscribe","topics":{"\\ud800":0}}'),
    "a topic of 15,000 characters": ("unknown_topic", {"type": "subscribe", "topics": {"x" * 15_000: 0}}),
    "an unsubscribe of a number": ("malformed_frame", {"type": "unsubscribe", "topics": 1}),
    "an ack of a topic not followed": ("not_subscribed", {"type": "ack", "topic": "event:nobody", "timestamp": 1}),
    "a hole in a topic not followed": (
        "not_subscribed",
        {"type": "hole", "topic": "\x1b[2J", "cursor": 0, "prev": 1, "timestamp": 2},
    ),
    "a token that is none": ("unauthorized", {"type": "auth", "token": "\u20ac\0\U0001f600"}),
    "a token of dots": ("unauthorized", {"type": "auth", "token": "." * 15_000}),
    "a token that is a number": ("malformed_frame", {"type": "auth", "token": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", IN_ERROR)
async def test_an_error_frame_says_why_and_the_stream_goes_on(world: World, name: str) -> None:
    """It is short whatever was sent, and a subscribe after it is answered."""
    expected, message = IN_ERROR[name]
    raw = await Raw.open(world)
    await raw.say(text(message))
    error = await raw.until("error")
    assert error["code"] == expected
    assert len(json.dumps(error)) < 1_500
    await raw.say(frame(TEXT, SUBSCRIBE))
    assert (await raw.until("continuity"))["verdict"] == "complete"
    raw.cut()


HARMLESS: dict[str, bytes] = {
    "an ack from the future": text({"type": "ack", "topic": TOPIC, "timestamp": 2**60}),
    "an ack of before": text({"type": "ack", "topic": TOPIC, "timestamp": -1}),
    "an unsubscribe of nothing followed": text({"type": "unsubscribe", "topics": ["event:nobody", "", "a" * 9_000]}),
    "a held map of a topic not named": text(
        {"type": "subscribe", "topics": {TOPIC: 0}, "held": {f"t{n}": {"version": n, "revision": 1} for n in range(99)}}
    ),
    "a pong nobody asked for": frame(PONG, bytes(125)),
    "empty fragments before and behind": frame(TEXT, fin=False)
    + frame(CONTINUATION, SUBSCRIBE, fin=False)
    + frame(CONTINUATION),
    "a length in more bytes than needed": b"\x81\xfe\x00" + bytes([len(SUBSCRIBE)]) + bytes(4) + SUBSCRIBE,
    "fields nobody knows": text({"type": "subscribe", "topics": {TOPIC: 0}, "later": {"a": [1, None]}, "x" * 9_000: 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", HARMLESS)
async def test_odd_but_harmless(world: World, name: str) -> None:
    """Neither an error nor an end: the stream goes on."""
    raw = await Raw.open(world)
    await raw.say(HARMLESS[name], frame(TEXT, SUBSCRIBE))
    assert (await raw.until("continuity"))["latest"] == 0
    raw.cut()


async def test_a_subscribe_split_at_every_byte(world: World) -> None:
    """Wherever the cut between two reads lies, and byte by byte: always the same answer."""
    raw = await Raw.open(world)
    data = frame(TEXT, SUBSCRIBE)
    for at in range(1, len(data)):
        await raw.say(data[:at], data[at:])
        assert (await raw.until("continuity"))["verdict"] == "complete"
    await raw.say(*(data[at : at + 1] for at in range(len(data))))
    assert (await raw.until("continuity"))["verdict"] == "complete"
    raw.cut()


async def test_a_subscribe_in_fragments_with_a_ping_between(world: World) -> None:
    """Wherever it is cut: the ping is answered first, then the whole message."""
    raw = await Raw.open(world)
    for at in range(len(SUBSCRIBE)):
        await raw.say(
            frame(TEXT, SUBSCRIBE[:at], fin=False) + frame(PING, b"between"), frame(CONTINUATION, SUBSCRIBE[at:])
        )
        seen = []
        async for opcode, payload in raw.frames():
            seen.append(payload if opcode == PONG else json.loads(payload)["type"] if opcode == TEXT else None)
            if seen[-1] == "continuity":
                break
        assert b"between" in seen
    raw.cut()


async def test_mutated_frames(world: World) -> None:
    """Bits of good frames flipped, bytes taken out and put in: an error frame or an end, never an error of ours."""
    chance = random.Random(11)
    good = frame(TEXT, SUBSCRIBE) + frame(PING, b"here") + text({"type": "unsubscribe", "topics": [TOPIC]})
    for _ in range(150):
        data = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(data))
            if chance.random() < 0.5:
                data[at] ^= 1 << chance.randrange(8)
            else:
                data[at : at + chance.randrange(2)] = chance.randbytes(chance.randrange(4))
        raw = await Raw.open(world)
        at = chance.randrange(len(data))
        await raw.say(bytes(data[:at]), bytes(data[at:]))
        raw.cut()


async def test_resets_right_behind_frames(world: World) -> None:
    """Gone before it could be answered, after any number of frames: nothing of it stays."""
    for number in range(1, 40):
        raw = await Raw.open(world)
        await raw.say(frame(TEXT, SUBSCRIBE) * number + frame(PING) * number)
        raw.cut()


@pytest.mark.parametrize("world", [{"ping_s": 0.6, "pong_deadline_s": 0.3}], indirect=True)
async def test_half_open_sockets(world: World) -> None:
    """Devices that vanished without a word answer no ping: closed with 4004, one as a hundred."""
    vanished = [await Raw.open(world) for _ in range(100)]
    for raw in vanished:
        await raw.say(frame(TEXT, SUBSCRIBE))
    for raw in vanished:
        assert (await raw.closed())[0] == 4004
    for raw in vanished:
        raw.cut()


@pytest.mark.parametrize("world", [{"close_timeout_s": 0.3}], indirect=True)
async def test_one_that_does_not_answer_our_close(world: World) -> None:
    """It keeps its socket open: cut off, without having been told anything after the close frame."""
    raw = await Raw.open(world)
    await raw.say(frame(TEXT, SUBSCRIBE), frame(BINARY))
    assert (await raw.closed())[0] == 1003
    await raw.say(frame(PING, b"?"), frame(TEXT, SUBSCRIBE))
    assert await raw.rest() == b""
    raw.cut()


@pytest.mark.parametrize("world", [{"subscribe_deadline_s": 0.4}], indirect=True)
async def test_one_that_says_much_and_subscribes_to_nothing(world: World) -> None:
    """Pings and half a frame are no subscribe: 4007 after the deadline."""
    raw = await Raw.open(world)
    closing = asyncio.ensure_future(raw.closed())
    half = frame(TEXT, SUBSCRIBE)[:-1]
    while not closing.done():
        await raw.say(half[:1])
        half = half[1:] or b""
        await asyncio.sleep(0.02)
    assert (await closing)[0] == 4007
    raw.cut()
