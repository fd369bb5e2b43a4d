"""A cache bounded by bytes and entries whose entries fall due at moments of their own. Pure.

An entry has two moments, drawn when it is put, by each process for itself: its expiry, and a moment before it from
which the next look says that it is *due*, so that one caller makes it anew while everybody is still served. This is
early recomputation as in Vattani, Chierichetti, Lowenstein, "Optimal Probabilistic Cache Stampede Prevention" (VLDB
2015, their XFetch), with two differences: the moment is drawn once per entry and not at every look, which within one
process and with single-flight amounts to the same; and it is uniform over the last share of the lifetime and not
exponential with the time it takes to make the value, because here the making is a millisecond and the load it makes,
everybody's caches at once, is what has to be spread.

Both moments are drawn where the schedule leaves them free (`dgs/ttl.py`): nothing falls due near a stage.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Final, Generic, NamedTuple, TypeVar

from dgs.ttl import free_spans, spread_in

__all__ = ["ENTRY_BYTES", "Expiring", "Lifetimes", "Moments"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
ENTRY_BYTES: Final = 200
"""What an entry costs besides its value and key, about: a slot of the table, its links and moments."""


class Moments(NamedTuple):
    """In ms since the epoch."""

    due_ms: int
    expires_ms: int
    """At least `due_ms`; equal where no earlier moment is free."""


class Lifetimes:
    """Draws an entry's moments; `draw` is uniform over [0, 1)."""

    def __init__(
        self, *, mean_s: float, spread: float, early: float, guard_s: float, draw: Callable[[], float]
    ) -> None:
        assert mean_s > 0
        assert 0 <= spread < 1
        assert 0 <= early < 1
        self._mean_ms = max(1, round(mean_s * 1000))
        self._spread = spread
        self._early = early
        self._guard_ms = round(guard_s * 1000)
        self._draw = draw

    def moments(self, now_ms: int, stage_times: Iterable[int]) -> Moments:
        """For an entry made now, of a topic with stages at those times (ms since the epoch)."""
        times = tuple(stage_times)
        spans = free_spans(
            now_ms=now_ms, mean_ms=self._mean_ms, spread=self._spread, stage_times=times, guard_ms=self._guard_ms
        )
        expires_ms = spread_in(spans, self._draw())
        early_ms = expires_ms - round((expires_ms - now_ms) * self._early)
        guards = [(at - self._guard_ms, at + self._guard_ms) for at in times]
        free = _outside(early_ms, expires_ms, guards)
        return Moments(spread_in(free, self._draw()) if free else expires_ms, expires_ms)


def _outside(low: int, high: int, guards: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    free = [(low, high)] if low < high else []
    for start, end in guards:
        free = [
            part
            for span in free
            for part in ((span[0], min(span[1], start)), (max(span[0], end), span[1]))
            if part[0] < part[1]
        ]
    return free


class _Entry(Generic[V]):
    __slots__ = ("asked", "due_ms", "expires_ms", "size", "value")

    def __init__(self, value: V, size: int, moments: Moments) -> None:
        self.value = value
        self.size = size
        self.due_ms, self.expires_ms = moments
        self.asked = False


class Expiring(Generic[K, V]):
    """Least recently used entries go first once there are too many or they are too large.

    Expired entries stay until they are pushed out, were expired for `stale_ms`, or are put anew: for `stale`.
    """

    def __init__(self, *, max_bytes: int, max_entries: int = 1_000_000, stale_ms: int = 0) -> None:
        assert max_bytes >= 0
        assert max_entries >= 0
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self._stale_ms = stale_ms
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()
        self.bytes = 0
        """Sum of the sizes given, and ENTRY_BYTES each."""
        self.hits = self.misses = self.due = self.pushed_out = 0

    def __len__(self) -> int:
        return len(self._entries)

    def look(self, key: K, now_ms: int) -> tuple[V | None, bool]:
        """The value, or None if there is none or it expired; and whether to make it anew meanwhile.

        Of all looks between an entry's due moment and its expiry only the first is told so.
        """
        entry = self._entries.get(key)
        if entry is None or now_ms >= entry.expires_ms:
            self.misses += 1
            return None, False
        self.hits += 1
        self._entries.move_to_end(key)
        if now_ms < entry.due_ms or entry.asked:
            return entry.value, False
        entry.asked = True
        self.due += 1
        return entry.value, True

    def peek(self, key: K, now_ms: int) -> V | None:
        """The value, or None if there is none or it expired; counts nothing, moves nothing."""
        entry = self._entries.get(key)
        return None if entry is None or now_ms >= entry.expires_ms else entry.value

    def stale(self, key: K, now_ms: int) -> V | None:
        """The value, also for `stale_ms` after its expiry: for when no other can be made."""
        entry = self._entries.get(key)
        return None if entry is None or now_ms >= entry.expires_ms + self._stale_ms else entry.value

    def put(self, key: K, value: V, size: int, moments: Moments) -> None:
        """Hold `value`, `size` bytes large, in place of any other; one larger than the cache is not held."""
        assert size >= 0
        assert moments.due_ms <= moments.expires_ms
        self.drop(key)
        self._entries[key] = _Entry(value, size + ENTRY_BYTES, moments)
        self.bytes += size + ENTRY_BYTES
        while self.bytes > self._max_bytes or len(self._entries) > self._max_entries:
            _, entry = self._entries.popitem(last=False)
            self.bytes -= entry.size
            self.pushed_out += 1

    def keep_old(self, key: K) -> None:
        """Making it anew failed: the next look may be told to try again."""
        entry = self._entries.get(key)
        if entry is not None:
            entry.asked = False

    def drop(self, key: K) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= entry.size

    def clear(self) -> None:
        self._entries.clear()
        self.bytes = 0
