"""What the lean client costs: CPU per connect and per frame, memory per device. `python -m loadtest.bench.client_cost`.

The server runs in another process and is not counted: it accepts, welcomes, answers one subscribe and sends broadcasts,
all prepared, so that the client is what is measured. CPU is this process's own (getrusage: a `CpuMeter` would count the
server too, which is our child), memory its RSS difference.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import resource
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, cast

import uvloop

from contract.frames import SUBPROTOCOL, BroadcastFrame, ContinuityFrame, WelcomeFrame, encode_frame
from device_sim.client import Channel, ClientContext, DeviceClient, now_ms
from device_sim.device import Device, DeviceOptions
from device_sim.wire import accept_key

__all__ = ["measure_client"]

_TOPIC: Final = "event:measured"
_BASE: Final = 1_700_000_000_000
_ROUNDS: Final = 20


def _server_frame(payload: bytes) -> bytes:
    size = len(payload)
    assert size < 65536, "a longer one has another head"
    head = bytes((0x81, size)) if size < 126 else b"\x81\x7e" + size.to_bytes(2, "big")
    return head + payload


class _Peer(asyncio.Protocol):
    """Just enough server: no parsing beyond the handshake's key, no state."""

    __slots__ = ("_open", "peers", "transport")

    def __init__(self, peers: set[_Peer]) -> None:
        self.peers = peers
        self._open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._open:
            return
        self._open = True
        key = data.split(b"Sec-WebSocket-Key: ", 1)[1].split(b"\r\n", 1)[0]
        welcome = WelcomeFrame("n", now_ms(), 3600.0, 0.0, 5_000, 60_000)
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: "
            + SUBPROTOCOL.encode() + b"\r\nSec-WebSocket-Accept: " + accept_key(key) + b"\r\n\r\n"
            + _server_frame(encode_frame(welcome))
            + _server_frame(encode_frame(ContinuityFrame(_TOPIC, "complete", "upcoming", _BASE)))
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
    context = ClientContext(asyncio.get_running_loop(), seed=1, record_arrivals=False)
    channels = [Channel("127.0.0.1", port, "/v1/stream")]
    options = DeviceOptions(fetches_maps=False, keeps_renders=False)
    gc.collect()
    gc.freeze()
    rss, cpu = _rss_bytes(), _cpu_s()
    clients = [
        # A token as long as a real one, each its own string, since each is its own in a real fleet.
        DeviceClient(context, channels, Device(f"d-{number}", options, token=f"{number:0250d}"))
        for number in range(devices)
    ]
    for client in clients:
        client.follow(_TOPIC)
        client.start()
    while not all(client.device.topics[_TOPIC].cursor == _BASE for client in clients):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    connect_us = (_cpu_s() - cpu) / devices * 1e6
    gc.collect()
    bytes_per_device = (_rss_bytes() - rss) / devices
    cpu = _cpu_s()
    for number in range(1, _ROUNDS + 1):
        pipe.send(number)
        while context.stats.broadcasts < number * devices:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    frame_us = (_cpu_s() - cpu) / (devices * _ROUNDS) * 1e6
    for client in clients:
        client.stop()
    while context.stats.open:
        await asyncio.sleep(0.02)
        for client in clients:
            client.drop()
    await context.close()
    return {
        "devices": devices,
        "us_per_connect": round(connect_us, 1),
        "us_per_frame": round(frame_us, 2),
        "bytes_per_device": round(bytes_per_device),
    }


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
        sys.stdout.write(json.dumps(uvloop.run(measure_client(port, pipe, arguments.devices))) + "\n")
    finally:
        pipe.send(None)
        server.join(5)
        if server.is_alive():
            server.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
