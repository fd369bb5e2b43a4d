"""CPU by role between two moments, the kernel's own and what the host kept apart."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from loadtest.bench.cpu import process_cpu_s, tree_cpu_s

__all__ = ["CLIENTS", "KERNEL", "OTHERS", "PIPELINE", "SERVERS", "CpuReading", "Spent", "read_cpu", "spent"]

SERVERS: Final = "servers"
"""Push nodes."""
CLIENTS: Final = "clients"
"""Fleets."""
PIPELINE: Final = "pipeline"
"""Producer, router, Kafka, Redis, PostgreSQL, DGS."""
BENCHMARK: Final = "benchmark"
KERNEL: Final = "kernel"
"""Interrupts, where the kernel counts them apart; else they are in whoever they interrupted."""
STOLEN: Final = "stolen"
"""By the machine's host."""
OTHERS: Final = "others"
"""Processes that are no part of this."""


class CpuReading(msgspec.Struct, frozen=True, kw_only=True):
    """CPU seconds since each began."""

    at_s: float
    """CLOCK_MONOTONIC."""
    roles: Mapping[str, float]
    machine_s: float
    """All CPUs, everything but idle time."""


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    wall_s: float
    cpu_s: Mapping[str, float]
    """By role; together all that the machine did."""

    def cores(self, role: str) -> float:
        """Mean number kept busy."""
        return self.cpu_s.get(role, 0.0) / self.wall_s if self.wall_s > 0 else 0.0

    def less_idle(self, idle: Spent, role: str) -> float:
        """CPU seconds of a role beyond what it uses while nothing happens."""
        return max(0.0, self.cpu_s.get(role, 0.0) - idle.cores(role) * self.wall_s)


def read_cpu(*, servers: Iterable[int], clients: Iterable[int], pipeline: Iterable[int]) -> CpuReading:
    """Process ids by role; processes that are gone count no more. Some milliseconds for a hundred processes."""
    machine = _machine()
    return CpuReading(
        at_s=time.monotonic(),
        roles={
            SERVERS: sum(_of_process(pid) for pid in servers),
            CLIENTS: sum(_of_process(pid) for pid in clients),
            PIPELINE: sum(tree_cpu_s(pid) for pid in pipeline),
            BENCHMARK: time.process_time(),
            KERNEL: machine["irq"] + machine["softirq"],
            STOLEN: machine["steal"],
        },
        machine_s=sum(machine.values()) - machine["idle"] - machine["iowait"],
    )


def spent(before: CpuReading, after: CpuReading) -> Spent:
    """A role whose processes ended meanwhile counts at least nothing."""
    found = {role: max(0.0, used - before.roles.get(role, 0.0)) for role, used in after.roles.items()}
    others = after.machine_s - before.machine_s - sum(found.values())
    return Spent(wall_s=after.at_s - before.at_s, cpu_s={**found, OTHERS: max(0.0, others)})


_FIELDS: Final = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


def _machine() -> dict[str, float]:
    """All CPUs since the machine started, seconds, by what /proc/stat tells apart."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    ticks = os.sysconf("SC_CLK_TCK")
    return {name: int(word) / ticks for name, word in zip(_FIELDS, words, strict=False)}


def _of_process(pid: int) -> float:
    try:
        return process_cpu_s(pid)
    except OSError:
        return 0.0
