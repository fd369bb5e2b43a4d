"""What goes wrong with one connection is its own: the others, the node and its drain go on."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from typing import Any

import pytest
import structlog
from hostile_client import PATIENCE_S, Raw, head, text
from push_world import TOPIC, World, broadcast, eventually

from contract.close_codes import CloseCode, reason
from push_proxy.adapters.device_listener import DeviceListener
from push_proxy.session import Session
from push_proxy.websocket import close_frame

SMALL = 4096
"""Bytes of the kernel's buffers."""


def sessions(world: World) -> list[Any]:
    return list(listener(world)._sessions)


def listener(world: World) -> DeviceListener:
    return world.node.service._listener


async def test_a_deadline_that_fails_ends_its_connection_and_nobody_elses(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One tick looks at everybody's deadlines: were it to end with one of them, the node would."""
    devices = [await world.connect() for _ in range(3)]
    for device in devices:
        await device.subscribe(0)
        assert (await device.next())["type"] == "continuity"
    failing = sessions(world)[1].session
    asked = Session.only_ping_due

    def only_ping_due(session: Session, now_s: float) -> bool:
        if session is failing:
            raise ZeroDivisionError("a mistake of ours")
        return asked(session, now_s)

    monkeypatch.setattr(Session, "only_ping_due", only_ping_due)
    for each in sessions(world):
        each.session._next_ping_s = 0.0
        listener(world).schedule(each)
    await devices[1].closed(PATIENCE_S)
    await eventually(lambda: len(sessions(world)) == 2, PATIENCE_S)
    assert world.task is not None
    assert not world.task.done()
    assert await world.routers[0].deliver(broadcast(2, 0)) == 2
    for device in (devices[0], devices[2]):
        assert (await device.until("broadcast", PATIENCE_S))["timestamp"] == 2


@pytest.mark.parametrize("world", [{"max_errors": 40, "close_timeout_s": 10.0}], indirect=True)
async def test_the_end_of_a_session_is_whole_though_its_socket_takes_a_part(world: World) -> None:
    """One subscribe may end its session: errors and close frame go out whole, whenever the device reads them."""
    world.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", world.port))
        await loop.sock_sendall(sock, head(world))
        await eventually(lambda: len(sessions(world)) == 1, PATIENCE_S)
        names = [f"{number}" + 130 * "x" for number in range(60)]
        await loop.sock_sendall(sock, text({"type": "subscribe", "topics": dict.fromkeys(names)}))
        await eventually(lambda: not sessions(world), PATIENCE_S)
        told = bytearray()
        async with asyncio.timeout(PATIENCE_S):
            while not told.endswith(close_frame(CloseCode.TOO_MANY_ERRORS, reason(CloseCode.TOO_MANY_ERRORS))):
                part = await loop.sock_recv(sock, 65_536)
                assert part, "ended without its close frame"
                told += part
        assert told.count(b'"type":"error"') == 40


async def test_who_brings_its_token_during_a_drain_is_sent_away_like_the_others(world: World) -> None:
    """graphql-transport-ws: let in before the drain, a session only in it."""
    raw = await Raw.open(
        world, without=[b"Sec-WebSocket-Protocol"], more=[(b"Sec-WebSocket-Protocol", b"graphql-transport-ws")]
    )
    leaving = [await world.connect() for _ in range(2)]
    world.stop.set()
    assert (await leaving[0].until("goaway", PATIENCE_S))["reason"] == "drain"
    raw.transport.write(text({"type": "connection_init", "payload": {"token": world.token()}}))
    code, _ = await raw.closed()
    assert code == CloseCode.DRAIN


@pytest.mark.parametrize("world", [{"handshake_burst": 3, "handshakes_per_s": 0.001}], indirect=True)
async def test_a_refused_token_costs_its_node_one_handshake(world: World) -> None:
    """However it was found out: by the way of a head that was seen before, or by that of a new one."""
    first = await Raw.open(world)
    refused = await Raw.connect(world)
    refused.transport.write(head(world, token=b"not.a.token"))
    assert (await refused.answer()).status == 401
    third = await Raw.open(world)
    beyond = await Raw.connect(world)
    beyond.transport.write(head(world))
    assert (await beyond.answer()).status == 503
    for raw in (first, third):
        raw.transport.abort()


async def test_a_drain_without_a_file_left_sends_everybody_away_all_the_same(world: World) -> None:
    """Its first step needs a descriptor. The log says when the drain began, and what was cut off."""
    leaving = [await world.connect() for _ in range(2)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    with structlog.testing.capture_logs() as lines:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            world.stop.set()
            for device in leaving:
                assert (await device.until("goaway", PATIENCE_S))["reason"] == "drain"
            await asyncio.gather(*(device.closed(PATIENCE_S) for device in leaving))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert world.task is not None
        await asyncio.wait_for(asyncio.shield(world.task), PATIENCE_S)
    told = {line["event"]: line for line in lines}
    assert told["drain_begins"]["connections"] == 2
    assert "listener_closed_at_once" in told
    assert told["drain_ends"]["cut_off"] == 0


async def test_a_request_that_breaks_off_is_counted_and_a_bare_connect_is_not(world: World) -> None:
    """Load balancers look whether a port is open; whoever begins to ask and leaves is a request that was lost."""
    for begun in (b"", b"GET /v1/stream HTTP/1.1\r\n"):
        raw = await Raw.connect(world)
        raw.transport.write(begun)
        await eventually(lambda: len(listener(world)._others) == 1, PATIENCE_S)
        await asyncio.sleep(0.05)
        raw.transport.abort()
        await eventually(lambda: not listener(world)._others, PATIENCE_S)
    assert world.node.metrics.labelled("handshakes", "lost") == 1
    late = await Raw.connect(world)
    late.transport.write(b"GET /v1/str")
    await eventually(lambda: len(listener(world)._others) == 1, PATIENCE_S)
    listener(world)._wheel.set(next(iter(listener(world)._others)), 0.0)
    await late.rest()
    assert world.node.metrics.labelled("handshakes", "late") == 1
    assert world.node.metrics.labelled("handshakes", "lost") == 1


@pytest.mark.parametrize("world", [{"pong_deadline_s": 0.3, "slow_consumer_s": 2.0}], indirect=True)
async def test_a_ping_that_could_not_leave_is_not_held_against_a_slow_reader(world: World) -> None:
    """It has `slow_consumer_s` to catch up, not `pong_deadline_s`: it cannot answer what waits behind the rest."""
    world.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", world.port))
        await loop.sock_sendall(sock, head(world) + text({"type": "subscribe", "topics": {TOPIC: 0}}))
        await eventually(lambda: len(sessions(world)) == 1 and bool(sessions(world)[0].subscriptions), PATIENCE_S)
        (connection,) = sessions(world)
        await eventually(lambda: TOPIC in world.routers[0].topics, PATIENCE_S)
        last, stands = 0, 0
        while stands < 4:  # not for a moment's hesitation
            assert last < 5_000, "no socket takes that much"
            await world.routers[0].deliver(broadcast(last + 1, last))
            last += 1
            if connection.congested:
                await asyncio.sleep(0.05)
                stands = stands + 1 if connection.congested else 0
        connection.session._next_ping_s = 0.0
        listener(world).schedule(connection)
        await eventually(lambda: not sessions(world), PATIENCE_S)
    assert world.node.metrics.labelled("closes", "4003", "v1") == 1
