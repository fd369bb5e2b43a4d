"""Admission, origins, grace, drains near a stage and TLS of a whole node, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
import structlog
import websockets
from push_world import TOPIC, World, broadcast, eventually

from contract.clock import ManualClock
from contract.close_codes import CloseCode
from contract.schedule import PlannedStage, TopicSchedule

ONE_ADDRESS = {"exempt_networks": "", "connections_per_address": 2}


async def page(world: World, path: str) -> bytes:
    """A whole answer to a plain GET."""
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(b"GET %b HTTP/1.1\r\nHost: push\r\n\r\n" % path.encode())
    try:
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()


def refusals(world: World, outcome: str) -> float:
    mark = f'stagecue_push_handshakes_total{{outcome="{outcome}"}} '
    (line,) = [line for line in world.node.metrics.render().decode().splitlines() if line.startswith(mark)]
    return float(line.removeprefix(mark))


@pytest.mark.parametrize("world", [ONE_ADDRESS], indirect=True)
async def test_an_address_has_its_share(world: World) -> None:
    """The third connection of one address: 429 with a moment to return; a page gets goaway and 4008. Pages answer."""
    inside = [await world.connect() for _ in range(2)]
    with pytest.raises(websockets.InvalidStatus) as refused:
        await world.connect()
    assert refused.value.response.status_code == 429
    assert int(refused.value.response.headers["Retry-After"]) >= 1
    browser = await world.connect(welcome=False, origin=websockets.Origin("https://tv"))
    goaway = await browser.next()
    assert (goaway["type"], goaway["window_ms"]) == ("goaway", world.settings.reconnect_window_ms)
    assert await browser.closed() == CloseCode.REFUSED_FOR_NOW
    assert refusals(world, "address") == 2
    await inside[0].connection.close()
    await eventually(lambda: b"stagecue_push_connections 1.0" in world.node.metrics.render(), 20)
    await world.connect()
    await inside[1].subscribe(0)
    assert (await inside[1].next())["type"] == "continuity"


@pytest.mark.parametrize("world", [{"handshake_burst": 2, "handshakes_per_s": 0.01}], indirect=True)
async def test_the_rate_of_handshakes(world: World) -> None:
    """The burst is served, the next one told to come again; who is inside, and health, notice nothing."""
    inside = [await world.connect() for _ in range(2)]
    with pytest.raises(websockets.InvalidStatus) as refused:
        await world.connect(token="forged")
    assert refused.value.response.status_code == 503, "refused before its token cost anything"
    assert refusals(world, "too_fast") == 1
    assert (await page(world, "/healthz")).startswith(b"HTTP/1.1 200 ")
    await inside[1].subscribe(0)
    assert (await inside[1].next())["type"] == "continuity"


@pytest.mark.parametrize("world", [{"max_connections": 1, "handshake_timeout_s": 1.0}], indirect=True)
async def test_silent_sockets_hold_only_the_lane(world: World) -> None:
    """A hundred sockets that say nothing: some are cut at once, the others soon; the one inside gets its broadcast."""
    inside = await world.connect()
    await inside.subscribe(0)
    await inside.until("schedule")
    silent = [socket.create_connection(("127.0.0.1", world.port)) for _ in range(100)]
    try:
        for each in silent:
            each.setblocking(False)
        loop = asyncio.get_running_loop()
        ends = [asyncio.ensure_future(_end(loop, each)) for each in silent]
        await world.routers[0].deliver(broadcast(100, 0))
        assert (await inside.until("broadcast"))["timestamp"] == 100
        async with asyncio.timeout(20):
            assert set(await asyncio.gather(*ends)) == {b""}
    finally:
        for each in silent:
            each.close()
    assert 0 < refusals(world, "late") <= 64
    assert (await page(world, "/healthz")).startswith(b"HTTP/1.1 200 ")


async def _end(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> bytes:
    try:
        return await loop.sock_recv(sock, 1)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("world", [{"max_connections": 1, "clock": ManualClock()}], indirect=True)
async def test_refusals_make_few_lines_that_count_them_all(world: World) -> None:
    """Three hundred refused within a minute: one line at once, one after it; the flood's end loses no count."""
    await world.connect()
    request = (
        b"GET /v1/stream HTTP/1.1\r\nHost: push\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        b"Sec-WebSocket-Protocol: stagecue.v1\r\n\r\n"
    )

    async def refused() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        writer.write(request)
        try:
            return await asyncio.wait_for(reader.read(), 20)
        finally:
            writer.close()

    def told() -> list[int]:
        return [line["count"] for line in lines if line["event"] == "handshakes_refused"]

    assert isinstance(world.clock, ManualClock)
    with structlog.testing.capture_logs() as lines:
        for _ in range(10):
            answers = await asyncio.gather(*(refused() for _ in range(30)))
            assert all(answer.startswith(b"HTTP/1.1 503 ") for answer in answers)
        assert told() == [1]
        world.clock.advance_ms(61_000)
        await eventually(lambda: sum(told()) == 300, 20)
        assert told() == [1, 299]
    assert {line["outcome"] for line in lines if line["event"] == "handshakes_refused"} == {"full"}


@pytest.mark.parametrize("world", [{"allowed_origins": "https://*.example.com"}], indirect=True)
async def test_pages_of_others_may_not_connect(world: World) -> None:
    """Whole labels, over the wire; a program without an origin is not asked for one."""
    for origin in ("https://badexample.com", "https://tv.example.com.evil.org", "null"):
        with pytest.raises(websockets.InvalidStatus) as refused:
            await world.connect(origin=websockets.Origin(origin))
        assert refused.value.response.status_code == 403, origin
    await world.connect(origin=websockets.Origin("https://tv.example.com"))
    await world.connect()
    assert refusals(world, "origin") == 3


async def test_back_within_the_grace(world: World) -> None:
    """A token that ran out while its device was away: let in, renewed at once, and not sent away for it."""
    device = await world.connect(token=world.token(lives_s=-1000, topics=(TOPIC,)))
    renewed = await device.until("token", 20)
    claims = world.ring.verify_device(renewed["token"], now_s=world.clock.now_ms() / 1000)
    assert (claims.dev, claims.topics) == ("d1", (TOPIC,))
    await device.subscribe(0)
    await device.until("schedule", 20)
    await device.quiet(0.3)
    with pytest.raises(websockets.InvalidStatus) as refused:
        await world.connect(token=world.token(lives_s=-int(world.settings.grace_s) - 60))
    assert refused.value.response.status_code == 401


@pytest.mark.parametrize("world", [{"drain_guard_s": 4.0, "drain_defer_max_s": 20.0}], indirect=True)
async def test_a_drain_waits_for_a_due_stage(world: World) -> None:
    """A stage is due just now: not ready at once, but still accepting; goaway only when the stage has been heard of."""
    device = await world.connect()
    await device.subscribe(0)
    await device.until("schedule")
    due_ms = world.clock.now_ms()
    plan = TopicSchedule(
        topic=TOPIC,
        event_id="fight",
        title="Fight",
        revision=9,
        version=1,
        starts_at=due_ms,
        stages=(PlannedStage(key="live", order=0, due_at=due_ms),),
    )
    await world.view.put(plan)
    await world.routers[0].deliver(schedules=(plan,))
    assert (await device.until("schedule"))["revision"] == 9
    world.stop.set()
    await eventually(lambda: not world.readiness.ready, 20)
    late = await world.connect()
    await world.routers[0].deliver(broadcast(due_ms, 0, "live"))
    assert (await device.until("broadcast"))["state_key"] == "live"
    goaway = await device.until("goaway", 20)
    assert goaway["reason"] == "drain"
    assert world.clock.now_ms() >= due_ms + 4000
    assert await device.closed() == CloseCode.DRAIN
    assert await late.closed() == CloseCode.DRAIN


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """(certificate, key) of this machine's loopback address."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


async def test_a_node_speaks_wss(certificate: tuple[Path, Path]) -> None:
    """Its own certificate: welcome, subscribe and broadcast as ever; whoever speaks plain HTTP gets no page."""
    cert, key = certificate
    world = World(tls_cert_file=cert, tls_key_file=key)
    await world.start()
    router = world.router()
    try:
        trusting = ssl.create_default_context(cafile=cert)
        connection = await websockets.connect(
            f"wss://127.0.0.1:{world.port}/v1/stream",
            ssl=trusting,
            subprotocols=[websockets.Subprotocol("stagecue.v1")],
            additional_headers={"Authorization": f"Bearer {world.token()}"},
            compression=None,
            proxy=None,
        )
        async with connection:
            frames = connection.__aiter__()
            assert b'"welcome"' in _bytes(await asyncio.wait_for(anext(frames), 20))
            await connection.send(json.dumps({"type": "subscribe", "topics": {TOPIC: 0}}))
            assert b'"continuity"' in _bytes(await asyncio.wait_for(anext(frames), 20))
            await router.deliver(broadcast(100, 0))
            async with asyncio.timeout(20):
                while b'"broadcast"' not in _bytes(await anext(frames)):
                    pass
        with contextlib.suppress(ConnectionResetError):
            assert not (await page(world, "/healthz")).startswith(b"HTTP")
    finally:
        await world.end()


async def test_whoever_begins_no_tls_handshake_is_cut_off(certificate: tuple[Path, Path]) -> None:
    """Sockets that say nothing, or half a hello, to a listener with TLS: gone after its handshake timeout, not 60 s."""
    cert, key = certificate
    world = World(tls_cert_file=cert, tls_key_file=key, handshake_timeout_s=0.5)
    await world.start()
    quiet = [socket.create_connection(("127.0.0.1", world.port)) for _ in range(10)]
    try:
        for number, each in enumerate(quiet):
            each.setblocking(False)
            if number % 2:
                each.send(b"\x16\x03\x01\x02\x00\x01")  # a record of 512 bytes, of which one comes
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(25):
            assert set(await asyncio.gather(*(_end(loop, each) for each in quiet))) == {b""}
        trusting = ssl.create_default_context(cafile=cert)
        async with asyncio.timeout(20):
            _, writer = await asyncio.open_connection("127.0.0.1", world.port, ssl=trusting)
        writer.close()
    finally:
        for each in quiet:
            each.close()
        await world.end()


def _bytes(message: str | bytes) -> bytes:
    return message.encode() if isinstance(message, str) else message
