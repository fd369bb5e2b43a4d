"""Malformed and unkind clients of server-sent events: the right status, bounded memory, neighbours unaffected."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
from push_world import World, broadcast, eventually
from sse_world import PATH, stream, told

from tests.support.event_source import EventStreamClient


@pytest.mark.parametrize(
    ("target", "headers", "status", "field"),
    [
        ("/v1/events", {}, 400, "topic"),
        ("/v1/events?topic=", {}, 400, "topic"),
        (f"{PATH}&topic=event:other", {}, 400, "topic"),
        ("/v1/events?topic=" + "x" * 200, {}, 400, "topic"),
        ("/v1/events?topic=%ff", {}, 400, "query"),
        (PATH, {"Last_Event_ID": "yesterday"}, 400, "Last-Event-ID"),
        (PATH, {"Last_Event_ID": "-1"}, 400, "Last-Event-ID"),
        (PATH, {"Last_Event_ID": "9" * 10_000}, 400, "Last-Event-ID"),
        (PATH, {"Last_Event_ID": "9999999999999"}, 400, "Last-Event-ID"),
        (f"{PATH}&cursor=9999999999999", {}, 400, "cursor"),
        (PATH, {"Last_Event_ID": "9" * 20_000}, 431, "headers"),
        (PATH, {"Accept": "application/json"}, 406, "Accept"),
        (PATH, {"Upgrade": "websocket"}, 400, "Upgrade"),
        (PATH, {"Content_Length": "5"}, 400, "Content-Length"),
        (PATH, {"Authorization": "Bearer nonsense"}, 401, "token"),
        ("/v1/events/", {}, 404, None),
    ],
)
async def test_bad_requests(
    world: World, client: EventStreamClient, target: str, headers: dict[str, str], status: int, field: str | None
) -> None:
    """Each the right status and a problem that names the field; the neighbours notice nothing."""
    neighbour = EventStreamClient(world.port)
    await stream(world, neighbour)
    assert await client.open(target, **({"Authorization": f"Bearer {world.token()}"} | headers)) == status
    problem = await client.problem()
    assert problem.get("field") == field
    assert 10 < len(problem["detail"]) < 400
    await world.routers[0].deliver(broadcast(10, 0))
    await neighbour.until("broadcast")
    await neighbour.close()


@pytest.mark.parametrize("method", ["POST", "PUT", "HEAD", "DELETE", "OPTIONS"])
async def test_other_methods(world: World, client: EventStreamClient, method: str) -> None:
    """Only GET opens a stream, and who asks otherwise is told."""
    assert await client.open(PATH, method=method, Authorization=f"Bearer {world.token()}") == 405
    assert "GET" in client.headers["allow"]


async def test_post_with_a_body(world: World, client: EventStreamClient) -> None:
    assert await client.open(PATH, method="POST", body=b'{"topic":1}', Content_Length="11") == 405


async def test_token_for_another_topic(world: World, client: EventStreamClient) -> None:
    """Refused before a stream begins: asking again would not help."""
    token = world.token(topics=("event:other",))
    assert await client.open(PATH, Authorization=f"Bearer {token}") == 403
    assert (await client.problem())["field"] == "topic"


async def test_who_talks_on_a_stream_is_cut_off(world: World, client: EventStreamClient) -> None:
    """A little is overheard, more ends the connection: there is nothing to say after the request."""
    await stream(world, client)
    await client.until("schedule")
    assert client.writer is not None
    client.writer.write(b"x" * 100)
    await world.routers[0].deliver(broadcast(10, 0))
    assert told(await client.next()) == ("broadcast", 10, "10")
    with contextlib.suppress(ConnectionError):
        for _ in range(100):
            client.writer.write(b"x" * 1000)
            await client.writer.drain()
            await asyncio.sleep(0.01)
    await eventually(lambda: world.node.status()["connections"] == 0, 20)


async def test_half_closed_ends(world: World, client: EventStreamClient) -> None:
    """As any connection here: a device that closed its side cannot be told from one that is gone."""
    await stream(world, client)
    assert client.writer is not None
    client.writer.write_eof()
    await client.rest()
    await eventually(lambda: world.node.status()["connections"] == 0, 20)


async def test_head_in_pieces(world: World, client: EventStreamClient) -> None:
    """Cut at any byte, the request is the same one."""
    head = f"GET {PATH}&cursor=0 HTTP/1.1\r\nHost: n\r\nAccept: */*\r\nAuthorization: Bearer {world.token()}\r\n\r\n"
    for at in range(1, len(head), 17):
        await client.close()
        client.parser.last_event_id = ""
        await client.begin(head[:at].encode())
        await asyncio.sleep(0)
        await client.send(head[at:].encode())
        assert await client.answer() == 200
        assert told(await client.next()) == ("welcome", None, "0")
    await eventually(lambda: world.node.status()["connections"] == 1, 20)


async def test_many_refused_cost_nothing_afterwards(world: World) -> None:
    """Hundreds of bad requests leave no connection behind, and who asks well is served."""
    for number in range(300):
        each = EventStreamClient(world.port)
        assert await each.open(PATH if number % 2 else "/v1/events", Authorization="Bearer x") in (400, 401)
        await each.close()
    client = EventStreamClient(world.port)
    await stream(world, client)
    await eventually(lambda: world.node.status()["connections"] == 1, 20)
    await client.close()


# Slow readers.


async def test_slow_reader_is_brought_up_to_date(world: World, client: EventStreamClient) -> None:
    """What it was too slow for is told as skipped by the newest; its id ends there, its neighbour got each."""
    slow = EventStreamClient(world.port, rcvbuf=4096)
    await stream(world, slow, f"{PATH}&cursor=0")
    await slow.until("schedule")
    await stream(world, client)
    last = 0
    while not world.node.metrics.value("coalesced"):
        assert last < 100_000, "its socket took everything"
        await world.routers[0].deliver(*(broadcast(at, at - 1, "s" * 60) for at in range(last + 1, last + 201)))
        last += 200
        while (await client.until("broadcast")).frame["timestamp"] < last:
            pass
    seen: list[int] = []
    while not seen or seen[-1] < last:
        frame = (await slow.until("broadcast")).frame
        if frame.get("skipped"):
            assert frame["prev"] == (seen[-1] if seen else 0), "the chain is unbroken over what was skipped"
        seen += [*frame.get("skipped", ()), frame["timestamp"]]
    assert seen == list(range(1, last + 1)), "each received or told, in order"
    assert slow.parser.last_event_id == str(last)
    await world.routers[0].deliver(broadcast(last + 1, last))
    assert told(await slow.until("broadcast")) == ("broadcast", last + 1, str(last + 1))
    await slow.close()


async def deaf_reader(world: World) -> socket.socket:
    """One that asks, and then reads nothing, with next to no buffer."""
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(deaf, ("127.0.0.1", world.port))
    request = f"GET {PATH} HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer {world.token()}\r\n\r\n"
    await loop.sock_sendall(deaf, request.encode())
    await eventually(lambda: world.node.status()["connections"] == 1, 20)
    return deaf


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel's own patience counts")
@pytest.mark.parametrize("world", [{"ping_s": 0.4, "pong_deadline_s": 0.3, "slow_consumer_s": 3600.0}], indirect=True)
async def test_the_kernel_ends_one_that_takes_nothing(world: World) -> None:
    """Long before anything is held back for it: a device that vanished is not told from one that does not read."""
    deaf = await deaf_reader(world)
    await world.routers[0].deliver(*(broadcast(at, at - 1, "s" * 60) for at in range(1, 101)))
    await eventually(lambda: world.node.status()["connections"] == 0, 30)
    metrics = world.node.metrics
    assert (metrics.value("congested"), metrics.labelled("closes", "1006", "sse")) == (0, 1)
    deaf.close()


@pytest.mark.parametrize(
    "world", [{"ping_s": 3600.0, "slow_consumer_s": 0.3, "slow_consumer_bytes": 4096}], indirect=True
)
async def test_one_that_never_reads_is_ended(world: World, client: EventStreamClient) -> None:
    """Bounded bytes are kept for it, then it is closed as slow, while a neighbour gets all."""
    deaf = await deaf_reader(world)
    await stream(world, client)
    await client.until("schedule")
    last = 0
    while not world.node.metrics.value("closed_slow"):
        assert last < 200_000, "never too slow"
        await world.routers[0].deliver(*(broadcast(at, at - 1, "s" * 60) for at in range(last + 1, last + 201)))
        last += 200
        while (await client.until("broadcast")).frame["timestamp"] < last:
            pass
    await eventually(lambda: world.node.status()["connections"] == 1, 20)
    deaf.close()
    await world.routers[0].deliver(broadcast(last + 1, last))
    assert told(await client.until("broadcast")) == ("broadcast", last + 1, str(last + 1))
