"""A pure device carried by gevent: its sockets, its inbox, its wakings; and what it did, counted. gevent.

The device belongs to the greenlet that calls `run`; sockets and fetches have greenlets of their own and speak to it
through its inbox alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final, cast

import msgspec
from gevent.pool import Group
from gevent.queue import Empty, Queue

from contract.close_codes import CloseCode
from contract.errors import MalformedFrame
from contract.frames import BroadcastFrame, ContinuityFrame, WelcomeFrame, encode_frame
from device_sim.actions import Action, CloseSocket, FetchMap, GiveUp, OpenSocket, Send
from device_sim.addresses import address_of_attempt
from device_sim.device import NEVER, Device
from device_sim.stage_map import StageMap
from loadtest.users.plan import Crowd
from loadtest.users.websocket import Arrived, Beat, DeviceSocket, Ended, Opened
from loadtest.users.world import World, wall_ms

__all__ = ["DeviceSession", "OnApplied"]

_INBOX_MAX: Final = 1024
_SLEEP_MAX_S: Final = 3600.0
_DUE_KNOWN_MS: Final = 3_600_000
"""A stage due longer ago than this is one cued again, not one dispatched late."""

OnApplied = Callable[[str], None]
"""Topic of a broadcast that the device has just applied."""


class _MapFetched(msgspec.Struct, frozen=True):
    topic: str
    stage_map: StageMap | None
    """None: the fetch failed."""


class DeviceSession:
    """One device on the network, until its greenlet is ended; `leave` then."""

    def __init__(
        self,
        world: World,
        crowd: Crowd,
        device: Device,
        *,
        number: int,
        urls: Sequence[str],
        chance: random.Random,
        fetch: Callable[[str], StageMap | None] | None,
        on_applied: OnApplied | None = None,
    ) -> None:
        """`fetch` asks for the map of a topic, in a greenlet of its own; None where devices hold no maps."""
        assert urls, "nowhere to connect to"
        self.device = device
        self._world = world
        self._crowd = crowd
        self._number = number
        self._urls = urls
        self._chance = chance
        self._fetch = fetch
        self._on_applied = on_applied
        self._inbox: Queue = Queue(_INBOX_MAX)
        self._group = Group()
        self._sockets: dict[int, DeviceSocket] = {}
        self._wanted_at_s: dict[int, float] = {}
        self._counted_open: set[int] = set()

    def run(self, *, delay_ms: int) -> None:
        """Connect after `delay_ms`, and live; returns only when ended from outside."""
        self.carry_out(self.device.start(wall_ms(), delay_ms=delay_ms))
        while True:
            wake_at = self.device.wake_at_ms
            wait_s = _SLEEP_MAX_S if wake_at == NEVER else min(_SLEEP_MAX_S, (wake_at - wall_ms()) / 1000)
            try:
                item = self._inbox.get(timeout=wait_s) if wait_s > 0 else self._inbox.get_nowait()
            except Empty:
                self.carry_out(self.device.tick(wall_ms(), self._chance.random()))
                continue
            self._happened(item)

    def leave(self) -> None:
        """Close what is open and end the greenlets. Idempotent."""
        self.carry_out(self.device.stop())
        for conn in tuple(self._counted_open):
            self._no_longer_open(conn)
        self._group.kill(block=False)

    def spawn(self, work: Callable[[], None]) -> None:
        """Something this device does beside; it ends with it. An error of ours is counted, as of the device itself."""
        self._group.spawn(work).link_exception(lambda _: self._world.book.count(self._crowd.name, "crashed"))

    def carry_out(self, actions: Sequence[Action]) -> None:
        """What an input of the device asked for."""
        for action in actions:
            kind = type(action)
            if kind is Send:
                send = cast("Send", action)
                found = self._sockets.get(send.conn)
                if found is not None:
                    found.send(encode_frame(send.frame))
            elif kind is OpenSocket:
                self._open(cast("OpenSocket", action).conn)
            elif kind is CloseSocket:
                close = cast("CloseSocket", action)
                self._no_longer_open(close.conn)
                left = self._sockets.pop(close.conn, None)
                if left is not None:
                    left.close(close.code)
            elif kind is FetchMap:
                self._start_fetch(cast("FetchMap", action).topic)
            elif kind is GiveUp:
                self._world.book.count(self._crowd.name, "given_up")

    # what happened
    def _happened(self, item: object) -> None:
        now = wall_ms()
        if isinstance(item, Arrived):
            self._arrived(item)
        elif isinstance(item, Beat):
            self.device.heard(now)
        elif isinstance(item, Opened):
            self._count_now("opened")
            self._counted_open.add(item.conn)
            self._world.open[self._crowd.name] += 1
            self.carry_out(self.device.opened(now, item.conn))
        elif isinstance(item, Ended):
            self._ended(item)
        elif isinstance(item, _MapFetched):
            if item.stage_map is None:
                self.device.map_failed(now, item.topic, self._chance.random())
            else:
                self.carry_out(self.device.map_fetched(now, item.topic, item.stage_map, self._chance.random()))

    def _arrived(self, item: Arrived) -> None:
        device = self.device
        try:
            frame = self._world.decode(item.payload)
        except MalformedFrame:
            self._count_now("lost")
            self._world.book.reason(self._crowd.name, "malformed frame")
            self.carry_out([CloseSocket(item.conn, CloseCode.PROTOCOL_ERROR)])
            self.carry_out(device.disconnected(wall_ms(), item.conn, 1006, self._chance.random()))
            return
        if frame is None:
            return
        topic = frame.topic if isinstance(frame, BroadcastFrame | ContinuityFrame) else ""
        before = device.topics[topic].cursor if topic in device.topics else None
        actions = device.received(int(item.at_ms), item.conn, frame, self._chance.random())
        self.carry_out(actions)
        if isinstance(frame, BroadcastFrame):
            if topic in device.topics and (before is None or before < frame.timestamp):
                self._applied(item.at_ms, frame)
        elif isinstance(frame, ContinuityFrame):
            if before is not None and device.topics[topic].cursor != before:
                self._jumped(frame)
        elif isinstance(frame, WelcomeFrame):
            wanted_at_s = self._wanted_at_s.pop(item.conn, None)
            if wanted_at_s is not None:
                self._world.book.count(self._crowd.name, "welcomed")
                passed_ms = (self._world.now_s() - wanted_at_s) * 1000
                self._world.book.time(self._crowd.name, "open_time", passed_ms)

    def _applied(self, at_ms: float, frame: BroadcastFrame) -> None:
        of = self._facts(frame.topic, frame.timestamp, frame.state_key)
        book = self._world.book
        book.count(of, "devices")
        self._count_now("delivered")
        if not frame.replayed:
            book.count(of, "live")
            book.time(of, "time", at_ms - frame.timestamp)
            if self._world.on_request is not None:
                name = f"{self._crowd.name}/broadcast {frame.state_key}"
                self._world.on_request("WS", name, at_ms - frame.timestamp, 0, None)
        if self._on_applied is not None:
            self._on_applied(frame.topic)

    def _jumped(self, frame: ContinuityFrame) -> None:
        """After a gap: the newest broadcast is known without having come."""
        of = self._facts(frame.topic, frame.latest, frame.state_key or "")
        self._world.book.count(of, "devices")
        self._count_now("delivered")
        if self._on_applied is not None:
            self._on_applied(frame.topic)

    def _facts(self, topic: str, timestamp: int, state_key: str) -> str:
        """Where a broadcast is counted; and what it is, once a process."""
        of = f"{self._crowd.name}/{topic}@{timestamp}"
        if of not in self._world.book.facts:
            times = self.device.topics[topic].times or {}
            due_ms = times.get(state_key)
            if due_ms is not None and not 0 <= timestamp - due_ms <= _DUE_KNOWN_MS:
                due_ms = None
            self._world.book.facts[of] = {
                "crowd": self._crowd.name,
                "topic": topic,
                "timestamp": timestamp,
                "state_key": state_key,
                "due_ms": due_ms,
            }
        return of

    def _ended(self, item: Ended) -> None:
        ours = self._sockets.pop(item.conn, None) is not None
        self._no_longer_open(item.conn)
        self._wanted_at_s.pop(item.conn, None)
        if not ours:
            return  # the device had left it, and was counted then
        if item.opened:
            self._count_now("lost")
        elif item.status:
            self._count_now("handshakes_refused")
            self._world.book.count(self._crowd.name, f"={item.status}")
        else:
            self._world.book.count(self._crowd.name, "handshakes_failed")
            self._world.book.reason(self._crowd.name, item.reason or "connection lost")
        draw = self._chance.random()
        actions = self.device.disconnected(wall_ms(), item.conn, item.code, draw, retry_after_ms=item.retry_after_ms)
        self.carry_out(actions)

    # what it does
    def _open(self, conn: int) -> None:
        self._count_now("handshakes")
        self._wanted_at_s[conn] = self._world.now_s()
        url = self._urls[address_of_attempt(self._number, conn - 1, len(self._urls))]
        self._sockets[conn] = DeviceSocket(
            conn, url, self.device.token, self._inbox, self.spawn, timeout_s=self._world.plan.timeout_s
        )

    def _start_fetch(self, topic: str) -> None:
        fetch = self._fetch
        if fetch is None:
            self.device.map_failed(wall_ms(), topic, self._chance.random())
            return

        def fetched() -> None:
            try:
                found = fetch(topic)
            except Exception:
                self._inbox.put(_MapFetched(topic, None))
                raise
            self._inbox.put(_MapFetched(topic, found))

        self.spawn(fetched)

    def _no_longer_open(self, conn: int) -> None:
        if conn in self._counted_open:
            self._counted_open.discard(conn)
            self._world.open[self._crowd.name] -= 1

    def _count_now(self, what: str) -> None:
        world = self._world
        world.book.count_in(self._crowd.name, what, world.bin_of(world.now_s()))
