"""A producer on a real store, routers, push nodes and devices in one process, every router linked to every node."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import websockets

from contract.kv.memory import MemoryReplayLog, MemoryScheduleView
from contract.log import BroadcastLog, LogBatch, LogEntry
from contract.node_link import MessageChannel
from contract.runtime.asgi import listen_on
from contract.runtime.channel import channel_pair
from contract.runtime.runner import Readiness, Service
from contract.runtime.system_clock import SystemClock
from contract.schedule import TopicSchedule
from contract.tokens import DeviceClaims, new_key_ring
from message_producer.app import Producer, open_producer
from message_producer.model import Anchor, EventDraft, EventPatch, Stage, WriteContext
from message_producer.settings import ProducerSettings
from message_router.app import Router, build_router
from message_router.settings import RouterSettings
from push_proxy.app import PushNode, build_push_node
from push_proxy.settings import PushSettings

__all__ = ["ME", "TOPIC", "CoverageWorld", "Device", "Node", "coverage_world"]

ME: Final = WriteContext(actor="op@example.org")
TOPIC: Final = "event:night"
_RING: Final = new_key_ring("stagecue.device")
_CLOCK: Final = SystemClock()
_PATIENCE_S: Final = 30.0


def _token() -> str:
    return _RING.sign(DeviceClaims(sub="p", dev="d", exp=_CLOCK.now_ms() // 1000 + 3600))


class _NoPartition(BroadcastLog):
    """The log of a router in reserve."""

    async def poll(self, *, max_entries: int, timeout_s: float) -> LogBatch:
        await asyncio.sleep(timeout_s)
        return LogBatch()

    async def reread(self, partition: int, *, since_ms: int) -> AsyncIterator[LogEntry]:
        return
        yield

    async def schedules(self) -> Sequence[TopicSchedule]:
        return ()

    async def commit(self, offsets: Mapping[int, int]) -> None:
        assert not offsets


class Device:
    """One device on one node, which says what it holds."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self._socket = socket

    async def subscribe(self, version: int | None) -> None:
        """Follow the topic, holding `version`; returns once the node answered. A repeat replaces what it said."""
        held = {} if version is None else {TOPIC: {"version": version, "revision": 1}}
        await self._send({"type": "subscribe", "topics": {TOPIC: None}, "held": held})
        await self.until("continuity")

    async def unsubscribe(self) -> None:
        await self._send({"type": "unsubscribe", "topics": [TOPIC]})

    async def until(self, kind: str) -> dict[str, Any]:
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                frame: dict[str, Any] = json.loads(await self._socket.recv())
                if frame["type"] == kind:
                    return frame

    async def close(self) -> None:
        await self._socket.close()

    async def _send(self, frame: dict[str, Any]) -> None:
        await self._socket.send(json.dumps(frame))


@dataclass
class Node:
    """A push node and its ends of the links."""

    node: PushNode
    port: int
    links: list[MessageChannel] = field(default_factory=list)
    stop: Callable[[], Awaitable[None]] | None = None

    async def device(self, version: int | None) -> Device:
        """A new device of this node that follows the topic."""
        device = Device(
            await websockets.connect(
                f"ws://127.0.0.1:{self.port}/v1/stream",
                subprotocols=[websockets.Subprotocol("stagecue.v1")],
                additional_headers={"Authorization": f"Bearer {_token()}"},
                compression=None,
                proxy=None,
                ping_interval=None,
            )
        )
        await device.subscribe(version)
        return device

    @asynccontextmanager
    async def events(self, held: int | None) -> AsyncIterator[None]:
        """A device that follows the topic by server-sent events."""
        query = f"topic={TOPIC}&access_token={_token()}" + ("" if held is None else f"&heldVersion={held}")
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET /v1/events?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        async with asyncio.timeout(_PATIENCE_S):
            await reader.readuntil(b"event: continuity\n")
        yield
        writer.close()
        await writer.wait_closed()

    @asynccontextmanager
    async def graphql(self, held: int) -> AsyncIterator[None]:
        """A device that follows the topic by graphql-transport-ws."""
        asked = {"topic": TOPIC, "heldVersion": held, "heldRevision": 1}
        query = "subscription ($t: [TopicCursor!]!) { broadcasts(topics: $t) { __typename } }"
        async with websockets.connect(
            f"ws://127.0.0.1:{self.port}/v1/stream",
            subprotocols=[websockets.Subprotocol("graphql-transport-ws")],
            compression=None,
            proxy=None,
            ping_interval=None,
        ) as connection:
            await connection.send(json.dumps({"type": "connection_init", "payload": {"token": _token()}}))
            subscribe = {"query": query, "variables": {"t": [asked]}}
            await connection.send(json.dumps({"id": "1", "type": "subscribe", "payload": subscribe}))
            async with asyncio.timeout(_PATIENCE_S):
                while "Continuity" not in str(await connection.recv()):
                    pass
            yield

    async def kill(self) -> None:
        """Gone without a word to the routers: nothing leaves it once its links are cut, and then it ends."""
        for link in self.links:
            link.close()
        assert self.stop is not None
        await self.stop()


@dataclass
class CoverageWorld:
    """Everything that runs."""

    producer: Producer
    stack: AsyncExitStack
    routers: list[Router] = field(default_factory=list)
    replay_log: MemoryReplayLog = field(default_factory=MemoryReplayLog)
    schedule_view: MemoryScheduleView = field(default_factory=MemoryScheduleView)

    async def late_stage(self, *, threshold: float) -> None:
        """An event whose manual stage `encore` came with version 2 of the map; nodes know of it."""
        stages = (Stage(key="live"),)
        draft = EventDraft(
            event_id="night",
            title="Night",
            starts_at=_CLOCK.now_ms() + 3_600_000,
            stages=stages,
            coverage_threshold=threshold,
        )
        await self.producer.operations.create(draft, ME)
        later = EventPatch(stages=(*stages, Stage(key="encore", anchor=Anchor.MANUAL)))
        await self.producer.operations.change("night", later, ME, if_revision=None)
        async with asyncio.timeout(_PATIENCE_S):
            while (await self.schedule_view.revisions([TOPIC])).get(TOPIC) != 2:  # noqa: ASYNC110 - nor has a view
                await asyncio.sleep(0.01)

    async def held(self) -> dict[int, int]:
        (topic,) = (await self.producer.operations.coverage("night")).topics
        return topic.holdings.held

    async def until_held(self, expected: dict[int, int]) -> None:
        """Wait until operators see this."""
        found: dict[int, int] = {}
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while (found := await self.held()) != expected:  # noqa: ASYNC110 - the store has no event
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"operators see {found}, not {expected}") from None

    async def add_router(self, log: BroadcastLog) -> None:
        """One more router; nodes added later are linked to it."""
        router = build_router(
            RouterSettings(router_id=f"r{len(self.routers)}", coverage_interval_s=0.05, drain_s=0.5),
            log=log,
            replay_log=self.replay_log,
            schedule_view=self.schedule_view,
            reports=self.producer.operations,
            clock=_CLOCK,
            readiness=Readiness(),
        )
        await self.run(router.service)
        self.routers.append(router)

    async def add_node(self, name: str) -> Node:
        """One more node, linked to every router."""
        sock = listen_on("127.0.0.1", 0)
        port: int = sock.getsockname()[1]
        settings = PushSettings(
            node_id=name, reach_report_s=0.05, coverage_repeat_s=0.3, drain_s=0.0, close_timeout_s=0.2
        )
        push = build_push_node(
            settings,
            replay_log=self.replay_log,
            schedule_view=self.schedule_view,
            device_ring=_RING,
            clock=_CLOCK,
            readiness=Readiness(),
            sock=sock,
        )
        node = Node(push, port)
        for router in self.routers:
            ours, theirs = channel_pair()
            router.attach(ours)
            push.attach_router(theirs)
            node.links.append(theirs)
        node.stop = await self.run(push.service)
        return node

    async def run(self, service: Service) -> Callable[[], Awaitable[None]]:
        """Run a service until the world ends, or what is returned is called."""
        ready, stop = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(service.run(ready, stop), name=f"test.{service.name}")

        async def end() -> None:
            stop.set()
            await task

        self.stack.push_async_callback(end)
        async with asyncio.timeout(_PATIENCE_S):
            await ready.wait()
        return end


@asynccontextmanager
async def coverage_world(settings: ProducerSettings, *, routers: int = 1) -> AsyncIterator[CoverageWorld]:
    """A running producer and routers, the first of which reads its log."""
    async with (
        open_producer(settings, clock=_CLOCK, readiness=Readiness()) as producer,
        AsyncExitStack() as stack,
    ):
        world = CoverageWorld(producer, stack)
        for service in producer.services:
            await world.run(service)
        for number in range(routers):
            await world.add_router(_NoPartition() if number else producer.log)
        yield world
