"""Routers and push nodes linked over real sockets, each link through a proxy that can be told to misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import websockets
from router_world import FakeLog, FakeReach, FlakyReplayLog, FlakyView, eventually, schedule

from contract.broadcast import Broadcast
from contract.kv.memory import MemoryNodeLeases
from contract.kv.ports import NodeLease, ReplayLog, ScheduleView
from contract.kv.redis import RedisReplayLog, RedisScheduleView, connect_redis
from contract.runtime.asgi import listen_on
from contract.runtime.link_handshake import NodeIdentity
from contract.runtime.runner import Readiness, Service
from contract.runtime.system_clock import SystemClock
from contract.runtime.ws_channel import serve_links
from contract.tokens import DeviceClaims, new_key_ring
from loadtest.cluster.link_proxy import LinkProxy
from message_router.app import Router, build_node_links, build_router
from message_router.settings import RouterSettings
from push_proxy.app import PushNode, build_push_node
from push_proxy.settings import PushSettings

__all__ = ["DeviceEnd", "LinkNetwork", "NodeEnd", "RouterEnd", "network"]

LINK_RING = new_key_ring("stagecue.link")
DEVICE_RING = new_key_ring("stagecue.device")
CLOCK = SystemClock()


class Running:
    """Services under way, stopped in reverse."""

    def __init__(self) -> None:
        self._running: list[tuple[asyncio.Task[None], asyncio.Event]] = []

    async def start(self, service: Service) -> None:
        ready, stop = asyncio.Event(), asyncio.Event()
        self._running.append((asyncio.create_task(service.run(ready, stop), name=service.name), stop))
        await asyncio.wait_for(ready.wait(), 5)

    async def stop(self) -> None:
        while self._running:
            task, stop = self._running.pop()
            stop.set()
            await asyncio.wait_for(task, 10)


class NodeEnd:
    """A push node, its link listener, and one proxy in front of that for each router."""

    def __init__(self, name: str, node: PushNode, port: int) -> None:
        self.name = name
        self.node = node
        self.port = port
        self.link_address = ""
        self.proxies: list[LinkProxy] = []

    @property
    def routers(self) -> int:
        count = self.node.status()["routers"]
        assert isinstance(count, int)
        return count


class RouterEnd:
    def __init__(self, router: Router, log: FakeLog, leases: MemoryNodeLeases) -> None:
        self.router = router
        self.log = log
        self.leases = leases


class DeviceEnd:
    """A device on one node that keeps every frame with the moment it came."""

    def __init__(self, connection: websockets.ClientConnection) -> None:
        self.connection = connection
        self.frames: list[dict[str, Any]] = []
        self.came_s: dict[tuple[str, int], float] = {}
        self._task = asyncio.create_task(self._read(), name="test-device")

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(websockets.ConnectionClosed):
            async for message in self.connection:
                frame = json.loads(message)
                self.frames.append(frame)
                if frame["type"] == "broadcast":
                    self.came_s.setdefault((frame["topic"], frame["timestamp"]), loop.time())

    def verdicts(self, topic: str) -> list[str]:
        return [one["verdict"] for one in self.frames if one["type"] == "continuity" and one["topic"] == topic]

    def timestamps(self, topic: str) -> list[int]:
        return [one["timestamp"] for one in self.frames if one["type"] == "broadcast" and one["topic"] == topic]

    def applied(self, topic: str) -> list[int]:
        """What a device that applies only above its cursor shows, in order (R18)."""
        shown: list[int] = []
        for timestamp in self.timestamps(topic):
            if not shown or timestamp > shown[-1]:
                shown.append(timestamp)
        return shown

    async def close(self) -> None:
        await self.connection.close()
        await self._task


class LinkNetwork:
    """What a test holds; `publish` gives a broadcast to the router that has the topic's partition."""

    def __init__(self, redis_url: str | None, clients: AsyncExitStack) -> None:
        self.clients = clients
        self.redis_url = redis_url
        self.store: ReplayLog = FlakyReplayLog()
        self.view: ScheduleView = FlakyView()
        self.routers: list[RouterEnd] = []
        self.nodes: list[NodeEnd] = []
        self.devices: list[DeviceEnd] = []
        self._newest: dict[str, int] = {}

    async def stores(self) -> tuple[ReplayLog, ScheduleView]:
        """One process's way to the store: its own client of the Redis, or the memory all share."""
        if self.redis_url is None:
            return self.store, self.view
        client = connect_redis(self.redis_url)
        self.clients.push_async_callback(client.aclose)
        return RedisReplayLog(client), RedisScheduleView(client)

    async def schedules(self, topics: Sequence[str]) -> None:
        for topic in topics:
            plan = schedule(1, topic=topic)
            await self.view.put(plan)
            for end in self.routers:
                end.log.schedule_table[topic] = plan

    def publish(self, topic: str, router: int = 0) -> Broadcast:
        prev = self._newest.get(topic, 0)
        timestamp = max(CLOCK.now_ms(), prev + 1)
        self._newest[topic] = timestamp
        broadcast = Broadcast(
            topic=topic, state_key=f"s{timestamp % 1000}", timestamp=timestamp, prev=prev, event_id=topic[6:]
        )
        self.routers[router].log.publish(broadcast, partition=router)
        return broadcast

    async def device(self, node: int, *topics: str, cursor: int | None = 0) -> DeviceEnd:
        """Connected and told where it stands, `pending` included."""
        token = DEVICE_RING.sign(DeviceClaims(sub="p", dev="d", exp=CLOCK.now_ms() // 1000 + 3600, topics=None))
        connection = await websockets.connect(
            f"ws://127.0.0.1:{self.nodes[node].port}/v1/stream",
            subprotocols=[websockets.Subprotocol("stagecue.v1")],
            additional_headers={"Authorization": f"Bearer {token}"},
            compression=None,
            proxy=None,
            ping_interval=None,
        )
        device = DeviceEnd(connection)
        self.devices.append(device)
        await connection.send(json.dumps({"type": "subscribe", "topics": dict.fromkeys(topics, cursor)}))
        await eventually(lambda: all(device.verdicts(topic) for topic in topics))
        return device

    async def linked(self) -> None:
        """Every router to every node."""
        await eventually(
            lambda: all(node.routers == len(self.routers) for node in self.nodes), within_s=10.0, what="not all linked"
        )


@asynccontextmanager
async def network(
    *,
    routers: int = 1,
    nodes: int = 2,
    router_settings: Mapping[str, object] | None = None,
    push_settings: Mapping[str, object] | None = None,
    redis_url: str | None = None,
) -> AsyncIterator[LinkNetwork]:
    """All of it running and linked, default deadlines unless told otherwise; stopped at the end."""
    running = Running()
    async with AsyncExitStack() as clients, AsyncExitStack() as stack:
        net = LinkNetwork(redis_url, clients)
        net.store, net.view = await net.stores()
        stack.push_async_callback(running.stop)
        for number in range(nodes):
            net.nodes.append(await _start_node(net, stack, running, f"n{number}", push_settings or {}))
        for number in range(routers):
            net.routers.append(await _start_router(net, stack, running, number, router_settings or {}))
        await net.linked()
        yield net
        for device in net.devices:
            await device.close()


async def _start_node(
    net: LinkNetwork, stack: AsyncExitStack, running: Running, name: str, settings: Mapping[str, object]
) -> NodeEnd:
    sock = listen_on("127.0.0.1", 0)
    port = sock.getsockname()[1]
    store, view = await net.stores()
    node = build_push_node(
        PushSettings(**({"node_id": name, "drain_s": 0.0, "close_timeout_s": 0.2} | dict(settings))),  # type: ignore[arg-type]
        replay_log=store,
        schedule_view=view,
        device_ring=DEVICE_RING,
        clock=CLOCK,
        readiness=Readiness(),
        sock=sock,
    )
    end = NodeEnd(name, node, port)
    end.link_address = await stack.enter_async_context(
        serve_links(
            "127.0.0.1",
            0,
            ring=LINK_RING,
            identity=NodeIdentity(node.node_id, node.incarnation),
            on_link=lambda channel, router_id: node.attach_router(channel),
        )
    )
    await running.start(node.service)
    return end


async def _start_router(
    net: LinkNetwork, stack: AsyncExitStack, running: Running, number: int, given: Mapping[str, object]
) -> RouterEnd:
    fast: dict[str, object] = {
        "commit_interval_s": 0.02,
        "discover_interval_s": 0.2,
        "retry_cap_s": 0.2,
        "drain_s": 0.5,
        "router_id": f"r{number}",
    }
    settings = RouterSettings(**(fast | dict(given)))  # type: ignore[arg-type]
    log, leases = FakeLog(), MemoryNodeLeases(CLOCK)
    log.assign(number)
    store, view = await net.stores()
    router = build_router(
        settings,
        log=log,
        replay_log=store,
        schedule_view=view,
        reports=FakeReach(),
        clock=CLOCK,
        readiness=Readiness(),
    )
    for node in net.nodes:
        host, _, port = node.link_address.rpartition(":")
        proxy = await stack.enter_async_context(LinkProxy(host, int(port)))
        node.proxies.append(proxy)
        lease = NodeLease(node_id=node.name, incarnation=node.node.incarnation, link_address=proxy.address)
        await leases.renew(lease, lifetime_s=600)
    links = build_node_links(
        settings, router=router, leases=leases, link_ring=LINK_RING, clock=CLOCK, rng=random.Random(number)
    )
    await running.start(router.service)
    await running.start(links)
    return RouterEnd(router, log, leases)
