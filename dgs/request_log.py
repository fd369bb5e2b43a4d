"""When requests came, per kind, for a bounded while: lets a judge prove that nobody asked during a broadcast. Pure.

Arrivals are counted in bins of a millisecond, the whole window's side by side: memory is the same for no request as for
tens of thousands a second, and so is how far back a count is complete.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Final, Literal, get_args

import msgspec

from dgs.serving import Ask, Seen

__all__ = ["BIN_BYTES", "RequestCounts", "RequestKind", "RequestLog", "noting"]

RequestKind = Literal["graphql", "artwork"]
_KINDS: Final[tuple[RequestKind, ...]] = get_args(RequestKind)
BIN_BYTES: Final = 4 * len(_KINDS)
"""Memory of a millisecond of the window."""


class RequestCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Requests with since_ms <= arrival < until_ms."""

    since_ms: int
    until_ms: int
    graphql: int
    artwork: int
    complete_since_ms: int
    """Nothing after this was forgotten: a window that starts earlier may count too little."""


class RequestLog:
    """Remembers arrivals of the last `window_ms`; the oldest go first.

    The clock may step. What came after the newest moment forgotten is counted, whatever the order it came in; a step
    back by more than the window forgets all, and says so.
    """

    def __init__(self, *, window_ms: int, started_ms: int) -> None:
        assert window_ms > 0
        self._size = window_ms
        self._bins: dict[RequestKind, array[int]] = {kind: _zeros(window_ms) for kind in _KINDS}
        self._newest_ms = started_ms
        """The last moment that has a bin; the first is a window before it."""
        self._complete_since_ms = started_ms
        self.totals: dict[RequestKind, int] = dict.fromkeys(_KINDS, 0)
        """Since the start."""

    def note(self, kind: RequestKind, now_ms: int) -> None:
        if now_ms > self._newest_ms:
            self._move_on(now_ms)
        elif now_ms <= self._newest_ms - self._size:
            self._begin_again(now_ms)
        self._bins[kind][now_ms % self._size] += 1
        self.totals[kind] += 1

    def counts(self, since_ms: int, until_ms: int) -> RequestCounts:
        first = max(since_ms, self._newest_ms - self._size + 1)
        found = {kind: sum(map(sum, self._slices(kind, first, min(until_ms, self._newest_ms + 1)))) for kind in _KINDS}
        return RequestCounts(
            since_ms=since_ms,
            until_ms=until_ms,
            complete_since_ms=self._complete_since_ms,
            graphql=found["graphql"],
            artwork=found["artwork"],
        )

    def _move_on(self, now_ms: int) -> None:
        """Bins that leave the window are used again: what was in them is forgotten."""
        size = self._size
        leaving = range(self._newest_ms - size + 1, min(now_ms - size, self._newest_ms) + 1)
        for kind in _KINDS:
            bins = self._bins[kind]
            last = leaving.stop
            for part in reversed(self._slices(kind, leaving.start, leaving.stop)):
                last -= len(part)
                used = len(part.tobytes().rstrip(b"\0"))
                if used:
                    forgotten_ms = last + (used - 1) // part.itemsize
                    self._complete_since_ms = max(self._complete_since_ms, forgotten_ms + 1)
                at = last % size
                bins[at : at + len(part)] = _zeros(len(part))
        self._newest_ms = now_ms

    def _begin_again(self, now_ms: int) -> None:
        self._complete_since_ms = max(self._complete_since_ms, self._newest_ms + 1)
        for kind in _KINDS:
            self._bins[kind] = _zeros(self._size)
        self._newest_ms = now_ms

    def _slices(self, kind: RequestKind, since_ms: int, until_ms: int) -> list[array[int]]:
        """Counts of these moments in order: in one piece, or in two around the end of the bins."""
        count = until_ms - since_ms
        if count <= 0:
            return []
        bins, at = self._bins[kind], since_ms % self._size
        head = bins[at : at + count]
        return [head] if len(head) == count else [head, bins[: count - len(head)]]


def noting(look: Callable[[Ask], Seen], log: RequestLog, now_ms: Callable[[], int]) -> Callable[[Ask], Seen]:
    """`look`, for a server: notes whatever arrives, also what is then turned away."""

    def look_and_note(ask: Ask) -> Seen:
        path = ask.path
        if path == "/graphql":
            log.note("graphql", now_ms())
        elif path.startswith("/artwork/"):
            log.note("artwork", now_ms())
        return look(ask)

    return look_and_note


def _zeros(count: int) -> array[int]:
    return array("I", bytes(4 * count))
