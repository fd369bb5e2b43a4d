"""A device written from docs/dgs.md and docs/protocol.md alone: plain HTTP, plain WebSocket, no client code."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from system_support import FAST, now_ms, operator, rfc3339

from loadtest.bench.system import EmbeddedSystem

pytestmark = pytest.mark.timeout(60)

# Copied from docs/dgs.md, as a device team would.
PREFETCH = (
    "query Prefetch($event: ID!, $profile: ID!, $device: DeviceContext) "
    "{ prefetchEvent(eventId: $event, profileId: $profile, device: $device) "
    "{ event { id title topic startsAt } version revision ttlSeconds serverTime default { headline } byKey } }"
)
CHANNEL = (
    '{ broadcastChannel(eventIds: ["tyson-paul"], profileId: "p-17", device: {kind: TV}) {'
    " url subprotocol connectWindowMs token topics { eventId topic stateKey lastBroadcastAt } } }"
)
DOCS = Path(__file__).parents[3] / "docs"
STAGES = [{"key": "upcoming", "offset": "-P1D"}, {"key": "live"}, {"key": "overtime", "anchor": "manual"}]


def test_the_queries_are_those_of_the_documentation() -> None:
    """A query changed in the document is one to try here."""
    page = " ".join((DOCS / "dgs.md").read_text().split())
    assert PREFETCH in page
    assert " ".join(CHANNEL.split()) in page


class Device:
    """What the two pages ask of a device, in as few lines as a hurried team would write."""

    def __init__(self, dgs: httpx.AsyncClient) -> None:
        self.dgs = dgs
        self.shown: list[str] = []
        self.cursor: int | None = None
        self.map: dict[str, Any] = {}
        self.channel: dict[str, Any] = {}

    async def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        answer = await self.dgs.post(
            "/graphql", json={"query": query, "variables": variables}, headers={"X-Device-Id": "living-room"}
        )
        body = answer.json()
        assert "errors" not in body, body
        found: dict[str, Any] = body["data"]
        return found

    async def prefetch(self) -> None:
        device = {"kind": "TV", "screen": "MEDIUM", "locale": "de-AT"}
        answer = await self.ask(PREFETCH, event="tyson-paul", profile="p-17", device=device)
        self.map = answer["prefetchEvent"]
        self.channel = (await self.ask(CHANNEL))["broadcastChannel"]

    async def artwork(self) -> int:
        """Fetch every picture of the map; returns how many."""
        urls = {
            picture["url"]
            for entry in self.map["byKey"].values()
            for row in entry["rows"]
            for title in row["titles"]
            for picture in title["artwork"]
        }
        for url in urls:
            answer = await self.dgs.get(url)
            assert answer.headers["content-type"].startswith("image/svg+xml")
            assert "immutable" in answer.headers["cache-control"]
        return len(urls)

    def connect(self) -> websockets.connect:
        return websockets.connect(
            self.channel["url"],
            subprotocols=[websockets.Subprotocol(self.channel["subprotocol"])],
            additional_headers={"Authorization": f"Bearer {self.channel['token']}"},
            proxy=None,
        )

    async def subscribe(self, socket: websockets.ClientConnection) -> dict[str, Any]:
        """Subscribe with the cursor; returns the continuity, taken in as the table of verdicts says."""
        topic = self.channel["topics"][0]["topic"]
        held = {topic: {"version": self.map["version"], "revision": self.map["revision"]}}
        assert (await frame_of(socket))["type"] == "welcome"
        await socket.send(json.dumps({"type": "subscribe", "topics": {topic: self.cursor}, "held": held}))
        continuity = await frame_of(socket)
        assert continuity["type"] == "continuity"
        if self.cursor is None and continuity["state_key"]:
            self.show(continuity["state_key"], continuity["latest"])
        return continuity

    async def broadcast(self, socket: websockets.ClientConnection) -> dict[str, Any]:
        frame = await frame_of(socket)
        while frame["type"] == "schedule":
            assert frame["version"] == self.map["version"], "moved times, same content: nothing to fetch"
            frame = await frame_of(socket)
        assert frame["type"] == "broadcast", frame
        assert self.cursor is not None
        assert frame["prev"] == self.cursor, "nothing between the last one applied and this"
        self.show(frame["state_key"], frame["timestamp"])
        return frame

    def show(self, key: str, timestamp: int) -> None:
        self.shown.append(self.map["byKey"].get(key, self.map["default"])["headline"])
        self.cursor = timestamp


async def frame_of(socket: websockets.ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(5):
        frame: dict[str, Any] = json.loads(await socket.recv())
    return frame


async def test_prefetch_connect_show_leave_and_return(tmp_path: Path) -> None:
    """The documented way from the first query to a replay, with no request to the origin once it is connected."""
    async with (
        EmbeddedSystem(tmp_path, environment=FAST) as system,
        operator(system) as client,
        httpx.AsyncClient(base_url=system.addresses.dgs, trust_env=False) as dgs,
    ):
        event = {"id": "tyson-paul", "title": "Tyson vs. Paul", "starts_at": rfc3339(now_ms() + 3_600_000)}
        assert (await client.post("/v1/events", json={**event, "stages": STAGES})).status_code == 201
        device = Device(dgs)
        await until_planned(device)
        await device.prefetch()
        assert {"upcoming", "live", "overtime", "cancelled", "default"} == set(device.map["byKey"])
        assert await device.artwork() > 0
        prefetched_ms = now_ms() + 1  # the last picture may have been asked for within this millisecond

        async with device.connect() as socket:
            continuity = await device.subscribe(socket)
            assert continuity["verdict"] == "complete"
            await client.post("/v1/events/tyson-paul/cue", json={"stage": "live"})
            frame = await device.broadcast(socket)
            await socket.send(json.dumps({"type": "ack", "topic": frame["topic"], "timestamp": frame["timestamp"]}))
        away = device.cursor
        async with device.connect() as neighbour:
            await device.subscribe(neighbour)
            await client.post("/v1/events/tyson-paul/cue", json={"stage": "overtime"})
            while (await frame_of(neighbour))["type"] != "broadcast":
                pass  # the node has it now: whoever comes back is replayed it
        assert device.cursor == away
        async with device.connect() as socket:
            continuity = await device.subscribe(socket)
            frame = await device.broadcast(socket)
            assert (continuity["verdict"], frame["replayed"]) == ("complete", True)
            assert frame["timestamp"] == continuity["latest"], "the replay ends at `latest`"

        assert device.shown == [device.map["byKey"][key]["headline"] for key in ("upcoming", "live", "overtime")]
        asked = (await dgs.get("/requests", params={"since_ms": prefetched_ms, "until_ms": now_ms() + 1})).json()
        assert (asked["graphql"], asked["artwork"]) == (0, 0)
        assert asked["complete_since_ms"] <= prefetched_ms


async def until_planned(device: Device) -> None:
    """The schedule view hears of a new event a moment after the operator does, and of its first broadcast."""
    async with asyncio.timeout(5):
        while True:
            answer = await device.dgs.post("/graphql", json={"query": CHANNEL})
            body = answer.json()
            if "errors" not in body and body["data"]["broadcastChannel"]["topics"][0]["stateKey"] == "upcoming":
                return
            await asyncio.sleep(0.05)
