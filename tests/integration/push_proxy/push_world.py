"""A push node on a free port, with a router's end of its link and stores in memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import websockets

from contract.broadcast import Broadcast
from contract.clock import Clock
from contract.errors import NodeUnreachable, StoreUnavailable
from contract.kv.memory import MemoryReplayLog, MemoryScheduleView
from contract.kv.ports import StoreLife
from contract.node_link import (
    Deliver,
    DeliverAck,
    Hello,
    HelloAccepted,
    InterestAck,
    InterestDelta,
    LinkPing,
    LinkPong,
    ReachReport,
)
from contract.replay_log import LogSnapshot
from contract.runtime.asgi import listen_on
from contract.runtime.channel import MemoryChannel, channel_pair
from contract.runtime.runner import Readiness
from contract.runtime.system_clock import SystemClock
from contract.schedule import PlannedStage, TopicSchedule
from contract.tokens import DeviceClaims, KeyRing, new_key_ring
from push_proxy.app import build_push_node
from push_proxy.settings import PushSettings

TOPIC = "event:fight"


CLOSE_WITHIN_S = 0.5
"""A client that reads nothing does not hear that its connection is over, and would wait ten seconds for it."""


def broadcast(timestamp: int, prev: int, state_key: str | None = None, topic: str = TOPIC) -> Broadcast:
    return Broadcast(
        topic=topic, state_key=state_key or f"s{timestamp}", timestamp=timestamp, prev=prev, event_id="fight"
    )


def schedule(revision: int = 1, topic: str = TOPIC) -> TopicSchedule:
    return TopicSchedule(
        topic=topic,
        event_id="fight",
        title="Fight",
        revision=revision,
        version=1,
        starts_at=1000,
        stages=(PlannedStage(key="live", order=0, due_at=1000 + revision),),
    )


async def eventually(condition: Callable[[], bool], timeout: float = 3) -> None:
    """Wait until `condition` holds."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - whatever is asked has no event to wait for
            await asyncio.sleep(0.01)


class FlakyLog(MemoryReplayLog):
    """A replay log that can be told to fail, or to answer late."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False
        self.reads = 0
        self.gate: asyncio.Event | None = None

    async def read(self, topic: str) -> LogSnapshot:
        self.reads += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.down:
            raise StoreUnavailable("down")
        return await super().read(topic)

    async def tails(self, topics: Sequence[str]) -> Any:
        if self.down:
            raise StoreUnavailable("down")
        return await super().tails(topics)

    def lose_everything(self) -> None:
        self._logs.clear()


class LivingView(MemoryScheduleView):
    """A view that can be emptied, and is not whole until somebody says so."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = True

    async def life(self) -> StoreLife:
        return StoreLife("life", whole=self.whole)

    def lose_everything(self) -> None:
        self.whole = False
        self._schedules.clear()
        self._topics.clear()


class FakeRouter:
    """A router's end: acknowledges interest, delivers, keeps what the node reports."""

    def __init__(self, channel: MemoryChannel) -> None:
        self.channel = channel
        self.hello: Hello | None = None
        self.topics: set[str] = set()
        self.acks: dict[int, asyncio.Future[int]] = {}
        self.reach: dict[tuple[str, int], Any] = {}
        self.pongs = 0
        self.ack_interest = True
        self.frozen = False
        self.mute = False
        self.seq = 0
        self.task = asyncio.create_task(self._run(), name="test.router")

    async def _run(self) -> None:
        with contextlib.suppress(NodeUnreachable):
            while True:
                message = await self.channel.receive()
                while self.frozen:  # noqa: ASYNC110 - a frozen process has no event either
                    await asyncio.sleep(0.01)
                if isinstance(message, Hello):
                    self.hello = message
                    self.topics.update(message.topics)
                    await self.channel.send(HelloAccepted("r1"))
                elif isinstance(message, InterestDelta):
                    self.topics.update(message.added)
                    self.topics.difference_update(message.removed)
                    if self.ack_interest:
                        await self.channel.send(InterestAck(message.seq))
                elif isinstance(message, DeliverAck):
                    self.acks.pop(message.seq).set_result(message.written)
                elif isinstance(message, ReachReport):
                    self.reach.update({(c.topic, c.timestamp): c for c in message.counts})
                elif isinstance(message, LinkPing) and not self.mute:
                    await self.channel.send(LinkPong())
                elif isinstance(message, LinkPong):
                    self.pongs += 1

    async def send(self, *broadcasts: Broadcast, schedules: Sequence[TopicSchedule] = ()) -> asyncio.Future[int]:
        self.seq += 1
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.acks[self.seq] = future
        await self.channel.send(Deliver(self.seq, tuple(broadcasts), tuple(schedules)))
        return future

    async def deliver(self, *broadcasts: Broadcast, schedules: Sequence[TopicSchedule] = ()) -> int:
        """Send and wait for the acknowledgement; returns connections written to."""
        return await asyncio.wait_for(await self.send(*broadcasts, schedules=schedules), 5)

    async def ping(self) -> None:
        await self.channel.send(LinkPing())

    async def close(self) -> None:
        self.frozen = False
        self.channel.close()
        await self.task


class Device:
    """A websockets client that reads JSON frames."""

    def __init__(self, connection: websockets.ClientConnection) -> None:
        self.connection = connection

    async def send(self, frame: dict[str, Any]) -> None:
        await self.connection.send(json.dumps(frame))

    async def subscribe(self, cursor: int | None, topic: str = TOPIC, **more: Any) -> None:
        await self.send({"type": "subscribe", "topics": {topic: cursor}, **more})

    async def next(self, timeout: float = 3) -> dict[str, Any]:
        frame = json.loads(await asyncio.wait_for(self.connection.recv(), timeout))
        assert isinstance(frame, dict)
        return frame

    async def until(self, kind: str, timeout: float = 3) -> dict[str, Any]:
        """The next frame of a type; others are passed over."""
        async with asyncio.timeout(timeout):
            while (frame := await self.next(timeout))["type"] != kind:
                pass
        return frame

    async def quiet(self, for_s: float = 0.15) -> None:
        """Nothing but schedules arrives."""
        with contextlib.suppress(TimeoutError):
            while (frame := await self.next(for_s))["type"] == "schedule":
                pass
            pytest.fail(f"unexpected {frame}")

    async def closed(self, timeout: float = 3) -> int | None:
        await asyncio.wait_for(self.connection.wait_closed(), timeout)
        return self.connection.close_code


class World:
    """A running node and everything around it."""

    def __init__(
        self, *, clock: Clock | None = None, port: int = 0, ring: KeyRing | None = None, **settings: Any
    ) -> None:
        defaults: dict[str, Any] = {
            "node_id": "n1",
            "drain_s": 0.2,
            "anti_entropy_s": 0.1,
            "reach_report_s": 0.05,
            "close_timeout_s": 0.3,
            "link_ping_s": 0.05,
            "link_silence_s": 5.0,
        }
        self.settings = PushSettings(**(defaults | settings))
        self.log = FlakyLog()
        self.view = LivingView()
        self.ring: KeyRing = ring or new_key_ring("stagecue.device")
        self.readiness = Readiness()
        self.clock: Clock = clock or SystemClock()
        self.sock: socket.socket = listen_on("127.0.0.1", port)
        self.port = self.sock.getsockname()[1]
        self.node = build_push_node(
            self.settings,
            replay_log=self.log,
            schedule_view=self.view,
            device_ring=self.ring,
            clock=self.clock,
            readiness=self.readiness,
            sock=self.sock,
        )
        self.stop = asyncio.Event()
        self.routers: list[FakeRouter] = []
        self.devices: list[Device] = []
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.view.put(schedule())
        ready = asyncio.Event()
        self.task = asyncio.create_task(self.node.service.run(ready, self.stop), name="test.node")
        await asyncio.wait_for(ready.wait(), 3)

    async def end(self) -> None:
        self.stop.set()
        assert self.task is not None
        await asyncio.wait_for(self.task, 5)
        for device in self.devices:
            await device.connection.close()
        for router in self.routers:
            await router.close()

    def router(self) -> FakeRouter:
        ours, theirs = channel_pair()
        self.node.attach_router(theirs)
        router = FakeRouter(ours)
        self.routers.append(router)
        return router

    def token(self, *, lives_s: int = 3600, topics: tuple[str, ...] | None = None, sub: str = "p1") -> str:
        exp = int(self.clock.now_ms() / 1000) + lives_s
        return self.ring.sign(DeviceClaims(sub=sub, dev="d1", exp=exp, topics=topics))

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/stream"

    async def connect(self, *, welcome: bool = True, token: str | None = None, **more: Any) -> Device:
        headers = {"Authorization": f"Bearer {token or self.token()}", **more.pop("headers", {})}
        connection = await websockets.connect(
            self.url,
            subprotocols=more.pop("subprotocols", [websockets.Subprotocol("stagecue.v1")]),
            additional_headers=headers,
            compression=None,
            proxy=None,
            ping_interval=None,
            close_timeout=CLOSE_WITHIN_S,
            **more,
        )
        device = Device(connection)
        self.devices.append(device)
        if welcome:
            assert (await device.next())["type"] == "welcome"
        return device

    async def publish(self, *broadcasts: Broadcast) -> None:
        """Append to the log without delivering."""
        for entry in broadcasts:
            await self.log.append(entry)
