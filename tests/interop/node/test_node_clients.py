"""Clients other people wrote, for Node: the npm packages graphql-ws and ws against real nodes on real sockets."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.push_proxy.push_world import TOPIC, World, broadcast, eventually
from tests.interop.node.node_process import PATIENCE_S, NodeProcess, node_client

DOCUMENT = Path(__file__).parents[3] / "docs" / "graphql-stream.md"
pytestmark = pytest.mark.external_service


@contextlib.asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[World]:
    world = World(**({"link_silence_s": 30.0, "verdict_wait_s": 20.0, "reconnect_window_ms": 200} | settings))
    await world.start()
    world.router()
    try:
        yield world
    finally:
        await world.end()


def graphql_device(world: World, cursor: int | None = None, **more: Any) -> contextlib.AbstractAsyncContextManager[Any]:
    asked = {"url": world.url, "tokens": [world.token()], "topics": [{"topic": TOPIC, "cursor": cursor}]}
    return node_client("graphql_device.mjs", json.dumps(asked | more))


def v1_device(world: World, **more: Any) -> contextlib.AbstractAsyncContextManager[Any]:
    asked = {"url": world.url, "protocols": ["stagecue.v1"], "headers": {"Authorization": f"Bearer {world.token()}"}}
    return node_client("v1_device.mjs", json.dumps(asked | more))


async def live(world: World, timestamp: int, prev: int) -> None:
    """A broadcast as a router makes it: into the log, and delivered."""
    await world.publish(broadcast(timestamp, prev))
    assert await world.routers[-1].deliver(broadcast(timestamp, prev)) == 1


def applied(device: NodeProcess) -> list[int]:
    return [told["timestamp"] for told in device.seen if told["event"] == "applied"]


# graphql-ws.


async def test_graphql_ws_is_welcomed_told_and_sent_what_comes() -> None:
    async with running() as world:
        await world.publish(broadcast(10, 0), broadcast(20, 10))
        async with graphql_device(world, 10) as device:
            await device.until("connected")
            assert (await device.item("Session"))["kind"] == "WELCOME"
            said = await device.item("Continuity")
            assert (said["verdict"], said["latest"], said["current"]) == ("COMPLETE", 20, "s20")
            assert (await device.item("Broadcast"))["replayed"] is True
            assert (await device.item("ScheduleChange"))["revision"] == 1
            await live(world, 30, 20)
            await device.until("applied", lambda told: told["timestamp"] == 30)
            assert applied(device) == [20, 30]
            await device.done()
        await eventually(lambda: b"stagecue_push_connections 0.0" in world.node.metrics.render(), PATIENCE_S)


async def test_graphql_ws_returns_after_a_drain_with_its_cursor() -> None:
    """Sent away with a moment of its own, it comes back to another node and is sent exactly what it missed."""
    async with running() as world, graphql_device(world) as device:
        await device.item("ScheduleChange")
        await live(world, 10, 0)
        await device.until("applied")
        port, ring = world.port, world.ring
        world.stop.set()
        goaway = await device.item("Session")
        assert goaway["kind"] == "GOAWAY"
        assert (await device.until("closed"))["code"] == 4000
        assert (await device.until("waiting"))["waitMs"] == goaway["reconnectAfterMs"]
        assert world.task is not None
        await world.task
        other = World(port=port, ring=ring, node_id="n2", link_silence_s=30.0, verdict_wait_s=20.0)
        await other.publish(broadcast(10, 0), broadcast(20, 10), broadcast(30, 20))
        await other.start()
        other.router()
        try:
            await device.until("applied", lambda told: told["timestamp"] == 30)
            assert applied(device) == [10, 20, 30]
            await live(other, 40, 30)
            await device.until("applied", lambda told: told["timestamp"] == 40)
            await device.done()
        finally:
            await other.end()


async def test_graphql_ws_returns_after_its_socket_broke() -> None:
    async with running() as world, graphql_device(world) as device:
        await device.item("ScheduleChange")
        await live(world, 10, 0)
        await device.until("applied")
        for connection in list(world.node.service._listener._sessions):
            connection.abort()
        assert (await device.until("closed"))["code"] == 1006
        await world.publish(broadcast(20, 10))
        await device.until("applied", lambda told: told["timestamp"] == 20)
        assert applied(device) == [10, 20]
        await device.done()


async def test_graphql_ws_brings_another_token_after_a_bad_one() -> None:
    """4403 is not final: the client asks its application for new parameters on every attempt."""
    async with running() as world, graphql_device(world, tokens=["no token", world.token()]) as device:
        assert (await device.until("closed"))["code"] == 4403
        await device.until("connected")
        assert (await device.item("Session"))["kind"] == "WELCOME"
        await device.done()


async def test_graphql_ws_stays_away_where_coming_back_could_not_help() -> None:
    async with running(max_errors=1) as world, graphql_device(world, query="subscription { nonsense }") as device:
        refused = await device.until("error")
        assert refused["error"][0]["extensions"] == {"code": "invalid_request", "field": "query"}
        assert (await device.until("closed"))["code"] in (4400, 1000)
        await device.done()
        assert not [told for told in device.seen if told["event"] == "waiting"]


async def test_graphql_ws_waits_for_room() -> None:
    """A full node answers 503; the client tries again, paced by its window, and gets in once there is room."""
    async with running(max_connections=1) as world:
        first = await world.connect()
        async with graphql_device(world) as device:
            await device.until("closed")
            await device.until("waiting")
            await first.connection.close()
            await device.until("connected")
            await device.done()


async def test_graphql_ws_in_a_page_is_told_when_to_be_back() -> None:
    """With an Origin the refusal is one a page can read: its code is not final, its reason names a moment."""
    async with running(max_connections=1) as world:
        first = await world.connect()
        async with graphql_device(world, origin="https://tv.example.com") as device:
            closed = await device.until("closed")
            assert closed["code"] == 4002
            told = int(closed["reason"].partition("reconnect_after_ms=")[2])
            assert (await device.until("waiting"))["waitMs"] == told
            await first.connection.close()
            await device.until("connected")
            await device.done()


async def test_graphql_ws_pings_and_is_pinged() -> None:
    async with running(ping_s=1.0, pong_deadline_s=0.9) as world, graphql_device(world, keepAliveMs=100) as device:
        await device.until("connected")
        await device.until("ping", lambda told: told["received"])
        await device.until("pong", lambda told: not told["received"])
        await device.until("pong", lambda told: told["received"])
        await live(world, 10, 0)
        await device.until("applied")
        assert not [told for told in device.seen if told["event"] == "closed"]
        await device.done()


async def test_graphql_ws_reports_and_ends_an_operation() -> None:
    async with running() as world, graphql_device(world) as device:
        await device.item("ScheduleChange")
        await live(world, 10, 0)
        assert (await device.item("Broadcast"))["ack"]["oneIn"] == 100
        query = "mutation ($topic: String!) { acknowledge(topic: $topic, timestamp: 10) }"
        await device.tell(run="ack", payload={"query": query, "variables": {"topic": TOPIC}})
        answer = await device.until("next", lambda told: told["name"] == "ack")
        assert answer["result"] == {"data": {"acknowledge": True}}
        await device.until("complete", lambda told: told["name"] == "ack")
        reach = world.routers[0].reach
        await eventually(lambda: (TOPIC, 10) in reach and reach[TOPIC, 10].acked == 1, PATIENCE_S)
        await device.tell(complete="main")
        await device.until("complete", lambda told: told["name"] == "main")
        await eventually(lambda: b"stagecue_push_subscriptions 0.0" in world.node.metrics.render(), PATIENCE_S)
        await device.done()


async def test_the_client_of_the_document_shows_every_state() -> None:
    """docs/graphql-stream.md shows a client: it runs as it stands, and resumes where it was."""
    code = re.search(r"```js\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert code is not None
    async with running() as world:
        await world.publish(broadcast(10, 0))
        channel = {"url": world.url, "token": world.token(), "topics": [{"topic": TOPIC}], "connectWindowMs": 100}
        preamble = (
            f"import WebSocket from 'ws'; const channel = {json.dumps(channel)};\n"
            "const shown = (topic, stateKey) => console.log(JSON.stringify({ event: 'shown', topic, stateKey }));\n"
        )
        async with node_client("--input-type=module", "--eval", preamble + code[1]) as device:
            assert (await device.until("shown"))["stateKey"] == "s10"
            await live(world, 20, 10)
            assert (await device.until("shown"))["stateKey"] == "s20"
            for connection in list(world.node.service._listener._sessions):
                connection.abort()
            await world.publish(broadcast(30, 20))
            assert (await device.until("shown"))["stateKey"] == "s30"
            assert [told["stateKey"] for told in device.seen] == ["s10", "s20", "s30"]


# ws, on stagecue.v1.


async def frame(device: NodeProcess, kind: str) -> dict[str, Any]:
    told = await device.until("message", lambda told: told["frame"]["type"] == kind)
    assert told["binary"] is False
    return dict(told["frame"])


SUBSCRIBE = json.dumps({"type": "subscribe", "topics": {TOPIC: 0}})


async def test_ws_is_welcomed_told_and_sent_what_comes() -> None:
    """It offers compression, which is not taken."""
    async with running() as world, v1_device(world) as device:
        await world.publish(broadcast(10, 0))
        opened = await device.until("open")
        assert (opened["protocol"], opened["extensions"]) == ("stagecue.v1", "")
        await frame(device, "welcome")
        await device.tell(send=SUBSCRIBE)
        assert (await frame(device, "continuity"))["verdict"] == "complete"
        assert (await frame(device, "broadcast"))["replayed"] is True
        await live(world, 20, 10)
        assert (await frame(device, "broadcast"))["timestamp"] == 20
        await device.tell(close=1000)
        assert (await device.until("close"))["code"] == 1000


async def test_ws_offers_its_token_as_a_browser_does() -> None:
    async with running() as world:
        protocols = ["stagecue.v1", f"stagecue.bearer.{world.token()}"]
        async with v1_device(world, protocols=protocols, headers={}, origin="https://tv.example.com") as device:
            assert (await device.until("open"))["protocol"] == "stagecue.v1"
            await frame(device, "welcome")


async def test_ws_sends_a_message_in_pieces_with_a_ping_between() -> None:
    async with running() as world, v1_device(world) as device:
        await frame(device, "welcome")
        await device.tell(pieces=[SUBSCRIBE[:7], "", SUBSCRIBE[7:20], SUBSCRIBE[20:]])
        assert (await device.until("pong"))["data"] == "between"
        assert (await frame(device, "continuity"))["verdict"] == "complete"


async def test_ws_answers_pings_and_lives_on() -> None:
    async with running(ping_s=1.0, pong_deadline_s=0.9) as world, v1_device(world) as device:
        await frame(device, "welcome")
        await device.tell(send=SUBSCRIBE)
        for _ in range(3):
            await device.until("ping")
        await live(world, 10, 0)
        assert (await frame(device, "broadcast"))["timestamp"] == 10


@pytest.mark.parametrize(
    ("command", "code"), [({"binary": "x"}, 1003), ({"send": "x" * 20_000}, 1009), ({"close": 3000}, 3000)]
)
async def test_ws_reads_the_codes_it_is_closed_with(command: dict[str, Any], code: int) -> None:
    async with running() as world, v1_device(world) as device:
        await frame(device, "welcome")
        await device.tell(**command)
        assert (await device.until("close"))["code"] == code


async def test_ws_is_sent_away_by_a_drain() -> None:
    async with running() as world, v1_device(world) as device:
        await frame(device, "welcome")
        await device.tell(send=SUBSCRIBE)
        await frame(device, "schedule")
        world.stop.set()
        assert (await frame(device, "goaway"))["reason"] == "drain"
        assert (await device.until("close"))["code"] == 4000


async def test_ws_reads_why_it_is_refused() -> None:
    async with running() as world:
        async with v1_device(world, headers={"Authorization": "Bearer nonsense"}) as device:
            refused = await device.until("refused")
            assert refused["status"] == 401
            assert refused["headers"]["content-type"] == "application/problem+json"
        page = {"headers": {"Authorization": "Bearer nonsense"}, "origin": "https://tv.example.com"}
        async with v1_device(world, **page) as device:
            assert (await device.until("close"))["code"] == 4500
