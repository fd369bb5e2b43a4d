"""Floods, and those who never read: they end with a code that says so, memory stays bounded, neighbours are served."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import websockets
from hostile_client import (
    CONTINUATION,
    PATIENCE_S,
    PING,
    PONG,
    SUBSCRIBE,
    TEXT,
    Raw,
    frame,
    head,
    neighbour_of,
    text,
)
from push_world import TOPIC, Device, World, broadcast, eventually, schedule

_MB = 1_000_000
_PATIENT = {"close_timeout_s": 1.0, "link_ping_s": 4.0, "link_silence_s": 60.0, "lease_s": 30.0}
"""The routers' links are not what is tested: a machine busy with floods must not take them for silent."""
_SLOW = _PATIENT | {"slow_consumer_bytes": 16_384, "slow_consumer_s": 0.5}
_UNSUBSCRIBE = json.dumps({"type": "unsubscribe", "topics": [TOPIC]}).encode()
_OTHERS = {f"event:x{number}": None for number in range(64)}
FLOODS = {
    "pings": (4009, b"", frame(PING)),
    "large pings": (4009, b"", frame(PING, bytes(125))),
    "pongs": (4009, b"", frame(PONG)),
    "empty fragments": (4009, frame(TEXT, fin=False), frame(CONTINUATION, fin=False)),
    "empty messages": (4503, b"", frame(TEXT)),
    "subscribes": (4009, b"", frame(TEXT, SUBSCRIBE)),
    "subscribes and unsubscribes": (4009, b"", frame(TEXT, SUBSCRIBE) + frame(TEXT, _UNSUBSCRIBE)),
    "acks": (4009, frame(TEXT, SUBSCRIBE), text({"type": "ack", "topic": TOPIC, "timestamp": 1})),
    "subscribes to 64 topics nobody has": (4009, b"", text({"type": "subscribe", "topics": _OTHERS})),
    "tokens": (4503, b"", text({"type": "auth", "token": "a.b.c"})),
}


class Flood:
    """A thread that writes the same bytes for as long as anybody takes them, and perhaps reads nothing."""

    def __init__(self, world: World, first: bytes, again: bytes, *, reads: bool) -> None:
        self.sent = 0
        self.received = b""
        self._port = world.port
        self._first = head(world) + first
        self._again = again * (100_000 // len(again) + 1)
        self._reads = reads
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="test.flood")
        self._thread.start()

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        with socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE_S) as sock:
            try:
                self._flood(sock)
            except OSError:
                if self._reads:
                    self._read(sock)

    def _flood(self, sock: socket.socket) -> None:
        if not self._reads:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        sock.sendall(self._first)
        sock.recv(1)  # the handshake was answered
        sock.settimeout(0.05)
        for at in itertools.cycle(range(0, len(self._again), 65_536)):
            if self._stopped.is_set():
                return
            self._write(sock, self._again[at : at + 65_536])

    def _write(self, sock: socket.socket, data: bytes) -> None:
        while data and not self._stopped.is_set():
            # Each time: a goodbye waits behind all answers, and is cut off if it is not read in `close_timeout_s`.
            if self._reads:
                self._read(sock)
            try:
                sent = sock.send(data)
            except TimeoutError:
                continue
            self.sent += sent
            data = data[sent:]

    def _read(self, sock: socket.socket) -> None:
        try:
            while chunk := sock.recv(65_536, socket.MSG_DONTWAIT):
                self.received = (self.received + chunk)[-4_096:]
        except OSError:
            pass


@contextmanager
def flooding(world: World, first: bytes, again: bytes, *, count: int, reads: bool) -> Iterator[list[Flood]]:
    floods = [Flood(world, first, again, reads=reads) for _ in range(count)]
    try:
        yield floods
    finally:
        for flood in floods:
            flood.stop()


def memory_bytes() -> int:
    """What this process has in memory, the node and the floods alike."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4_096


async def served(world: World, neighbour: Device, after: int, count: int = 20) -> int:
    """The neighbour gets `count` broadcasts, one after the other; returns the cursor it has then."""
    for timestamp in range(after + 1, after + count + 1):
        await world.routers[0].deliver(broadcast(timestamp, timestamp - 1))
        assert (await neighbour.until("broadcast", PATIENCE_S))["timestamp"] == timestamp
    return after + count


@pytest.mark.parametrize("world", [_PATIENT], indirect=True)
@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_ends_with_a_code(world: World, name: str) -> None:
    """From one who reads: the last thing it is told is a close code; meanwhile and afterwards a neighbour is served."""
    code, first, again = FLOODS[name]
    neighbour = await world.connect()
    await neighbour.subscribe(None)
    await neighbour.until("schedule", PATIENCE_S)
    with flooding(world, first, again, count=1, reads=True) as (flood,):
        cursor = await served(world, neighbour, 0)
        await eventually(lambda: flood.over, PATIENCE_S)
    size, *end = flood.received.rpartition(b"\x88")[2]
    assert (size, bytes(end[:2])) == (len(end), code.to_bytes(2, "big")), flood.received[-200:]
    await eventually(lambda: b"stagecue_push_connections 1.0" in world.node.metrics.render(), PATIENCE_S)
    await served(world, neighbour, cursor)


@pytest.mark.parametrize("world", [_SLOW], indirect=True)
@pytest.mark.parametrize("name", FLOODS)
async def test_floods_of_those_who_never_read(world: World, name: str) -> None:
    """Eight at once, again and again while a neighbour is served forty broadcasts: memory does not grow with them."""
    _, first, again = FLOODS[name]
    neighbour = await world.connect()
    await neighbour.subscribe(None)
    await neighbour.until("schedule", PATIENCE_S)
    cursor, before = 0, 0
    for number in range(2):
        with flooding(world, first, again, count=8, reads=False):
            cursor = await served(world, neighbour, cursor)
        await eventually(lambda: b"stagecue_push_connections 1.0" in world.node.metrics.render(), PATIENCE_S)
        if number == 0:
            before = memory_bytes()  # what an allocator keeps once is not growth
    assert memory_bytes() < before + 32 * _MB


@pytest.mark.parametrize("world", [_SLOW], indirect=True)
async def test_clients_that_never_read(world: World) -> None:
    """Fifty of them follow a topic: each is sent away once its socket takes no more, their neighbour misses nothing."""
    neighbour = await world.connect()
    await neighbour.subscribe(None)
    await neighbour.until("schedule", PATIENCE_S)
    silent = []
    for _ in range(50):
        raw = await Raw.connect(world)
        sock = raw.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        raw.transport.pause_reading()
        await raw.say(head(world), frame(TEXT, SUBSCRIBE))
        silent.append(raw)
    await eventually(lambda: b"stagecue_push_subscriptions 51.0" in world.node.metrics.render(), PATIENCE_S)
    before, cursor = memory_bytes(), 0
    wide = "k" * 4_000
    while world.node.metrics.value("closed_slow") < 50 and cursor < 5_000:
        entries = [broadcast(cursor + n + 1, cursor + n, wide) for n in range(10)]
        cursor += 10
        await world.routers[0].deliver(*entries)
        while (await neighbour.until("broadcast", PATIENCE_S))["timestamp"] < cursor:
            pass
    assert world.node.metrics.value("closed_slow") == 50
    # Per client at most what a transport buffers, and what may wait: 64 KB and 16 KB, and one wave of broadcasts.
    assert memory_bytes() < before + 50 * 200_000 + cursor * 16_000 + 32 * _MB
    await eventually(lambda: b"stagecue_push_connections 1.0" in world.node.metrics.render(), PATIENCE_S)
    for raw in silent:
        raw.cut()


@pytest.mark.parametrize("world", [_PATIENT], indirect=True)
async def test_half_a_message_from_many(world: World) -> None:
    """Two hundred who send all but the last byte of the largest message, and wait: bounded by what a message may be."""
    async with neighbour_of(world):
        before = memory_bytes()
        data = frame(TEXT, SUBSCRIBE + b" " * (16_384 - len(SUBSCRIBE)))
        waiting = [await Raw.open(world) for _ in range(200)]
        for raw in waiting:
            await raw.say(data[:8_000], data[8_000:-1])
        assert memory_bytes() < before + 200 * 3 * len(data) + 32 * _MB
        for raw in waiting[::2]:
            await raw.say(data[-1:])
            assert (await raw.until("continuity"))["verdict"] == "complete"
        for raw in waiting:
            raw.cut()


@pytest.mark.parametrize("world", [_PATIENT], indirect=True)
async def test_a_crowd_that_connects_and_vanishes(world: World) -> None:
    """Five hundred handshakes cut right after they were sent: nothing of them stays."""
    async with neighbour_of(world):
        for _ in range(10):
            crowd = await asyncio.gather(*(Raw.connect(world) for _ in range(50)))
            for raw in crowd:
                raw.transport.write(head(world) + frame(TEXT, SUBSCRIBE) + frame(PING) * 20)
            await asyncio.sleep(0)
            for raw in crowd:
                raw.cut()
        await eventually(lambda: b"stagecue_push_connections 1.0" in world.node.metrics.render(), PATIENCE_S)
        await eventually(lambda: b"stagecue_push_subscriptions 1.0" in world.node.metrics.render(), PATIENCE_S)


async def test_subscribes_count_by_their_topics(world: World) -> None:
    """Sixty topics at a time, again and again: few frames, much to answer; the fifth is one too many."""
    topics = [f"event:many-{number}" for number in range(60)]
    for topic in topics:
        await world.view.put(schedule(topic=topic))
    device = await world.connect()
    subscribe = json.dumps({"type": "subscribe", "topics": dict.fromkeys(topics)})
    with contextlib.suppress(websockets.ConnectionClosed):
        for _ in range(8):
            await device.connection.send(subscribe)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                await device.connection.recv()
    assert device.connection.close_code == 4009
    neighbour = await world.connect()
    await neighbour.send({"type": "subscribe", "topics": dict.fromkeys(topics)})
    assert (await neighbour.until("continuity", PATIENCE_S))["verdict"] == "complete"
