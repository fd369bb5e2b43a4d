"""HTTP load in open loop against a DGS that is up: requests at their moments, whatever becomes of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from contract.device_operations import DEVICE_OPERATIONS
from loadtest.bench.histogram import LatencyHistogram
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.overload.judge import good_of
from loadtest.bench.overload.plan import CRITICAL, OTHER, Stretch, arrivals_of
from loadtest.bench.peers.http_load import RECORD, HttpLoad, LoadRun, write_requests, write_schedule
from loadtest.bench.prefetch.asking import HASH, request_of
from loadtest.bench.prefetch.night import EVENT_ID, OPERATION, OPERATION_HASH, profile_id
from loadtest.gameday.stage import Stage

__all__ = ["EVENT_ID", "OpenLoad", "OpenRun", "draw_answers", "judge_load", "latencies_ms", "operations_file"]

_POOLS: Final = (512, 1_024)
"""Connections of first prefetches and of refreshes."""
_REFRESHING: Final = 'If-None-Match: W/"0000000000000000"\r\n'
"""Of a device that holds a map, another one than it would be given."""
_LATE_P99_MS_MAX: Final = 20.0
_Records = npt.NDArray[np.void]


class OpenRun(msgspec.Struct, frozen=True):
    began_s: float
    """CLOCK_MONOTONIC; records count from here."""
    records: Any
    run: LoadRun


def operations_file(directory: Path) -> Path:
    """The manifest under which a DGS knows what this load asks; to be set as DGS_OPERATIONS_PATH."""
    path = directory / "operations.json"
    path.write_bytes(msgspec.json.encode({**DEVICE_OPERATIONS, OPERATION_HASH: OPERATION}))
    return path


class OpenLoad:
    """`async with OpenLoad(...) as load: found = await load.run(stretches)`. Raises CouldNotRun."""

    def __init__(self, stage: Stage, directory: Path, *, port: int, profiles: int, timeout_s: float = 5.0) -> None:
        self._stage = stage
        self._directory = directory
        self._port = port
        self._profiles = profiles
        self._timeout_s = timeout_s
        self._load = HttpLoad("http-load", directory, core=stage.cores.load, port=port, spin=False)
        self._gone: Callable[[], None] | None = None

    async def __aenter__(self) -> OpenLoad:
        await self._load.start()
        self._gone = self._stage.watch("load", self._load.pid)
        try:
            await self._read_requests()
        except BaseException:
            await self._load.stop()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._gone is not None:
            self._gone()
        await self._load.stop()

    async def run(self, stretches: Sequence[Stretch]) -> OpenRun:
        """All of them, one after the other; first prefetches are tag CRITICAL, refreshes OTHER."""
        arrivals = arrivals_of(stretches, profiles=self._profiles, seed=self._stage.seed)
        schedule, records = self._directory / "schedule", self._directory / "records"
        await asyncio.to_thread(write_schedule, schedule, arrivals.at_us, arrivals.which)
        began_s = time.monotonic()
        run = await self._load.open(
            schedule, pools=_POOLS, lasts_s=arrivals.lasts_s, timeout_s=self._timeout_s, records=records
        )
        return OpenRun(began_s, await asyncio.to_thread(np.fromfile, records, RECORD), run)

    async def _read_requests(self) -> None:
        requests = self._directory / "requests"
        await asyncio.to_thread(self._write, requests)
        if await self._load.load(requests) != 2 * self._profiles:
            raise CouldNotRun(f"{requests} was not read whole")
        await self._load.mark('"degraded":')

    def _write(self, path: Path) -> None:
        write_requests(
            path,
            (
                (tag, request_of(HASH, self._port, profile_id(number + tag * self._profiles), None, fields))
                for tag, fields in ((CRITICAL, ""), (OTHER, _REFRESHING))
                for number in range(self._profiles)
            ),
        )


def judge_load(stage: Stage, name: str, run: LoadRun) -> None:
    """Whether the load came when it should have."""
    late_ms = run.late.percentile_ms(99) or 0.0
    stage.fact("load generators", name, f"{run.sent:,} requests, p99 {late_ms:.1f} ms late, {run.waited:,} waited")
    if late_ms > _LATE_P99_MS_MAX:
        stage.invalid(f"{name}: requests were sent {late_ms:.0f} ms late at p99 (at most {_LATE_P99_MS_MAX:.0f} ms)")


def draw_answers(
    stage: Stage, title: str, found: OpenRun, *, width_s: float = 0.5, since: tuple[str, float] | None = None
) -> None:
    """Curves of good answers and others by class, at the moment they were due."""
    records, good = found.records, good_of(found.records)
    due_s = records["due_us"] / 1e6 + found.began_s
    curves = {}
    for tag, kind in ((CRITICAL, "first prefetches"), (OTHER, "refreshes")):
        mine = records["tag"] == tag
        if mine.any():
            curves[f"{kind} served"] = due_s[mine & good]
            if (mine & ~good).any():
                curves[f"{kind} not"] = due_s[mine & ~good]
    end_s = float(due_s.max()) if len(due_s) else found.began_s + 1.0
    stage.counted(title, curves, found.began_s, end_s, width_s=width_s, explains="By when they were due.", since=since)


def latencies_ms(records: _Records, *, tag: int) -> LatencyHistogram:
    """Of good answers, from when they were due."""
    found = LatencyHistogram()
    mine = records[(records["tag"] == tag) & good_of(records)]
    found.record_all_ms((mine["latency_us"] / 1000).tolist())
    return found
