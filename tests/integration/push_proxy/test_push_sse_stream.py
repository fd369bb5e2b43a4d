"""Server-sent events on a real socket: cursor and id, verdicts, resuming, refusals, ends, and everything malformed."""

from __future__ import annotations

import contextlib

import pytest
from push_world import TOPIC, World, broadcast, eventually, schedule
from sse_world import PATH, stream, told

from tests.support.event_source import EventSourceParser, EventStreamClient

# What a stream tells.


async def test_first_contact_and_live(world: World, client: EventStreamClient) -> None:
    """Greeted, told where it stands, and sent what is broadcast then; nobody on the way may keep it."""
    await world.publish(broadcast(10, 0))
    welcome = await stream(world, client)
    assert client.headers["content-type"] == "text/event-stream"
    assert "no-cache" in client.headers["cache-control"]
    assert client.headers["x-accel-buffering"] == "no"
    assert (welcome.last_event_id, welcome.frame["node"]) == ("", "n1")
    assert client.parser.retry_ms is not None
    assert 500 <= client.parser.retry_ms <= max(500, welcome.frame["reconnect_window_ms"])
    continuity = await client.next()
    assert told(continuity) == ("continuity", "complete", "10")
    assert continuity.frame["state_key"] == "s10"
    assert (await client.next()).name == "schedule"
    assert await world.routers[0].deliver(broadcast(20, 10)) == 1
    live = await client.next()
    assert told(live) == ("broadcast", 20, "20")
    assert live.frame == {"type": "broadcast", "topic": TOPIC, "state_key": "s20", "timestamp": 20, "prev": 10}
    await world.routers[0].deliver(schedules=[schedule(2)])
    assert (await client.next()).frame["revision"] == 2


async def test_verdicts_and_ids(world: World, client: EventStreamClient) -> None:
    """Each verdict by Last-Event-ID, said before anything replayed; the id moves as a device's cursor does."""
    await world.publish(broadcast(10, 0), broadcast(20, 10), broadcast(30, 20), broadcast(40, 30))
    await world.log.trim(TOPIC, keep=2, before=0)  # floor 20
    expected = {
        "20": [("continuity", "complete", "20"), ("broadcast", 30, "30"), ("broadcast", 40, "40")],
        "30": [("continuity", "complete", "30"), ("broadcast", 40, "40")],
        "40": [("continuity", "complete", "40")],
        "": [("continuity", "complete", "40")],
        "10": [("continuity", "gap", "40")],
        "0": [("continuity", "gap", "40")],
        "41": [("continuity", "ahead", "41")],
    }
    for cursor, events in expected.items():
        client.parser = EventSourceParser()
        client.parser.last_event_id = cursor
        assert (await stream(world, client)).last_event_id == cursor
        assert [told(await client.next()) for _ in events] == events
        await client.quiet(0.05)


async def test_same_bytes_for_all(world: World) -> None:
    """A live event is encoded once; every stream is sent the same."""
    clients = [EventStreamClient(world.port) for _ in range(5)]
    for each in clients:
        await stream(world, each)
        await each.until("schedule")
        each.raw = b""
    await world.routers[0].deliver(broadcast(10, 0))
    for each in clients:
        await each.until("broadcast")
        assert each.raw == clients[0].raw
        assert each.raw.startswith(b"id: 10\nevent: broadcast\ndata: {")
        await each.close()


async def test_websocket_and_events_side_by_side(world: World, client: EventStreamClient) -> None:
    """One fan-out reaches both; each in its own form, and one asked for an ack, the other not."""
    device = await world.connect()
    await device.subscribe(None)
    await device.until("schedule")
    await stream(world, client)
    await client.until("schedule")
    assert await world.routers[0].deliver(broadcast(10, 0)) == 2
    frame = await device.next()
    assert frame.pop("ack")
    assert (await client.next()).frame == frame


async def test_pending_and_then_what_was_lost(world: World, client: EventStreamClient) -> None:
    """While the store is away live events flow; the verdict follows, and what lay below does not take the id back."""
    await world.publish(broadcast(10, 0))
    world.log.down = True
    client.parser.last_event_id = "10"
    await stream(world, client)
    assert told(await client.next()) == ("continuity", "pending", "10")
    await world.routers[0].send(broadcast(30, 20))
    assert told(await client.until("broadcast")) == ("broadcast", 30, "30")
    await world.publish(broadcast(20, 10), broadcast(30, 20))
    world.log.down = False
    assert told(await client.until("continuity")) == ("continuity", "complete", "30")
    assert told(await client.until("broadcast")) == ("broadcast", 20, "30")
    await world.routers[0].deliver(broadcast(40, 30))
    assert told(await client.until("broadcast")) == ("broadcast", 40, "40")


async def test_resumes_elsewhere_and_misses_nothing() -> None:
    """The node dies without a word, two broadcasts pass, another node on the same port goes on from the id."""
    first = World()
    await first.start()
    router = first.router()
    client = EventStreamClient(first.port)
    await stream(first, client, f"{PATH}&cursor=0")
    await client.until("schedule")
    await router.deliver(broadcast(10, 0))
    assert told(await client.next()) == ("broadcast", 10, "10")
    await client.close()
    await first.end()
    second = World(port=first.port, ring=first.ring)
    await second.publish(broadcast(10, 0), broadcast(20, 10), broadcast(30, 20))
    await second.start()
    router = second.router()
    await stream(second, client, f"{PATH}&cursor=0")
    said = [told(await client.next()) for _ in range(3)]
    assert said == [("continuity", "complete", "10"), ("broadcast", 20, "20"), ("broadcast", 30, "30")]
    await second.publish(broadcast(40, 30))
    await router.deliver(broadcast(40, 30))
    assert told(await client.until("broadcast")) == ("broadcast", 40, "40")
    await client.close()
    await second.end()


@pytest.mark.parametrize("name", ["cursor", "lastEventId"])
async def test_cursor_in_the_address(world: World, client: EventStreamClient, name: str) -> None:
    """A first contact may know where it stands; a header that says more wins over what stays in the address."""
    await world.publish(broadcast(10, 0), broadcast(20, 10))
    assert (await stream(world, client, f"{PATH}&{name}=10")).last_event_id == "10"
    assert [told(await client.next()) for _ in range(2)] == [("continuity", "complete", "10"), ("broadcast", 20, "20")]
    assert (await stream(world, client, f"{PATH}&{name}=10")).last_event_id == "20"
    assert told(await client.next()) == ("continuity", "complete", "20")
    await client.quiet(0.05)


@pytest.mark.parametrize("world", [{"ping_s": 0.1, "pong_deadline_s": 0.05}], indirect=True)
async def test_heartbeats_are_comments_nobody_need_answer(world: World, client: EventStreamClient) -> None:
    """Many intervals pass without a sign of life from the device, and the stream goes on."""
    await stream(world, client)
    await client.until("schedule")
    with contextlib.suppress(TimeoutError):
        await client.next(timeout=0.8)
    assert client.parser.comments >= 3
    await world.routers[0].deliver(broadcast(10, 0))
    assert told(await client.next()) == ("broadcast", 10, "10")


@pytest.mark.parametrize("world", [{"lease_s": 0.3}], indirect=True)
async def test_stale_is_told(world: World, client: EventStreamClient) -> None:
    """A node without routers says so (R17)."""
    await stream(world, client)
    await world.routers[0].close()
    assert (await client.until("stale")).frame == {"type": "stale"}


@pytest.mark.parametrize("world", [{"handshakes_per_s": 0.5, "reconnect_window_ms": 1000}], indirect=True)
async def test_a_new_window_gives_each_stream_a_new_delay(world: World) -> None:
    """The fleet grew, so its return must be spread wider: told to all alike, with a retry of each one's own."""
    clients = [EventStreamClient(world.port) for _ in range(6)]
    welcomes = [await stream(world, each) for each in clients]
    assert welcomes[0].frame["reconnect_window_ms"] == 1000
    delays = set()
    for each, welcome in zip(clients, welcomes, strict=True):
        window_ms = welcome.frame["reconnect_window_ms"]
        if window_ms == 1000:  # else the window grew while the clients were still coming
            window_ms = (await each.until("window")).frame["reconnect_window_ms"]
        assert window_ms > 1000
        assert each.parser.retry_ms is not None
        assert 500 <= each.parser.retry_ms <= window_ms
        delays.add(each.parser.retry_ms)
        await each.close()
    assert len(delays) > 1


# Ends.


@pytest.mark.parametrize("world", [{"drain_s": 0.5, "reconnect_window_ms": 5000}], indirect=True)
async def test_drain_gives_each_its_own_delay(world: World) -> None:
    """Every stream ends with a goaway, the retry of which is its own; then nobody is accepted any more."""
    clients = [EventStreamClient(world.port) for _ in range(20)]
    for each in clients:
        await stream(world, each)
        await each.until("continuity")
    world.stop.set()
    delays = []
    for each in clients:
        *_, last = await each.rest()
        assert last.name == "goaway"
        assert last.frame["reason"] == "drain"
        assert each.parser.retry_ms == max(500, last.frame["reconnect_after_ms"])
        delays.append(each.parser.retry_ms)
        await each.close()
    assert len(set(delays)) > 5
    assert world.task is not None
    await world.task
    with pytest.raises(OSError):
        await EventStreamClient(world.port).open(PATH)


@pytest.mark.parametrize("world", [{"lifetime_min_s": 0.2, "lifetime_max_s": 0.3, "stage_guard_s": 0}], indirect=True)
async def test_lifetime_ends_with_goaway(world: World, client: EventStreamClient) -> None:
    """As on the WebSocket: sent away with a delay, and back with the id."""
    await world.publish(broadcast(10, 0))
    await stream(world, client)
    *_, last = await client.rest()
    assert told(last)[::2] == ("goaway", "10")
    assert last.frame["reason"] == "lifetime"
    assert (await stream(world, client)).last_event_id == "10"


@pytest.mark.parametrize("world", [{"max_connections": 1}], indirect=True)
async def test_full_node_is_refused_in_a_way_event_source_retries(world: World, client: EventStreamClient) -> None:
    """200, why, when to come back, end; the id is kept, and the next attempt is let in once there is room."""
    device = await world.connect()
    client.parser = EventSourceParser(forgets=True)
    client.parser.last_event_id = "7"
    assert await client.open(PATH, Authorization=f"Bearer {world.token()}") == 200
    (event,) = await client.rest()
    assert (event.name, event.frame["reason"], event.last_event_id) == ("goaway", "full", "7")
    assert client.parser.retry_ms == max(500, event.frame["reconnect_after_ms"])
    await device.connection.close()
    await eventually(lambda: world.node.status()["connections"] == 0, 20)
    assert (await stream(world, client)).last_event_id == "7"


@pytest.mark.parametrize("world", [{"handshake_burst": 1, "handshakes_per_s": 0.001}], indirect=True)
async def test_too_many_handshakes(world: World, client: EventStreamClient) -> None:
    """One admitted, the next told when."""
    await stream(world, client)
    other = EventStreamClient(world.port)
    assert await other.open(PATH, Authorization=f"Bearer {world.token()}") == 200
    (event,) = await other.rest()
    assert event.name == "goaway"
    assert other.parser.retry_ms is not None
    await other.close()


async def test_unknown_topic_is_asked_for_again_later(world: World, client: EventStreamClient) -> None:
    """A node may learn of a topic after its devices did: an error, a long retry, the end."""
    await stream(world, client, "/v1/events?topic=event:nobody")
    first = client.parser.retry_ms
    *_, last = await client.rest()
    assert last.name == "error"
    assert (last.frame["code"], last.frame["topic"]) == ("unknown_topic", "event:nobody")
    assert first is not None
    assert client.parser.retry_ms is not None
    assert client.parser.retry_ms >= first
    await eventually(lambda: world.node.status()["connections"] == 0, 20)


@pytest.mark.parametrize("world", [{"max_topics": 1}], indirect=True)
async def test_node_with_too_many_topics(world: World, client: EventStreamClient) -> None:
    """Told, and ended: there is nothing else on the stream."""
    await stream(world, client)
    await world.view.put(schedule(topic="event:other"))
    other = EventStreamClient(world.port)
    await stream(world, other, "/v1/events?topic=event:other")
    (event,) = await other.rest()
    assert (event.name, event.frame["code"]) == ("error", "node_full")
    await other.close()
    await world.routers[0].deliver(broadcast(10, 0))
    assert told(await client.until("broadcast")) == ("broadcast", 10, "10")


async def test_cursor_found_in_the_future(world: World, client: EventStreamClient) -> None:
    """An hour ahead may be our clock's fault: judged once the log was read; the next attempt is refused for good."""
    await world.publish(broadcast(10, 0))
    client.parser.last_event_id = str(world.clock.now_ms() + 3_600_000)
    await stream(world, client)
    *_, last = await client.rest()
    assert (last.name, last.frame["code"]) == ("error", "cursor_in_future")
    assert await client.open(PATH, Authorization=f"Bearer {world.token()}") == 400
    assert (await client.problem())["field"] == "Last-Event-ID"


# Tokens and origins.


async def test_token_in_the_address(world: World, client: EventStreamClient) -> None:
    """EventSource can set no header."""
    assert await client.open(f"{PATH}&access_token={world.token()}") == 200
    assert (await client.next()).name == "welcome"


async def test_renewed_token_is_told(client: EventStreamClient, world: World) -> None:
    """A token near its end is renewed over the stream, for the next EventSource."""
    settings = world.settings
    lives_s = int(settings.token_renew_before_s / 100) + 2
    assert await client.open(f"{PATH}&access_token={world.token(lives_s=lives_s)}") == 200
    renewed = (await client.until("token")).frame["token"]
    assert await client.open(f"{PATH}&access_token={renewed}") == 200


@pytest.mark.parametrize("world", [{"allowed_origins": "https://tv.example.com"}], indirect=True)
async def test_origins(world: World, client: EventStreamClient) -> None:
    """An allowed page may read the stream and why it was refused; another is refused; no page at all is nobody's."""
    good = {"Origin": "https://tv.example.com"}
    await stream(world, client, **good)
    assert client.headers["access-control-allow-origin"] == "https://tv.example.com"
    assert client.headers["vary"] == "Origin"
    assert await client.open(PATH, **good) == 401
    assert client.headers["access-control-allow-origin"] == "https://tv.example.com"
    assert (await client.problem())["field"] == "token"
    assert await client.open(PATH, Authorization=f"Bearer {world.token()}", Origin="https://evil.example.com") == 403
    assert "access-control-allow-origin" not in client.headers
    assert (await client.problem())["field"] == "Origin"
    await stream(world, client)
    assert "access-control-allow-origin" not in client.headers


async def test_preflight_of_a_page_that_fetches(world: World, client: EventStreamClient) -> None:
    """Only `fetch` with an own header asks; it is told that it may."""
    asked = {"Origin": "https://a.example", "Access_Control_Request_Method": "GET"}
    assert await client.open(PATH, method="OPTIONS", Access_Control_Request_Headers="authorization", **asked) == 204
    assert client.headers["access-control-allow-origin"] == "https://a.example"
    assert "Last-Event-ID" in client.headers["access-control-allow-headers"]
