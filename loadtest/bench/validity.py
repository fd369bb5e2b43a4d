"""Whether a measurement counts: the load generator's loop lag and CPU while it works, and what else the machine did."""

from __future__ import annotations

import asyncio
import os
from typing import Final

import msgspec

from loadtest.bench.cpu import CpuMeter
from loadtest.bench.histogram import LatencyHistogram

__all__ = ["OTHERS_CORES_MAX", "GeneratorLimits", "GeneratorReport", "GeneratorWatch", "others_invalid"]

OTHERS_CORES_MAX: Final = 0.3
"""More than this taken by others, and latencies say more about them than about the system."""
_SAMPLE_S: Final = 0.005


class GeneratorLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Beyond these a measurement says more about the generator than about the server."""

    cores_max: float = 0.85
    """Mean cores its process may use: one loop has one core, and a busy one answers late."""
    lag_p99_ms_max: float = 20.0
    """A frame that arrives is stamped this much late at worst, 99 times of 100."""


class GeneratorReport(msgspec.Struct, frozen=True):
    cores: float
    lag_p50_ms: float
    lag_p99_ms: float
    lag_max_ms: float
    invalid_because: tuple[str, ...]


class GeneratorWatch:
    """`async with GeneratorWatch() as watch: ...; watch.report()`. Samples the loop every 5 ms, without a task."""

    def __init__(self, limits: GeneratorLimits | None = None, *, pid: int | None = None) -> None:
        self._limits = limits or GeneratorLimits()
        self._pid = pid or os.getpid()
        self._lag = LatencyHistogram()
        self._handle: asyncio.TimerHandle | None = None
        self._meter: CpuMeter | None = None

    async def __aenter__(self) -> GeneratorWatch:
        self._meter = CpuMeter(self._pid)
        self._arm()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def report(self) -> GeneratorReport:
        """What was seen so far, and why it would not count; no reason means it does."""
        assert self._meter is not None, "used outside its context"
        cores = self._meter.usage().cores
        lag_p99 = self._lag.percentile_ms(99) or 0.0
        because = []
        if cores > self._limits.cores_max:
            because.append(f"the load generator used {cores:.2f} cores of its one (at most {self._limits.cores_max})")
        if lag_p99 > self._limits.lag_p99_ms_max:
            because.append(
                f"the load generator's loop lagged {lag_p99:.1f} ms at p99 (at most {self._limits.lag_p99_ms_max} ms)"
            )
        return GeneratorReport(
            cores=round(cores, 3),
            lag_p50_ms=round(self._lag.percentile_ms(50) or 0.0, 2),
            lag_p99_ms=round(lag_p99, 2),
            lag_max_ms=round(self._lag.max_ms or 0.0, 2),
            invalid_because=tuple(because),
        )

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + _SAMPLE_S
        self._handle = loop.call_at(due, self._sample, due)

    def _sample(self, due: float) -> None:
        self._lag.record_ms(max(0.0, (asyncio.get_running_loop().time() - due) * 1000))
        self._arm()


def others_invalid(cores: float) -> list[str]:
    """Why a measurement does not count while processes that are no part of it used `cores`; empty: it does."""
    if cores <= OTHERS_CORES_MAX:
        return []
    return [f"other processes of this machine used {cores:.2f} cores meanwhile (at most {OTHERS_CORES_MAX})"]
