"""A client that keeps no rule: request heads and frames as raw bytes, and what came back."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple, cast

from push_world import TOPIC, Device, World, broadcast

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "PATIENCE_S",
    "PING",
    "PONG",
    "SUBSCRIBE",
    "TEXT",
    "Answer",
    "Raw",
    "frame",
    "head",
    "neighbour_of",
    "text",
]

PATIENCE_S: Final = 20.0
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
SUBSCRIBE: Final = json.dumps({"type": "subscribe", "topics": {TOPIC: None}}).encode()


def head(
    world: World,
    *,
    method: bytes = b"GET",
    target: bytes = b"/v1/stream",
    version: bytes = b"HTTP/1.1",
    without: Iterable[bytes] = (),
    more: Sequence[tuple[bytes, bytes]] = (),
    token: bytes | None = None,
    line_end: bytes = b"\r\n",
) -> bytes:
    """An opening handshake that is right but for what is asked for."""
    fields = [
        (b"Host", b"127.0.0.1"),
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Version", b"13"),
        (b"Sec-WebSocket-Key", base64.b64encode(os.urandom(16))),
        (b"Sec-WebSocket-Protocol", b"stagecue.v1"),
        (b"Authorization", b"Bearer " + (world.token().encode() if token is None else token)),
    ]
    left_out = {name.lower() for name in without}
    fields = [(name, value) for name, value in fields if name.lower() not in left_out]
    lines = [method + b" " + target + b" " + version, *(name + b": " + value for name, value in (*fields, *more))]
    return line_end.join([*lines, b"", b""])


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    reserved: int = 0,
    masked: bool = True,
    length: int | None = None,
) -> bytes:
    """One frame; `length` is what its header claims, `reserved` its three reserved bits."""
    size = len(payload) if length is None else length
    first, mask = fin << 7 | reserved << 4 | opcode, masked << 7
    if size < 126:
        start = bytes([first, mask | size])
    elif size < 65_536:
        start = bytes([first, mask | 126]) + struct.pack(">H", size)
    else:
        start = bytes([first, mask | 127]) + struct.pack(">Q", size)
    if not masked:
        return start + payload
    key = os.urandom(4)
    return start + key + bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))


def text(message: str | bytes | dict[str, Any]) -> bytes:
    """A text frame of a message, or of an object as JSON."""
    if isinstance(message, dict):
        message = json.dumps(message)
    return frame(TEXT, message if isinstance(message, bytes) else message.encode())


class Answer(NamedTuple):
    """A plain HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes


class Raw(asyncio.Protocol):
    """One socket, which keeps what it received even if it is reset. Waits are bounded by PATIENCE_S, never by a figure.

    asyncio's own streams forget what is in their buffer when the connection ends in an error.
    """

    def __init__(self) -> None:
        self.received = bytearray()
        self.ended = False
        self._changed = asyncio.Event()

    @classmethod
    async def connect(cls, world: World) -> Raw:
        """TCP only."""
        loop = asyncio.get_running_loop()
        _, raw = await loop.create_connection(cls, "127.0.0.1", world.port)
        return raw

    @classmethod
    async def open(cls, world: World, **given: Any) -> Raw:
        """Through the handshake; the welcome was not read yet."""
        raw = await cls.connect(world)
        raw.transport.write(head(world, **given))
        await raw.upgraded()
        return raw

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._changed.set()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self._changed.set()

    async def say(self, *pieces: bytes) -> None:
        """Write, a piece at a time, each of its own in what the other side reads; stops when there is no other side."""
        for piece in pieces:
            if self.transport.is_closing():
                return
            self.transport.write(piece)
            for _ in range(4):
                await asyncio.sleep(0)

    async def upgraded(self) -> None:
        """The handshake was accepted."""
        await self._until(lambda: self.ended or b"\r\n\r\n" in self.received)
        assert self.received.startswith(b"HTTP/1.1 101 "), self.received
        del self.received[: self.received.index(b"\r\n\r\n") + 4]

    async def answer(self) -> Answer:
        """The HTTP answer, after which the server ends the connection."""
        data = await self.rest()
        start, _, body = data.partition(b"\r\n\r\n")
        status, *lines = start.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        assert status.startswith("HTTP/1.1 "), data
        assert int(headers["content-length"]) == len(body), "one whole answer, and nothing behind it"
        return Answer(int(status.split(" ")[1]), headers, body)

    async def rest(self) -> bytes:
        """Everything until the server ends the connection, however it does."""
        await self._until(lambda: self.ended)
        return bytes(self.received)

    async def frames(self) -> AsyncIterator[tuple[int, bytes]]:
        """Opcode and payload of each frame, up to and including the close frame."""
        while True:
            first, size = await self._take(2)
            if size == 126:
                size = struct.unpack(">H", await self._take(2))[0]
            elif size == 127:
                size = struct.unpack(">Q", await self._take(8))[0]
            yield first & 0x0F, await self._take(size)
            if first & 0x0F == CLOSE:
                return

    async def closed(self) -> tuple[int | None, list[dict[str, Any]]]:
        """Close code (None: a close frame without), and the messages that came before it."""
        said = []
        async for opcode, payload in self.frames():
            if opcode == TEXT:
                said.append(json.loads(payload))
            elif opcode == CLOSE:
                return (struct.unpack(">H", payload[:2])[0] if payload else None), said
        raise AssertionError("frames end with a close frame")

    async def until(self, kind: str) -> dict[str, Any]:
        """The next message of a kind."""
        async for opcode, payload in self.frames():
            if opcode == TEXT:
                message: dict[str, Any] = json.loads(payload)
                if message["type"] == kind:
                    return message
            assert opcode != CLOSE, payload
        raise AssertionError("frames end with a close frame")

    def cut(self) -> None:
        """Reset the connection."""
        self.transport.abort()

    async def _take(self, size: int) -> bytes:
        await self._until(lambda: self.ended or len(self.received) >= size)
        assert len(self.received) >= size, f"the connection ended within a frame, after {bytes(self.received)!r}"
        taken = bytes(self.received[:size])
        del self.received[:size]
        return taken

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def neighbour_of(world: World) -> AsyncIterator[Device]:
    """A device beside the offender: when that is done with, it still gets a broadcast."""
    device = await world.connect()
    await device.subscribe(0)
    await device.until("schedule", PATIENCE_S)
    yield device
    await world.publish(broadcast(10, 0))
    await world.routers[0].deliver(broadcast(10, 0))
    assert (await device.until("broadcast", PATIENCE_S))["timestamp"] == 10
