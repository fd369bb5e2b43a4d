"""A device that reads slowly is sent the newest state and told what it skipped; one that does not read is let go."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket

import pytest
import websockets
from push_world import CLOSE_WITHIN_S, Device, World, broadcast, eventually

PATIENCE_S = 20
SMALL = 4096
"""Bytes of the kernel's buffers, so that a few hundred broadcasts fill them."""


@pytest.fixture
def narrow(world: World) -> World:
    """The node's sockets have small buffers: what a listener has, the connections it accepts inherit."""
    world.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
    return world


async def deaf_socket(world: World) -> websockets.ClientConnection:
    """Connected and subscribed; reads nothing until told to, and its own buffer is small."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", world.port))
    connection = await websockets.connect(
        world.url,
        sock=sock,
        subprotocols=[websockets.Subprotocol("stagecue.v1")],
        additional_headers={"Authorization": f"Bearer {world.token()}"},
        compression=None,
        proxy=None,
        ping_interval=None,
        close_timeout=CLOSE_WITHIN_S,
        max_queue=1,
    )
    device = Device(connection)
    world.devices.append(device)
    assert (await device.next())["type"] == "welcome"
    await device.subscribe(0)
    assert (await device.until("continuity", PATIENCE_S))["verdict"] == "complete"
    return connection


async def play(world: World, first: int, last: int, neighbour: Device) -> int:
    """Broadcasts `first` to `last`, each the next of the chain; returns how often they were written.

    The neighbour reads each before the next: its socket is as narrow, and must not be taken for a slow one's.
    """
    written = 0
    for timestamp in range(first, last + 1):
        await world.publish(broadcast(timestamp, timestamp - 1 if timestamp > 1 else 0))
        written += await world.routers[0].deliver(broadcast(timestamp, timestamp - 1 if timestamp > 1 else 0))
        assert (await neighbour.until("broadcast", PATIENCE_S))["timestamp"] == timestamp, "a neighbour missed one"
    return written


def reach(world: World, name: str) -> int:
    return sum(getattr(count, name) for count in world.routers[0].reach.values())


async def until_congested(world: World, neighbour: Device) -> int:
    """Broadcast until the deaf one's socket takes no more, for good; returns the last timestamp."""
    last, held = 0, 0
    while held < 3:
        written = await play(world, last + 1, last + 50, neighbour)
        last += 50
        assert last < 20_000, "no socket takes that much"
        # Once may have been a moment's hesitation: what waited went out when the kernel took more.
        held = held + 1 if written == 50 else 0
        await asyncio.sleep(0.02)
    assert world.node.metrics.value("congested") > 0
    return last


@pytest.mark.timeout(120)
async def test_what_waits_is_coalesced_and_told(narrow: World) -> None:
    """The deaf device reads again: the newest state comes, each skipped one is listed, and no hole is claimed."""
    world = narrow
    neighbour = await world.connect()
    await neighbour.subscribe(0)
    await neighbour.until("continuity", PATIENCE_S)
    deaf = await deaf_socket(world)
    last = await until_congested(world, neighbour)
    assert await play(world, last + 1, last + 200, neighbour) == 200, "held back, not written"
    last += 200
    told: set[int] = set()
    cursor = 0
    async with asyncio.timeout(PATIENCE_S):
        while cursor < last:
            frame = json.loads(await deaf.recv())
            if frame["type"] == "broadcast":
                assert frame["prev"] <= cursor < frame["timestamp"], "in order and without a hole"
                told |= {*frame.get("skipped", ()), frame["timestamp"]}
                cursor = frame["timestamp"]
    assert told == set(range(1, last + 1))
    assert world.node.metrics.value("coalesced") > 0
    await eventually(lambda: reach(world, "written") + reach(world, "coalesced") == 2 * last, PATIENCE_S)
    await play(world, last + 1, last + 1, neighbour)
    assert json.loads(await asyncio.wait_for(deaf.recv(), PATIENCE_S))["timestamp"] == last + 1, "live again"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("world", [{"slow_consumer_s": 0.3}], indirect=True)
async def test_one_that_never_reads_is_let_go(narrow: World) -> None:
    """After a while its connection ends with 4003, and its neighbour was never stalled."""
    world = narrow
    neighbour = await world.connect()
    await neighbour.subscribe(0)
    await neighbour.until("continuity", PATIENCE_S)
    await deaf_socket(world)
    last = await until_congested(world, neighbour)
    await eventually(lambda: world.node.metrics.labelled("closes", "4003", "v1") == 1, PATIENCE_S)
    assert await play(world, last + 1, last + 1, neighbour) == 1
    await eventually(lambda: b"stagecue_push_connections 1.0" in world.node.metrics.render(), PATIENCE_S)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("world", [{"slow_consumer_bytes": 4096, "slow_consumer_s": 60}], indirect=True)
async def test_what_may_wait_is_bounded(narrow: World) -> None:
    """The list of what was skipped grows, too: at its bound the device is let go, long before its time."""
    world = narrow
    neighbour = await world.connect()
    await neighbour.subscribe(0)
    await neighbour.until("continuity", PATIENCE_S)
    await deaf_socket(world)
    last = await until_congested(world, neighbour)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            while world.node.metrics.value("closed_slow") == 0:
                await play(world, last + 1, last + 50, neighbour)
                last += 50
    assert world.node.metrics.labelled("closes", "4003", "v1") == 1
