"""Whether this process could measure at all: how late its greenlets wake, and how much of a core it uses. gevent."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import gevent
import psutil

from loadtest.users.lag import Lag
from loadtest.users.result import Generator

__all__ = ["GeneratorMeter", "worst_share"]

_NAP_S: Final = 0.01
_SAMPLE_S: Final = 1.0
_WORST_OF_S: Final = 5.0


class GeneratorMeter:
    """Runs from `start` until `figures`."""

    def __init__(self) -> None:
        self._lag = Lag(nap_s=_NAP_S, stretch_s=_WORST_OF_S)
        self._samples: list[tuple[float, float]] = []
        self._greenlets: list[gevent.Greenlet] = []

    def start(self) -> None:
        self._sample()
        self._greenlets = [gevent.spawn(self._nap), gevent.spawn(self._samples_for_ever)]

    def figures(self, worker: int) -> Generator:
        """Since `start`; measuring ends."""
        gevent.killall(self._greenlets)
        self._sample()
        lag = self._lag.whole
        (first_s, first_cpu_s), (last_s, last_cpu_s) = self._samples[0], self._samples[-1]
        return Generator(
            worker=worker,
            lag_p50_ms=round(lag.percentile_ms(50) or 0.0, 2),
            lag_p99_ms=round(lag.percentile_ms(99) or 0.0, 2),
            lag_worst_ms=round(self._lag.worst_p99_ms(), 2),
            lag_max_ms=round(lag.max_ms or 0.0, 2),
            cpu_mean=round((last_cpu_s - first_cpu_s) / max(1e-6, last_s - first_s), 3),
            cpu_worst=round(worst_share(self._samples, _WORST_OF_S), 3),
            rss_bytes=psutil.Process().memory_info().rss,
        )

    def _nap(self) -> None:
        while True:
            due_s = time.monotonic() + _NAP_S
            gevent.sleep(_NAP_S)
            woke_s = time.monotonic()
            self._lag.woke(woke_s, max(0.0, (woke_s - due_s) * 1000))

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
