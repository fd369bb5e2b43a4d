"""How late a process woke that wanted to wake regularly: over a run, and in its worst seconds. Pure.

A broadcast keeps a generator busy for a moment only, and that is the moment that is measured: over a long run it would
be one of a thousand wakings.
"""

from __future__ import annotations

from math import ceil

from loadtest.bench.histogram import LatencyHistogram
from loadtest.users.figures import corrected_ms

__all__ = ["Lag"]


class Lag:
    """Of one process, which naps for `nap_s` at a time. `whole` is corrected for the wakings that were missed."""

    def __init__(self, *, nap_s: float, stretch_s: float) -> None:
        self.whole = LatencyHistogram()
        self._nap_ms = nap_s * 1000
        self._stretch_s = stretch_s
        self._stretch: list[float] = []
        self._began_s: float | None = None
        self._worst_ms: float | None = None

    def woke(self, at_s: float, late_ms: float) -> None:
        """A nap ended at `at_s`, so much later than it should have."""
        if self._began_s is None:
            self._began_s = at_s
        # Who woke late could not notice that it would have been late again and again meanwhile.
        found = list(corrected_ms(late_ms, self._nap_ms))
        self.whole.record_all_ms(found)
        self._stretch += found
        if at_s - self._began_s >= self._stretch_s:
            self._worst_ms = max(self._worst_ms or 0.0, _p99_ms(self._stretch))
            self._stretch, self._began_s = [], at_s

    def worst_p99_ms(self) -> float:
        """p99 of the worst whole stretch; of all there is, where no stretch was whole."""
        if self._worst_ms is not None:
            return self._worst_ms
        return _p99_ms(self._stretch) if self._stretch else 0.0


def _p99_ms(found: list[float]) -> float:
    return sorted(found)[ceil(len(found) * 0.99) - 1]
