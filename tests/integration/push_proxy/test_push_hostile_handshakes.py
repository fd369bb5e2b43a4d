"""Handshakes nobody should send: each gets the status that says why, costs little, and disturbs no neighbour."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hostile_client import PATIENCE_S, PING, PONG, SUBSCRIBE, TEXT, Raw, frame, head, neighbour_of
from push_world import World, eventually

Made = Callable[[World], bytes]
_KEY = (b"Sec-WebSocket-Key", base64.b64encode(bytes(16)))


@pytest.fixture(autouse=True)
async def unharmed(world: World, caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """Whatever a test does: a neighbour is served, nothing of the offender stays, no error of ours is logged."""
    async with neighbour_of(world):
        files = _open_files()
        yield
        await eventually(lambda: b"stagecue_push_connections 1.0" in world.node.metrics.render(), PATIENCE_S)
        await eventually(lambda: _open_files() <= files, PATIENCE_S)
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio" and record.exc_info] == []


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _changed(without: bytes, *value: bytes) -> Made:
    """A good head in which one field is left out, or has another value."""
    return lambda world: head(world, without=[without], more=[(without, one) for one in value])


REFUSED: dict[str, tuple[int, str | None, Made]] = {
    "another method": (405, None, lambda world: head(world, method=b"POST")),
    "a body unread": (405, None, lambda world: head(world, method=b"PUT", more=[(b"Content-Length", b"9")]) + b"x" * 9),
    "a method in lower case": (405, None, lambda world: head(world, method=b"get")),
    "HTTP/1.0": (505, "request line", lambda world: head(world, version=b"HTTP/1.0")),
    "HTTP/2 by prior knowledge": (505, "request line", lambda world: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "no version": (400, "request line", lambda world: b"GET /v1/stream\r\n\r\n"),
    "no host": (400, "Host", _changed(b"Host")),
    "two hosts": (400, "Host", lambda world: head(world, more=[(b"Host", b"other")])),
    "no host at all in it": (400, "Host", _changed(b"Host", b"a b")),
    "no upgrade": (426, "Upgrade", _changed(b"Upgrade")),
    "an upgrade to something else": (426, "Upgrade", _changed(b"Upgrade", b"h2c")),
    "no connection header": (400, "Connection", _changed(b"Connection")),
    "a connection to be closed": (400, "Connection", _changed(b"Connection", b"close")),
    "version 8": (426, "Sec-WebSocket-Version", _changed(b"Sec-WebSocket-Version", b"8")),
    "no version of it": (426, "Sec-WebSocket-Version", _changed(b"Sec-WebSocket-Version")),
    "two versions of it": (400, "Sec-WebSocket-Version", _changed(b"Sec-WebSocket-Version", b"13", b"13")),
    "no key": (400, "Sec-WebSocket-Key", _changed(_KEY[0])),
    "a short key": (400, "Sec-WebSocket-Key", _changed(_KEY[0], b"YQ==")),
    "a key that is no base64": (400, "Sec-WebSocket-Key", _changed(_KEY[0], b"?" * 24)),
    "two keys": (400, "Sec-WebSocket-Key", lambda world: head(world, more=[_KEY])),
    "no subprotocol": (400, "Sec-WebSocket-Protocol", _changed(b"Sec-WebSocket-Protocol")),
    "another subprotocol": (400, "Sec-WebSocket-Protocol", _changed(b"Sec-WebSocket-Protocol", b"mqtt")),
    "a folded line": (400, "X-A", lambda world: head(world, more=[(b"X-A", b"a\r\n b")])),
    "line feeds alone": (400, "request head", lambda world: head(world, line_end=b"\n")),
    "a zero byte": (400, "X-A", lambda world: head(world, more=[(b"X-A", b"a\0b")])),
    "a carriage return alone": (400, "X-A", lambda world: head(world, more=[(b"X-A", b"a\rb")])),
    "a blank before the colon": (400, "X-A", lambda world: head(world, more=[(b"X-A ", b"a")])),
    "a line without a colon": (400, "nonsense", lambda world: head(world)[:-2] + b"nonsense\r\n\r\n"),
    "a body": (400, "Content-Length", lambda world: head(world, more=[(b"Content-Length", b"5")]) + b"hello"),
    "two lengths": (400, "Content-Length", _changed(b"Content-Length", b"5", b"6")),
    "chunks": (501, "Transfer-Encoding", lambda world: head(world, more=[(b"Transfer-Encoding", b"chunked")])),
    "a fragment": (400, "request line", lambda world: head(world, target=b"/v1/stream#x")),
    "a target of other bytes": (400, "request line", lambda world: head(world, target=b"/v1/\xff")),
    "a blank in the target": (400, "request line", lambda world: head(world, target=b"/v1/str eam")),
    "an address nobody can follow": (400, "request line", lambda world: head(world, target=b"http://[::1/v1/stream")),
    "TLS": (400, "request line", lambda world: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)),
    "zeros": (400, "request line", lambda world: bytes(20_000)),
    "another path": (404, None, lambda world: head(world, target=b"/v1/../v1/stream")),
    "101 headers": (431, "headers", lambda world: head(world, more=[(b"X-%d" % n, b"a") for n in range(101)])),
    "a long line": (414, "request line", lambda world: head(world, target=b"/v1/stream?" + b"a" * 9_000)),
    "64 KB in one header": (431, "headers", lambda world: head(world, more=[(b"X-A", b"a" * 65_536)])),
    "64 KB in many": (431, "headers", lambda world: head(world, more=[(b"X-%d" % n, b"a" * 1_000) for n in range(66)])),
    "no token": (401, "token", _changed(b"Authorization")),
    "another scheme": (401, "token", _changed(b"Authorization", b"Basic YTpi")),
    "two tokens": (400, "Authorization", lambda world: head(world, more=[(b"Authorization", b"Bearer a.b.c")])),
    "a token of other bytes": (401, "token", lambda world: head(world, token=b"\xff\xfe\xfd")),
    "a token of dots": (401, "token", lambda world: head(world, token=b"." * 3_000)),
    "an unsigned token": (401, "token", lambda world: head(world, token=b"eyJhbGciOiJub25lIn0.e30.")),
    "a token of nested JSON": (
        401,
        "token",
        lambda world: head(world, token=base64.urlsafe_b64encode(b"[" * 4_000).rstrip(b"=") + b".e30.AAAA"),
    ),
    "a token of emoji in the query": (
        401,
        "token",
        lambda world: head(world, without=[b"Authorization"], target=b"/v1/stream?access_token=%F0%9F%98%80%ED%A0%80"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refused(world: World, name: str) -> None:
    """A problem of the right status that names the field, whether the head comes at once or byte by byte."""
    status, field, made = REFUSED[name]
    data = made(world)
    slices = [[data]] if len(data) > 4_000 else [[data], [data[at : at + 1] for at in range(len(data))]]
    for pieces in slices:
        raw = await Raw.connect(world)
        await raw.say(*pieces)
        answer = await raw.answer()
        assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
        problem = json.loads(answer.body)
        assert (problem["status"], problem.get("field")) == (status, field)
        assert answer.headers["connection"] == "close"
        if status == 405:
            assert answer.headers["allow"] == "GET"
        if name == "version 8":
            assert answer.headers["sec-websocket-version"] == "13"
        raw.cut()


@pytest.mark.parametrize("world", [{"allowed_origins": "https://tv.example.com"}], indirect=True)
@pytest.mark.parametrize(
    "origin",
    [
        b"http://[",
        b"https://tv.example.com.evil.org",
        b"https://tv.example.com@evil.org",
        b"null",
        b"\xff\xfe",
        b"a" * 9,
    ],
)
async def test_an_origin_that_is_none_of_ours(world: World, origin: bytes) -> None:
    """403, whatever an origin looks like."""
    raw = await Raw.connect(world)
    await raw.say(head(world, more=[(b"Origin", origin)]))
    assert (await raw.answer()).status == 403


@pytest.mark.parametrize("world", [{"close_timeout_s": 0.2}], indirect=True)
@pytest.mark.parametrize("subprotocol", [b"stagecue.v1", b"graphql-transport-ws"])
async def test_one_refused_in_its_own_form_that_never_closes(world: World, subprotocol: bytes) -> None:
    """It read its goodbye and stays: a socket nobody has a use for is not kept."""
    raw = await Raw.connect(world)
    asked = head(world, token=b"bad", without=[b"Sec-WebSocket-Protocol"], more=[(b"Origin", b"https://tv")])
    await raw.say(asked[:-2] + b"Sec-WebSocket-Protocol: " + subprotocol + b"\r\n\r\n")
    await raw.upgraded()
    assert (await raw.closed())[0] in (4403, 4500)
    await raw.rest()


async def test_a_head_split_at_every_byte(world: World) -> None:
    """Two pieces, wherever the cut lies: the handshake succeeds as if it had come in one."""
    async with asyncio.timeout(3 * PATIENCE_S):
        for at in range(1, len(head(world))):
            data = head(world)
            raw = await Raw.connect(world)
            await raw.say(data[:at], data[at:])
            await raw.upgraded()
            assert (await raw.until("welcome"))["node"] == "n1"
            raw.cut()


async def test_frames_right_behind_the_head(world: World) -> None:
    """A device that does not wait for the answer is served all the same, the first time and when its head is known."""
    for _ in range(3):
        raw = await Raw.connect(world)
        await raw.say(head(world) + frame(TEXT, SUBSCRIBE) + frame(PING, b"here"))
        await raw.upgraded()
        assert (await raw.until("continuity"))["verdict"] == "complete"
        async for opcode, payload in raw.frames():
            if opcode == PONG:
                assert payload == b"here"
                break
        raw.cut()


async def test_more_than_a_head_can_be(world: World) -> None:
    """A megabyte and no end of it: refused once the limit is passed, however slowly it comes."""
    raw = await Raw.connect(world)
    start = head(world)[:-2] + b"X-A: "
    await raw.say(start, *([b"a" * 1_000] * 100))
    assert (await raw.answer()).status == 431
    raw.cut()


@pytest.mark.parametrize("world", [{"handshake_timeout_s": 0.5}], indirect=True)
async def test_a_slow_drip_and_silence(world: World) -> None:
    """Twenty who send a byte now and then, twenty who send nothing: all are gone after the deadline, none is served."""
    slow = [await Raw.connect(world) for _ in range(20)]
    silent = [await Raw.connect(world) for _ in range(20)]
    data = head(world)
    gone = asyncio.gather(*(raw.rest() for raw in (*slow, *silent)))
    at = 0
    while not gone.done():
        for raw in slow:
            await raw.say(data[at % 300 : at % 300 + 1])
        at += 1
        await asyncio.sleep(0.02)
    assert all(not answer.startswith(b"HTTP/1.1 101") for answer in await gone)
    await eventually(lambda: b'handshakes_total{outcome="late"} 40.0' in world.node.metrics.render(), PATIENCE_S)
    for raw in (*slow, *silent):
        raw.cut()


async def test_a_refusal_nobody_reads(world: World) -> None:
    """The offender keeps its socket open and reads nothing: it is cut off, and its file is free again."""
    refused = [await Raw.connect(world) for _ in range(20)]
    for raw in refused:
        raw.transport.pause_reading()
        await raw.say(head(world, token=b"a.b.c") + bytes(100_000))
    await eventually(
        lambda: b'handshakes_total{outcome="unauthorized"} 20.0' in world.node.metrics.render(), PATIENCE_S
    )
    for raw in refused:
        raw.cut()


async def test_resets_in_the_middle_of_a_head(world: World) -> None:
    """Wherever it ends: nothing stays, and what was counted before is counted down."""
    data = head(world)
    for at in range(0, len(data), 7):
        raw = await Raw.connect(world)
        await raw.say(data[:at])
        raw.cut()


async def test_random_bytes(world: World) -> None:
    """A refusal or a cut, never an error of ours; a mutated head never opens a stream for a token that is not good."""
    chance = random.Random(7)
    for number in range(200):
        data = bytearray(head(world, token=b"a.b.c"))
        for _ in range(1 + number % 5):
            at = chance.randrange(len(data))
            data[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
        raw = await Raw.connect(world)
        await raw.say(bytes(data) + b"\r\n\r\n")
        answer = await raw.rest()
        assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")), (data, answer)
        raw.cut()


async def test_who_is_still_sending_reads_its_refusal(world: World) -> None:
    """A head far too long, a piece at a time: the answer is not lost with a reset, however slowly it is read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    whole = head(world, more=[(b"X-A", b"a" * 65_536)])
    try:
        for at in range(0, len(whole), 1_024):
            writer.write(whole[at : at + 1_024])
            await writer.drain()
            await asyncio.sleep(0.002)
        answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
    finally:
        writer.close()
    assert answer.startswith(b"HTTP/1.1 431 ")


async def test_who_never_stops_sending_is_cut_off(world: World) -> None:
    """After its answer a client may finish what it was at, not more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(head(world, target=b"/nowhere"))
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n"), PATIENCE_S)).startswith(b"HTTP/1.1 404 ")

    async def send_on() -> None:
        while True:
            writer.write(b"x" * 4_096)
            await writer.drain()

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(send_on(), PATIENCE_S)
    writer.close()
