"""A connection that ended leaves nothing to the collector of cycles: returning herds would pile up until it runs."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Iterator

import pytest
import websockets
from push_world import TOPIC, World, eventually

PATIENCE_S = 20
KINDS = ("StreamConnection", "GraphqlConnection", "SseConnection", "OperationPort", "Session", "Subscription")


@pytest.fixture
def kept() -> Iterator[None]:
    """What only the collector could free stays in `gc.garbage`."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def left_over() -> list[str]:
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    return sorted({type(one).__name__ for one in gc.garbage if type(one).__name__ in KINDS})


async def stream(world: World) -> websockets.ClientConnection:
    device = await world.connect()
    await device.subscribe(0)
    await device.until("continuity", PATIENCE_S)
    return device.connection


async def graphql(world: World) -> websockets.ClientConnection:
    connection = await websockets.connect(
        world.url, subprotocols=[websockets.Subprotocol("graphql-transport-ws")], proxy=None, ping_interval=None
    )
    await connection.send(json.dumps({"type": "connection_init", "payload": {"token": world.token()}}))
    query = f'subscription {{ broadcasts(topics: [{{topic: "{TOPIC}", cursor: 0}}]) {{ __typename }} }}'
    await connection.send(json.dumps({"id": "1", "type": "subscribe", "payload": {"query": query}}))
    async with asyncio.timeout(PATIENCE_S):
        while "Continuity" not in str(await connection.recv()):
            pass
    return connection


async def events(world: World) -> asyncio.StreamWriter:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    request = f"GET /v1/events?topic={TOPIC}&cursor=0&access_token={world.token()} HTTP/1.1\r\nHost: x\r\n\r\n"
    writer.write(request.encode())
    await asyncio.wait_for(reader.readuntil(b"event: continuity"), PATIENCE_S)
    return writer


@pytest.mark.parametrize("connect", [stream, graphql, events])
@pytest.mark.usefixtures("kept")
async def test_nothing_is_left(world: World, connect: object) -> None:
    """In each protocol, with a subscription, whoever closes first."""
    for ends in ("close", "abort"):
        client = await connect(world)  # type: ignore[operator]
        if ends == "abort":
            client.transport.abort()
        else:
            closing = client.close()
            if closing is not None:
                await closing
        await eventually(lambda: b"stagecue_push_connections 0.0" in world.node.metrics.render(), PATIENCE_S)
        await eventually(lambda: b"stagecue_push_subscriptions 0.0" in world.node.metrics.render(), PATIENCE_S)
        await asyncio.sleep(0.05)
        assert left_over() == []
