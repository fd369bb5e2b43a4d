"""Process accounting: CPU time and resident memory of a process and everything it started."""

from __future__ import annotations

import os
import time
from typing import Final

import msgspec
import psutil

__all__ = ["CpuMeter", "Usage", "machine_cpu_s", "others_cpu_s", "process_cpu_s", "tree_cpu_s"]

_CPU_CLOCK: Final = 2
"""CPUCLOCK_SCHED: what the scheduler gave all threads of a process, in nanoseconds."""


def process_cpu_s(pid: int) -> float:
    """CPU seconds a process has used, ended threads included, its children not: to the nanosecond, where /proc has
    hundredths of a second. Linux. Raises OSError when it is gone."""
    return time.clock_gettime(((~pid) << 3) | _CPU_CLOCK)


def tree_cpu_s(pid: int) -> float:
    """The same of a process and everything it started that still runs; 0 for what is gone."""
    try:
        return process_cpu_s(pid) + sum(_cpu_s_or_none(child.pid) for child in psutil.Process(pid).children(True))
    except (OSError, psutil.NoSuchProcess):
        return 0.0


def _cpu_s_or_none(pid: int) -> float:
    try:
        return process_cpu_s(pid)
    except OSError:
        return 0.0


def others_cpu_s() -> float:
    """CPU seconds of everything on this machine that is neither this process nor a child of it."""
    return machine_cpu_s() - tree_cpu_s(os.getpid())


def machine_cpu_s() -> float:
    """CPU seconds all processes of this machine used since it started, and those its host kept from it."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


class Usage(msgspec.Struct, frozen=True):
    """What a process tree used between two readings."""

    cpu_s: float
    wall_s: float
    rss_bytes: int
    """At the second reading; not a difference."""
    rss_grown_bytes: int

    @property
    def cores(self) -> float:
        """Mean number of cores kept busy."""
        return self.cpu_s / self.wall_s if self.wall_s > 0 else 0.0


class CpuMeter:
    """Reads utime + stime of `pid` and its children. A child that ends between readings keeps its last known value.

    Raises psutil.NoSuchProcess when the process itself is gone.
    """

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._known: dict[tuple[int, float], float] = {}
        self.reset()

    def reset(self) -> None:
        """Count from now on."""
        self._known.clear()
        self._at = time.monotonic()
        self._cpu_s = self._cpu_total_s()
        self._rss = self.rss_bytes()

    def usage(self) -> Usage:
        """Since the start or the last `reset`."""
        rss = self.rss_bytes()
        return Usage(self._cpu_total_s() - self._cpu_s, time.monotonic() - self._at, rss, rss - self._rss)

    def rss_bytes(self) -> int:
        total = self._root.memory_info().rss
        for child in self._root.children(recursive=True):
            try:
                total += child.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return int(total)

    def _cpu_total_s(self) -> float:
        times = self._root.cpu_times()
        self._known[self._root.pid, self._root.create_time()] = times.user + times.system
        for child in self._root.children(recursive=True):
            try:
                times = child.cpu_times()
                self._known[child.pid, child.create_time()] = times.user + times.system
            except psutil.NoSuchProcess:
                continue
        return sum(self._known.values())
