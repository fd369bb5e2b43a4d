"""graphql-transport-ws over real sockets: a whole node, the websockets client, and what the protocol promises."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
import websockets
from push_world import TOPIC, World, broadcast, eventually, schedule
from websockets.frames import Frame, Opcode

WHOLE = """subscription ($topics: [TopicCursor!]!) { broadcasts(topics: $topics) {
  __typename
  ... on Broadcast { topic stateKey timestamp prev replayed skipped ack { oneIn } }
  ... on Continuity { topic verdict current: stateKey latest }
  ... on ScheduleChange { topic revision version times { key dueAt } }
  ... on Session { kind node lifetimeS reconnectWindowMs refetchWindowMs token reason reconnectAfterMs }
} }"""
PATIENCE_S = 20.0
OTHER = "event:other"


@pytest.fixture
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """A node that waits for its router and its log, however busy the machine; some tests say otherwise."""
    made = World(**({"link_silence_s": 30.0, "verdict_wait_s": 20.0} | getattr(request, "param", {})))
    await made.start()
    made.router()
    yield made
    await made.end()


class GraphqlDevice:
    """A client that reads messages."""

    def __init__(self, connection: websockets.ClientConnection) -> None:
        self.connection = connection

    async def send(self, message: object) -> None:
        await self.connection.send(message if isinstance(message, bytes | str) else json.dumps(message))

    async def next(self, timeout: float = PATIENCE_S) -> dict[str, Any]:
        message = json.loads(await asyncio.wait_for(self.connection.recv(), timeout))
        assert isinstance(message, dict)
        return message

    async def subscribe(self, id: str, *topics: Any, query: str = WHOLE) -> None:
        cursors = [topic if isinstance(topic, dict) else {"topic": topic} for topic in topics]
        payload = {"query": query, "variables": {"topics": cursors}}
        await self.send({"id": id, "type": "subscribe", "payload": payload})

    async def item(self, kind: str, id: str = "1") -> dict[str, Any]:
        """The next item of a member; others are passed over, messages of other operations too."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                message = await self.next()
                if message.get("id") != id:
                    continue
                assert message["type"] == "next", message
                item = (message["payload"]["data"] or {}).get("broadcasts") or {}
                if item.get("__typename") == kind:
                    return dict(item)

    async def closed(self) -> int | None:
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(websockets.ConnectionClosed):
                while True:
                    await self.connection.recv()
            await self.connection.wait_closed()
        return self.connection.close_code

    async def quiet(self, for_s: float = 0.15) -> None:
        with contextlib.suppress(TimeoutError):
            pytest.fail(f"unexpected {await self.next(for_s)}")


async def opened(world: World, **more: Any) -> GraphqlDevice:
    connection = await websockets.connect(
        world.url,
        subprotocols=[websockets.Subprotocol("graphql-transport-ws")],
        compression=None,
        proxy=None,
        ping_interval=None,
        **more,
    )
    device = GraphqlDevice(connection)
    world.devices.append(device)  # type: ignore[arg-type]
    return device


async def acknowledged(world: World, token: str | None = None) -> GraphqlDevice:
    device = await opened(world)
    assert device.connection.subprotocol == "graphql-transport-ws"
    await device.send({"type": "connection_init", "payload": {"token": token or world.token()}})
    assert await device.next() == {"type": "connection_ack"}
    return device


async def following(world: World, id: str = "1", *topics: Any, query: str = WHOLE) -> GraphqlDevice:
    """Acknowledged, subscribed, and told where it stands and what is planned."""
    device = await acknowledged(world)
    await device.subscribe(id, *(topics or (TOPIC,)), query=query)
    await device.item("ScheduleChange", id)
    return device


# The stream.


async def test_from_welcome_to_live(world: World) -> None:
    """The session's terms, the verdict, what was missed, the schedule, then broadcasts as they come."""
    await world.publish(broadcast(10, 0), broadcast(20, 10))
    device = await acknowledged(world)
    await device.subscribe("1", {"topic": TOPIC, "cursor": 10})
    welcome = await device.next()
    assert (welcome["id"], welcome["type"]) == ("1", "next")
    session = welcome["payload"]["data"]["broadcasts"]
    assert (session["__typename"], session["kind"], session["node"]) == ("Session", "WELCOME", "n1")
    assert session["reconnectWindowMs"] == world.settings.reconnect_window_ms
    assert await device.item("Continuity") == {
        "__typename": "Continuity",
        "topic": TOPIC,
        "verdict": "COMPLETE",
        "current": "s20",
        "latest": 20,
    }
    replayed = await device.item("Broadcast")
    assert (replayed["timestamp"], replayed["prev"], replayed["replayed"]) == (20, 10, True)
    planned = await device.item("ScheduleChange")
    assert planned["times"] == [{"key": "live", "dueAt": 1001}]
    assert await world.routers[0].deliver(broadcast(30, 20)) == 1
    live = await device.item("Broadcast")
    assert (live["timestamp"], live["stateKey"], live["replayed"], live["skipped"]) == (30, "s30", False, [])
    await world.routers[0].deliver(schedules=[schedule(2)])
    assert (await device.item("ScheduleChange"))["revision"] == 2


async def test_every_device_hears_what_it_asked_for(world: World) -> None:
    """Three documents, two of which select the same: one broadcast reaches all, each in its own words."""
    asks = "($topics: [TopicCursor!]!) { {alias}broadcasts(topics: $topics) { {wants} } }"
    words = {
        "plain": "subscription " + asks.replace("{alias}", "").replace("{wants}", "... on Broadcast { timestamp }"),
        "same": "fragment F on Broadcast { timestamp } subscription S"
        + asks.replace("{alias}", "").replace("{wants}", "...F"),
        "other": "subscription "
        + asks.replace("{alias}", "news: ").replace("{wants}", "... on Broadcast { at: timestamp topic }"),
    }
    devices = {}
    for name, query in words.items():
        devices[name] = device = await acknowledged(world)
        await device.subscribe(name, TOPIC, query=query)
        assert await device.next() == {"id": name, "type": "next", "payload": {"data": {_root(name): {}}}}
    v1 = await world.connect()
    await v1.subscribe(None)
    for device in devices.values():
        for _ in range(2):  # continuity and schedule, of which these documents want nothing
            assert (await device.next())["type"] == "next"
    await v1.until("schedule")
    assert await world.routers[0].deliver(broadcast(10, 0)) == 4
    for name in ("plain", "same"):
        assert (await devices[name].next())["payload"] == {"data": {"broadcasts": {"timestamp": 10}}}
    assert (await devices["other"].next())["payload"] == {"data": {"news": {"at": 10, "topic": TOPIC}}}
    assert (await v1.until("broadcast"))["timestamp"] == 10


def _root(name: str) -> str:
    return "news" if name == "other" else "broadcasts"


@pytest.mark.parametrize(("cursor", "verdict"), [(5, "GAP"), (10, "COMPLETE"), (40, "AHEAD"), (None, "COMPLETE")])
async def test_verdicts(world: World, cursor: int | None, verdict: str) -> None:
    await world.publish(broadcast(10, 0), broadcast(20, 10))
    await world.log.trim(TOPIC, keep=1, before=0)
    device = await acknowledged(world)
    await device.subscribe("1", {"topic": TOPIC, "cursor": cursor})
    said = await device.item("Continuity")
    assert (said["verdict"], said["latest"], said["current"]) == (verdict, 20, "s20")


@pytest.mark.parametrize("world", [{"verdict_wait_s": 0.2}], indirect=True)
async def test_pending_is_said_and_the_verdict_follows(world: World) -> None:
    """While the log cannot be read, live broadcasts flow; the chain is whole in the end."""
    await world.publish(broadcast(10, 0))
    world.log.gate = asyncio.Event()
    device = await acknowledged(world)
    await device.subscribe("1", {"topic": TOPIC, "cursor": 0})
    assert (await device.item("Continuity"))["verdict"] == "PENDING"
    world.log.gate.set()
    assert (await device.item("Continuity"))["verdict"] == "COMPLETE"
    assert (await device.item("Broadcast"))["timestamp"] == 10


async def test_operations_of_a_connection_are_streams_of_their_own(world: World) -> None:
    """Each hears its topics only; completing one leaves the other, and its topic may be asked for again."""
    await world.view.put(schedule(topic=OTHER))
    device = await following(world)
    await device.subscribe("2", OTHER)
    await device.item("ScheduleChange", "2")
    await device.subscribe("3", TOPIC)
    refused = await device.next()
    assert (refused["id"], refused["type"]) == ("3", "error")
    assert "followed by another operation" in refused["payload"][0]["message"]
    await world.routers[0].deliver(broadcast(10, 0), broadcast(10, 0, topic=OTHER))
    assert (await device.item("Broadcast", "1"))["topic"] == TOPIC
    assert (await device.item("Broadcast", "2"))["topic"] == OTHER
    await device.send({"id": "1", "type": "complete"})
    await device.subscribe("3", {"topic": TOPIC, "cursor": 0})
    assert (await device.item("Broadcast", "3"))["replayed"] is True
    assert await world.routers[0].deliver(broadcast(20, 10)) == 1
    assert (await device.item("Broadcast", "3"))["timestamp"] == 20
    await device.send({"id": "3", "type": "complete"})
    await device.send({"id": "2", "type": "complete"})
    await device.send({"type": "ping"})
    assert await device.next() == {"type": "pong"}
    assert await world.routers[0].deliver(broadcast(30, 20)) == 0
    await device.quiet()


async def test_an_unknown_topic_is_an_error_beside_the_others_and_the_end_of_an_operation_of_its_own(
    world: World,
) -> None:
    device = await acknowledged(world)
    await device.subscribe("1", "event:nowhere", TOPIC)
    await device.subscribe("2", "event:nowhere2")
    seen: dict[str, list[Any]] = {"1": [], "2": []}
    while len(seen["1"]) < 4 or len(seen["2"]) < 3:
        message = await device.next()
        seen[message["id"]].append(message)
    errors = [m["payload"]["errors"][0] for m in seen["1"] if m["payload"].get("errors")]
    assert [error["extensions"] for error in errors] == [{"code": "unknown_topic", "topic": "event:nowhere"}]
    assert errors[0]["path"] == ["broadcasts"]
    welcome, refused, complete = seen["2"]
    assert welcome["payload"]["data"]["broadcasts"]["kind"] == "WELCOME"
    assert refused["payload"]["errors"][0]["extensions"]["code"] == "unknown_topic"
    assert complete == {"id": "2", "type": "complete"}
    assert await world.routers[0].deliver(broadcast(10, 0)) == 1
    assert (await device.item("Broadcast"))["timestamp"] == 10


async def test_the_stage_map_held_is_counted_as_coverage(world: World) -> None:
    """With the cursor comes what the device holds: it counts, and the schedule it has is not sent again."""
    device = await acknowledged(world)
    await device.subscribe("1", {"topic": TOPIC, "heldVersion": 7, "heldRevision": 1})
    await device.item("Continuity")
    await device.quiet()
    coverage = world.node.service._node.coverage
    assert coverage._held == {TOPIC: {7: 1}}
    await device.send({"id": "1", "type": "complete"})
    await eventually(lambda: not coverage._held.get(TOPIC), PATIENCE_S)


async def test_reports_are_counted_as_reach(world: World) -> None:
    """Acknowledgements and holes of GraphQL devices, in the same counts as everybody's."""
    device = await following(world)
    await world.routers[0].deliver(broadcast(10, 0))
    asked = await device.item("Broadcast")
    assert asked["ack"] == {"oneIn": 100}
    query = """mutation ($topic: String!) {
      acknowledge(topic: $topic, timestamp: 10)
      reportHole(topic: $topic, cursor: 1, prev: 5, timestamp: 10)
    }"""
    await device.send({"id": "m", "type": "subscribe", "payload": {"query": query, "variables": {"topic": TOPIC}}})
    assert await device.next() == {
        "id": "m",
        "type": "next",
        "payload": {"data": {"acknowledge": True, "reportHole": True}},
    }
    assert await device.next() == {"id": "m", "type": "complete"}
    reach = world.routers[0].reach
    await eventually(lambda: (TOPIC, 10) in reach and reach[TOPIC, 10].acked == 1, PATIENCE_S)
    await eventually(lambda: reach[TOPIC, 10].holes == 1, PATIENCE_S)


# Tokens.


async def test_tokens(world: World) -> None:
    device = await opened(world)
    await device.send({"type": "connection_init", "payload": {"token": world.token(lives_s=-(10**6))}})
    assert await device.closed() == 4403
    device = await opened(world)
    await device.send({"type": "connection_init"})
    assert await device.closed() == 4403
    device = await opened(world)
    await device.send({"type": "connection_init", "payload": {"Authorization": f"Bearer {world.token()}"}})
    assert await device.next() == {"type": "connection_ack"}
    device = await opened(world, additional_headers={"Authorization": f"Bearer {world.token()}"})
    await device.send({"type": "connection_init", "payload": {}})
    assert await device.next() == {"type": "connection_ack"}
    with pytest.raises(websockets.InvalidStatus) as caught:
        await opened(world, additional_headers={"Authorization": "Bearer nonsense"})
    assert caught.value.response.status_code == 401


async def test_a_token_for_some_topics(world: World) -> None:
    device = await acknowledged(world, world.token(topics=(TOPIC,)))
    await device.subscribe("1", OTHER)
    refused = await device.next()
    assert (refused["type"], refused["payload"][0]["extensions"]["code"]) == ("error", "forbidden_topic")
    await device.subscribe("1", TOPIC)
    assert (await device.item("Continuity"))["verdict"] == "COMPLETE"


async def test_a_renewed_token_is_told_and_good(world: World) -> None:
    device = await acknowledged(world, world.token(lives_s=2))
    await device.subscribe("1", TOPIC)
    while (session := await device.item("Session"))["kind"] != "TOKEN":
        pass
    again = await acknowledged(world, session["token"])
    await again.subscribe("1", TOPIC)
    await again.item("Continuity")


# What the node says and does.


@pytest.mark.parametrize("world", [{"ping_s": 1.0, "pong_deadline_s": 0.9}], indirect=True)
async def test_pings_go_both_ways_and_silence_ends(world: World) -> None:
    """A page sees the protocol's own pings; either kind of pong, or anything else, is a sign of life."""
    device = await following(world)
    for _ in range(2):
        while (await device.next())["type"] != "ping":
            pass
        await device.send({"type": "pong"})
    await device.send({"type": "ping", "payload": {"n": 1}})
    while (message := await device.next())["type"] == "ping":
        pass
    assert message == {"type": "pong", "payload": {"n": 1}}
    silent = await asyncio.to_thread(_silent, world.port, world.token())
    await eventually(lambda: world.node.metrics.value("closed_silent") == 1, PATIENCE_S)
    assert struct.pack("!H", 4104) in await asyncio.to_thread(_read_all, silent)
    assert device.connection.close_code is None


def _silent(port: int, token: str) -> socket.socket:
    """A client that subscribes and then says nothing, not even a pong."""
    raw = socket.create_connection(("127.0.0.1", port))
    raw.settimeout(PATIENCE_S)
    raw.sendall(
        b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n"
    )
    query = f'subscription {{ broadcasts(topics: [{{topic: "{TOPIC}"}}]) {{ __typename }} }}'
    for message in (
        {"type": "connection_init", "payload": {"token": token}},
        {"id": "1", "type": "subscribe", "payload": {"query": query}},
    ):
        raw.sendall(Frame(Opcode.TEXT, json.dumps(message).encode()).serialize(mask=True))
    return raw


def _read_all(raw: socket.socket) -> bytes:
    received = b""
    with raw:
        while chunk := raw.recv(65_536):
            received += chunk
    return received


@pytest.mark.parametrize("world", [{"lease_s": 0.3, "ack_one_in": 0}], indirect=True)
async def test_stale_is_told_to_who_is_here_and_to_who_comes(world: World) -> None:
    device = await following(world)
    await world.routers[0].close()
    while (await device.item("Session"))["kind"] != "STALE":
        pass
    late = await acknowledged(world)
    await late.subscribe("1", TOPIC)
    assert [(await late.item("Session"))["kind"] for _ in range(2)] == ["WELCOME", "STALE"]


async def test_a_drain_says_when_to_be_back(world: World) -> None:
    """Each operation is told in GraphQL; the code is one after which the npm client returns."""
    devices = [await following(world) for _ in range(8)]
    idle = await acknowledged(world)
    world.stop.set()
    moments = set()
    for device in devices:
        goaway = await device.item("Session")
        assert (goaway["kind"], goaway["reason"]) == ("GOAWAY", "drain")
        assert goaway["reconnectWindowMs"] == world.settings.reconnect_window_ms
        moments.add(goaway["reconnectAfterMs"])
        assert await device.closed() == 4000
    assert len(moments) > 4
    assert await idle.closed() == 4000
    assert idle.connection.close_reason is not None
    assert "reconnect_after_ms=" in idle.connection.close_reason


@pytest.mark.parametrize("world", [{"lifetime_min_s": 1.5, "lifetime_max_s": 2.0, "stage_guard_s": 0}], indirect=True)
async def test_a_lifetime_ends_with_goaway(world: World) -> None:
    device = await following(world)
    goaway = await device.item("Session")
    assert (goaway["kind"], goaway["reason"]) == ("GOAWAY", "lifetime")
    assert await device.closed() == 4001


@pytest.mark.parametrize("world", [{"max_connections": 1}], indirect=True)
async def test_a_full_node_tells_a_page_when_to_be_back(world: World) -> None:
    """A page reads neither a status nor an operation it never had: the close's reason says it."""
    await following(world)
    refused = await opened(world, origin=websockets.Origin("https://tv.example.com"))
    assert await refused.closed() == 4002
    assert refused.connection.close_reason is not None
    assert "reconnect_after_ms=" in refused.connection.close_reason
    with pytest.raises(websockets.InvalidStatus) as caught:
        await opened(world)
    assert caught.value.response.status_code == 503
    assert int(caught.value.response.headers["Retry-After"]) >= 1


# Bad input.


@pytest.mark.parametrize("world", [{"authentication_deadline_s": 0.2}], indirect=True)
async def test_who_never_says_hello_is_closed(world: World) -> None:
    device = await opened(world)
    assert await device.closed() == 4408
    assert 'handshakes_total{outcome="late"} 1.0' in world.node.metrics.render().decode()


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"type": "connection_init", "payload": {"token": "again"}}, 4429),
        ({"type": "nonsense"}, 4400),
        ("nonsense", 4400),
        ("", 4400),
        (b"\x00\xff", 1003),
        ("[" * 20_000, 1009),
        (json.dumps({"type": "ping", "payload": {"a": "x" * 20_000}}), 1009),
        ({"id": "1", "type": "subscribe", "payload": {"query": WHOLE, "variables": {"topics": []}}}, 4409),
    ],
)
async def test_what_ends_a_connection_ends_it_alone(world: World, message: object, code: int) -> None:
    neighbour = await following(world)
    device = await following(world)
    await device.send(message)
    assert await device.closed() == code
    await eventually(lambda: b"stagecue_push_connections 1.0" in world.node.metrics.render(), PATIENCE_S)
    assert await world.routers[0].deliver(broadcast(10, 0)) == 1
    assert (await neighbour.item("Broadcast"))["timestamp"] == 10


async def test_a_subscribe_before_the_acknowledgement(world: World) -> None:
    device = await opened(world)
    await device.subscribe("1", TOPIC)
    assert await device.closed() == 4401


async def test_bad_operations_end_nothing_but_themselves(world: World) -> None:
    device = await following(world)
    for query, says in (
        ("{", "Syntax Error"),
        ("{ streamProtocol }", "not served"),
        ("{ __schema { types { name } } }", "not served"),
        ("subscription { broadcasts(topics: []) { nonsense } }", "nonsense"),
        ("subscription { broadcasts(topics: [" + "{topic: \"a\"} " * 70 + "]) { __typename } }", "70 topics"),
        ("{" * 3000, "Syntax Error"),
    ):  # fmt: skip
        await device.subscribe("bad", query=query)
        refused = await device.next()
        assert (refused["id"], refused["type"]) == ("bad", "error")
        assert says in refused["payload"][0]["message"]
    assert await world.routers[0].deliver(broadcast(10, 0)) == 1
    assert (await device.item("Broadcast"))["timestamp"] == 10


@pytest.mark.parametrize("world", [{"max_errors": 5}], indirect=True)
async def test_a_flood_of_bad_operations_ends(world: World) -> None:
    device = await following(world)
    with contextlib.suppress(websockets.ConnectionClosed):
        for _ in range(50):
            await device.subscribe("bad", query="{")
    assert await device.closed() == 4400


async def test_a_flood_of_pings_ends_and_its_neighbour_hears_everything(world: World) -> None:
    neighbour = await following(world)
    device = await following(world)
    with contextlib.suppress(websockets.ConnectionClosed):
        for _ in range(2000):
            await device.send({"type": "ping"})
    assert await device.closed() == 4009
    assert await world.routers[0].deliver(broadcast(10, 0)) == 1
    assert (await neighbour.item("Broadcast"))["timestamp"] == 10


async def test_frames_after_our_close_change_nothing(world: World) -> None:
    device = await acknowledged(world)
    await device.send("nonsense")
    with contextlib.suppress(websockets.ConnectionClosed):
        await device.subscribe("1", TOPIC)
    assert await device.closed() == 4400
    assert await world.routers[0].deliver(broadcast(10, 0)) == 0


async def test_vanished_devices_leave_nothing_behind(world: World) -> None:
    devices = [await following(world) for _ in range(5)]
    for device in devices[:3]:
        device.connection.transport.abort()
    half = await opened(world)
    half.connection.transport.abort()
    await eventually(lambda: b"stagecue_push_connections 2.0" in world.node.metrics.render(), PATIENCE_S)
    await eventually(lambda: b"stagecue_push_subscriptions 2.0" in world.node.metrics.render(), PATIENCE_S)
    assert await world.routers[0].deliver(broadcast(10, 0)) == 2


# Slow consumers.


@pytest.mark.parametrize("world", [{"slow_consumer_bytes": 65_536, "slow_consumer_s": 60.0}], indirect=True)
async def test_what_waits_for_a_slow_consumer_is_coalesced_per_topic(world: World) -> None:
    """It does not read for a while: its neighbour is never stalled, and it ends in the newest state of both topics."""
    await world.view.put(schedule(topic=OTHER))
    neighbour = await following(world)
    slow = await following(world)
    await slow.subscribe("2", OTHER)
    await slow.item("ScheduleChange", "2")
    transport = slow.connection.transport
    transport.pause_reading()
    last = more = 0
    while more < 2 and last < 40_000:
        more += bool(world.node.metrics.value("coalesced"))  # one whole wave behind a full socket
        await world.routers[0].deliver(
            *(broadcast(last + n + 1, last + n, "k" * 8000) for n in range(40)),
            *(broadcast(last + n + 1, last + n, topic=OTHER) for n in range(40)),
        )
        last += 40
        while (await neighbour.item("Broadcast"))["timestamp"] < last:
            pass
    assert world.node.metrics.value("coalesced"), "it was never held back"
    transport.resume_reading()
    newest = {"1": 0, "2": 0}
    skipped: dict[str, set[int]] = {"1": set(), "2": set()}
    heard: dict[str, set[int]] = {"1": set(), "2": set()}
    while min(newest.values()) < last:
        message = await slow.next()
        if message["type"] == "next" and (message["payload"]["data"]["broadcasts"])["__typename"] == "Broadcast":
            entry = message["payload"]["data"]["broadcasts"]
            newest[message["id"]] = max(newest[message["id"]], entry["timestamp"])
            heard[message["id"]].add(entry["timestamp"])
            skipped[message["id"]].update(entry["skipped"])
    for id in ("1", "2"):
        assert heard[id] | skipped[id] == set(range(1, last + 1)), "it learns of every one it was not sent"
        assert skipped[id]
    assert world.node.metrics.value("closed_slow") == 0


@pytest.mark.parametrize("world", [{"slow_consumer_s": 0.5}], indirect=True)
async def test_one_that_never_reads_is_closed(world: World) -> None:
    slow = await following(world)
    transport = slow.connection.transport
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    transport.pause_reading()
    last = 0
    while not world.node.metrics.value("congested") and last < 40_000:
        await world.routers[0].deliver(*(broadcast(last + n + 1, last + n, "k" * 400) for n in range(100)))
        last += 100
    await eventually(lambda: world.node.metrics.value("closed_slow") == 1, PATIENCE_S)
    await eventually(lambda: b"stagecue_push_connections 0.0" in world.node.metrics.render(), PATIENCE_S)
    transport.abort()
