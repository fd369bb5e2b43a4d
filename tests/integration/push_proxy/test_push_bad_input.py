"""Whatever a client gets wrong is answered in its own interface's form, changes nothing, and disturbs no neighbour."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator

import pytest
import websockets
from push_world import TOPIC, Device, World, broadcast, eventually
from websockets.frames import Frame, Opcode

from contract.tokens import new_key_ring

STREAM = websockets.Subprotocol("stagecue.v1")


@pytest.fixture
async def neighbour(world: World) -> AsyncIterator[Device]:
    """A device beside the offender; after the test it must still get a broadcast."""
    device = await world.connect()
    await device.subscribe(0)
    await device.until("schedule")
    yield device
    await world.publish(broadcast(10, 0))
    await world.routers[0].deliver(broadcast(10, 0))
    assert (await device.until("broadcast"))["timestamp"] == 10


async def http(world: World, request: bytes, *, timeout: float = 3) -> tuple[int, dict[str, str], bytes]:
    """One raw request; status, headers, body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), timeout)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status.split(" ")[1]), headers, body


@pytest.mark.parametrize(
    ("frame", "code", "says"),
    [
        ("{not json", "malformed_frame", "not JSON"),
        ('{"type":"dance"}', "malformed_frame", "type is one of subscribe"),
        ('{"type":"subscribe","topics":{},"later":' + "[" * 8000 + "]" * 8000 + "}", "malformed_frame", "nested"),
        ('{"type":"subscribe"}', "malformed_frame", "topics"),
        ('{"type":"subscribe","topics":{"event:fight":"soon"}}', "malformed_frame", "int"),
        ('{"type":"subscribe","topics":{"event:fight":99999999999999}}', "cursor_in_future", "5 minutes"),
        ('{"type":"subscribe","topics":{"event:fight":-1}}', "malformed_cursor", "negative"),
        ('{"type":"subscribe","topics":{"event:nobody":0}}', "unknown_topic", "no such topic"),
        ('{"type":"ack","topic":"event:nobody","timestamp":1}', "not_subscribed", "topic"),
        ('{"type":"auth","token":"forged"}', "unauthorized", "token"),
        (
            json.dumps({"type": "subscribe", "topics": {f"t{n}": None for n in range(1000)}}),
            "too_many_topics",
            "at most 64",
        ),
    ],
)
@pytest.mark.usefixtures("neighbour")
async def test_frames_in_error(world: World, frame: str, code: str, says: str) -> None:
    """An error frame names the code, the field and the rule; the connection goes on."""
    device = await world.connect()
    await device.connection.send(frame)
    error = await device.next()
    assert (error["type"], error["code"]) == ("error", code)
    assert says in error["message"]
    await device.subscribe(None)
    assert (await device.next())["verdict"] == "complete"


@pytest.mark.usefixtures("neighbour")
async def test_other_topics_of_the_same_subscribe_succeed(world: World) -> None:
    """One that does not exist, one that does: an error for the one, a verdict for the other."""
    device = await world.connect()
    await device.send({"type": "subscribe", "topics": {"event:nobody": 0, TOPIC: 0}})
    seen = {frame["type"]: frame for frame in [await device.next() for _ in range(3)]}
    assert seen["error"]["topic"] == "event:nobody"
    assert seen["continuity"]["topic"] == TOPIC
    assert "event:nobody" not in world.routers[0].topics, "nobody is told of a topic that does not exist"


@pytest.mark.usefixtures("neighbour")
async def test_forbidden_topic(world: World) -> None:
    """A token for other topics."""
    device = await world.connect(token=world.token(topics=("event:other",)))
    await device.subscribe(0)
    assert (await device.next())["code"] == "forbidden_topic"


@pytest.mark.usefixtures("neighbour")
async def test_too_large_frames(world: World) -> None:
    """Ten thousand topics: an error frame says the limit, then 1009; in fragments too."""
    frame = json.dumps({"type": "subscribe", "topics": {f"event:{n}": None for n in range(10_000)}})
    for message in (frame, [frame[:9000], frame[9000:18_000], frame[18_000:]]):
        device = await world.connect()
        await device.connection.send(message)
        error = await device.next()
        assert (error["code"], "at most 16384 bytes" in error["message"]) == ("malformed_frame", True)
        assert await device.closed() == 1009


@pytest.mark.usefixtures("neighbour")
async def test_binary_and_broken_frames(world: World) -> None:
    """Binary: 1003. Reserved bits: 1002. A fragmented text message is one frame."""
    device = await world.connect()
    await device.connection.send(b"\x00\x01")
    assert await device.closed() == 1003
    device = await world.connect()
    device.connection.transport.write(Frame(Opcode.TEXT, b"{}").serialize(mask=True)[:1] + b"\x80" + b"\x00" * 4)
    assert (await device.next())["code"] == "malformed_frame"
    device.connection.transport.write(b"\xf1\x80" + b"\x00" * 4)
    assert await device.closed() == 1002
    device = await world.connect()
    await device.connection.send(['{"type":"subscribe",', '"topics":{"event:fight":null}}'])
    assert (await device.next())["verdict"] == "complete"


async def test_frames_after_our_close_change_nothing(world: World) -> None:
    """A subscribe right behind a frame that closes the connection: no subscription is made, so none can leak."""
    device = await world.connect()
    subscribe = Frame(Opcode.TEXT, b'{"type":"subscribe","topics":{"event:fight":0}}').serialize(mask=True)
    device.connection.transport.write(Frame(Opcode.BINARY, b"\x00").serialize(mask=True) + subscribe)
    assert await device.closed() == 1003
    await asyncio.sleep(0.1)
    assert b"stagecue_push_subscriptions 0.0" in world.node.metrics.render()
    assert b"stagecue_push_topics 0.0" in world.node.metrics.render()


@pytest.mark.parametrize("world", [{"max_errors": 3}], indirect=True)
async def test_too_many_errors(world: World) -> None:
    """The third error frame is followed by 4503."""
    device = await world.connect()
    for _ in range(3):
        await device.connection.send("?")
    assert [(await device.next())["type"] for _ in range(3)] == ["error"] * 3
    assert await device.closed() == 4503


async def test_tokens(world: World) -> None:
    """Missing, expired, forged, of another ring: 401 with a problem body that does not repeat the token."""
    forged = new_key_ring("stagecue.device").sign(world.ring.verify_device(world.token(), now_s=0))
    other = new_key_ring("stagecue.operator").sign(world.ring.verify_device(world.token(), now_s=0))
    for token in ("", world.token(lives_s=-100_000), forged, other, "a.b.c"):
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(
                world.url,
                subprotocols=[STREAM],
                proxy=None,
                additional_headers={"Authorization": f"Bearer {token}"} if token else {},
            )
        response = refused.value.response
        problem = json.loads(response.body)
        assert (response.status_code, problem["status"], problem["field"]) == (401, 401, "token")
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
        assert not token or token not in problem["detail"]


async def test_browsers_get_close_codes(world: World) -> None:
    """With an Origin header a bad token upgrades and closes 4500; a good one in the subprotocol list is taken."""
    bad = await websockets.connect(world.url, subprotocols=[STREAM], proxy=None, origin=websockets.Origin("https://tv"))
    await bad.wait_closed()
    assert (bad.close_code, "token" in (bad.close_reason or "")) == (4500, True)
    bearer = websockets.Subprotocol(f"stagecue.bearer.{world.token()}")
    good = await websockets.connect(
        world.url, subprotocols=[STREAM, bearer], proxy=None, origin=websockets.Origin("https://tv")
    )
    assert good.subprotocol == "stagecue.v1"
    assert json.loads(await good.recv())["type"] == "welcome"
    await good.close()


async def test_token_in_the_query(world: World) -> None:
    """For clients that can set neither header."""
    url = f"{world.url}?access_token={world.token()}"
    connection = await websockets.connect(url, subprotocols=[STREAM], proxy=None)
    assert json.loads(await connection.recv())["type"] == "welcome"
    await connection.close()


@pytest.mark.parametrize("world", [{"max_connections": 1}], indirect=True)
async def test_full_node(world: World) -> None:
    """503 with Retry-After; a browser gets goaway and 4002. The one inside is not disturbed."""
    inside = await world.connect()
    with pytest.raises(websockets.InvalidStatus) as refused:
        await world.connect()
    assert refused.value.response.status_code == 503
    assert int(refused.value.response.headers["Retry-After"]) >= 1
    browser = await world.connect(welcome=False, origin=websockets.Origin("https://tv"))
    goaway = await browser.next()
    assert (goaway["type"], goaway["reason"], goaway["window_ms"]) == (
        "goaway",
        "full",
        world.settings.reconnect_window_ms,
    )
    assert 0 <= goaway["reconnect_after_ms"] < world.settings.reconnect_window_ms
    assert await browser.closed() == 4002
    await inside.subscribe(0)
    assert (await inside.next())["type"] == "continuity"
    await inside.connection.close()
    await eventually(lambda: world.node.metrics.render().find(b"stagecue_push_connections 0.0") > 0)
    await world.connect()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"POST /v1/stream HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", 405),
        (b"GET /v1/stream HTTP/1.1\r\nHost: x\r\n\r\n", 426),
        (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"nonsense\r\n\r\n", 400),
        (b"GET //[ HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (
            b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Protocol: stagecue.v1\r\nAuthorization: Bearer a\xff.b.c\r\n\r\n",
            401,
        ),
        (b"GET /v1/stream HTTP/1.1\r\nHost x\r\n\r\n", 400),
        (b"GET /v1/stream HTTP/1.1\r\nX: " + b"a" * 20_000, 431),
        (b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 17_000 + b"\r\n\r\n", 431),
        (
            b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n",
            400,
        ),
    ],
)
async def test_requests_that_are_not_ours(world: World, request_: bytes, status: int) -> None:
    """Each has its status and a body that says what to do."""
    got, headers, body = await http(world, request_)
    assert got == status
    assert headers["content-type"] == "application/problem+json"
    assert json.loads(body)["status"] == status


async def test_pages(world: World) -> None:
    """Health, readiness with its reasons, metrics."""
    await eventually(lambda: world.readiness.ready)
    assert (await http(world, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"))[0] == 200
    assert (await http(world, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"))[0] == 200
    world.readiness.fail("disk", "full")
    status, _, body = await http(world, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (status, json.loads(body)["failing"]) == (503, {"disk": "full"})
    await world.connect()
    status, headers, body = await http(world, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"stagecue_push_connections 1.0" in body


@pytest.mark.parametrize("world", [{"handshake_timeout_s": 0.2, "subscribe_deadline_s": 0.2}], indirect=True)
async def test_idle_connections_end(world: World) -> None:
    """A request never finished is cut; a connection that asks for nothing is closed with 4007."""
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(b"GET /v1/stream HTTP/1.1\r\n")
    assert await asyncio.wait_for(reader.read(), 2) == b""
    writer.close()
    device = await world.connect()
    assert await device.closed() == 4007


@pytest.mark.parametrize("world", [{"lifetime_min_s": 0.2, "lifetime_max_s": 0.3}], indirect=True)
async def test_lifetime(world: World) -> None:
    """The end of its life: goaway with the moment to return, then 4001."""
    device = await world.connect()
    await device.subscribe(0)
    goaway = await device.until("goaway")
    assert (goaway["reason"], goaway["window_ms"]) == ("lifetime", world.settings.reconnect_window_ms)
    assert await device.closed() == 4001


@pytest.mark.parametrize("world", [{"token_renew_before_s": 0, "token_expiry_spread_s": 0.1}], indirect=True)
async def test_token_expires_in_flight(world: World) -> None:
    """Without renewal the connection ends with its token: 4006, come back with another."""
    expiring = world.token(lives_s=-4)  # forgiven for clock differences on connect
    device = await world.connect(token=expiring)
    assert await device.closed() == 4006


async def test_token_is_renewed_in_band(world: World) -> None:
    """A token near its end is replaced; the new one is good and of the same device."""
    device = await world.connect(token=world.token(lives_s=60, topics=(TOPIC,)))
    renewed = await device.until("token")
    claims = world.ring.verify_device(renewed["token"], now_s=world.clock.now_ms() / 1000)
    assert (claims.sub, claims.dev, claims.topics) == ("p1", "d1", (TOPIC,))
    assert claims.exp > world.clock.now_ms() / 1000 + 30_000
    await device.send({"type": "auth", "token": renewed["token"]})
    await device.subscribe(0)
    assert (await device.next())["type"] == "continuity"


@pytest.mark.parametrize("world", [{"ping_s": 0.2, "pong_deadline_s": 0.15}], indirect=True)
async def test_half_open_and_healthy_sockets(world: World) -> None:
    """A peer that never answers pings is closed as silent; one that does lives on; a half-closed one is let go."""
    healthy = await world.connect()
    await healthy.subscribe(0)
    await healthy.until("schedule")
    silent, half = (
        socket.create_connection(("127.0.0.1", world.port)),
        socket.create_connection(("127.0.0.1", world.port)),
    )
    request = (
        f"GET /v1/stream?access_token={world.token()} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Protocol: stagecue.v1\r\n\r\n"
    ).encode()
    subscribe = Frame(Opcode.TEXT, b'{"type":"subscribe","topics":{"event:fight":0}}').serialize(mask=True)
    for raw in (silent, half):
        raw.sendall(request)
        await asyncio.sleep(0.05)
        raw.sendall(subscribe)
    await asyncio.sleep(0.05)
    half.shutdown(socket.SHUT_WR)
    await eventually(lambda: world.node.metrics.value("closed_silent") == 1)
    await eventually(lambda: b"stagecue_push_connections 1.0" in world.node.metrics.render())
    silent.settimeout(1)
    received = await asyncio.to_thread(_read_all, silent)
    assert struct.pack("!H", 4004) in received
    assert await world.routers[0].deliver(broadcast(10, 0)) == 1
    assert (await healthy.until("broadcast"))["timestamp"] == 10
    silent.close()
    half.close()


def _read_all(raw: socket.socket) -> bytes:
    received = b""
    while chunk := raw.recv(65_536):
        received += chunk
    return received


@pytest.mark.parametrize("world", [{"slow_consumer_bytes": 8192, "close_timeout_s": 0.5}], indirect=True)
async def test_slow_reader(world: World) -> None:
    """One that does not read is closed once its buffer passes the limit; its neighbour misses nothing."""
    neighbour = await world.connect()
    await neighbour.subscribe(0)
    await neighbour.until("schedule")
    slow = await world.connect()
    await slow.subscribe(0)
    await slow.until("schedule")
    slow.connection.transport.pause_reading()
    slow.connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    wide = "k" * 400
    sent, got = 0, 0
    while sent < 20_000 and not world.node.metrics.value("closed_slow"):
        entries = [broadcast(sent + n + 1, sent + n, wide) for n in range(100)]
        sent += 100
        await world.routers[0].deliver(*entries)
        while got < sent:
            got = (await neighbour.until("broadcast"))["timestamp"]
    assert world.node.metrics.value("closed_slow") == 1
    assert got == sent
    await eventually(lambda: b"stagecue_push_connections 1.0" in world.node.metrics.render())
    slow.connection.transport.abort()


async def test_drain(world: World) -> None:
    """Stop: goaway in slices, each with its own moment, then 4000; new connections are refused; nobody is left."""
    devices = [await world.connect() for _ in range(10)]
    for device in devices:
        await device.subscribe(0)
        await device.until("schedule")
    world.stop.set()
    moments = set()
    for device in devices:
        goaway = await device.until("goaway")
        assert (goaway["reason"], goaway["window_ms"]) == ("drain", world.settings.reconnect_window_ms)
        moments.add(goaway["reconnect_after_ms"])
        assert await device.closed() == 4000
    assert len(moments) > 5
    assert world.task is not None
    await asyncio.wait_for(world.task, 2)
    assert "push.listener" in world.readiness.failing()
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", world.port)


async def test_vanished_devices_leave_nothing_behind(world: World) -> None:
    """Resets in every phase: no subscription, no connection, no deadline stays."""
    for number in range(30):
        device = await world.connect(welcome=False)
        if number % 2:
            await device.subscribe(0)
        device.connection.transport.abort()
    raw, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.transport.abort()
    del raw
    await eventually(lambda: b"stagecue_push_connections 0.0" in world.node.metrics.render())
    await eventually(lambda: b"stagecue_push_subscriptions 0.0" in world.node.metrics.render())
    assert await world.routers[0].deliver(broadcast(10, 0)) == 0
