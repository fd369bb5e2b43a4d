"""Reach of each broadcast on this node, as absolute counts that only rise."""

from __future__ import annotations

from contract.reach import ReachCount

__all__ = ["ReachTally"]


class _Counts:
    __slots__ = ("acked", "begun_at_s", "coalesced", "gaps", "holes", "replayed", "routed_at", "subscribers", "written")

    def __init__(self, begun_at_s: float) -> None:
        self.begun_at_s = begun_at_s
        self.subscribers = 0
        self.written = 0
        self.replayed = 0
        self.coalesced = 0
        self.acked = 0
        self.gaps = 0
        self.holes = 0
        self.routed_at: int | None = None


class ReachTally:
    """Counts per (topic, timestamp), bounded: the oldest leave when there are too many or they are too old.

    A count that left is not begun again for stragglers: a later report would replace the higher one already stored.
    """

    def __init__(
        self, node_id: str, incarnation: str, *, max_broadcasts: int = 2048, max_age_s: float = 3600.0
    ) -> None:
        self._node_id = node_id
        self._incarnation = incarnation
        self._max_broadcasts = max_broadcasts
        self._max_age_s = max_age_s
        self._counts: dict[tuple[str, int], _Counts] = {}
        self._changed: dict[tuple[str, int], None] = {}
        self._left: dict[tuple[str, int], None] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def routed(self, topic: str, timestamp: int, *, at_ms: int, now_s: float) -> None:
        """A router delivered it at `at_ms` (wall clock). The first time counts: routers deliver at least once."""
        known = self._counts.get((topic, timestamp))
        if known is not None and known.routed_at is not None:
            return
        counts = self._get(topic, timestamp, now_s)
        if counts is not None:
            counts.routed_at = at_ms

    def begin(self, topic: str, timestamp: int, *, subscribers: int, now_s: float) -> None:
        """A broadcast is about to be written for the first time."""
        counts = self._get(topic, timestamp, now_s)
        if counts is not None:
            counts.subscribers = max(counts.subscribers, subscribers)

    def written(self, topic: str, timestamp: int, by: int, *, now_s: float) -> None:
        counts = self._get(topic, timestamp, now_s)
        if counts is not None:
            counts.written += by

    def replayed(self, topic: str, timestamp: int, *, now_s: float, by: int = 1) -> None:
        counts = self._get(topic, timestamp, now_s)
        if counts is not None:
            counts.replayed += by

    def coalesced(self, topic: str, timestamp: int, *, now_s: float) -> None:
        counts = self._get(topic, timestamp, now_s)
        if counts is not None:
            counts.coalesced += 1

    def acked(self, topic: str, timestamp: int, *, now_s: float) -> None:
        counts = self._get(topic, timestamp, now_s)
        if counts is not None:
            counts.acked += 1

    def gap_told(self, topic: str, latest: int, *, now_s: float, by: int = 1) -> None:
        counts = self._get(topic, latest, now_s)
        if counts is not None:
            counts.gaps += by

    def hole_told(self, topic: str, timestamp: int, *, now_s: float) -> None:
        counts = self._get(topic, timestamp, now_s)
        if counts is not None:
            counts.holes += 1

    def report(self) -> tuple[ReachCount, ...]:
        """Counts that changed since the last report, as they stand now."""
        changed, self._changed = self._changed, {}
        return tuple(self._count(key) for key in changed if key in self._counts)

    def report_all_again(self) -> None:
        """A report may have been lost with its link: everything still kept counts as changed."""
        self._changed = dict.fromkeys(self._counts)

    def _get(self, topic: str, timestamp: int, now_s: float) -> _Counts | None:
        key = (topic, timestamp)
        counts = self._counts.get(key)
        if counts is None:
            if key in self._left:
                return None
            self._bound(now_s)
            counts = self._counts[key] = _Counts(now_s)
        self._changed[key] = None
        return counts

    def _bound(self, now_s: float) -> None:
        while self._counts:
            oldest = next(iter(self._counts))
            if len(self._counts) < self._max_broadcasts and now_s - self._counts[oldest].begun_at_s <= self._max_age_s:
                break
            del self._counts[oldest]
            self._changed.pop(oldest, None)
            self._left[oldest] = None
            if len(self._left) > self._max_broadcasts:
                del self._left[next(iter(self._left))]

    def _count(self, key: tuple[str, int]) -> ReachCount:
        counts = self._counts[key]
        return ReachCount(
            node_id=self._node_id,
            incarnation=self._incarnation,
            topic=key[0],
            timestamp=key[1],
            subscribers=counts.subscribers,
            written=counts.written,
            replayed=counts.replayed,
            coalesced=counts.coalesced,
            acked=counts.acked,
            gaps=counts.gaps,
            holes=counts.holes,
            routed_at=counts.routed_at,
        )
