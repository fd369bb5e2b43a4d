"""The record of a fleet on disk: what every device's sockets received and its screen showed, compact and appendable.

Little-endian rows of fixed size, oldest first; `_s` columns are CLOCK_MONOTONIC seconds (one clock for all processes of
a machine), `at_ms` columns wall-clock milliseconds:

    arrivals.bin      device u4, frame u4, at_ms f8, at_s f8           `frame` = line of frames.jsonl
    frames.jsonl      one broadcast or continuity frame per line, as it came from the socket
    renders.bin       device u4, shown u4, at_ms i8, timestamp i8      `shown` = line of shown.jsonl; -1: provisional
    shown.jsonl       [topic, state_key, cause, fingerprint] per line
    connections.bin   device u4, conn u4, address u2, step u2, code u2, pad u2, at_s f8      `step`: ConnectionStep
    devices.json      the state of every device at the end: a list of DeviceEnd

A frame or a screen state may have several lines; devices are numbered from 0 within their fleet.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Final

import msgspec

from contract.frames import BroadcastFrame, ContinuityFrame
from device_sim.client import ConnectionStep, DeviceClient
from device_sim.topic import Render, Told

__all__ = [
    "ARRIVALS",
    "CONNECTIONS",
    "DEVICES",
    "FRAMES",
    "RENDERS",
    "SHOWN",
    "DeviceEnd",
    "FleetRecorder",
]

ARRIVALS: Final = "arrivals.bin"
FRAMES: Final = "frames.jsonl"
RENDERS: Final = "renders.bin"
SHOWN: Final = "shown.jsonl"
CONNECTIONS: Final = "connections.bin"
DEVICES: Final = "devices.json"

_FLUSH_BYTES: Final = 128 * 1024
_DISTINCT_MAX: Final = 65_536
"""Distinct frames remembered by number; beyond it they are numbered anew."""
_UNWRITTEN_MAX: Final = 64
"""Blocks handed to the writing thread and not written yet; then the loop waits: a disk that slow spoils any figure."""

_ARRIVAL: Final = struct.Struct("<IIdd")
_RENDER: Final = struct.Struct("<IIqq")
_CONNECTION: Final = struct.Struct("<IIHHHxxd")


class DeviceEnd(msgspec.Struct, frozen=True, kw_only=True):
    """One device when the record was closed."""

    device: int
    device_id: str
    profile_id: str
    online: bool
    cursors: dict[str, int | None]
    told: tuple[Told, ...] = ()
    told_dropped: int = 0
    ended_by: int | None = None
    """Close code after which it gave up, if it did."""


class _Appended:
    """One file that grows by whole rows, written by the recorder's thread."""

    __slots__ = ("_buffer", "_file", "_recorder")

    def __init__(self, path: Path, recorder: FleetRecorder) -> None:
        self._file: IO[bytes] = path.open("wb", buffering=0)
        self._buffer = bytearray()
        self._recorder = recorder

    def add(self, row: bytes) -> None:
        self._buffer += row
        if len(self._buffer) >= _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._buffer:
            block, self._buffer = self._buffer, bytearray()
            self._recorder.write(self._file, block)

    def close(self) -> None:
        self._file.close()


class FleetRecorder:
    """Writes the record of one fleet into `directory`: a `device_sim.client.Recorder`. One loop, one owner."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="fleet-record")
        self._unwritten: list[Future[None]] = []
        self._arrivals = _Appended(directory / ARRIVALS, self)
        self._frames = _Appended(directory / FRAMES, self)
        self._renders = _Appended(directory / RENDERS, self)
        self._shown = _Appended(directory / SHOWN, self)
        self._connections = _Appended(directory / CONNECTIONS, self)
        self._frame_numbers: dict[bytes, int] = {}
        self._frame_count = 0
        self._shown_numbers: dict[tuple[str, str, str, str], int] = {}
        self._shown_count = 0

    # Recorder
    def arrival(
        self, client: DeviceClient, at_ms: float, payload: bytes, frame: BroadcastFrame | ContinuityFrame
    ) -> None:
        number = self._frame_numbers.get(payload)
        if number is None:
            number = self._new_frame(payload)
        self._arrivals.add(_ARRIVAL.pack(client.number, number, at_ms, time.monotonic()))

    def render(self, client: DeviceClient, render: Render) -> None:
        key = (render.topic, render.state_key, render.cause, render.fingerprint)
        number = self._shown_numbers.get(key)
        if number is None:
            number = self._new_shown(key)
        timestamp = -1 if render.timestamp is None else render.timestamp
        self._renders.add(_RENDER.pack(client.number, number, render.at_ms, timestamp))

    def connection(self, client: DeviceClient, conn: int, step: ConnectionStep, code: int = 0) -> None:
        row = _CONNECTION.pack(client.number, conn, client.address_of(conn), step, code, time.monotonic())
        self._connections.add(row)

    # for its owner
    def close(self, clients: Sequence[DeviceClient]) -> None:
        """Write the end of every device and all that is left; nothing may be recorded afterwards. Blocks. Once."""
        files = (self._arrivals, self._frames, self._renders, self._shown, self._connections)
        for file in files:
            file.flush()
        (self._directory / DEVICES).write_bytes(msgspec.json.encode([_end(client) for client in clients]))
        for future in self._unwritten:
            future.result()
        self._writer.shutdown(wait=True)
        for file in files:
            file.close()

    def write(self, file: IO[bytes], block: bytearray) -> None:
        """Hand a block to the writing thread. Raises what an earlier write failed with."""
        while self._unwritten and (self._unwritten[0].done() or len(self._unwritten) >= _UNWRITTEN_MAX):
            self._unwritten.pop(0).result()
        self._unwritten.append(self._writer.submit(_write_all, file, block))

    def _new_frame(self, payload: bytes) -> int:
        if len(self._frame_numbers) >= _DISTINCT_MAX:
            self._frame_numbers.clear()
        number = self._frame_numbers[payload] = self._frame_count
        self._frame_count += 1
        self._frames.add(payload + b"\n")
        return number

    def _new_shown(self, key: tuple[str, str, str, str]) -> int:
        if len(self._shown_numbers) >= _DISTINCT_MAX:
            self._shown_numbers.clear()
        number = self._shown_numbers[key] = self._shown_count
        self._shown_count += 1
        self._shown.add(msgspec.json.encode(key) + b"\n")
        return number


def _write_all(file: IO[bytes], block: bytearray) -> None:
    view = memoryview(block)
    while view:
        view = view[file.write(view) :]


def _end(client: DeviceClient) -> DeviceEnd:
    device = client.device
    return DeviceEnd(
        device=client.number,
        device_id=device.device_id,
        profile_id=client.profile_id,
        online=device.online,
        cursors={state.topic: state.cursor for state in device.states},
        told=tuple(device.told or ()),
        told_dropped=device.told_dropped,
        ended_by=device.ended_by,
    )
