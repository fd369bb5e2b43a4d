"""The lean client: a pure `Device` on the network. No task per connection, no timer each.

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
from collections.abc import Mapping, Sequence
from typing import Final

from contract.close_codes import may_reconnect
from contract.frames import BroadcastFrame, ContinuityFrame, WelcomeFrame
from device_sim.actions import Action, CloseSocket, FetchMap, GiveUp, OpenSocket, Send, Show
from device_sim.addresses import address_of_attempt
from device_sim.client_context import (
    Arrival,
    Arrived,
    Channel,
    ClientContext,
    ClientStats,
    ConnectionStep,
    MapFetcher,
    Recorder,
    now_ms,
)
from device_sim.device import Device
from device_sim.stream_socket import StreamSocket
from device_sim.timer_wheel import NOT_PLANNED
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

_ANY_DEVICE: Final[Mapping[str, object]] = {"kind": "TV"}
_SLOW_TURN_S: Final = 0.1
"""How often a slow reader reads."""


class DeviceClient:
    """A device on the network: carries out what the pure device asks for."""

    __slots__ = (
        "_back_at",
        "_frozen",
        "_sockets",
        "_was_online",
        "arrivals",
        "channels",
        "context",
        "device",
        "device_context",
        "has_subscribed",
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
        self.wheel_at_ms = NOT_PLANNED
        self._sockets: tuple[StreamSocket, ...] | StreamSocket = ()
        """Nearly always one: then itself, for a fleet's memory."""
        self._back_at: asyncio.TimerHandle | None = None
        """When what befell it ends."""
        self._frozen = False
        self.has_subscribed = False
        """Whether it was once online with a cursor for each of its topics."""
        self._was_online = False

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
        """Leave for good, or until `start`. Idempotent; sockets close within two seconds."""
        if self._back_at is not None:
            self._back_at.cancel()
            self._back_at = None
        if self._frozen:
            self._thaw()
        now = now_ms()
        if not self.device.connection.network_up:
            self.device.network(now, up=True, draw=self._draw())  # nobody else would say so after a `start`
        self._carry_out(now, self.device.stop())

    def address_of(self, conn: int) -> int:
        """Index into `channels` of where connection `conn` goes."""
        # Every new connection has a reason not to go to the same node again, so connections are the attempts.
        return address_of_attempt(self.number, conn - 1, len(self.channels))

    def channel_of(self, conn: int) -> Channel:
        channels = self.channels
        return channels[0] if len(channels) == 1 else channels[self.address_of(conn)]

    @property
    def is_closed(self) -> bool:
        return not self._streams()

    # faults: each ends by itself; one that does not fit in with another still under way is not taken and says False
    @property
    def is_befallen(self) -> bool:
        return self._back_at is not None

    def drop(self) -> None:
        """Break the connections by a reset, as a crashed peer does; the device returns by itself."""
        for stream in self._streams():
            stream.reset()

    def offline(self, seconds: float) -> None:
        """Lose the network now; it returns after `seconds`, and with it the device, within its window (R21)."""
        if self._back_at is not None:
            self._back_at.cancel()
        if self._frozen:
            self._thaw()
        now = now_ms()
        self._carry_out(now, self.device.network(now, up=False, draw=self._draw()))
        self._back_at = self.context.loop.call_later(seconds, self._network_back)

    def half_open(self, seconds: float) -> bool:
        """Vanish for `seconds` without the node learning of it: the old sockets stay, unread."""
        if self.is_befallen:
            return False
        for stream in self._streams():
            stream.maroon()
        self.offline(seconds)
        return True

    def freeze(self, seconds: float) -> bool:
        """Neither read nor write nor keep time for `seconds`, as a suspended app; then go on."""
        if self.is_befallen:
            return False
        self._frozen = True
        for stream in self._streams():
            stream.pause()
        self._back_at = self.context.loop.call_later(seconds, self._thaw)
        return True

    def slow_down(self, seconds: float, bytes_per_s: int) -> bool:
        """Read `bytes_per_s` at most for `seconds`."""
        if self.is_befallen:
            return False
        self._read_slowly(self.context.loop.time() + seconds, max(1, int(bytes_per_s * _SLOW_TURN_S)))
        return True

    def _network_back(self) -> None:
        self._back_at = None
        now = now_ms()
        self._carry_out(now, self.device.network(now, up=True, draw=self._draw()))

    def _thaw(self) -> None:
        self._back_at = None
        self._frozen = False
        for stream in self._streams():
            stream.resume()
        self.on_wake(now_ms())

    def _read_slowly(self, until_s: float, turn_bytes: int) -> None:
        loop = self.context.loop
        over = loop.time() >= until_s
        self._back_at = None if over else loop.call_later(_SLOW_TURN_S, self._read_slowly, until_s, turn_bytes)
        for stream in self._streams():
            if over:
                stream.resume()
            elif stream.is_open:
                stream.pause()
                stream.read_some(turn_bytes)

    # for its fetcher
    def carry_out(self, actions: Sequence[Action]) -> None:
        """Carry out what an input given to `device` directly asked for."""
        self._carry_out(now_ms(), actions)

    # for the wheel
    def on_wake(self, now: int) -> None:
        if self._frozen:
            return  # it is woken when that ends
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

    def attach(self, stream: StreamSocket) -> None:
        others = self._streams()
        self._sockets = (*others, stream) if others else stream

    def detach(self, stream: StreamSocket) -> None:
        self.context.handshake_over(stream)
        if self._sockets is stream:
            self._sockets = ()
            return
        rest = tuple(other for other in self._streams() if other is not stream)
        self._sockets = rest[0] if len(rest) == 1 else rest

    def upgraded(self, stream: StreamSocket) -> None:
        self.context.stats.handshakes += 1
        now = now_ms()
        self._carry_out(now, self.device.opened(now, stream.conn))

    def frames_received(self, stream: StreamSocket, at_ms: float, arrived: Arrived) -> None:
        """Messages that came together, in order."""
        context, device, conn = self.context, self.device, stream.conn
        stats, recorder = context.stats, context.recorder
        now = int(at_ms)
        if now == context.now_ms:
            now = context.now_ms  # one object for all who hear something in the same millisecond: each keeps it
        else:
            context.now_ms = now
        stats.frames += len(arrived)
        for payload, frame in arrived:
            if type(frame) is BroadcastFrame or type(frame) is ContinuityFrame:
                if type(frame) is BroadcastFrame:
                    stats.broadcasts += 1
                if recorder is not None:
                    recorder.arrival(self, at_ms, payload, frame)
                if context.record_arrivals:
                    if self.arrivals is None:
                        self.arrivals = []
                    self.arrivals.append(Arrival(at_ms, frame))
            elif type(frame) is WelcomeFrame and recorder is not None:
                recorder.connection(self, conn, ConnectionStep.WELCOMED)
            elif frame is None:
                continue
            actions = device.received(now, conn, frame, context.random.random())
            if not self.has_subscribed or not self._was_online:
                self._count()
            if actions:
                self._carry_out(now, actions)
            elif device.wake_at_ms < self.wheel_at_ms:
                context.wheel.wake_at(self, device.wake_at_ms)

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
        if wake_at < self.wheel_at_ms:
            self.context.wheel.wake_at(self, wake_at)

    def _streams(self) -> tuple[StreamSocket, ...]:
        sockets = self._sockets
        return sockets if isinstance(sockets, tuple) else (sockets,)

    def _carry_out(self, now: int, actions: Sequence[Action]) -> None:
        for action in actions:
            if type(action) is Show:
                self._show(action.render)
            elif type(action) is Send:
                for stream in self._streams():
                    if stream.conn == action.conn:
                        stream.send(action.frame)
            elif type(action) is OpenSocket:
                self._open(action.conn)
            elif type(action) is CloseSocket:
                self._close(action)
            elif type(action) is FetchMap:
                self._fetch(now, action.topic)
            elif type(action) is GiveUp:
                self.context.stats.given_up += 1
                assert not may_reconnect(action.code)
        self._count()
        self._sleep()

    def _count(self) -> None:
        """Keep the context's counts of devices."""
        device = self.device
        online = device.connection.live is not None
        if online is not self._was_online:
            self._was_online = online
            self.context.stats.online += 1 if online else -1
        if online and not self.has_subscribed and device.subscribed:
            self.has_subscribed = True
            self.context.stats.subscribed += 1

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
        for stream in self._streams():
            if stream.conn == action.conn:
                self.context.cancel_open(stream)
                stream.close(action.code)

    def _fetch(self, now: int, topic: str) -> None:
        self.context.stats.map_fetches += 1
        if self.context.fetcher is None:
            self.device.map_failed(now, topic, self._draw())
        else:
            self.context.fetcher.request(self, topic)
