"""A DGS over in-memory stores and a manual clock, behind its own server on a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import httpx

from contract.broadcast import Broadcast
from contract.clock import ManualClock
from contract.kv.memory import MemoryReplayLog, MemoryScheduleView
from contract.names import topic_of
from contract.runtime.asgi import listen_on
from contract.runtime.runner import Readiness, Service
from contract.runtime.system_clock import SystemClock
from contract.schedule import PlannedStage, TopicSchedule
from contract.tokens import KeyRing, ProfileClaims
from dgs import app
from dgs.app import Dgs
from dgs.http.asgi_bridge import AsgiBridge
from dgs.http.limits import ServerLimits
from dgs.http.server import DgsServer
from dgs.settings import DgsSettings
from dgs.sources import file
from dgs.sources.catalog import load_catalog

__all__ = ["CHANNEL", "HOUR_MS", "PREFETCH", "World"]

HOUR_MS = 3_600_000
POLL_S = 0.02
"""How old a schedule may be that the DGS shows."""
PREFETCH = """
query Prefetch($event: ID!, $profile: ID!, $device: DeviceContext) {
  prefetchEvent(eventId: $event, profileId: $profile, device: $device) {
    event { id title topic startsAt endsAt cancelled }
    version revision ttlSeconds serverTime byKey
    default { ...entry }
    stages { ...entry }
  }
}
fragment entry on StageEntry {
  key order startsAt headline
  rows { heading titles { id name synopsis year maturity genres runtimeMinutes artwork { kind url width height } } }
}
"""
CHANNEL = """
query Channel($events: [ID!]!, $profile: ID!, $device: DeviceContext!) {
  broadcastChannel(eventIds: $events, profileId: $profile, device: $device) {
    url subprotocol token connectWindowMs
    topics { eventId topic stateKey lastBroadcastAt }
  }
}
"""

_parsed_once = lru_cache(load_catalog)
"""A catalog is immutable, and reading the demo's takes longer than most tests."""


class World:
    """Everything around one DGS."""

    def __init__(self) -> None:
        self.clock = ManualClock(1_731_700_000_000)
        self.view = MemoryScheduleView()
        self.log = MemoryReplayLog()
        self.ring = KeyRing("stagecue.device", {"k1": b"d" * 32}, "k1")
        self.profile_ring = KeyRing("stagecue.profile", {"k1": b"p" * 32}, "k1")
        self.readiness = Readiness()
        self.http: httpx.AsyncClient
        self.server: DgsServer

    def build(self, draw: Callable[[], float] = lambda: 0.5, **settings: Any) -> Any:
        with patch.object(file, "load_catalog", _parsed_once):
            return app.build_dgs(
                DgsSettings(**{"schedule_poll_s": POLL_S, **settings}),
                schedule_view=self.view,
                replay_log=self.log,
                device_ring=self.ring,
                clock=self.clock,
                readiness=self.readiness,
                draw=draw,
                profile_ring=self.profile_ring,
            )

    def token(self, profile: str, lifetime_s: int = 60) -> dict[str, str]:
        """Header fields of a caller who is that profile."""
        token = self.profile_ring.sign(ProfileClaims(sub=profile, exp=self.clock.now_ms() // 1000 + lifetime_s))
        return {"Authorization": f"Bearer {token}"}

    async def plan(
        self,
        event_id: str = "tyson-paul",
        *,
        audience: str = "all",
        regions: tuple[str, ...] = (),
        revision: int = 12,
        starts_in_ms: int = HOUR_MS,
        **more: Any,
    ) -> str:
        start = self.clock.now_ms() + starts_in_ms
        offsets = {"upcoming": -HOUR_MS, "starting_soon": -900_000, "live": 0, "ended": 2 * HOUR_MS}
        topic = topic_of(event_id, audience)
        await self.view.put(
            TopicSchedule(
                topic=topic,
                event_id=event_id,
                revision=revision,
                version=7,
                starts_at=start,
                audience=audience,
                regions=regions,
                stages=tuple(
                    PlannedStage(key=key, order=order, due_at=start + offset)
                    for order, (key, offset) in enumerate(offsets.items())
                ),
                **{"title": "Tyson vs. Paul", "ends_at": start + 2 * HOUR_MS, **more},
            )
        )
        return topic

    async def broadcast(self, topic: str, state_key: str) -> int:
        prev = (await self.log.read(topic)).tail
        at = max(self.clock.now_ms(), prev + 1)
        await self.log.append(
            Broadcast(topic=topic, state_key=state_key, timestamp=at, prev=prev, event_id="tyson-paul")
        )
        return at

    async def ask(self, query: str, headers: dict[str, str] | None = None, **variables: Any) -> dict[str, Any]:
        answer = await self.http.post("/graphql", json={"query": query, "variables": variables}, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()  # type: ignore[no-any-return]

    async def prefetch(self, profile: str = "p-1", event: str = "tyson-paul", **device: str) -> dict[str, Any]:
        answer = await self.ask(PREFETCH, event=event, profile=profile, device={"kind": "TV", **device})
        assert "errors" not in answer, answer
        return answer["data"]["prefetchEvent"]  # type: ignore[no-any-return]

    async def refused(self, query: str, **variables: Any) -> dict[str, Any]:
        answer = await self.ask(query, **variables)
        assert answer.get("data") is None
        (error,) = answer["errors"]
        return error  # type: ignore[no-any-return]

    @asynccontextmanager
    async def client(self, app: Any) -> AsyncIterator[httpx.AsyncClient]:
        """A client of a server that serves `app`; both end together, and the server with nobody left behind.

        The server's clock is the system's: tests move the world's by hours.
        """
        sock = listen_on("127.0.0.1", 0)
        port = sock.getsockname()[1]
        services: tuple[Service, ...]
        if isinstance(app, Dgs):
            self.server = app.server(sock, clock=SystemClock())
            services = (*app.services, self.server)
        else:
            self.server = DgsServer(
                sock,
                endpoint=AsgiBridge(app, deadline_s=5.0),
                limits=ServerLimits(),
                clock=SystemClock(),
                readiness=self.readiness,
            )
            services = (self.server,)
        stop = asyncio.Event()
        running: list[asyncio.Task[None]] = []
        try:
            for service in services:
                ready = asyncio.Event()
                running.append(asyncio.create_task(service.run(ready, stop), name=service.name))
                await asyncio.wait_for(ready.wait(), 5)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                yield client
        finally:
            stop.set()
            await asyncio.wait_for(asyncio.gather(*running), 10)
            if isinstance(app, Dgs):
                await app.aclose()
        assert self.server.stats()["connections"] == 0
