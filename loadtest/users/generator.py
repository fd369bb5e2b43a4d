"""Whether this process could measure at all: how late its greenlets wake, and how much of a core it uses. gevent."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import gevent
import psutil

from loadtest.users.figures import Book
from loadtest.users.result import Generator

__all__ = ["GeneratorMeter", "worst_share"]

_NAP_S: Final = 0.01
_SAMPLE_S: Final = 1.0
_WORST_OF_S: Final = 5.0


class GeneratorMeter:
    """Runs from `start` until `figures`."""

    def __init__(self) -> None:
        self._book = Book()
        self._samples: list[tuple[float, float]] = []
        self._greenlets: list[gevent.Greenlet] = []

    def start(self) -> None:
        self._sample()
        self._greenlets = [gevent.spawn(self._nap), gevent.spawn(self._samples_for_ever)]

    def figures(self, worker: int) -> Generator:
        """Since `start`; measuring ends."""
        gevent.killall(self._greenlets)
        self._sample()
        lag = self._book.histograms["generator"]["lag"]
        (first_s, first_cpu_s), (last_s, last_cpu_s) = self._samples[0], self._samples[-1]
        return Generator(
            worker=worker,
            lag_p50_ms=round(lag.percentile_ms(50) or 0.0, 2),
            lag_p99_ms=round(lag.percentile_ms(99) or 0.0, 2),
            lag_max_ms=round(lag.max_ms or 0.0, 2),
            cpu_mean=round((last_cpu_s - first_cpu_s) / max(1e-6, last_s - first_s), 3),
            cpu_worst=round(worst_share(self._samples, _WORST_OF_S), 3),
            rss_bytes=psutil.Process().memory_info().rss,
        )

    def _nap(self) -> None:
        while True:
            due = time.monotonic() + _NAP_S
            gevent.sleep(_NAP_S)
            late_ms = max(0.0, (time.monotonic() - due) * 1000)
            # A late waking kept this greenlet from noticing that it would have been late again and again meanwhile.
            self._book.time_corrected("generator", "lag", late_ms, _NAP_S * 1000)

    def _samples_for_ever(self) -> None:
        while True:
            gevent.sleep(_SAMPLE_S)
            self._sample()

    def _sample(self) -> None:
        self._samples.append((time.monotonic(), time.process_time()))


def worst_share(samples: Sequence[tuple[float, float]], over_s: float) -> float:
    """Of (seconds, CPU seconds) readings, the highest CPU share over any `over_s` (over all, if shorter)."""
    assert len(samples) >= 2, "a share needs two readings"
    worst, start = 0.0, 0
    for at_s, cpu_s in samples:
        while start + 1 < len(samples) and at_s - samples[start + 1][0] >= over_s:
            start += 1
        began_s, began_cpu_s = samples[start]
        if at_s - began_s >= over_s:
            worst = max(worst, (cpu_s - began_cpu_s) / (at_s - began_s))
    if worst == 0.0:
        (first_s, first_cpu_s), (last_s, last_cpu_s) = samples[0], samples[-1]
        return (last_cpu_s - first_cpu_s) / max(1e-6, last_s - first_s)
    return worst
