"""A push node in a hundred lines, served by the `websockets` package: an independent peer for the lean client."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed


@dataclass
class ScriptedNode:
    """Topic logs in memory; continuity and replay as stagecue.v1 demands. `frames` is everything devices sent."""

    url: str = ""
    floor: dict[str, int] = field(default_factory=dict)
    logs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    frames: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    connections: dict[ServerConnection, set[str]] = field(default_factory=dict)
    reconnect_window_ms: int = 50
    ping_s: float = 20.0
    refuse_with: int | None = None
    silent: bool = False

    async def handle(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.tokens.append(connection.request.headers.get("Authorization"))
        self.connections[connection] = set()
        try:
            if not self.silent:
                await self.say(
                    connection,
                    {
                        "type": "welcome",
                        "node": "scripted",
                        "server_time": time.time_ns() // 1_000_000,
                        "lifetime_s": 3600,
                        "ping_s": self.ping_s,
                        "reconnect_window_ms": self.reconnect_window_ms,
                        "refetch_window_ms": 100,
                    },
                )
            async for message in connection:
                frame = json.loads(message)
                self.frames.append(frame)
                if frame["type"] == "subscribe":
                    for topic, cursor in frame["topics"].items():
                        await self.subscribe(connection, topic, cursor)
        except ConnectionClosed:
            pass
        finally:
            del self.connections[connection]

    async def subscribe(self, connection: ServerConnection, topic: str, cursor: int | None) -> None:
        log = self.logs.get(topic, [])
        latest, key = (log[-1]["timestamp"], log[-1]["state_key"]) if log else (0, None)
        verdict = "complete"
        if cursor is not None and cursor < self.floor.get(topic, 0):
            verdict = "gap"
        elif cursor is not None and cursor > latest:
            verdict = "ahead"
        self.connections[connection].add(topic)
        await self.say(
            connection,
            {"type": "continuity", "topic": topic, "verdict": verdict, "state_key": key, "latest": latest},
        )
        if verdict == "complete" and cursor is not None:
            for entry in log:
                if entry["timestamp"] > cursor:
                    await self.say(connection, {**entry, "replayed": True})

    async def broadcast(self, topic: str, state_key: str, timestamp: int, **more: Any) -> None:
        log = self.logs.setdefault(topic, [])
        prev = log[-1]["timestamp"] if log else 0
        entry = {"type": "broadcast", "topic": topic, "state_key": state_key, "timestamp": timestamp, "prev": prev}
        log.append(entry)
        for connection, topics in list(self.connections.items()):
            if topic in topics:
                with suppress(ConnectionClosed):
                    await self.say(connection, {**entry, **more})

    async def say(self, connection: ServerConnection, frame: dict[str, Any]) -> None:
        await connection.send(json.dumps(frame))

    def sent(self, kind: str) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if frame["type"] == kind]


@asynccontextmanager
async def scripted_node(*, tls: ssl.SSLContext | None = None, **settings: Any):
    node = ScriptedNode(**settings)

    def refuse(connection: ServerConnection, request: Any) -> Any:
        if node.refuse_with is None:
            return None
        response = connection.respond(node.refuse_with, "refused\n")
        response.headers["Retry-After"] = "0"
        return response

    async with serve(
        node.handle,
        "127.0.0.1",
        0,
        subprotocols=["stagecue.v1"],
        compression=None,
        process_request=refuse,
        close_timeout=1,
        ssl=tls,
    ) as server:
        port = server.sockets[0].getsockname()[1]
        node.url = f"{'ws' if tls is None else 'wss'}://127.0.0.1:{port}/v1/stream"
        yield node


async def eventually(condition: Any, *, within_s: float = 5.0) -> None:
    """Wait until `condition()` holds; fails loudly otherwise."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - what it waits for lies in another peer
            await asyncio.sleep(0.005)
