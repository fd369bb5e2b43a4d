"""The record of a fleet, read back: columns for figures, `DeviceLog`s for the judge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from contract.frames import BroadcastFrame, ContinuityFrame, decode_server_frame
from device_sim.audit import DeviceLog
from device_sim.client import Arrival
from device_sim.topic import Render, RenderCause
from loadtest.bench.fleet_files import ARRIVALS, CONNECTIONS, DEVICES, FRAMES, RENDERS, SHOWN, DeviceEnd
from loadtest.bench.fleet_plan import FleetPlan
from loadtest.bench.validity import GeneratorReport

__all__ = ["FleetRecord", "read_fleet_record"]

Rows = npt.NDArray[np.void]

_ARRIVAL: Final = np.dtype([("device", "<u4"), ("frame", "<u4"), ("at_ms", "<f8"), ("at_s", "<f8")])
_RENDER: Final = np.dtype([("device", "<u4"), ("shown", "<u4"), ("at_ms", "<i8"), ("timestamp", "<i8")])
_CONNECTION: Final = np.dtype(
    [("device", "<u4"), ("conn", "<u4"), ("address", "<u2"), ("step", "<u2"), ("code", "<u2"), ("pad", "<u2"),
     ("at_s", "<f8")]
)  # fmt: skip
_BROADCAST: Final = np.dtype(
    [("device", "<u4"), ("topic", "<u4"), ("timestamp", "<i8"), ("replayed", "?"), ("at_ms", "<f8"), ("at_s", "<f8")]
)
_Shown = tuple[str, str, RenderCause, str]


class FleetRecord:
    """What a fleet's devices got and showed. Holds the raw rows; `logs` makes one device's objects at a time."""

    def __init__(
        self,
        plan: FleetPlan,
        *,
        arrivals: Rows,
        frames: Sequence[BroadcastFrame | ContinuityFrame],
        renders: Rows,
        shown: Sequence[_Shown],
        connections: Rows,
        devices: Sequence[DeviceEnd],
        generator: GeneratorReport | None,
    ) -> None:
        self.plan = plan
        self.frames = frames
        self.connections = connections
        """Columns device, conn, address (index of `plan.push_urls`), step (ConnectionStep), code, at_s."""
        self.devices = devices
        self.generator = generator
        """Of the time watched, None if it was not."""
        self._arrivals = arrivals
        self._renders = renders
        self._shown = shown

    @property
    def arrivals(self) -> Rows:
        """Broadcasts received, oldest first: columns device, topic (index of `plan.topics`), timestamp, replayed,
        at_ms (wall clock), at_s (CLOCK_MONOTONIC)."""
        numbers = {topic: number for number, topic in enumerate(self.plan.topics)}
        # Per distinct frame, then spread over its arrivals: frames are few.
        is_broadcast = np.array([isinstance(frame, BroadcastFrame) for frame in self.frames], bool)
        topic = np.array([numbers[frame.topic] for frame in self.frames], np.uint32)
        timestamp = np.array([getattr(frame, "timestamp", 0) for frame in self.frames], np.int64)
        replayed = np.array([getattr(frame, "replayed", False) for frame in self.frames], bool)
        rows = self._arrivals[is_broadcast[self._arrivals["frame"]]] if len(self.frames) else self._arrivals[:0]
        found = np.empty(len(rows), _BROADCAST)
        for column in ("device", "at_ms", "at_s"):
            found[column] = rows[column]
        for column, of_frame in (("topic", topic), ("timestamp", timestamp), ("replayed", replayed)):
            found[column] = of_frame[rows["frame"]] if len(self.frames) else 0
        return found

    @property
    def logs(self) -> Iterator[DeviceLog]:
        """Every device's log, in order of number; a fresh iterator each time, one device in memory at a time."""
        arrivals, arrival_ends = _by_device(self._arrivals, self.plan.devices)
        renders, render_ends = _by_device(self._renders, self.plan.devices)
        for end in self.devices:
            number = end.device
            received = arrivals[arrival_ends[number] : arrival_ends[number + 1]]
            showed = renders[render_ends[number] : render_ends[number + 1]]
            yield DeviceLog(
                device_id=end.device_id,
                profile_id=end.profile_id,
                cursors=end.cursors,
                arrivals=[
                    Arrival(at_ms, self.frames[frame])
                    for frame, at_ms in zip(received["frame"].tolist(), received["at_ms"].tolist(), strict=True)
                ],
                renders=[
                    self._render(*row)
                    for row in zip(
                        showed["shown"].tolist(), showed["at_ms"].tolist(), showed["timestamp"].tolist(), strict=True
                    )
                ],
                told=end.told,
            )

    def _render(self, shown: int, at_ms: int, timestamp: int) -> Render:
        topic, state_key, cause, fingerprint = self._shown[shown]
        return Render(at_ms, topic, state_key, None if timestamp < 0 else timestamp, cause, fingerprint)


def read_fleet_record(directory: Path, plan: FleetPlan, *, generator: GeneratorReport | None = None) -> FleetRecord:
    """Read what a `FleetRecorder` wrote. Raises OSError, or ValueError for files that are not whole."""
    frames = []
    for line in (directory / FRAMES).read_bytes().splitlines():
        frame = decode_server_frame(line)
        assert isinstance(frame, BroadcastFrame | ContinuityFrame), "recorded as one of them"
        frames.append(frame)
    shown = msgspec.json.Decoder(_Shown)
    return FleetRecord(
        plan,
        arrivals=_rows(directory / ARRIVALS, _ARRIVAL),
        frames=frames,
        renders=_rows(directory / RENDERS, _RENDER),
        shown=[shown.decode(line) for line in (directory / SHOWN).read_bytes().splitlines()],
        connections=_rows(directory / CONNECTIONS, _CONNECTION),
        devices=msgspec.json.decode((directory / DEVICES).read_bytes(), type=list[DeviceEnd]),
        generator=generator,
    )


def _rows(path: Path, kind: np.dtype[Any]) -> Rows:
    size = path.stat().st_size
    if size % kind.itemsize:
        raise ValueError(f"{path.name} ends inside a row")
    return np.fromfile(path, kind) if size else np.empty(0, kind)


def _by_device(rows: Rows, devices: int) -> tuple[Rows, npt.NDArray[np.intp]]:
    """Rows sorted by device, each device's in order of time, and where each device's begin (and the last's end)."""
    ordered = rows[np.argsort(rows["device"], kind="stable")]
    return ordered, np.searchsorted(ordered["device"], np.arange(devices + 1))
