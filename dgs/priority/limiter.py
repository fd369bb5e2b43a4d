"""How many calls a dependency takes at once, found by watching how long they take. Pure.

Once a window (0.1 s and 20 calls, or 1 s), with `base` the service time without queueing and `mean` the window's:

    gradient = min(1, max(1/2, tolerance x base / mean))
    limit   += smoothing x (limit x gradient + sqrt(limit) - limit)        smoothing 0.3 upwards, 0.8 downwards

after Netflix concurrency-limits' `GradientLimit` (a queue of sqrt(limit) is what probes for room) and Envoy's adaptive
concurrency filter (`gradient = (minRTT + buffer) / sampleRTT`, headroom sqrt(limit)). It settles where
mean = base x tolerance / (1 - 1/sqrt(limit)); what is let in stops short of the limit by a part that depends on the
class.

What those are known to get wrong, and what is done here:

- *Constant time-outs look healthy*: they all take the same time. Here a time-out is a drop and never a sample. With a
  part `a` of a window dropped, limit x= 1 - a/2 (DCTCP, RFC 8257 section 3.3).
- *Slow creep*: a minimum kept for ever chokes a dependency that became slower, a mean over a long time learns its own
  queue as normal. Here `base` is the least mean of a window, and ends after 10 s: under load it is measured anew with
  half the limit for a moment (Envoy's minRTT window, which allows 3 calls; half costs less), and with half of that as
  long as it gets a fifth shorter by it. The important class keeps the whole limit meanwhile, unless it alone kept three
  probes from finding anything. At the least limit for 5 windows it is measured at once (Envoy, too).
- *Windows of short calls are skipped* (Netflix: under 100 us): no such bound here.
- *Growth while nobody asks*: the limit does not grow unless a class used 0.85 of its room. (Netflix has half. But what
  grew so in a calm hour is what a surge meets first.)

At first, from four times the least, and again from the least, it grows by a fifth per window, until a gradient or
a drop speaks (RFC 5681's slow start); then `base` is measured, since all it has seen may have been a queue.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from dgs.serving import CLASSES, Outcome

__all__ = ["BASE_LIFETIME_S", "TOLERANCE_OF_BATCHES", "Limiter"]

WINDOW_S: Final = 0.1
WINDOW_MAX_S: Final = 1.0
WINDOW_CALLS: Final = 20
TOLERANCE: Final = 1.1
TOLERANCE_OF_BATCHES: Final = 1.2
"""A batch takes longer the larger it is, and this process hears of its end when its loop gets to it: Envoy's buffer is
a quarter. With 1.1 the limit shrinks by what this process does itself; with 1.4 what matters waits thrice as long."""
SMOOTHING_UP: Final = 0.3
SMOOTHING_DOWN: Final = 0.8
USED: Final = 0.85
START: Final = 4
BASE_LIFETIME_S: Final = 10.0
PROBE_MAX_S: Final = 1.0
"""A probe that found nothing by then is given up, and tried again a second later."""
_AT_LEAST_WINDOWS: Final = 5
_LOST_PROBES: Final = 3
_FALLS: Final = 0.8


class Limiter:
    """Calls of one dependency under way, and how many may be. Time is monotonic seconds and never falls."""

    __slots__ = (
        "_base_at_s",
        "_base_s",
        "_drops",
        "_fills",
        "_least",
        "_limit",
        "_lost_probes",
        "_most",
        "_probe_at_s",
        "_probe_before_s",
        "_probe_calls",
        "_probe_from_s",
        "_probe_limit",
        "_probe_sum_s",
        "_samples",
        "_slow_start",
        "_starved_windows",
        "_sum_s",
        "_used",
        "_window_from_s",
        "drops",
        "in_flight",
        "probes",
        "room",
        "tolerance",
    )

    def __init__(self, *, least: int, most: int, fills: Sequence[float], now_s: float) -> None:
        """`fills`: by rank of class, up to which part of the limit it is let in; 1 for the most important."""
        assert 1 <= least <= most
        self._least = least
        self._most = most
        self._limit = float(min(most, START * least))
        self._fills = tuple(fills)
        self._slow_start = True
        self._base_s: float | None = None
        self._base_at_s = now_s
        self._probe_at_s: float | None = None
        self._probe_from_s: float | None = None
        self._probe_before_s = self._probe_limit = 0.0
        self._probe_sum_s = 0.0
        self._probe_calls = 0
        self._starved_windows = self._lost_probes = 0
        self.in_flight = 0
        self.drops = 0
        self.probes = 0
        self._window_from_s = now_s
        self._samples = self._drops = 0
        self._sum_s = 0.0
        self._used = False
        self.tolerance = TOLERANCE
        self.room: list[int] = []
        """By rank: a call may begin while `in_flight` is less than this."""
        self._make_room()

    @property
    def limit(self) -> int:
        return int(self._limit)

    @property
    def base_ms(self) -> float | None:
        """Service time without queueing, as far as known."""
        return None if self._base_s is None else self._base_s * 1000

    @property
    def probing(self) -> bool:
        return self._probe_at_s is not None

    def refill(self, fills: Sequence[float]) -> None:
        """Another ruleset."""
        assert len(fills) == len(CLASSES)
        self._fills = tuple(fills)
        self._make_room()

    def begin(self, rank: int) -> None:
        """A call for a class begins; who may is said by `room`."""
        self.in_flight += 1
        if self.in_flight >= USED * self.room[rank]:
            self._used = True
        if self._probe_from_s is not None and self.in_flight > self._probe_limit:
            self._probe_from_s = None  # the important class goes on: what is measured now is its queue
            self._probe_sum_s, self._probe_calls = 0.0, 0

    def end(self, took_s: float, outcome: Outcome, now_s: float, *, sample: bool = True) -> None:
        """It ended. `late` is a drop; what failed quickly says nothing of how long serving takes.

        Without `sample` neither does `took_s`, as it holds more than the dependency's own time: see `observe`.
        """
        assert self.in_flight > 0, "a call ends once"
        self.in_flight -= 1
        if outcome == "late":
            self._drops += 1
            self.drops += 1
        elif outcome == "ok" and sample:
            self._sample(took_s, now_s)
        self._look_at(now_s)

    def observe(self, took_s: float, now_s: float) -> None:
        """How long the dependency itself took, for one call or for several together."""
        self._sample(took_s, now_s)
        self._look_at(now_s)

    def _sample(self, took_s: float, now_s: float) -> None:
        self._samples += 1
        self._sum_s += took_s
        if self._probe_from_s is not None and now_s - took_s >= self._probe_from_s:
            self._probe_calls += 1
            self._probe_sum_s += took_s

    def _look_at(self, now_s: float) -> None:
        if self._probe_at_s is not None:
            self._go_on_probing(now_s)
        length_s = now_s - self._window_from_s
        calls = self._samples + self._drops
        if (length_s >= WINDOW_S and calls >= WINDOW_CALLS) or (length_s >= WINDOW_MAX_S and calls):
            self._close_window(now_s)

    def _close_window(self, now_s: float) -> None:
        drop_share = self._drops / (self._drops + self._samples)
        if self._drops:
            self._limit *= 1 - drop_share / 2
            self._slow_start = self._limit <= self._least
        elif self._probe_at_s is None:  # a probe's own calls are fewer than usual and no sign of room
            self._follow(self._sum_s / self._samples, now_s)
        self._limit = min(max(self._limit, float(self._least)), float(self._most))
        self._new_window(now_s)
        self._make_room()

    def _follow(self, mean_s: float, now_s: float) -> None:
        used = self._used
        if self._base_s is None or mean_s <= self._base_s:
            self._base_s, self._base_at_s = mean_s, now_s
        gradient = min(1.0, max(0.5, self.tolerance * self._base_s / mean_s)) if mean_s > 0 else 1.0
        if self._slow_start and gradient >= 0.9:
            self._limit *= 1.2 if used else 1.0
        else:
            if self._slow_start:
                self._slow_start = False
                self._start_probe(now_s, self._limit / 2, mean_s)
            wanted = self._limit * gradient + math.sqrt(self._limit)
            if wanted < self._limit:
                self._limit += SMOOTHING_DOWN * (wanted - self._limit)
            elif used:
                self._limit += SMOOTHING_UP * (wanted - self._limit)
        starved = self._limit <= self._least and gradient < 0.9
        self._starved_windows = self._starved_windows + 1 if starved else 0
        expired = now_s - self._base_at_s >= BASE_LIFETIME_S
        queues = used and gradient < 1.0  # else it is idle enough for the window itself to be the measurement
        if self._starved_windows >= _AT_LEAST_WINDOWS or (expired and queues):
            self._start_probe(now_s, self._limit / 2, mean_s)
        elif expired:
            self._base_s, self._base_at_s = mean_s, now_s

    def _start_probe(self, now_s: float, limit: float, before_s: float) -> None:
        """`before_s`: what calls took with twice as many at once."""
        self._starved_windows = 0
        self._probe_at_s = now_s
        self._probe_from_s = None
        self._probe_before_s = before_s
        self._probe_limit = max(1.0, limit)
        self._probe_sum_s, self._probe_calls = 0.0, 0
        self.probes += 1
        self._make_room()

    def _go_on_probing(self, now_s: float) -> None:
        """Wait until what was under way before is done, then for a window's calls that began afterwards."""
        assert self._probe_at_s is not None
        if self._probe_from_s is None and self.in_flight <= self._probe_limit:
            self._probe_from_s = now_s
        shorter = False
        if self._probe_calls >= WINDOW_CALLS:
            mean_s = self._probe_sum_s / self._probe_calls
            shorter = mean_s < _FALLS * self._probe_before_s
            self._base_s, self._base_at_s = mean_s, now_s
            self._lost_probes = 0
        elif now_s - self._probe_at_s >= PROBE_MAX_S:
            self._base_at_s = now_s - BASE_LIFETIME_S + 1.0
            self._lost_probes += 1
        else:
            return
        self._probe_at_s = self._probe_from_s = None
        if shorter and self._base_s is not None and self._probe_limit > 1:
            self._start_probe(now_s, self._probe_limit / 2, self._base_s)
        self._new_window(now_s)
        self._make_room()

    def _new_window(self, now_s: float) -> None:
        self._window_from_s = now_s
        self._samples = self._drops = 0
        self._sum_s = 0.0
        self._used = False

    def _make_room(self) -> None:
        others = self._limit if self._probe_at_s is None else self._probe_limit
        first = others if self._lost_probes >= _LOST_PROBES else self._limit
        self.room = [
            max(1, int((others if rank else first) * fill)) if fill else 0 for rank, fill in enumerate(self._fills)
        ]
