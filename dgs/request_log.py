"""When requests came, per kind, for a bounded while: lets a judge prove that nobody asked during a broadcast. Pure."""

from __future__ import annotations

from collections import deque
from typing import Literal

import msgspec

__all__ = ["RequestCounts", "RequestKind", "RequestLog"]

RequestKind = Literal["graphql", "artwork"]


class RequestCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Requests with since_ms <= arrival < until_ms."""

    since_ms: int
    until_ms: int
    graphql: int
    artwork: int
    complete_since_ms: int
    """Nothing after this was forgotten: a window that starts earlier may count too little."""


class RequestLog:
    """Remembers arrivals of the last `window_ms`, at most `max_entries`; the oldest go first."""

    def __init__(self, *, window_ms: int, max_entries: int, started_ms: int) -> None:
        self._window_ms = window_ms
        self._max_entries = max_entries
        self._arrivals: deque[tuple[int, RequestKind]] = deque()
        self._complete_since_ms = started_ms

    def __len__(self) -> int:
        return len(self._arrivals)

    def note(self, kind: RequestKind, now_ms: int) -> None:
        arrivals = self._arrivals
        arrivals.append((now_ms, kind))
        oldest = now_ms - self._window_ms
        while len(arrivals) > self._max_entries or arrivals[0][0] < oldest:
            self._complete_since_ms = max(self._complete_since_ms, arrivals.popleft()[0] + 1)

    def counts(self, since_ms: int, until_ms: int) -> RequestCounts:
        """Looks at every arrival: the clock may have stepped back, so they need not be in order."""
        found = {"graphql": 0, "artwork": 0}
        for at, kind in self._arrivals:
            if since_ms <= at < until_ms:
                found[kind] += 1
        return RequestCounts(since_ms=since_ms, until_ms=until_ms, complete_since_ms=self._complete_since_ms, **found)
