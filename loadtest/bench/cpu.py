"""Process accounting: CPU time and resident memory of a process and everything it started."""

from __future__ import annotations

import time

import msgspec
import psutil

__all__ = ["CpuMeter", "Usage"]


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
