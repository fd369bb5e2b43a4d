"""Goal: the lean client speaks RFC 6455 and stagecue.v1 with a server somebody else wrote, and survives faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from scripted_node import ScriptedNode, eventually, scripted_node

from device_sim.client import Channel, ClientContext, DeviceClient
from device_sim.device import Device, DeviceOptions

TOPIC = "event:fight"
OPTIONS = DeviceOptions(reconnect_window_ms=50, fetches_maps=False)


@pytest.fixture
async def node() -> AsyncIterator[ScriptedNode]:
    async with scripted_node() as running:
        yield running


@pytest.fixture
async def context() -> AsyncIterator[ClientContext]:
    context = ClientContext(asyncio.get_running_loop(), seed=11)
    yield context
    await context.close()


def connect(context: ClientContext, node: ScriptedNode, *, topics: tuple[str, ...] = (TOPIC,), **more) -> DeviceClient:
    device = Device("d-1", more.pop("options", OPTIONS), token="secret")
    client = DeviceClient(context, [Channel.from_url(node.url)], device, **more)
    for topic in topics:
        client.follow(topic)
    client.start()
    return client


async def stop(client: DeviceClient) -> None:
    client.stop()
    await eventually(lambda: client.is_closed)


async def test_a_live_broadcast_is_rendered(node: ScriptedNode, context: ClientContext) -> None:
    client = connect(context, node, source="127.0.0.9")
    await eventually(lambda: client.device.topics[TOPIC].cursor == 0)
    await node.broadcast(TOPIC, "live", 1000)
    await eventually(lambda: client.device.topics[TOPIC].cursor == 1000)
    assert [(r.state_key, r.timestamp) for r in client.device.renders or ()] == [("default", 0), ("live", 1000)]
    assert [type(a.frame).__name__ for a in client.arrivals or ()] == ["ContinuityFrame", "BroadcastFrame"]
    assert node.tokens == ["Bearer secret"]
    assert next(iter(node.connections)).remote_address[0] == "127.0.0.9"
    await stop(client)
    assert context.stats.open == 0


async def test_what_was_missed_while_dropped_is_replayed_and_rendered_once(
    node: ScriptedNode, context: ClientContext
) -> None:
    client = connect(context, node)
    await node.broadcast(TOPIC, "upcoming", 1000)
    await eventually(lambda: client.device.topics[TOPIC].cursor == 1000)
    client.drop()
    await eventually(lambda: not client.device.online)
    await node.broadcast(TOPIC, "live", 2000)
    await node.broadcast(TOPIC, "ended", 3000)
    await eventually(lambda: client.device.topics[TOPIC].cursor == 3000)
    assert [(r.state_key, r.cause) for r in client.device.renders or ()][-1] == ("ended", "default")
    assert "live" not in [r.state_key for r in client.device.renders or ()]
    await stop(client)


async def test_offline_for_a_while_then_back(node: ScriptedNode, context: ClientContext) -> None:
    client = connect(context, node)
    await eventually(lambda: client.device.online)
    client.offline(0.15)
    assert not client.device.online
    await node.broadcast(TOPIC, "live", 1000)
    await asyncio.sleep(0.1)
    assert client.device.topics[TOPIC].cursor in (None, 0)
    await eventually(lambda: client.device.topics[TOPIC].cursor == 1000)
    assert context.stats.handshakes == 2
    await stop(client)


async def test_large_fragmented_and_pipelined_messages(node: ScriptedNode, context: ClientContext) -> None:
    """Frames of 16- and 64-bit lengths, fragments with a ping between them, and many frames in one segment."""
    client = connect(context, node)
    await eventually(lambda: client.device.online and bool(node.connections))
    connection = next(iter(node.connections))

    def schedule(revision: int, stages: int) -> str:
        times = ",".join(f'"s{number}":{number}' for number in range(stages))
        return f'{{"type":"schedule","topic":"{TOPIC}","revision":{revision},"version":1,"times":{{{times}}}}}'

    await connection.send(schedule(1, 20))
    await connection.send(schedule(2, 10_000))

    async def fragments():
        text = schedule(3, 5000)
        for start in range(0, len(text), 4000):
            yield text[start : start + 4000]
            await (await connection.ping())

    await connection.send(fragments())
    for timestamp in range(1, 201):
        await node.broadcast(TOPIC, "live", timestamp)
    await eventually(lambda: client.device.topics[TOPIC].cursor == 200)
    assert client.device.topics[TOPIC].revision == 3
    assert len(client.device.topics[TOPIC].times or ()) == 5000
    assert context.stats.protocol_violations == 0
    await stop(client)


async def test_terminal_close_codes_end_it_others_do_not(node: ScriptedNode, context: ClientContext) -> None:
    client = connect(context, node)
    await eventually(lambda: client.device.online)
    await next(iter(node.connections)).close(4000, "drain")
    await eventually(lambda: context.stats.handshakes == 2 and client.device.online)
    await next(iter(node.connections)).close(4500, "no")
    await eventually(lambda: client.device.ended_by == 4500)
    await asyncio.sleep(0.2)
    assert context.stats.handshakes == 2
    assert client.is_closed


@pytest.mark.parametrize(("status", "ends"), [(503, False), (401, True), (403, True)])
async def test_refused_handshakes(node: ScriptedNode, context: ClientContext, status: int, ends: bool) -> None:
    node.refuse_with = status
    client = connect(context, node)
    await eventually(lambda: context.stats.refused >= 1)
    if ends:
        assert client.device.ended_by == 4500
    else:
        node.refuse_with = None
        await eventually(lambda: client.device.online)
    await stop(client)


async def test_nobody_listens_then_somebody_does(context: ClientContext, unused_tcp_port: int) -> None:
    channels = [Channel("127.0.0.1", unused_tcp_port, "/v1/stream")]
    client = DeviceClient(context, channels, Device("d-1", OPTIONS))
    client.follow(TOPIC)
    client.start()
    # A device hears of a socket that could not be opened a turn after it was counted.
    await eventually(lambda: client.device.failures >= 2)
    assert context.stats.failed >= 2
    async with scripted_node() as node:
        channels[0] = Channel.from_url(node.url)
        await eventually(lambda: client.device.online)
        assert client.device.failures == 0
        await stop(client)


async def test_a_silent_node_is_left(context: ClientContext) -> None:
    """A half-open connection, and a node that never welcomes, are noticed by the device itself."""
    options = DeviceOptions(reconnect_window_ms=50, fetches_maps=False, welcome_within_ms=200)
    async with scripted_node(silent=True) as node:
        client = connect(context, node, options=options)
        await eventually(lambda: client.device.failures >= 1)
        node.silent = False
        await eventually(lambda: client.device.online)
        await stop(client)


async def test_stale_opens_a_second_socket_and_leaves_the_first_after_its_welcome(
    node: ScriptedNode, context: ClientContext
) -> None:
    client = connect(context, node)
    await eventually(lambda: client.device.online)
    first = next(iter(node.connections))
    await node.say(first, {"type": "stale"})
    await eventually(lambda: context.stats.handshakes == 2 and first not in node.connections)
    assert client.device.online
    assert first.close_code == 1000
    await node.broadcast(TOPIC, "live", 1000)
    await eventually(lambda: client.device.topics[TOPIC].cursor == 1000)
    await stop(client)


async def test_acks_and_holes_reach_the_node(node: ScriptedNode, context: ClientContext) -> None:
    client = connect(context, node)
    await eventually(lambda: client.device.topics[TOPIC].cursor == 0)
    await node.broadcast(TOPIC, "live", 1000, ack={"one_in": 1, "within_ms": 50}, unknown_field=1)
    await node.broadcast(TOPIC, "late", 3000, prev=2000)
    await eventually(lambda: bool(node.sent("ack")) and bool(node.sent("hole")))
    assert node.sent("ack") == [{"type": "ack", "topic": TOPIC, "timestamp": 1000}]
    assert node.sent("hole") == [{"type": "hole", "topic": TOPIC, "cursor": 1000, "prev": 2000, "timestamp": 3000}]
    await stop(client)


async def test_fifty_devices_come_back_together(node: ScriptedNode, context: ClientContext) -> None:
    clients = [connect(context, node) for _ in range(50)]
    await eventually(lambda: all(client.device.online for client in clients))
    for client in clients:
        client.drop()
    await eventually(lambda: context.stats.handshakes == 100 and all(client.device.online for client in clients))
    await node.broadcast(TOPIC, "live", 1000)
    await eventually(lambda: all(client.device.topics[TOPIC].cursor == 1000 for client in clients))
    for client in clients:
        client.stop()
    await eventually(lambda: context.stats.open == 0)
