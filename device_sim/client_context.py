"""What the devices of one loop share: timers, randomness, sockets, frames already read, the queue of handshakes."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

import msgspec

from contract.errors import InvalidRequest
from contract.frames import (
    SUBPROTOCOL,
    BroadcastFrame,
    ClientFrame,
    ContinuityFrame,
    ServerFrame,
    TokenFrame,
    WelcomeFrame,
    decode_server_frame,
    encode_frame,
)
from device_sim import wire
from device_sim.device_table import AVAILABLE, DeviceTable, TableSocket
from device_sim.timer_wheel import TimerWheel
from device_sim.topic import Render
from device_sim.transport_socket import TransportSocket

if TYPE_CHECKING:
    from device_sim.client import DeviceClient
    from device_sim.stream_socket import StreamSocket

__all__ = [
    "Arrival",
    "Arrived",
    "Channel",
    "ClientContext",
    "ClientStats",
    "ConnectionStep",
    "MapFetcher",
    "Recorder",
    "now_ms",
]

_OPENING_MAX: Final = 256
"""Handshakes under way at once; more wait their turn, as a phone's radio would make them."""
_DECODED_MAX: Final = 512
_CHUNK_BYTES_MAX: Final = 1_024
_HEADS_MAX: Final = 1_024
_COUNTED_S: Final = 1.0
"""A handshake that takes longer does not keep others waiting: its node may be frozen."""

Arrived = list[tuple[bytes, ServerFrame | None]]
"""Text messages that came together, and what they say; None: nothing this version knows."""


def now_ms() -> int:
    """This host's wall clock, integer milliseconds."""
    return time.time_ns() // 1_000_000


class Channel(msgspec.Struct, frozen=True):
    """Where to connect; one object for all devices of a node."""

    host: str
    port: int
    path: str
    tls: ssl.SSLContext | None = None

    @classmethod
    def from_url(cls, url: str, *, tls: ssl.SSLContext | None = None) -> Channel:
        """From a `ws://` or `wss://` URL (`wss` without a context gets the default one). Raises InvalidRequest."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in ("ws", "wss") or not parts.hostname or not url.isprintable() or " " in url:
            raise InvalidRequest(f"{url[:80]!r}", field="url", rule="ws://host:port/path or wss://")
        secure = parts.scheme == "wss"
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        context = (tls or ssl.create_default_context()) if secure else None
        return cls(parts.hostname, port or (443 if secure else 80), path, context)


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """A frame a judge needs, and when it came: milliseconds with fractions, at the socket."""

    at_ms: float
    frame: BroadcastFrame | ContinuityFrame


class ClientStats(msgspec.Struct, gc=False):
    """Counts over all clients of a context; they only rise, except the first three."""

    open: int = 0
    """Connections that stand."""
    online: int = 0
    """Devices with a welcomed connection."""
    subscribed: int = 0
    """Devices that were online with a cursor for each of their topics at some time, but those replaced since."""
    handshakes: int = 0
    refused: int = 0
    failed: int = 0
    frames: int = 0
    broadcasts: int = 0
    map_fetches: int = 0
    protocol_violations: int = 0
    given_up: int = 0


class MapFetcher(Protocol):
    """Fetches one map for one device later and calls `client.map_fetched` or `client.map_failed`."""

    def request(self, client: DeviceClient, topic: str) -> None: ...


class ConnectionStep(IntEnum):
    """A moment in the life of a connection, for a recorder."""

    OPENING = 0
    WELCOMED = 1
    LEFT = 2
    """The device closed it: silent too long, replaced, stopped; `code` is what it closed with."""
    ENDED = 3
    """The transport ended, was refused or never came to be; `code` is the close code, 1006 for none."""


class Recorder(Protocol):
    """Takes what a judge needs as it happens, for fleets too large to keep it as objects. Must be quick."""

    def arrival(
        self, client: DeviceClient, at_ms: float, payload: bytes, frame: BroadcastFrame | ContinuityFrame
    ) -> None:
        """A broadcast or continuity, as it came; before the device hears of it."""

    def render(self, client: DeviceClient, render: Render) -> None: ...

    def connection(self, client: DeviceClient, conn: int, step: ConnectionStep, code: int = 0) -> None: ...


class ClientContext:
    """What the clients of one loop share; made and used on that loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        seed: int | None = None,
        fetcher: MapFetcher | None = None,
        on_render: Callable[[DeviceClient, Render], None] | None = None,
        record_arrivals: bool = True,
        recorder: Recorder | None = None,
        opening_max: int = _OPENING_MAX,
    ) -> None:
        self.loop = loop
        self.wheel = TimerWheel(loop)
        self.random = random.Random(seed)
        self.fetcher = fetcher
        self.on_render = on_render
        self.record_arrivals = record_arrivals
        """Keep arrivals as objects, on each client."""
        self.recorder = recorder
        self.stats = ClientStats()
        self.known_chunks: dict[bytes, Arrived] = {}
        """What was received together, whole, and not meant for one device alone: read once for all who get it."""
        self.answer_head: tuple[bytes, bytes] = (b"", b"")
        """Around the key's hash, of the last handshake answer that was checked in full."""
        self.idle_parser = wire.FrameParser()
        self._table = DeviceTable(loop) if AVAILABLE else None
        self._opening_max = opening_max
        self._closed = False
        self._waiting: deque[tuple[DeviceClient, int]] = deque()
        self._opening: dict[StreamSocket, float] = {}
        """Handshakes under way that keep others waiting, and since when (the loop's time), oldest first."""
        self._look_again: asyncio.TimerHandle | None = None
        self._tasks: dict[StreamSocket, asyncio.Task[None]] = {}
        """Of those that cannot be opened at once."""
        self._decoded: dict[bytes, ServerFrame | None] = {}
        self._last_sent: tuple[ClientFrame, bytes] | None = None
        self._heads: dict[int, tuple[Channel, bytes]] = {}
        self._families: dict[str, socket.AddressFamily | None] = {}
        self.now_ms = 0
        """The millisecond in which something last arrived."""

    # frames
    def decode(self, payload: bytes) -> ServerFrame | None:
        """A node's frame; all devices that receive the same bytes share one object."""
        try:
            return self._decoded[payload]
        except KeyError:
            frame = decode_server_frame(payload)
            if type(frame) is not WelcomeFrame and type(frame) is not TokenFrame:  # these are for one device each
                if len(self._decoded) >= _DECODED_MAX:
                    self._decoded.clear()
                self._decoded[payload] = frame
            return frame

    def encode(self, frame: ClientFrame) -> bytes:
        """A device's frame; one after the other sends the very same object."""
        last = self._last_sent
        if last is None or last[0] is not frame:
            last = self._last_sent = (frame, encode_frame(frame))
        return last[1]

    def know_chunk(self, data: bytes, arrived: Arrived) -> None:
        """Whoever receives `data` between two messages receives just this."""
        if len(data) <= _CHUNK_BYTES_MAX:
            if len(self.known_chunks) >= _DECODED_MAX:
                self.known_chunks.clear()
            self.known_chunks[data] = arrived

    def head_of(self, channel: Channel) -> bytes:
        """The handshake's request but for who asks."""
        found = self._heads.get(id(channel))
        if found is None:
            if len(self._heads) >= _HEADS_MAX:
                self._heads.clear()
            host = f"[{channel.host}]" if ":" in channel.host else channel.host
            head = wire.handshake_head(f"{host}:{channel.port}", channel.path, subprotocol=SUBPROTOCOL)
            found = self._heads[id(channel)] = (channel, head)
        return found[1]

    # opening
    def open(self, client: DeviceClient, conn: int) -> None:
        """Open a socket for `client`, now or when a handshake under way ends; the client is told what became of it."""
        if self._closed:
            return
        if len(self._opening) < self._opening_max:
            begun: list[TableSocket] = []
            self._open(client, conn, begun)
            for stream in begun:
                stream.connect()
            return
        self._waiting.append((client, conn))
        if self._look_again is None:
            self._look_again = self.loop.call_later(_COUNTED_S / 2, self._look)

    def cancel_open(self, stream: StreamSocket) -> None:
        """Stop opening; nothing is reported any more."""
        task = self._tasks.pop(stream, None)
        if task is not None:
            task.cancel()

    def handshake_over(self, stream: StreamSocket) -> None:
        """Done or failed: others may begin. Idempotent."""
        if self._opening.pop(stream, None) is None or not self._waiting:
            return
        # Many at a time, one after the other: what opening takes stays in the processor's caches.
        if len(self._opening) <= self._opening_max // 2:
            self._open_waiting()

    async def close(self) -> None:
        """Stop timers and handshakes under way, close all sockets. Idempotent; clients are stopped by their owner."""
        self._closed = True
        self.wheel.close()
        self._waiting.clear()
        if self._look_again is not None:
            self._look_again.cancel()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._table is not None:
            self._table.close()
            await asyncio.sleep(0)  # in which they hear of it

    def _look(self) -> None:
        """Stop counting handshakes that take long."""
        self._look_again = None
        long_ago_s = self.loop.time() - _COUNTED_S
        while self._opening:
            stream, since_s = next(iter(self._opening.items()))
            if since_s > long_ago_s:
                break
            del self._opening[stream]
        self._open_waiting()
        if self._waiting:
            self._look_again = self.loop.call_later(_COUNTED_S / 2, self._look)

    def _open_waiting(self) -> None:
        begun: list[TableSocket] = []
        while self._waiting and len(self._opening) < self._opening_max:
            client, conn = self._waiting.popleft()
            if client.awaits(conn):
                self._open(client, conn, begun)
        for stream in begun:
            stream.connect()

    def _open(self, client: DeviceClient, conn: int, begun: list[TableSocket]) -> None:
        """Begin; what is to be connected next is added to `begun`."""
        channel = client.channel_of(conn)
        host = channel.host
        family = self._families[host] if host in self._families else self._family_of(host)
        if self._table is None or channel.tls is not None or family is None:
            self._open_by_task(client, conn, channel)
        else:
            stream = self._begin(self._table, client, conn, channel, family, host)
            if stream is not None:
                begun.append(stream)

    def _begin(
        self,
        table: DeviceTable,
        client: DeviceClient,
        conn: int,
        channel: Channel,
        family: socket.AddressFamily,
        host: str,
    ) -> TableSocket | None:
        stream = table.open(client, conn, channel, family, (host, channel.port))
        if stream is None:
            self.stats.failed += 1
            self.loop.call_soon(client.lost, conn, 1006)  # never while it is still asking
            return None
        self._opening[stream] = self.loop.time()
        client.attach(stream)
        return stream

    def _open_by_task(self, client: DeviceClient, conn: int, channel: Channel) -> None:
        stream = TransportSocket(client, conn, channel)
        self._opening[stream] = self.loop.time()
        client.attach(stream)
        task = self.loop.create_task(self._open_later(client, stream), name=f"open-{client.device.device_id}")
        self._tasks[stream] = task
        task.add_done_callback(lambda _: self._tasks.pop(stream, None))

    async def _open_later(self, client: DeviceClient, stream: TransportSocket) -> None:
        channel = stream.channel
        try:
            if channel.tls is None and self._table is not None:
                found = await self.loop.getaddrinfo(
                    channel.host, channel.port, family=socket.AF_INET, type=socket.SOCK_STREAM
                )
                client.detach(stream)
                if client.awaits(stream.conn):
                    host = str(found[0][4][0])
                    found_stream = self._begin(self._table, client, stream.conn, channel, socket.AF_INET, host)
                    if found_stream is not None:
                        found_stream.connect()
                return
            await self.loop.create_connection(
                lambda: stream, channel.host, channel.port, ssl=channel.tls, local_addr=client.local_addr
            )
        except OSError:
            self.stats.failed += 1
            stream.ended()
        except asyncio.CancelledError:
            client.detach(stream)
            raise

    def _family_of(self, host: str) -> socket.AddressFamily | None:
        """Of an address in digits; None: a name, which must be looked up."""
        family = None
        for each in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):
                socket.inet_pton(each, host)
                family = each
        if len(self._families) >= _HEADS_MAX:
            self._families.clear()
        self._families[host] = family
        return family
