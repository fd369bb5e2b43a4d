"""Deadlines of many connections in coarse buckets: one shared look now and then instead of a timer per connection.

The further off a deadline, the coarser its bucket, as in a kernel's timer wheel: pings of thousands of devices are then
due some hundred at a time, and a node at rest is woken for them every few seconds instead of for each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

__all__ = ["LATE_SHARE", "NOT_SET", "Timed", "TimerWheel"]

NOT_SET = -1
_EXACT_BITS: Final = 6
LATE_SHARE: Final = 2.0**-_EXACT_BITS
"""Of the time until a deadline: how much later it may be reported."""


class Timed(Protocol):
    """Something with a deadline; it carries its bucket itself, which costs less than a table of everybody's."""

    due_bucket: int
    """NOT_SET at first; belongs to the wheel."""

    def __hash__(self) -> int: ...


K = TypeVar("K", bound=Timed)


class TimerWheel(Generic[K]):
    """One deadline per key: never reported early, late by at most one `granularity_s`, a LATE_SHARE of the time it was
    ahead when it was set, and whatever the caller is late.

    `sooner` is called when a deadline is set before the moment that the caller was told to look again at.
    """

    __slots__ = ("_awaited", "_buckets", "_granularity_s", "_next", "_sooner")

    def __init__(self, granularity_s: float, *, now_s: float, sooner: Callable[[], None]) -> None:
        assert granularity_s > 0
        self._granularity_s = granularity_s
        self._sooner = sooner
        self._awaited = 0
        """The bucket until which nobody looks."""
        self._buckets: dict[int, tuple[int, set[K]]] = {}
        """The number again with its keys: one object for all who carry it."""
        self._next = int(now_s / granularity_s)

    def __len__(self) -> int:
        return sum(len(keys) for _, keys in self._buckets.values())

    def set(self, key: K, at_s: float) -> None:
        """Give `key` its only deadline; one in the past is due at the next turn."""
        bucket = int(at_s / self._granularity_s) + 1
        ahead = bucket - self._next
        if ahead >> _EXACT_BITS > 1:
            bucket += -bucket & ((1 << (ahead.bit_length() - _EXACT_BITS - 1)) - 1)
        elif ahead < 0:
            bucket = self._next
        before = key.due_bucket
        if before == bucket:
            return
        if before != NOT_SET:
            self._discard(key, before)
        found = self._buckets.get(bucket)
        if found is None:
            found = self._buckets[bucket] = bucket, set()
            if bucket < self._awaited:
                self._awaited = 0
                self._sooner()
        key.due_bucket, keys = found
        keys.add(key)

    def look_again_s(self, latest_s: float) -> float:
        """When `due` has something to report, `latest_s` at most. Looks at all buckets, which are a few hundred."""
        self._awaited = min(self._buckets, default=int(latest_s / self._granularity_s) + 1)
        return min(latest_s, self._awaited * self._granularity_s)

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
