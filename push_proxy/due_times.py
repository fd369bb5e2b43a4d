"""When stages are due, pure: what no drain, no lifetime and no expired token may come near."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import Final

__all__ = ["NOTHING_DUE", "DueTimes", "StageGuards"]


class DueTimes:
    """Due times of stages in ms since the epoch, sorted and each once; immutable.

    Built of the schedules of the topics followed whenever one of them changed; None (a manual stage) is left out.
    `since_ms` and `until_ms` bound what is kept: a node of many topics needs an hour back and a day ahead.
    """

    __slots__ = ("times",)

    def __init__(
        self, times: Iterable[int | None], *, since_ms: int | None = None, until_ms: int | None = None
    ) -> None:
        self.times = tuple(
            sorted(
                {
                    at
                    for at in times
                    if at is not None and (since_ms is None or at >= since_ms) and (until_ms is None or at <= until_ms)
                }
            )
        )

    def next_after(self, now_ms: int) -> int | None:
        """The first due time later than `now_ms`."""
        at = bisect_right(self.times, now_ms)
        return self.times[at] if at < len(self.times) else None

    def guards(self, *, before_ms: int, after_ms: int, longest_ms: int | None = None) -> StageGuards:
        """The spans around these times; see StageGuards."""
        return StageGuards(self.times, before_ms=before_ms, after_ms=after_ms, longest_ms=longest_ms)


class StageGuards:
    """Spans [due - before, due + after] merged where they touch, so that a question costs one bisection.

    A merged span longer than `longest_ms` is left out: where something is always due, keeping clear of it would mean
    never. The spans that stand alone are kept.
    """

    __slots__ = ("_ends", "_starts")

    def __init__(self, times: Iterable[int], *, before_ms: int, after_ms: int, longest_ms: int | None = None) -> None:
        assert before_ms >= 0, "a guard before a stage is a length"
        assert after_ms >= 0, "a guard after a stage is a length"
        spans: list[tuple[int, int]] = []
        for at in sorted(times):
            start, end = at - before_ms, at + after_ms
            if spans and start <= spans[-1][1]:
                spans[-1] = (spans[-1][0], end)
            else:
                spans.append((start, end))
        kept = [(start, end) for start, end in spans if longest_ms is None or end - start <= longest_ms]
        self._starts = tuple(start for start, _ in kept)
        self._ends = tuple(end for _, end in kept)

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """What is kept clear, ascending and disjoint; both ends belong to it."""
        return tuple(zip(self._starts, self._ends, strict=True))

    def covers(self, at_ms: int) -> bool:
        """Whether a stage is, or was, due too near."""
        at = bisect_left(self._ends, at_ms)
        return at < len(self._ends) and self._starts[at] <= at_ms

    def clear_from(self, at_ms: int) -> int:
        """`at_ms`, or the first moment after the span that covers it."""
        at = bisect_left(self._ends, at_ms)
        if at < len(self._ends) and self._starts[at] <= at_ms:
            return self._ends[at] + 1
        return at_ms


NOTHING_DUE: Final = DueTimes(())
