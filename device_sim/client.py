"""The lean client: one asyncio.Protocol per connection driving a pure `Device`. No task per connection, no timer each.

    context = ClientContext(loop, seed=7)
    channels = [Channel.from_url("ws://127.0.0.1:8402/v1/stream")]
    client = DeviceClient(context, channels, Device("d-1", options, token=token))
    client.follow("event:tyson-paul")
    client.start()
    ...
    client.stop()
    await context.close()

Everything runs on the loop it was made on; nothing here is thread-safe.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Final, Protocol, cast
from urllib.parse import urlsplit

import msgspec

from contract.close_codes import may_reconnect
from contract.errors import InvalidRequest
from contract.frames import (
    BroadcastFrame,
    ContinuityFrame,
    ServerFrame,
    WelcomeFrame,
    decode_server_frame,
)
from device_sim.actions import Action, CloseSocket, FetchMap, GiveUp, OpenSocket, Send, Show
from device_sim.addresses import address_of_attempt
from device_sim.device import NEVER, Device
from device_sim.stream_socket import StreamSocket
from device_sim.timer_wheel import TimerWheel
from device_sim.topic import Render

__all__ = [
    "Arrival",
    "Channel",
    "ClientContext",
    "ClientStats",
    "ConnectionStep",
    "DeviceClient",
    "MapFetcher",
    "Recorder",
    "now_ms",
]

_OPENING_MAX: Final = 256
"""Handshakes under way at once; more wait their turn, as a phone's radio would make them."""
_DECODED_MAX: Final = 512
_ANY_DEVICE: Final[Mapping[str, object]] = {"kind": "TV"}


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
        parts = urlsplit(url)
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise InvalidRequest(f"{url[:80]!r}", field="url", rule="ws://host:port/path or wss://")
        secure = parts.scheme == "wss"
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        context = (tls or ssl.create_default_context()) if secure else None
        return cls(parts.hostname, parts.port or (443 if secure else 80), path, context)


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """A frame a judge needs, and when it came: milliseconds with fractions, at the socket."""

    at_ms: float
    frame: BroadcastFrame | ContinuityFrame


class ClientStats(msgspec.Struct, gc=False):
    """Counts over all clients of a context; they only rise, except `open`."""

    open: int = 0
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

    def arrival(self, client: DeviceClient, at_ms: float, payload: bytes) -> None:
        """A broadcast or continuity, as it came."""

    def render(self, client: DeviceClient, render: Render) -> None: ...

    def connection(self, client: DeviceClient, conn: int, step: ConnectionStep, code: int = 0) -> None: ...


class ClientContext:
    """What the clients of one loop share: timers, randomness, decoded frames, the queue of handshakes."""

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
        self._opening_max = opening_max
        self._waiting: deque[tuple[DeviceClient, int]] = deque()
        self._opening: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._decoded: dict[bytes, ServerFrame | None] = {}

    def decode(self, payload: bytes) -> ServerFrame | None:
        """A node's frame; all devices that receive the same bytes share one object."""
        try:
            return self._decoded[payload]
        except KeyError:
            if len(self._decoded) >= _DECODED_MAX:
                self._decoded.clear()
            frame = self._decoded[payload] = decode_server_frame(payload)
            return frame

    def open(self, client: DeviceClient, conn: int) -> None:
        """Open a socket for `client`, now or when a handshake under way ends. Outcome: `opened` or `lost` on it."""
        if len(self._opening) >= self._opening_max:
            self._waiting.append((client, conn))
            return
        key = (id(client), conn)
        task = self.loop.create_task(self._open(client, conn), name=f"open-{client.device.device_id}")
        self._opening[key] = task
        task.add_done_callback(lambda _: self._open_ended(key))

    def cancel_open(self, client: DeviceClient, conn: int) -> None:
        """Stop opening; nothing is reported any more."""
        task = self._opening.get((id(client), conn))
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Stop timers and handshakes under way. Idempotent; clients are stopped by their owner first."""
        self.wheel.close()
        self._waiting.clear()
        tasks = list(self._opening.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _open_ended(self, key: tuple[int, int]) -> None:
        self._opening.pop(key, None)
        while self._waiting and len(self._opening) < self._opening_max:
            client, conn = self._waiting.popleft()
            if client.awaits(conn):
                self.open(client, conn)

    async def _open(self, client: DeviceClient, conn: int) -> None:
        channel = client.channel_of(conn)
        stream = StreamSocket(client, conn, channel)
        try:
            if channel.tls is not None:
                await self.loop.create_connection(
                    lambda: stream, channel.host, channel.port, ssl=channel.tls, local_addr=client.local_addr
                )
                return
            sock = socket.socket(socket.AF_INET6 if ":" in channel.host else socket.AF_INET, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                if client.source is not None:
                    sock.bind((client.source, 0))
                await self.loop.sock_connect(sock, (channel.host, channel.port))
                await self.loop.create_connection(lambda: stream, sock=sock)
            except BaseException:
                sock.close()
                raise
        except OSError:
            self.stats.failed += 1
            client.lost(conn, 1006)


class DeviceClient:
    """A device on the network: carries out what the pure device asks for."""

    __slots__ = (
        "_back_at",
        "_sockets",
        "arrivals",
        "channels",
        "context",
        "device",
        "device_context",
        "number",
        "profile_id",
        "source",
        "wheel_at_ms",
    )

    def __init__(
        self,
        context: ClientContext,
        channels: Sequence[Channel],
        device: Device,
        *,
        number: int = 0,
        source: str | None = None,
        profile_id: str = "",
        device_context: Mapping[str, object] | None = None,
    ) -> None:
        assert channels, "nowhere to connect to"
        self.context = context
        self.channels = channels
        """Where to connect; shared by the devices of a fleet. Each opening goes to the next (`address_of_attempt`)."""
        self.device = device
        self.number = number
        """Among the devices of its fleet, from 0: decides the order of addresses."""
        self.source = source
        """Local address to connect from (127.x.y.z: each gives another 28,000 ports); None: the system chooses."""
        self.profile_id = profile_id
        self.device_context = device_context or _ANY_DEVICE
        """`DeviceContext` of the schema: what its maps' artwork depends on."""
        self.arrivals: list[Arrival] | None = None
        """Broadcasts and continuities as they came, for the judge; the owner may take and clear it."""
        self.wheel_at_ms = 0
        self._sockets: tuple[StreamSocket, ...] = ()
        self._back_at: asyncio.TimerHandle | None = None

    # for its owner
    def follow(self, topic: str, *, cursor: int | None = None, state_key: str | None = None) -> None:
        """Follow a topic, now or on the next connection. Raises InvalidRequest above the limit per connection."""
        now = now_ms()
        self._carry_out(now, self.device.follow(now, topic, cursor=cursor, state_key=state_key))

    def start(self, *, delay_ms: int = 0) -> None:
        """Connect, after `delay_ms`; from then on it comes back by itself until `stop`."""
        now = now_ms()
        self._carry_out(now, self.device.start(now, delay_ms=delay_ms))

    def stop(self) -> None:
        """Leave for good. Idempotent; sockets close within two seconds."""
        if self._back_at is not None:
            self._back_at.cancel()
            self._back_at = None
        self._carry_out(now_ms(), self.device.stop())

    def address_of(self, conn: int) -> int:
        """Index into `channels` of where connection `conn` goes."""
        # Every new connection has a reason not to go to the same node again, so connections are the attempts.
        return address_of_attempt(self.number, conn - 1, len(self.channels))

    def channel_of(self, conn: int) -> Channel:
        return self.channels[self.address_of(conn)]

    @property
    def is_closed(self) -> bool:
        return not self._sockets

    # faults
    def drop(self) -> None:
        """Break the connections without a word, as a crashed peer or a pulled cable; the device returns by itself."""
        for stream in self._sockets:
            stream.abort()

    def offline(self, seconds: float) -> None:
        """Lose the network now; it returns after `seconds`, and with it the device, within its window (R21)."""
        now = now_ms()
        self._carry_out(now, self.device.network(now, up=False, draw=self._draw()))
        if self._back_at is not None:
            self._back_at.cancel()
        self._back_at = self.context.loop.call_later(seconds, self._network_back)

    def _network_back(self) -> None:
        self._back_at = None
        now = now_ms()
        self._carry_out(now, self.device.network(now, up=True, draw=self._draw()))

    # for its fetcher
    def carry_out(self, actions: Sequence[Action]) -> None:
        """Carry out what an input given to `device` directly asked for."""
        self._carry_out(now_ms(), actions)

    # for the wheel
    def on_wake(self, now: int) -> None:
        if now < self.device.wake_at_ms:
            self._sleep()
            return
        self._carry_out(now, self.device.tick(now, self._draw()))

    # for its sockets
    def awaits(self, conn: int) -> bool:
        """Whether the device still wants this connection."""
        return self.device.awaits(conn)

    @property
    def local_addr(self) -> tuple[str, int] | None:
        return None if self.source is None else (self.source, 0)

    def attach(self, stream: StreamSocket) -> bool:
        if not self.device.awaits(stream.conn):
            return False
        self._sockets = (*self._sockets, stream)
        return True

    def detach(self, stream: StreamSocket) -> None:
        self._sockets = tuple(other for other in self._sockets if other is not stream)

    def upgraded(self, stream: StreamSocket) -> None:
        now = now_ms()
        self._carry_out(now, self.device.opened(now, stream.conn))

    def frame_received(self, stream: StreamSocket, at_ms: float, payload: bytes) -> None:
        context = self.context
        frame = context.decode(payload)
        context.stats.frames += 1
        if frame is None:
            return
        kind = type(frame)
        if kind is BroadcastFrame or kind is ContinuityFrame:
            if kind is BroadcastFrame:
                context.stats.broadcasts += 1
            if context.record_arrivals:
                if self.arrivals is None:
                    self.arrivals = []
                self.arrivals.append(Arrival(at_ms, cast("BroadcastFrame | ContinuityFrame", frame)))
            if context.recorder is not None:
                context.recorder.arrival(self, at_ms, payload)
        elif kind is WelcomeFrame and context.recorder is not None:
            context.recorder.connection(self, stream.conn, ConnectionStep.WELCOMED)
        now = int(at_ms)
        self._carry_out(now, self.device.received(now, stream.conn, frame, context.random.random()))

    def lost(self, conn: int, code: int, *, retry_after_ms: int = 0) -> None:
        """A connection ended, was refused or never came to be; the device ignores one it already left."""
        if self.context.recorder is not None:
            self.context.recorder.connection(self, conn, ConnectionStep.ENDED, code)
        now = now_ms()
        self._carry_out(now, self.device.disconnected(now, conn, code, self._draw(), retry_after_ms=retry_after_ms))

    def _draw(self) -> float:
        return self.context.random.random()

    def _sleep(self) -> None:
        wake_at = self.device.wake_at_ms
        if wake_at != NEVER:
            self.context.wheel.wake_at(self, wake_at)

    def _carry_out(self, now: int, actions: Sequence[Action]) -> None:
        for action in actions:
            kind = type(action)
            if kind is Show:
                self._show(cast("Show", action).render)
            elif kind is Send:
                send = cast("Send", action)
                for stream in self._sockets:
                    if stream.conn == send.conn:
                        stream.send(send.frame)
            elif kind is OpenSocket:
                self._open(cast("OpenSocket", action).conn)
            elif kind is CloseSocket:
                self._close(cast("CloseSocket", action))
            elif kind is FetchMap:
                self._fetch(now, cast("FetchMap", action).topic)
            elif kind is GiveUp:
                self.context.stats.given_up += 1
                assert not may_reconnect(cast("GiveUp", action).code)
        self._sleep()

    def _show(self, render: Render) -> None:
        context = self.context
        if context.on_render is not None:
            context.on_render(self, render)
        if context.recorder is not None:
            context.recorder.render(self, render)

    def _open(self, conn: int) -> None:
        if self.context.recorder is not None:
            self.context.recorder.connection(self, conn, ConnectionStep.OPENING)
        self.context.open(self, conn)

    def _close(self, action: CloseSocket) -> None:
        if self.context.recorder is not None:
            self.context.recorder.connection(self, action.conn, ConnectionStep.LEFT, action.code)
        self.context.cancel_open(self, action.conn)
        for stream in self._sockets:
            if stream.conn == action.conn:
                stream.close(action.code)

    def _fetch(self, now: int, topic: str) -> None:
        self.context.stats.map_fetches += 1
        if self.context.fetcher is None:
            self.device.map_failed(now, topic, self._draw())
        else:
            self.context.fetcher.request(self, topic)
