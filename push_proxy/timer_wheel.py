"""Deadlines of many connections in coarse buckets: one shared tick instead of a timer per connection."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

__all__ = ["NOT_SET", "Timed", "TimerWheel"]

NOT_SET = -1


class Timed(Protocol):
    """Something with a deadline; it carries its bucket itself, which costs less than a table of everybody's."""

    due_bucket: int
    """NOT_SET at first; belongs to the wheel."""

    def __hash__(self) -> int: ...


K = TypeVar("K", bound=Timed)


class TimerWheel(Generic[K]):
    """One deadline per key, never reported early, late by at most one `granularity_s` and the tick of the caller."""

    __slots__ = ("_buckets", "_granularity_s", "_next")

    def __init__(self, granularity_s: float, *, now_s: float) -> None:
        assert granularity_s > 0
        self._granularity_s = granularity_s
        self._buckets: dict[int, tuple[int, set[K]]] = {}
        """The number again with its keys: one object for all who carry it."""
        self._next = int(now_s / granularity_s)

    def __len__(self) -> int:
        return sum(len(keys) for _, keys in self._buckets.values())

    def set(self, key: K, at_s: float) -> None:
        """Give `key` its only deadline; one in the past is due at the next turn."""
        bucket = max(int(at_s / self._granularity_s) + 1, self._next)
        before = key.due_bucket
        if before == bucket:
            return
        if before != NOT_SET:
            self._discard(key, before)
        found = self._buckets.get(bucket)
        if found is None:
            found = self._buckets[bucket] = bucket, set()
        key.due_bucket, keys = found
        keys.add(key)

    def cancel(self, key: K) -> None:
        if key.due_bucket != NOT_SET:
            self._discard(key, key.due_bucket)
            key.due_bucket = NOT_SET

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
            for key in self._buckets.pop(bucket)[1]:
                key.due_bucket = NOT_SET
                found.append(key)
        self._next = now + 1
        return found

    def _discard(self, key: K, bucket: int) -> None:
        keys = self._buckets[bucket][1]
        keys.discard(key)
        if not keys:
            del self._buckets[bucket]
