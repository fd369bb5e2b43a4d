"""A real browser against real nodes: EventSource and WebSocket as pages use them, refusals, drains and returns."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from contract.broadcast import Broadcast
from tests.integration.push_proxy.push_world import TOPIC, World, broadcast
from tests.interop.browser.chromium import PATIENCE_S, Page, open_page
from tests.interop.browser.relay import Relay
from tests.support.event_source import EventSourceParser

pytestmark = pytest.mark.external_service

PASSED = tuple(broadcast(at, at - 10) for at in (10, 20, 30))
SUBSCRIBE = json.dumps({"type": "subscribe", "topics": {TOPIC: None}})


_PATIENT: dict[str, Any] = {"link_ping_s": 4.0, "link_silence_s": 60.0, "lease_s": 30.0}
"""Routers' links are not what is tested: a machine busy with a browser must not take them for silent."""


@contextlib.asynccontextmanager
async def running(log: Sequence[Broadcast] = (), **settings: Any) -> AsyncIterator[World]:
    """A node that takes whoever comes, with these broadcasts in its log from the start."""
    world = World(**(_PATIENT | settings))
    await world.publish(*log)
    await world.start()
    world.router()
    try:
        yield world
    finally:
        await world.end()


def events_url(world: World, token: str | None = None) -> str:
    return f"http://127.0.0.1:{world.port}/v1/events?topic={TOPIC}&access_token={token or world.token()}"


def event_source(world: World, tmp_path: Path) -> contextlib.AbstractAsyncContextManager[Page]:
    return open_page("event_source.html", tmp_path, stream=events_url(world))


def web_socket(
    world: World, tmp_path: Path, **more: str | Sequence[str]
) -> contextlib.AbstractAsyncContextManager[Page]:
    offer = f"stagecue.v1,stagecue.bearer.{world.token()}"
    return open_page("web_socket.html", tmp_path, **({"stream": world.url, "offer": offer} | more))


async def live(world: World, timestamp: int, prev: int) -> None:
    """A broadcast as a router makes it: into the log, and delivered."""
    await world.publish(broadcast(timestamp, prev))
    assert await world.routers[-1].deliver(broadcast(timestamp, prev)) == 1


# EventSource.


async def test_event_source_hears_where_it_stands_and_what_is_broadcast(tmp_path: Path) -> None:
    """From another origin than the page's: opened, greeted, told, and sent live broadcasts, each with its id."""
    async with running(PASSED[:1]) as world, event_source(world, tmp_path) as page:
        await page.kind("open")
        assert (await page.frame("welcome"))["id"] == ""
        continuity = await page.frame("continuity")
        assert (continuity["frame"]["verdict"], continuity["frame"]["state_key"]) == ("complete", "s10")
        assert continuity["id"] == "10"
        await page.frame("schedule")
        for timestamp in (20, 30):
            await live(world, timestamp, timestamp - 10)
            told = await page.frame("broadcast")
            assert (told["frame"]["timestamp"], told["id"]) == (timestamp, str(timestamp))


async def test_event_source_resumes_on_another_node_and_misses_nothing(tmp_path: Path) -> None:
    """The node stops; broadcasts pass; the browser comes to another on its port by itself, with the right id."""
    first = World(node_id="n1", reconnect_window_ms=600)
    await first.start()
    first.router()
    async with event_source(first, tmp_path) as page:
        await page.frame("schedule")
        await live(first, 10, 0)
        await page.frame("broadcast")
        await first.end()
        assert (await page.frame("goaway"))["frame"]["reason"] == "drain"
        assert (await page.kind("error"))["closed"] is False
        await page.kind("error")  # it asks a port where nobody listens, and goes on asking
        async with running(PASSED, node_id="n2", port=first.port, ring=first.ring) as second:
            await caught_up(page, second)


async def test_event_source_resumes_when_the_network_broke(tmp_path: Path) -> None:
    """No goaway, no end of the stream: cut in both directions, and back with its id at once, at another node."""
    async with (
        running(node_id="n1", reconnect_window_ms=600) as first,
        running(PASSED, node_id="n2", ring=first.ring) as second,
        Relay(first.port) as relay,
    ):
        address = events_url(first).replace(str(first.port), str(relay.port))
        async with open_page("event_source.html", tmp_path, stream=address) as page:
            await page.frame("schedule")
            await live(first, 10, 0)
            await page.frame("broadcast")
            relay.to_port = second.port
            relay.break_all()
            assert (await page.kind("error"))["closed"] is False
            await caught_up(page, second)


async def caught_up(page: Page, second: World) -> None:
    """Back after 10, with 20 and 30 in the log: it gets these, then what is broadcast, each once."""
    welcome = await page.frame("welcome")
    assert (welcome["frame"]["node"], welcome["id"]) == ("n2", "10")
    assert (await page.frame("continuity"))["frame"]["verdict"] == "complete"
    replayed = [await page.frame("broadcast") for _ in range(2)]
    assert [told["frame"].get("replayed") for told in replayed] == [True, True]
    await live(second, 40, 30)
    assert (await page.frame("broadcast"))["id"] == "40"
    assert page.timestamps() == [10, 20, 30, 40], "each once, in order, none missed"


async def test_event_source_resumes_after_a_drain_and_a_refusal(tmp_path: Path) -> None:
    """Sent away by one node, turned away by the next: it has not forgotten where it stood when that lets it in."""
    first = World(node_id="n1", reconnect_window_ms=600)
    await first.start()
    first.router()
    full = {"max_connections": 1, "reconnect_window_ms": 600}
    async with running(PASSED, node_id="n2", ring=first.ring, **full) as second, Relay(first.port) as relay:
        device = await second.connect()
        address = events_url(first).replace(str(first.port), str(relay.port))
        async with open_page("event_source.html", tmp_path, stream=address) as page:
            await page.frame("schedule")
            await live(first, 10, 0)
            await page.frame("broadcast")
            relay.to_port = second.port
            await first.end()
            assert (await page.frame("goaway"))["frame"]["reason"] == "drain"
            for _ in range(2):
                refused = await page.frame("goaway")
                assert (refused["frame"]["reason"], refused["id"]) == ("full", "10")
            await device.connection.close()
            await caught_up(page, second)


async def test_event_source_comes_back_after_a_drain_when_told_to(tmp_path: Path) -> None:
    """Not before its own delay: the page waits what its goaway said, and is then let in where it was."""
    first = World(node_id="n1", reconnect_window_ms=4000, drain_s=0.1)
    await first.start()
    first.router()
    async with event_source(first, tmp_path) as page:
        await page.frame("schedule")
        await first.end()
        goaway = await page.frame("goaway")
        left = await page.kind("error")
        async with running(node_id="n2", port=first.port, ring=first.ring):
            back = await page.frame("welcome")
            assert back["frame"]["node"] == "n2"
            waited_ms = back["at_ms"] - left["at_ms"]
            assert waited_ms >= max(500, goaway["frame"]["reconnect_after_ms"]) - 50


async def test_event_source_obeys_a_full_node_and_gets_in_later(tmp_path: Path) -> None:
    """Refused with 200 and a retry, as often as there is no room; then served, without a hand laid on."""
    async with running(max_connections=1, reconnect_window_ms=600) as world:
        device = await world.connect()
        async with event_source(world, tmp_path) as page:
            for _ in range(2):
                refused = await page.frame("goaway")
                assert refused["frame"]["reason"] == "full"
                assert (await page.kind("error"))["closed"] is False
            await device.connection.close()
            await page.frame("welcome")
            await page.frame("schedule")
            await live(world, 10, 0)
            assert (await page.frame("broadcast"))["id"] == "10"


@pytest.mark.parametrize(
    ("token", "query"), [("nonsense", ""), (None, "&topic=event:other"), (None, "&cursor=9999999999999")]
)
async def test_event_source_gives_up_where_asking_again_would_not_help(
    tmp_path: Path, token: str | None, query: str
) -> None:
    """A bad token, a bad request: the browser closes for good, and the page knows."""
    async with running() as world:
        address = events_url(world, token) + query
        async with open_page("event_source.html", tmp_path, stream=address) as page:
            assert (await page.kind("error"))["closed"] is True
            assert page.frames == []


async def test_event_source_of_a_foreign_page(tmp_path: Path) -> None:
    """An origin that is not on the list gets nothing."""
    async with (
        running(allowed_origins="https://tv.example.com") as world,
        event_source(world, tmp_path) as page,
    ):
        assert (await page.kind("error"))["closed"] is True


async def test_event_source_hears_of_an_unknown_topic(tmp_path: Path) -> None:
    """An error with data, then EventSource's own; it goes on asking."""
    async with running() as world:
        address = events_url(world).replace(TOPIC, "event:nobody")
        async with open_page("event_source.html", tmp_path, stream=address) as page:
            assert (await page.frame("error"))["frame"]["code"] == "unknown_topic"
            assert (await page.kind("error"))["closed"] is False


async def test_a_page_that_fetches_the_stream(tmp_path: Path) -> None:
    """With the token in a header: the browser asks beforehand whether it may, and reads as it comes."""
    async with running(PASSED) as world:
        address = f"http://127.0.0.1:{world.port}/v1/events?topic={TOPIC}"
        async with open_page("fetch.html", tmp_path, stream=address, token=world.token(), id="20") as page:
            opened = await page.kind("open")
            assert (opened["status"], opened["type"]) == (200, "text/event-stream")
            await page.until(lambda told: "event: schedule" in told.get("text", ""))
            await live(world, 40, 30)
            await page.until(lambda told: "id: 40" in told.get("text", ""))
            parser = EventSourceParser()
            events = parser.feed("".join(told.get("text", "") for told in page.seen).encode())
            assert [event.frame["timestamp"] for event in events if event.name == "broadcast"] == [30, 40]


# WebSocket.


async def test_web_socket_subscribes_and_hears(tmp_path: Path) -> None:
    """The token as a second subprotocol, no compression negotiated, live broadcasts, a clean end."""
    async with running() as world:
        async with web_socket(world, tmp_path, send=SUBSCRIBE) as page:
            opened = await page.kind("open")
            assert (opened["protocol"], opened["extensions"]) == ("stagecue.v1", "")
            await page.frame("welcome")
            assert (await page.frame("continuity"))["frame"]["verdict"] == "complete"
            await page.frame("schedule")
            for timestamp in (10, 20, 30):
                await live(world, timestamp, timestamp - 10)
            while page.timestamps() != [10, 20, 30]:
                await page.frame("broadcast")
        async with asyncio.timeout(PATIENCE_S):
            while world.node.status()["connections"]:  # noqa: ASYNC110 - the browser is killed, nobody tells
                await asyncio.sleep(0.02)


async def test_web_socket_speaks_graphql(tmp_path: Path) -> None:
    """The other subprotocol on the same port: a token in connection_init, one operation, continuity and broadcasts."""
    document = (
        "subscription ($topics: [TopicCursor!]!) { broadcasts(topics: $topics) { __typename "
        "... on Continuity { verdict latest } ... on Broadcast { stateKey timestamp } } }"
    )
    async with running(PASSED) as world:
        init = {"type": "connection_init", "payload": {"token": world.token()}}
        operation = {"query": document, "variables": {"topics": [{"topic": TOPIC, "cursor": 20}]}}
        subscribe = {"type": "subscribe", "id": "1", "payload": operation}
        messages = [json.dumps(init), json.dumps(subscribe)]
        async with web_socket(world, tmp_path, offer="graphql-transport-ws", send=messages) as page:
            assert (await page.kind("open"))["protocol"] == "graphql-transport-ws"
            await page.frame("connection_ack")
            items: list[dict[str, Any]] = []
            while not items or items[-1].get("timestamp") != 30:
                items.append((await page.frame("next"))["frame"]["payload"]["data"]["broadcasts"])
            assert {"__typename": "Continuity", "verdict": "COMPLETE", "latest": 30} in items
            await live(world, 40, 30)
            while items[-1].get("timestamp") != 40:
                items.append((await page.frame("next"))["frame"]["payload"]["data"]["broadcasts"])
            assert items[-1]["stateKey"] == "s40"


@pytest.mark.parametrize("world_ping_s", [0.3])
async def test_web_socket_answers_pings_by_itself(tmp_path: Path, world_ping_s: float) -> None:
    """Many intervals pass; a browser that did not answer would have been closed."""
    async with (
        running(ping_s=world_ping_s, pong_deadline_s=world_ping_s - 0.05) as world,
        web_socket(world, tmp_path, send=SUBSCRIBE) as page,
    ):
        await page.frame("schedule")
        await asyncio.sleep(world_ping_s * 5)
        await live(world, 10, 0)
        await page.frame("broadcast")


async def test_web_socket_sees_a_bad_token(tmp_path: Path) -> None:
    """4500: do not come back with it."""
    async with running() as world, web_socket(world, tmp_path, offer="stagecue.v1,stagecue.bearer.bad") as page:
        closed = await page.kind("close")
        assert (closed["code"], closed["clean"]) == (4500, True)
        assert closed["reason"]


@pytest.mark.parametrize(
    ("settings", "code", "reason"),
    [
        ({"max_connections": 1}, 4002, "full"),
        ({"handshake_burst": 1, "handshakes_per_s": 0.001}, 4008, None),
    ],
)
async def test_web_socket_sees_that_it_may_come_back(
    tmp_path: Path, settings: dict[str, Any], code: int, reason: str | None
) -> None:
    """A goaway that says when, then the code."""
    async with running(**settings) as world:
        await world.connect()
        async with web_socket(world, tmp_path) as page:
            goaway = (await page.frame("goaway"))["frame"]
            assert goaway["reconnect_after_ms"] >= 0
            assert goaway["window_ms"] >= 0
            assert reason in (None, goaway["reason"])
            closed = await page.kind("close")
            assert (closed["code"], closed["clean"]) == (code, True)


async def test_web_socket_sees_a_drain(tmp_path: Path) -> None:
    """Told when to come back, then closed with 4000."""
    world = World()
    await world.start()
    world.router()
    async with web_socket(world, tmp_path, send=SUBSCRIBE) as page:
        await page.frame("schedule")
        await world.end()
        assert (await page.frame("goaway"))["frame"]["reason"] == "drain"
        closed = await page.kind("close")
        assert (closed["code"], closed["clean"]) == (4000, True)


async def test_web_socket_sees_what_it_did_wrong(tmp_path: Path) -> None:
    """A frame that is too large: an error frame it can read, then 1009."""
    async with running() as world, web_socket(world, tmp_path, send="x" * 20_000) as page:
        assert (await page.frame("error"))["frame"]["code"] == "malformed_frame"
        assert (await page.kind("close"))["code"] == 1009


async def test_web_socket_without_our_subprotocol(tmp_path: Path) -> None:
    """Refused before an upgrade: nothing would be understood."""
    async with running() as world, web_socket(world, tmp_path, offer="chat") as page:
        await page.kind("error")
        assert (await page.kind("close"))["code"] == 1006
