"""Latencies in an HDR histogram: microsecond resolution, three digits, up to an hour, mergeable across processes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from hdrh.histogram import HdrHistogram

__all__ = ["LatencyHistogram"]

_MAX_US: Final = 3_600_000_000
_DIGITS: Final = 3


class LatencyHistogram:
    """Records milliseconds. Negative ones are counted apart (`below_zero`) and recorded as 0: they are clock errors
    or broken promises, and the caller decides which."""

    __slots__ = ("_hdr", "_max_ms", "_min_ms", "below_zero")

    def __init__(self) -> None:
        self._hdr: Any = HdrHistogram(1, _MAX_US, _DIGITS)
        self.below_zero = 0
        self._max_ms: float | None = None
        self._min_ms: float | None = None

    def record_ms(self, value_ms: float) -> None:
        if value_ms < 0:
            self.below_zero += 1
        self._max_ms = value_ms if self._max_ms is None else max(self._max_ms, value_ms)
        self._min_ms = value_ms if self._min_ms is None else min(self._min_ms, value_ms)
        self._hdr.record_value(min(max(0, round(value_ms * 1000)), _MAX_US))

    def record_all_ms(self, values_ms: Iterable[float]) -> None:
        for value_ms in values_ms:
            self.record_ms(value_ms)

    @property
    def count(self) -> int:
        return int(self._hdr.get_total_count())

    @property
    def max_ms(self) -> float | None:
        """Exact."""
        return self._max_ms

    @property
    def min_ms(self) -> float | None:
        """Exact."""
        return self._min_ms

    def percentile_ms(self, percent: float) -> float | None:
        """Within 0.1 % of the true value; None when nothing was recorded."""
        if self.count == 0:
            return None
        assert self._max_ms is not None
        # A bucket's upper end may lie above anything recorded.
        return min(float(self._hdr.get_value_at_percentile(percent)) / 1000, max(self._max_ms, 0.0))

    def merge(self, other: LatencyHistogram) -> None:
        """Add another's counts to this one's."""
        self._hdr.add(other._hdr)
        self.below_zero += other.below_zero
        for value in (other._max_ms, other._min_ms):
            if value is not None:
                self._max_ms = value if self._max_ms is None else max(self._max_ms, value)
                self._min_ms = value if self._min_ms is None else min(self._min_ms, value)

    def moved_ms(self, by_ms: float) -> LatencyHistogram:
        """The same counts, each `by_ms` later (earlier where negative): times since another moment than was recorded.

        What was below zero was recorded as 0 and moves from there.
        """
        found = LatencyHistogram()
        by_us = round(by_ms * 1000)
        for each in self._hdr.get_recorded_iterator():
            count, value_us = each.count_at_value_iterated_to, each.value_iterated_to + by_us
            found._hdr.record_value(min(max(0, value_us), _MAX_US), count)
            if value_us < 0:
                found.below_zero += count
        if self._max_ms is not None and self._min_ms is not None:
            found._max_ms, found._min_ms = self._max_ms + by_ms, self._min_ms + by_ms
        return found

    def summary(self) -> dict[str, float | None]:
        """`p50_ms p99_ms max_ms`, to a hundredth of a millisecond."""
        return {
            "p50_ms": _rounded(self.percentile_ms(50)),
            "p99_ms": _rounded(self.percentile_ms(99)),
            "max_ms": _rounded(self._max_ms),
        }

    def encode(self) -> dict[str, Any]:
        """For another process: JSON-able."""
        return {
            "hdr": self._hdr.encode().decode(),
            "below_zero": self.below_zero,
            "max_ms": self._max_ms,
            "min_ms": self._min_ms,
        }

    @classmethod
    def decode(cls, encoded: dict[str, Any]) -> LatencyHistogram:
        """Inverse of `encode`."""
        found = cls()
        found._hdr.decode_and_add(encoded["hdr"].encode())
        found.below_zero = encoded["below_zero"]
        found._max_ms, found._min_ms = encoded["max_ms"], encoded["min_ms"]
        return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
