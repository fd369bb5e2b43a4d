"""One timer for many devices: wake-ups rounded up to a tick and kept in buckets."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from typing import Final, Protocol

__all__ = ["NOT_PLANNED", "TICK_MS", "TimerWheel", "Wakeable"]

NOT_PLANNED: Final = 1 << 62
TICK_MS: Final = 10
"""Reconnects, acks and refetches are spread over seconds; 10 ms is exact enough and keeps buckets few."""
_SLICE: Final = 200
"""Wake-ups per turn of the loop, so that a full bucket does not delay received frames."""


class Wakeable(Protocol):
    wheel_at_ms: int
    """Owned by the wheel: when it will call next; NOT_PLANNED at first."""

    def on_wake(self, now_ms: int) -> None: ...


class TimerWheel:
    """Calls `on_wake` at or after the earliest moment asked for; may call early, never misses. One loop, one owner."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._buckets: dict[int, list[Wakeable]] = {}
        self._order: list[int] = []
        self._handle: asyncio.TimerHandle | None = None
        self._handle_tick = 0
        self._closed = False
        self._due: deque[Wakeable] = deque()

    def wake_at(self, who: Wakeable, at_ms: int) -> None:
        """Wake `who` at `at_ms`, or earlier if it already asked for that."""
        if who.wheel_at_ms <= at_ms or self._closed:
            return
        who.wheel_at_ms = at_ms
        tick = at_ms // TICK_MS + 1
        bucket = self._buckets.get(tick)
        if bucket is None:
            self._buckets[tick] = [who]
            heapq.heappush(self._order, tick)
            if self._handle is None or tick < self._handle_tick:
                self._arm()
        else:
            bucket.append(who)

    def close(self) -> None:
        """Forget every wake-up, and those to come; idempotent."""
        self._closed = True
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._buckets.clear()
        self._order.clear()
        self._due.clear()

    def _arm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle_tick = self._order[0]
        # Capped so that a step of the wall clock is noticed.
        delay_s = min(max(0.0, self._handle_tick * TICK_MS / 1000 - time.time()), 1.0)
        self._handle = self._loop.call_later(delay_s, self._turn)

    def _turn(self) -> None:
        self._handle = None
        now_ms = time.time_ns() // 1_000_000
        while self._order and self._order[0] * TICK_MS <= now_ms:
            self._due.extend(self._buckets.pop(heapq.heappop(self._order)))
        self._drain()
        if self._order and self._handle is None:
            self._arm()

    def _drain(self) -> None:
        now_ms = time.time_ns() // 1_000_000
        for _ in range(min(_SLICE, len(self._due))):
            who = self._due.popleft()
            # A later bucket may hold it too, from before it asked for an earlier moment: that call is merely early.
            who.wheel_at_ms = NOT_PLANNED
            who.on_wake(now_ms)
        if self._due:
            self._loop.call_soon(self._drain)
