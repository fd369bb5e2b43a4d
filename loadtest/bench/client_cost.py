"""What the lean client costs: CPU per connect and per frame, memory per device. `python -m loadtest.bench.client_cost`.

The server runs in another process and is not counted: it accepts, welcomes, answers one subscribe and sends broadcasts,
all prepared, so that the client is what is measured. CPU is this process's own (getrusage: a `CpuMeter` would count the
server too, which is our child), memory its RSS difference. Devices are those of a fleet that records lightly: on the
devices' own loop, each with a signed token, a source address, and a share in a map of its profile.

The *floor* is measured against the same server: the system calls of a connect and of a frame alone, made by a loop that
does nothing else (socket, bind, connect, two writes, two reads, a registration; a wait for many and a read).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import resource
import select
import socket
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, cast

import uvloop

from contract.frames import (
    SUBPROTOCOL,
    BroadcastFrame,
    ContinuityFrame,
    SubscribeFrame,
    WelcomeFrame,
    encode_frame,
)
from contract.tokens import DeviceClaims, new_key_ring
from device_sim.client import now_ms
from device_sim.device import DeviceOptions
from device_sim.device_loop import EVENTS_PER_TURN, run_devices
from device_sim.device_table import BIND_ADDRESS_NO_PORT
from device_sim.fleet import Fleet, FleetOptions
from device_sim.stage_map import MapEntry, StageMap
from device_sim.wire import TEXT, accept_key, handshake_request, masked_frame
from loadtest.bench.fleet_plan import source_addresses
from loadtest.bench.fleet_tally import FleetTally
from loadtest.bench.settled_memory import settle_memory

__all__ = ["measure_client", "measure_floor"]

_TOPIC: Final = "event:measured"
_BASE: Final = 1_700_000_000_000
_ROUNDS: Final = 20
_DEVICES_PER_MAP: Final = 20


def _server_frame(payload: bytes) -> bytes:
    size = len(payload)
    assert size < 65536, "a longer one has another head"
    head = bytes((0x81, size)) if size < 126 else b"\x81\x7e" + size.to_bytes(2, "big")
    return head + payload


_CONTINUITY: Final = _server_frame(encode_frame(ContinuityFrame(_TOPIC, "complete", "upcoming", _BASE)))


class _Peer(asyncio.Protocol):
    """Just enough server: no parsing beyond the handshake's key, no state."""

    __slots__ = ("_open", "peers", "transport")

    def __init__(self, peers: set[_Peer]) -> None:
        self.peers = peers
        self._open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._open:  # the subscribe, the only thing a device says here
            self.transport.write(_CONTINUITY)
            return
        self._open = True
        key = data.split(b"Sec-WebSocket-Key: ", 1)[1].split(b"\r\n", 1)[0]
        welcome = WelcomeFrame("n", now_ms(), 3600.0, 0.0, 5_000, 60_000)
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: "
            + SUBPROTOCOL.encode() + b"\r\nSec-WebSocket-Accept: " + accept_key(key) + b"\r\n\r\n"
            + _server_frame(encode_frame(welcome))
        )  # fmt: skip
        self.peers.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.peers.discard(self)


def _serve(pipe: Connection) -> None:
    async def main() -> None:
        peers: set[_Peer] = set()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Peer(peers), "127.0.0.1", 0, backlog=4096)
        pipe.send(server.sockets[0].getsockname()[1])
        while await loop.run_in_executor(None, pipe.poll, None):
            number = pipe.recv()
            if number is None:
                break
            frame = BroadcastFrame(_TOPIC, "live", _BASE + number, _BASE + number - 1)
            prepared = _server_frame(encode_frame(frame))
            for peer in tuple(peers):
                peer.transport.write(prepared)
        server.close()

    uvloop.run(main())


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def measure_client(port: int, pipe: Connection, devices: int) -> dict[str, float]:
    """us per connect and per frame, bytes per device; the server at `port` is fed through `pipe`."""
    tally = FleetTally(devices, (_TOPIC,))
    options = FleetOptions(
        devices=devices, sources=source_addresses(1, block=9), record_arrivals=False,
        device=DeviceOptions(fetches_maps=False, keeps_renders=False, tells_renders=False),
    )  # fmt: skip
    urls = (f"ws://127.0.0.1:{port}/v1/stream",)
    ring, expiry_s = new_key_ring("stagecue.device"), int(time.time()) + 86_400
    async with Fleet(options, recorder=tally) as fleet:
        gc.collect()
        gc.freeze()
        rss, cpu = _rss_bytes(), _cpu_s()
        for number in range(devices):
            claims = DeviceClaims(sub=f"p-{number}", dev=f"d-{number}", exp=expiry_s)
            fleet.add(f"d-{number}", urls=urls, token=ring.sign(claims), topics=(_TOPIC,))
        _hand_out_maps(fleet)
        built_us = (_cpu_s() - cpu) / devices * 1e6
        settle_memory()
        cpu = _cpu_s()
        fleet.start_all()
        await fleet.wait_subscribed(timeout_s=120.0)
        connect_us = (_cpu_s() - cpu) / devices * 1e6
        gc.collect()
        bytes_per_device = (_rss_bytes() - rss) / devices
        cpu = _cpu_s()
        for number in range(1, _ROUNDS + 1):
            pipe.send(number)
            while fleet.context.stats.broadcasts < number * devices:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        frame_us = (_cpu_s() - cpu) / (devices * _ROUNDS) * 1e6
        reach = tally.reach(fleet.clients, {})
    assert all((each.live, each.missed, each.behind) == (devices, 0, 0) for each in reach.broadcasts), "all got all"
    return {
        "us_per_device_built": round(built_us, 1),
        "us_per_connect": round(connect_us, 1),
        "us_per_frame": round(frame_us, 2),
        "bytes_per_device": round(bytes_per_device),
    }


def _hand_out_maps(fleet: Fleet) -> None:
    """One map for every twenty devices, of five stages, as prefetched maps without their content are."""
    for number, client in enumerate(fleet.clients):
        if number % _DEVICES_PER_MAP == 0:
            entries = {f"stage-{each}": MapEntry(f"{number:08x}{each:08x}", b"") for each in range(5)}
            times: dict[str, int | None] = {key: _BASE + each for each, key in enumerate(entries)}
            stage_map = StageMap(
                "measured", 1, 1, 86_400, _BASE, entries=entries, default=MapEntry(f"{number:016x}", b""), times=times
            )
        client.carry_out(client.device.map_fetched(now_ms(), _TOPIC, stage_map, 0.5))


def measure_floor(port: int, pipe: Connection, devices: int) -> dict[str, float]:
    """The same system calls, and nothing else."""
    request = handshake_request("127.0.0.1", "/v1/stream", subprotocol=SUBPROTOCOL, token="t" * 184, key=b"k" * 24)
    subscribe = masked_frame(TEXT, encode_frame(SubscribeFrame({_TOPIC: None})), b"mask")
    poll, descriptors = select.epoll(), []
    cpu = _cpu_s()
    for _ in range(devices):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1)
        sock.bind(("127.8.0.1", 0))
        sock.connect_ex(("127.0.0.1", port))
        fd = sock.detach()
        os.write(fd, request)
        poll.register(fd, select.EPOLLIN | select.EPOLLET)
        descriptors.append(fd)
    _read_all(poll, devices)
    for fd in descriptors:
        os.write(fd, subscribe)
    _read_all(poll, devices)
    connect_us = (_cpu_s() - cpu) / devices * 1e6
    cpu = _cpu_s()
    for number in range(1, _ROUNDS + 1):
        pipe.send(number)
        _read_all(poll, devices)
    frame_us = (_cpu_s() - cpu) / (devices * _ROUNDS) * 1e6
    for fd in descriptors:
        os.close(fd)
    return {"floor_us_per_connect": round(connect_us, 1), "floor_us_per_frame": round(frame_us, 2)}


def _read_all(poll: select.epoll, devices: int) -> None:
    """Once per device."""
    left = devices
    while left:
        for fd, _ in poll.poll(10.0, EVENTS_PER_TURN):
            left -= bool(os.read(fd, 4_096))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.client_cost", description=__doc__)
    parser.add_argument("--devices", type=int, default=5_000)
    arguments = parser.parse_args()
    spawning = multiprocessing.get_context("spawn")
    pipe, theirs = spawning.Pipe()
    server = spawning.Process(target=_serve, args=(theirs,), name="measure-server")
    server.start()
    try:
        port = pipe.recv()
        found = {"devices": arguments.devices, **run_devices(measure_client(port, pipe, arguments.devices))}
        found |= measure_floor(port, pipe, arguments.devices)
        sys.stdout.write(json.dumps(found) + "\n")
    finally:
        pipe.send(None)
        server.join(5)
        if server.is_alive():
            server.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
