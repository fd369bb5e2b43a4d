"""Deadlines of many connections in coarse buckets: one shared tick instead of a timer per connection."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["TimerWheel"]

K = TypeVar("K", bound=Hashable)


class TimerWheel(Generic[K]):
    """One deadline per key, never reported early, late by at most one `granularity_s` and the tick of the caller."""

    __slots__ = ("_at", "_buckets", "_granularity_s", "_next")

    def __init__(self, granularity_s: float, *, now_s: float) -> None:
        assert granularity_s > 0
        self._granularity_s = granularity_s
        self._buckets: dict[int, set[K]] = {}
        self._at: dict[K, int] = {}
        self._next = int(now_s / granularity_s)

    def __len__(self) -> int:
        return len(self._at)

    def set(self, key: K, at_s: float) -> None:
        """Give `key` its only deadline; one in the past is due at the next turn."""
        bucket = max(int(at_s / self._granularity_s) + 1, self._next)
        before = self._at.get(key)
        if before == bucket:
            return
        if before is not None:
            self._discard(key, before)
        self._at[key] = bucket
        self._buckets.setdefault(bucket, set()).add(key)

    def cancel(self, key: K) -> None:
        bucket = self._at.pop(key, None)
        if bucket is not None:
            self._discard(key, bucket)

    def due(self, now_s: float) -> list[K]:
        """Keys whose deadline passed, each once; they have none any more."""
        now = int(now_s / self._granularity_s)
        if now < self._next:
            return []
        if now - self._next > len(self._buckets):
            reached = sorted(bucket for bucket in self._buckets if bucket <= now)
        else:
            reached = [bucket for bucket in range(self._next, now + 1) if bucket in self._buckets]
        found: list[K] = []
        for bucket in reached:
            for key in self._buckets.pop(bucket):
                del self._at[key]
                found.append(key)
        self._next = now + 1
        return found

    def _discard(self, key: K, bucket: int) -> None:
        keys = self._buckets[bucket]
        keys.discard(key)
        if not keys:
            del self._buckets[bucket]
