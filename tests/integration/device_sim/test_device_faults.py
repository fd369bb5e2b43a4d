"""Goal: what befalls devices on the network is what it says, ends by itself, and loses no broadcast; on both loops.

The peer is the `websockets` package's server.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from scripted_node import ScriptedNode, eventually, scripted_node

from device_sim.client import Channel, ClientContext, DeviceClient, now_ms
from device_sim.device import Device, DeviceOptions
from device_sim.device_loop import run_devices
from device_sim.fleet import Fleet, FleetOptions
from device_sim.fleet_faults import FleetFaults
from device_sim.stage_map import MapEntry, StageMap
from device_sim.wire import accept_key

TOPIC = "event:fight"
OPTIONS = DeviceOptions(reconnect_window_ms=50, fetches_maps=False)
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[run_devices, asyncio.run], ids=["device-loop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """On the loop of fleets, and on one that only lends the devices' epoll a reader."""
    return request.param


def welcome() -> str:
    terms = '"lifetime_s":3600.0,"ping_s":0.0,"reconnect_window_ms":50,"refetch_window_ms":100'
    return f'{{"type":"welcome","node":"a rather long name of a node","server_time":0,{terms}}}'


class Scene:
    """One node and some devices that follow it, connected."""

    def __init__(self, node: ScriptedNode, fleet: Fleet) -> None:
        self.node = node
        self.fleet = fleet
        self.stats = fleet.context.stats
        self.faults = FleetFaults(fleet)

    @property
    def client(self) -> DeviceClient:
        return self.fleet.clients[0]

    @property
    def cursors(self) -> set[int | None]:
        return {client.device.topics[TOPIC].cursor for client in self.fleet.clients}

    async def all_at(self, timestamp: int) -> None:
        await eventually(lambda: self.cursors == {timestamp})


def play(run: Run, part: Callable[[Scene], Coroutine[Any, Any, None]], *, devices: int = 1, **settings: Any) -> None:
    async def main() -> None:
        async with (
            scripted_node(**settings) as node,
            Fleet(FleetOptions(devices=devices, device=OPTIONS, sources=("127.0.0.7", "127.0.0.8"))) as fleet,
        ):
            for number in range(devices):
                fleet.add(f"d-{number}", urls=(node.url,), token="secret", topics=(TOPIC,))
            await fleet.connect_all()
            scene = Scene(node, fleet)
            await node.broadcast(TOPIC, "upcoming", 1000)
            await scene.all_at(1000)
            await part(scene)

    run(asyncio.wait_for(main(), 15))


def test_a_reset_is_noticed_at_once_on_both_sides(run: Run) -> None:
    async def part(scene: Scene) -> None:
        (before,) = scene.node.connections
        scene.client.drop()
        await eventually(lambda: before not in scene.node.connections)
        assert before.close_code == 1006
        await scene.node.broadcast(TOPIC, "live", 2000)
        await scene.all_at(2000)
        assert scene.stats.handshakes == 2

    play(run, part)


def test_a_frozen_device_hears_nothing_and_then_all_of_it(run: Run) -> None:
    async def part(scene: Scene) -> None:
        assert scene.client.freeze(0.5)
        assert not scene.client.freeze(0.3), "one fault at a time"
        await scene.node.broadcast(TOPIC, "live", 2000)
        await scene.node.broadcast(TOPIC, "ended", 3000)
        await asyncio.sleep(0.1)
        assert scene.cursors == {1000}
        await scene.all_at(3000)
        assert scene.stats.handshakes == 1, "over the same connection"
        assert [each.timestamp for each in scene.client.device.renders or ()][-2:] == [2000, 3000]

    play(run, part)


def test_a_frozen_device_keeps_no_time() -> None:
    """It would have left a node silent for 1.25 pings and a second; it notices when it wakes."""

    async def part(scene: Scene) -> None:
        scene.client.freeze(1.4)
        await asyncio.sleep(1.3)
        assert scene.stats.handshakes == 1
        await eventually(lambda: scene.stats.handshakes == 2)

    play(run_devices, part, ping_s=0.1)


def test_half_open_leaves_the_node_in_the_dark(run: Run) -> None:
    async def part(scene: Scene) -> None:
        (before,) = scene.node.connections
        assert scene.client.half_open(0.1)
        await asyncio.sleep(0.05)
        assert not scene.client.device.online
        await scene.node.broadcast(TOPIC, "live", 2000)
        await scene.all_at(2000)
        assert before in scene.node.connections
        assert len(scene.node.connections) == 2
        assert scene.stats.open == 1

    play(run, part)


def test_a_slow_reader_gets_everything_late(run: Run) -> None:
    async def part(scene: Scene) -> None:
        scene.client.slow_down(0.6, 100)
        for timestamp in range(2000, 2040):
            await scene.node.broadcast(TOPIC, "live", timestamp)
        await asyncio.sleep(0.3)
        assert scene.cursors < {*range(1000, 2005)}
        await scene.all_at(2039)
        assert (scene.stats.handshakes, scene.stats.protocol_violations) == (1, 0)

    play(run, part)


def test_who_leaves_comes_back_with_its_cursor_or_is_replaced(run: Run) -> None:
    async def part(scene: Scene) -> None:
        assert scene.faults.churn(0.5, away_s=0.1) == 10
        await eventually(lambda: len(scene.node.connections) == 10)
        await scene.node.broadcast(TOPIC, "live", 2000)
        await scene.all_at(2000)
        returned = [f["topics"][TOPIC] for f in scene.node.sent("subscribe")[20:]]
        assert returned == [1000] * 10
        assert scene.faults.churn(0.5, over_s=0.1) == 10
        await eventually(lambda: len(scene.node.sent("subscribe")) == 40 and len(scene.node.connections) == 20)
        newcomers = [f["topics"][TOPIC] for f in scene.node.sent("subscribe")[30:]]
        assert newcomers == [None] * 10
        await scene.node.broadcast(TOPIC, "ended", 3000)
        await scene.all_at(3000)

    play(run, part, devices=20)


async def test_who_takes_anothers_place_has_its_clock() -> None:
    """The map it holds may be hours old: the server's time in it is not the time now."""
    async with Fleet(FleetOptions(devices=1, device=OPTIONS)) as fleet:
        left = fleet.add("d", urls=("ws://127.0.0.1:1/",), token="", topics=(TOPIC,)).device
        came_ms, ahead_ms = now_ms() - 3_600_000, 40_000
        server_ms = came_ms + ahead_ms
        times = {"upcoming": server_ms - 60_000, "live": server_ms + 60_000}
        held = StageMap("fight", 1, 1, 7200, server_ms, entries={}, default=MapEntry("f", b""), times=times)
        left.map_fetched(came_ms, TOPIC, held, 0.5)
        assert left.clock_offset_ms == ahead_ms
        newcomer = fleet.replace(0).device
        assert newcomer.clock_offset_ms == ahead_ms
        assert newcomer.topics[TOPIC].shown_key == "live"


def test_who_leaves_without_a_network_has_one_when_it_returns() -> None:
    """Leaving may be planned before the network goes; what comes back is a whole device, which returns again."""

    async def part(scene: Scene) -> None:
        client = scene.client
        client.offline(60.0)
        client.stop()
        client.start()
        await eventually(lambda: client.device.online)
        client.drop()
        await eventually(lambda: scene.stats.handshakes == 3 and client.device.online)

    play(run_devices, part)


def test_a_frozen_device_that_loses_its_network_has_one_fault() -> None:
    """What was to thaw it must not end the other one's count."""

    async def part(scene: Scene) -> None:
        client = scene.client
        client.freeze(0.05)
        client.offline(0.3)
        await asyncio.sleep(0.15)
        assert client.is_befallen
        assert not client.device.online
        await eventually(lambda: client.device.online)

    play(run_devices, part)


def test_everything_at_once(run: Run) -> None:
    async def part(scene: Scene) -> None:
        faults = scene.faults
        chosen = [faults.drop(0.2), faults.freeze(0.2, 0.1), faults.half_open(0.2, 0.1), faults.slow_down(0.2, 0.1, 50)]
        chosen += [faults.offline(0.2, 0.1), faults.churn(0.5, over_s=0.1), faults.churn(0.5, over_s=0.1, away_s=0.1)]
        assert all(chosen)
        for timestamp in range(2000, 2010):
            await scene.node.broadcast(TOPIC, "live", timestamp)
            await asyncio.sleep(0.02)
        await scene.all_at(2009)
        await eventually(lambda: all(client.device.online for client in scene.fleet.clients))

    play(run, part, devices=40)


def test_devices_of_an_address_that_never_answers_do_not_keep_others_waiting() -> None:
    async def main() -> None:
        silent = socket.create_server(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        async with scripted_node() as node, Fleet(FleetOptions(devices=1, device=OPTIONS, opening_max=2)) as fleet:
            for number in range(2):
                fleet.add(f"s-{number}", urls=(f"ws://127.0.0.1:{port}/",), token="", topics=(TOPIC,))
            there = fleet.add("d", urls=(node.url,), token="", topics=(TOPIC,))
            fleet.start_all()
            await eventually(lambda: there.device.online)
        silent.close()

    run_devices(asyncio.wait_for(main(), 15))


def test_an_end_that_comes_with_the_last_words_is_noticed(run: Run) -> None:
    """All of it larger than one read, the end right behind: what was said counts, and the device returns."""
    padding = "x" * 60
    said = [welcome()]
    for number in range(99):
        known = f'"topic":"{TOPIC}","revision":{number},"version":1,"times":{{"{padding}":null}}'
        said.append(f'{{"type":"schedule",{known}}}')
    said.append(
        f'{{"type":"broadcast","topic":"{TOPIC}","state_key":"live","timestamp":1000,"prev":0,"x":"{padding}"}}'
    )

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        key = request.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
        frames = b"".join(bytes((0x81, 126)) + len(each).to_bytes(2, "big") + each.encode() for each in said)
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Protocol: stagecue.v1\r\nSec-WebSocket-Accept: " + accept_key(key) + b"\r\n\r\n" + frames
        )
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        async with server, Fleet(FleetOptions(devices=1, device=OPTIONS)) as fleet:
            client = fleet.add("d", urls=(url,), token="", topics=(TOPIC,))
            client.start()
            await eventually(lambda: client.device.topics[TOPIC].cursor == 1000)
            await eventually(lambda: fleet.context.stats.handshakes >= 2)
            assert client.device.topics[TOPIC].revision == 98

    run(asyncio.wait_for(main(), 15))


def test_two_fleets_share_a_loop(run: Run) -> None:
    """Only one of them can have its sockets in the loop's own wait."""

    async def main() -> None:
        options = FleetOptions(devices=1, device=OPTIONS)
        async with scripted_node() as node, Fleet(options) as one, Fleet(options) as other:
            clients = [fleet.add("d", urls=(node.url,), token="", topics=(TOPIC,)) for fleet in (one, other)]
            for client in clients:
                client.start()
            await eventually(lambda: all(client.device.subscribed for client in clients))
            await node.broadcast(TOPIC, "live", 1000)
            await eventually(lambda: all(client.device.topics[TOPIC].cursor == 1000 for client in clients))
            assert (one.online, other.online) == (1, 1)

    run(asyncio.wait_for(main(), 15))


def test_names_are_looked_up_and_tls_is_spoken(run: Run, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    asked = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    named = ("-days", "2", "-subj", "/CN=x", "-addext", "subjectAltName=DNS:localhost")
    subprocess.run([*asked, "-keyout", key, "-out", cert, *named], check=True, capture_output=True)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(cert, key)

    async def follow(tls: ssl.SSLContext | None) -> None:
        async with scripted_node(tls=serving if tls else None) as node:
            context = ClientContext(asyncio.get_running_loop(), seed=1)
            channel = Channel.from_url(node.url.replace("127.0.0.1", "localhost"), tls=tls)
            client = DeviceClient(context, [channel], Device("d", OPTIONS))
            client.follow(TOPIC)
            client.start()
            await eventually(lambda: client.device.subscribed)
            client.freeze(0.1)
            await node.broadcast(TOPIC, "live", 1000)
            await eventually(lambda: client.device.topics[TOPIC].cursor == 1000)
            client.drop()
            await eventually(lambda: context.stats.handshakes == 2 and client.device.online)
            client.stop()
            await eventually(lambda: client.is_closed and not context.stats.open)
            await context.close()

    run(asyncio.wait_for(follow(None), 10))
    run(asyncio.wait_for(follow(ssl.create_default_context(cafile=str(cert))), 10))
