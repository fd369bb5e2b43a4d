"""Goal: the push node's benches run whole at small sizes, and the load client reports what a server really did."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from websockets.asyncio.server import ServerConnection, serve

from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.peers.floor import FloorPeer
from loadtest.bench.push.arena import VARIANTS
from loadtest.bench.push.chain import Chain
from loadtest.bench.push.connect import ConnectOptions, measure_connect
from loadtest.bench.push.cores import choose_cores
from loadtest.bench.push.dialect import Dialect, Marker, bare
from loadtest.bench.push.fanout import FanOutOptions, measure_fanout
from loadtest.bench.push.load import LoadProcess, write_requests
from loadtest.bench.push.node_kill import NodeKillOptions, measure_node_kill
from loadtest.bench.report import Reporter

CORE = choose_cores().load
HELLO = Marker(1, "hello")


def children() -> set[int]:
    """Ours; a database that serves other tests starts and ends workers as it likes."""
    return {child.pid for child in psutil.Process().children()}


@asynccontextmanager
async def devices_of(
    port: int, directory: Path, *, devices: int, dialect: Dialect
) -> AsyncIterator[tuple[LoadProcess, Path]]:
    load = LoadProcess("load", directory, core=CORE, port=port, devices=devices, block=49, dialect=dialect)
    requests = directory / "requests"
    chain = Chain(lambda: 1_700_000_000_000, ack=None)
    write_requests(requests, [dialect.request(f"127.0.0.1:{port}", "", chain)] * devices)
    async with load:
        yield load, requests


async def test_a_fan_out_beside_two_peers(tmp_path: Path) -> None:
    before = children()
    options = FanOutOptions(devices=100, peers="floor,websockets", rounds=3)
    found = await measure_fanout(options, Reporter(as_json=True))
    assert children() == before
    keys = found.keys()
    assert (keys["missed"], keys["rounds"], keys["devices"]) == (0, 3, 100)
    assert {name: len(rounds) for name, rounds in found.rounds.items()} == {"stagecue": 3, "floor": 3, "websockets": 3}
    for rounds in found.rounds.values():
        assert all(each.arrivals.received == 100 and each.us_per_delivery > 0 for each in rounds)
        assert all(0 <= ms < 60_000 for each in rounds for ms in each.arrivals_ms())
    assert "servers sent messages of different sizes" not in found.invalid_because()
    assert keys["probes"] > 0
    assert 0 < keys["probe_rtt_ms_p50"] <= keys["probe_rtt_ms_max"]
    found.tabulate(Reporter(as_json=True))


@pytest.mark.slow
async def test_connects_of_every_protocol_and_token(tmp_path: Path) -> None:
    before = children()
    options = ConnectOptions(devices=60, peers="floor", rounds=1)
    found = await measure_connect(options, Reporter(as_json=True))
    assert children() == before
    keys = found.keys()
    assert (keys["devices"], keys["rounds"], set(keys["peers"])) == (60, 1, {"floor"})
    assert set(found.variants) == set(VARIANTS)
    for name in ("us_per_connect", "eddsa_us_per_connect", "graphql_us_per_connect", "sse_us_per_connect"):
        assert keys[name] > 0
    assert keys["peers"]["floor"]["us_per_connect"] < keys["us_per_connect"]
    found.tabulate(Reporter(as_json=True))


@pytest.mark.external_service
async def test_nchan_is_measured_beside_ours() -> None:
    options = FanOutOptions(devices=100, peers="nchan", rounds=2)
    found = await measure_fanout(options, Reporter(as_json=True))
    assert all(each.arrivals.received == 100 for each in found.rounds["nchan"])
    assert "servers sent messages of different sizes" not in found.invalid_because()


@pytest.mark.fault
@pytest.mark.slow
async def test_devices_of_a_killed_node_come_back_and_catch_up() -> None:
    before = children()
    options = NodeKillOptions(devices=100, nodes=3, lifetime_s=5.0)
    found = await measure_node_kill(options, Reporter(as_json=True))
    assert children() == before
    assert (found.on_node, len(found.back_s), len(found.caught_up_s)) == (100, 100, 100)
    assert (found.audit.missed, found.audit.unknown_frames, found.audit.out_of_order) == (0, 0, 0)
    assert found.mean_handshakes_per_s > 0
    assert found.broadcasts > 1
    found.tabulate(Reporter(as_json=True))


async def test_settings_of_the_caller_do_not_reach_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of one connection would be felt at once; one given to the bench is."""
    monkeypatch.setenv("PUSH_MAX_CONNECTIONS", "1")
    options = FanOutOptions(devices=5, peers="", rounds=1)
    found = await measure_fanout(options, Reporter(as_json=True))
    assert found.rounds["stagecue"][0].arrivals.received == 5
    limited = FanOutOptions(devices=5, peers="", rounds=1, environment={"PUSH_MAX_CONNECTIONS": "1"})
    with pytest.raises(CouldNotRun, match=r"1 of 5 devices became ready \(4 refused"):
        await measure_fanout(limited, Reporter(as_json=True))


@pytest.mark.slow
async def test_no_life_ends_while_a_night_is_measured() -> None:
    """Lives of seconds, all over within the run: a device sent away would count as one that missed its broadcasts."""
    short = {"PUSH_LIFETIME_MIN_S": "4", "PUSH_LIFETIME_MAX_S": "5"}  # a node looks for stages about once a second
    options = FanOutOptions(devices=40, peers="", rounds=25, environment=short)
    found = await measure_fanout(options, Reporter(as_json=True))
    assert (found.missed, found.probed[-1].arrivals.lost) == (0, 0)


# the load client


async def test_it_answers_pings_counts_each_device_once_and_sees_who_was_closed(tmp_path: Path) -> None:
    """Three devices: all are pinged, two get the broadcast in pieces and twice, one last and is closed."""
    connections: list[ServerConnection] = []

    async def handle(connection: ServerConnection) -> None:
        connections.append(connection)
        await connection.send("hello")
        await connection.wait_closed()

    async with serve(handle, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with devices_of(port, tmp_path, devices=3, dialect=bare("/", (HELLO,))) as (load, requests):
            connected = await load.connect(requests, None, within_s=20)
            assert (connected.ready, connected.refused, connected.failed) == (3, 0, 0)
            for connection in connections:
                async with asyncio.timeout(20):
                    await (await connection.ping("are you there?"))
            await load.expect("news", within_s=20, probing=False)
            frame = b"\x81\x7e" + (200).to_bytes(2, "big") + b"news".ljust(200, b".")
            for connection in connections[:2]:
                connection.transport.write(frame[:3])
                await asyncio.sleep(0.05)
                connection.transport.write(frame[3:] + frame)
            await connections[2].send("olds")
            await asyncio.sleep(0.05)
            await connections[2].send("news".ljust(200, "."))
            found = await load.arrivals(within_s=20)
            assert (found.received, found.repeated, found.bytes) == (3, 2, 200)
            assert all(each > 40_000 for each in found.arrivals_us)
            await connections[2].close(4001, "go")
            async with asyncio.timeout(20):
                while (status := await load.status()).lost == 0:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert (status.open, status.ready, status.closed_by) == (2, 2, 4001)
            await load.close_all()
            assert (await load.status()).open == 0
            again = await load.connect(requests, None, within_s=20)
            assert again.ready == 3


async def test_its_probe_measures_what_a_pause_of_the_server_does_to_others(tmp_path: Path) -> None:
    connections: list[ServerConnection] = []

    async def handle(connection: ServerConnection) -> None:
        connections.append(connection)
        await connection.send("hello")
        await connection.wait_closed()

    async with serve(handle, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with devices_of(port, tmp_path, devices=6, dialect=bare("/", (HELLO,))) as (load, requests):
            await load.connect(requests, None, within_s=20)
            await load.expect("news", within_s=20, probing=True)
            await asyncio.sleep(0.1)
            time.sleep(0.08)  # noqa: ASYNC251 - the server's loop stands still
            for connection in connections:
                await connection.send("news")
            found = await load.arrivals(within_s=20)
            assert found.received == 6
            assert found.probes > 4
            assert found.probe_us_max > 70_000
            assert found.probe_us_p50 < found.probe_us_max
            assert (found.lost, found.error) == (0, "")
            await load.expect("last", within_s=20, probing=True)
            await connections[0].close(4009, "flood")  # it may be one whose ping is under way
            for connection in connections[1:]:
                await connection.send("last")
            found = await load.arrivals(within_s=20)
            assert (found.received, found.lost, found.probe_us_max < 10_000_000) == (5, 1, True)
            assert "flood" in found.error


async def test_refusals_and_vanished_servers_are_told_not_hung_on(tmp_path: Path) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with devices_of(port, tmp_path, devices=4, dialect=bare("/", (HELLO,))) as (load, requests):
        found = await load.connect(requests, None, within_s=20)
        assert (found.ready, found.refused) == (0, 4)
        assert "503 Service Unavailable" in found.error
        server.close()
        await server.wait_closed()
        found = await load.connect(requests, None, within_s=20)
        assert (found.ready, found.failed) == (0, 4)
        assert "refused" in found.error


async def test_a_server_that_says_nothing_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        async with devices_of(port, tmp_path, devices=2, dialect=bare("/")) as (load, requests):
            found = await load.connect(requests, None, within_s=0.3)
            assert (found.ready, found.refused, found.failed) == (0, 0, 0)
            await load.close_all()
            assert (await load.status()).open == 0


async def test_the_floor_serves_one_who_comes_in_pieces_and_forgets_one_who_left(tmp_path: Path) -> None:
    async with FloorPeer(tmp_path, core=CORE) as floor:
        reader, writer = await asyncio.open_connection("127.0.0.1", floor.port)
        for part in (b"GET / HTTP/1.1\r\nHost: h\r\n\r", b"\nextra"):
            writer.write(part)
            await asyncio.sleep(0.05)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        assert await floor.ask("send 810568656c6c6f") == {"written": 1, "blocked": 0}
        assert await reader.readexactly(7) == b"\x81\x05hello"
        writer.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        writer.close()
        async with asyncio.timeout(20):
            while (await floor.ask("send 8100"))["written"]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert floor.running
    assert not floor.running
