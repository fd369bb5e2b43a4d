"""A topic's newest log entry, at most half a second old: state key and timestamp always of one entry.

A device may start from an older entry than the newest: its cursor then only replays more (R15, R18).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from contract.clock import Clock
from contract.errors import StoreUnavailable
from contract.kv.ports import ReplayLogReader
from dgs.caches.single_flight import SingleFlight

__all__ = ["MAX_AGE_S", "LatestEntries", "LatestEntry"]

MAX_AGE_S: Final = 0.5


class LatestEntry(NamedTuple):
    """Both from one entry."""

    state_key: str | None
    """None before the first broadcast."""
    timestamp: int
    """ms; 0 before the first."""


class _Held(NamedTuple):
    entry: LatestEntry
    tail: int
    asked_s: float


class LatestEntries:
    """Topic -> newest entry, from memory or by one read for all who ask.

    A look costs the store one number; the log itself is read only when that moved. Nothing is kept of topics nobody
    asks for: beyond `max_topics` the one asked longest ago is forgotten.
    """

    def __init__(
        self,
        replay_log: ReplayLogReader,
        clock: Clock,
        *,
        max_age_s: float = MAX_AGE_S,
        stale_s: float = 0.0,
        max_topics: int = 10_000,
    ) -> None:
        assert max_age_s > 0
        assert max_topics >= 1
        self._replay_log = replay_log
        self._clock = clock
        self._max_age_s = max_age_s
        self._stale_s = stale_s
        self._max_topics = max_topics
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._flights: SingleFlight[str, LatestEntry] = SingleFlight("latest")
        self._hits = self._reads = self._stale = 0

    async def latest(self, topic: str) -> LatestEntry:
        """At most `max_age_s` old, or up to `stale_s` while the store is silent. Raises StoreUnavailable, cancel-safe.

        An older entry is a true one, too: it was the newest, and whoever starts there is replayed what followed.
        """
        held = self._held.get(topic)
        now_s = self._clock.monotonic_s()
        if held is not None and now_s - held.asked_s < self._max_age_s:
            self._hits += 1
            return held.entry
        try:
            return await self._flights.run(topic, lambda: self._read(topic))
        except StoreUnavailable:
            if held is None or now_s - held.asked_s >= self._stale_s:
                raise
            self._stale += 1
            return held.entry

    def stats(self) -> dict[str, int]:
        """Answers from memory, reads of the store, callers who joined one, answers served stale; topics held."""
        return {
            "hits": self._hits,
            "reads": self._reads,
            "joined": self._flights.joined,
            "stale": self._stale,
            "topics": len(self._held),
        }

    async def _read(self, topic: str) -> LatestEntry:
        self._reads += 1
        asked_s = self._clock.monotonic_s()
        held = self._held.get(topic)
        tail = (await self._replay_log.tails([topic]))[topic]
        if held is not None and held.tail == tail:
            entry = held.entry
        else:
            found = await self._replay_log.read(topic)
            tail = found.tail
            entry = LatestEntry(found.entries[-1].state_key, found.entries[-1].timestamp) if found.entries else _NONE
        self._held[topic] = _Held(entry, tail, asked_s)
        self._held.move_to_end(topic)
        if len(self._held) > self._max_topics:
            self._held.popitem(last=False)
        return entry


_NONE: Final = LatestEntry(None, 0)
