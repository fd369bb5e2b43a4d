"""The device listener: accepts connections, gives each its terms, and turns one wheel of deadlines for all of them."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Mapping
from random import Random
from typing import Final, Literal

from contract.clock import Clock
from contract.close_codes import CloseCode
from contract.frames import GoawayFrame
from contract.runtime.runner import Readiness
from contract.tokens import DeviceClaims, KeyRing
from push_proxy.adapters.device_connection import DeviceConnection
from push_proxy.drain import plan_drain
from push_proxy.handshake import PageName
from push_proxy.metrics import NodeMetrics
from push_proxy.node import StreamNode
from push_proxy.session import Grant, Session, SessionTerms
from push_proxy.settings import PushSettings
from push_proxy.timer_wheel import TimerWheel

__all__ = ["TICK_S", "DeviceListener"]

TICK_S: Final = 0.05
"""How often deadlines are looked at; no bound of the protocol is finer than ten of these."""


class DeviceListener:
    """All device connections of a node."""

    def __init__(
        self,
        settings: PushSettings,
        *,
        node: StreamNode,
        node_id: str,
        device_ring: KeyRing,
        clock: Clock,
        random: Random,
        readiness: Readiness,
        metrics: NodeMetrics,
        sock: socket.socket,
        status: Callable[[], Mapping[str, object]],
        isolated: Callable[[], bool],
    ) -> None:
        self.settings = settings
        self.node = node
        self.node_id = node_id
        self.clock = clock
        self.metrics = metrics
        self._device_ring = device_ring
        self._random = random
        self._readiness = readiness
        self._sock = sock
        self._status = status
        self._isolated = isolated
        self._server: asyncio.Server | None = None
        self._all: set[DeviceConnection] = set()
        self._sessions: dict[DeviceConnection, None] = {}
        self._wheel: TimerWheel[DeviceConnection] = TimerWheel(TICK_S, now_s=clock.monotonic_s())
        self._draining = False
        metrics.gauge("connections", lambda: len(self._sessions))

    @property
    def devices(self) -> tuple[DeviceConnection, ...]:
        """Connections with a session, oldest first."""
        return tuple(self._sessions)

    @property
    def connections(self) -> int:
        """Connections with a session."""
        return len(self._sessions)

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: DeviceConnection(self), sock=self._sock, backlog=self.settings.backlog
        )
        self._readiness.hold("push.listener")

    def tick(self) -> None:
        """Called every TICK_S."""
        now_s = self.clock.monotonic_s()
        for connection in self._wheel.due(now_s):
            connection.on_time(now_s)

    async def drain(self) -> None:
        """Stop accepting, send everyone away over `drain_s`, then close what is left. Cancelling it cuts them off."""
        self._draining = True
        self._readiness.expect("push.listener", "draining")
        if self._server is not None:
            self._server.close()
        try:
            devices = self.devices
            draws = [self._random.random() for _ in devices]
            plan = plan_drain(
                devices, draws, drain_s=self.settings.drain_s, window_ms=self.settings.reconnect_window_ms
            )
            loop = asyncio.get_running_loop()
            began_s = loop.time()
            for part in plan:
                await asyncio.sleep(max(0.0, began_s + part.at_s - loop.time()))
                for departure in part.departures:
                    departure.connection.send_away(CloseCode.DRAIN, "drain", departure.reconnect_after_ms)
            deadline_s = loop.time() + self.settings.close_timeout_s
            while self._all and loop.time() < deadline_s:  # noqa: ASYNC110 - bounded, at most once per process
                await asyncio.sleep(TICK_S)
        finally:
            for connection in list(self._all):
                connection.abort()

    # What a connection asks of its listener.

    @property
    def room(self) -> Literal["yes", "full", "draining"]:
        if self._draining:
            return "draining"
        return "full" if len(self._sessions) >= self.settings.max_connections else "yes"

    def verify(self, token: str) -> Grant:
        """A token's grant; raises Unauthorized."""
        now_ms = self.clock.now_ms()
        claims = self._device_ring.verify_device(token, now_s=now_ms / 1000)
        expires_at_s = self.clock.monotonic_s() + claims.exp - now_ms / 1000
        topics = frozenset(claims.topics) if claims.topics is not None else None
        return Grant(claims.sub, claims.dev, expires_at_s, topics)

    def renew(self, grant: Grant) -> tuple[str, float]:
        """A token of the same grant with a new, jittered end, and that end on the monotonic clock."""
        life_s = self.settings.token_lifetime_s * (0.9 + 0.2 * self._random.random())
        exp = int(self.clock.now_ms() / 1000 + life_s)
        topics = tuple(sorted(grant.topics)) if grant.topics is not None else None
        token = self._device_ring.sign(DeviceClaims(sub=grant.subject, dev=grant.device, exp=exp, topics=topics))
        return token, self.clock.monotonic_s() + life_s

    def open_session(self, grant: Grant) -> Session:
        settings, draw = self.settings, self._random.random
        terms = SessionTerms(
            # The whole range from the first life on: a narrow spread would keep a herd together.
            lifetime_s=settings.lifetime_min_s + (settings.lifetime_max_s - settings.lifetime_min_s) * draw(),
            first_ping_s=settings.ping_s * draw(),
            ping_s=settings.ping_s,
            pong_deadline_s=settings.pong_deadline_s,
            subscribe_deadline_s=settings.subscribe_deadline_s,
            reconnect_after_ms=int(settings.reconnect_window_ms * draw()),
            reconnect_window_ms=settings.reconnect_window_ms,
            refetch_window_ms=settings.refetch_window_ms,
            max_errors=settings.max_errors,
            renew_before_s=settings.token_renew_before_s,
        )
        return Session(grant, terms, now_s=self.clock.monotonic_s())

    def draw_goaway(self, code: CloseCode) -> GoawayFrame:
        window_ms = self.settings.reconnect_window_ms
        why = "full" if code is CloseCode.NODE_FULL else "drain"
        return GoawayFrame(reason=why, reconnect_after_ms=int(window_ms * self._random.random()), window_ms=window_ms)

    def page(self, name: PageName) -> tuple[int, str, bytes]:
        """Status, content type and body of a plain page."""
        if name == "metrics":
            return 200, "text/plain; version=0.0.4; charset=utf-8", self.metrics.render()
        if name == "healthz":
            return 200, "application/json", b'{"status":"alive"}'
        if name == "status":
            return 200, "application/json", json.dumps(self._status()).encode()
        status, body = self._readiness.report()
        return status, "application/json", json.dumps(body).encode()

    def opened(self, connection: DeviceConnection) -> None:
        self._all.add(connection)
        self._wheel.set(connection, self.clock.monotonic_s() + self.settings.handshake_timeout_s)

    def accepted(self, connection: DeviceConnection) -> None:
        self._sessions[connection] = None
        self.metrics.count("connects")
        self.schedule(connection)

    def welcomed(self, connection: DeviceConnection) -> None:
        """Its welcome is written. A node without its sources says so to whoever comes, as to those who were here."""
        if self._isolated():
            self.node.say_stale([connection])

    def holds(self, connection: DeviceConnection) -> bool:
        """Whether its session is open: not yet closing."""
        return connection in self._sessions

    def schedule(self, connection: DeviceConnection) -> None:
        """Give an open connection its next deadline."""
        if connection in self._sessions and connection.session is not None:
            self._wheel.set(connection, connection.session.next_deadline_s())

    def slow(self, connection: DeviceConnection) -> None:
        if connection in self._sessions:
            self.metrics.count("closed_slow")

    def closing(self, connection: DeviceConnection) -> None:
        """It sent or received a close frame: no frames for it any more, and little time to be gone."""
        if connection in self._sessions:
            del self._sessions[connection]
            self.node.dropped(connection)
        if connection in self._all:
            self._wheel.set(connection, self.clock.monotonic_s() + self.settings.close_timeout_s)

    def lost(self, connection: DeviceConnection) -> None:
        self.closing(connection)
        self._all.discard(connection)
        self._wheel.cancel(connection)
