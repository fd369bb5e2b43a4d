"""Anti-entropy, pure: what the replay log must hold of recently active topics, and where it does not (R10)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import msgspec

__all__ = ["RecentTails", "StoredTail", "lost_partitions"]


class StoredTail(msgspec.Struct, frozen=True):
    partition: int
    timestamp: int
    """Newest timestamp the replay log confirmed to hold."""


class RecentTails:
    """What was last confirmed stored, of the `bound` most recently active topics."""

    __slots__ = ("_bound", "_tails")

    def __init__(self, bound: int) -> None:
        assert bound >= 1
        self._bound = bound
        self._tails: OrderedDict[str, StoredTail] = OrderedDict()

    def note(self, topic: str, partition: int, timestamp: int) -> None:
        """`timestamp` is stored; an older one than known changes nothing but the topic's recency."""
        known = self._tails.pop(topic, None)
        newest = timestamp if known is None else max(known.timestamp, timestamp)
        self._tails[topic] = StoredTail(partition, newest)
        if len(self._tails) > self._bound:
            self._tails.popitem(last=False)

    def newest(self, topic: str) -> int:
        """What was last confirmed stored of a topic; 0 if that is not known."""
        known = self._tails.get(topic)
        return known.timestamp if known is not None else 0

    def expected(self) -> dict[str, StoredTail]:
        """A copy, to be taken *before* the stored tails are read: what is noted meanwhile is not missing."""
        return dict(self._tails)

    def forget_partition(self, partition: int) -> None:
        """The partition was revoked and somebody else looks after it, or it is being read anew."""
        self._tails = OrderedDict((topic, tail) for topic, tail in self._tails.items() if tail.partition != partition)


def lost_partitions(expected: Mapping[str, StoredTail], stored: Mapping[str, int]) -> set[int]:
    """Partitions of which the store lost something: a tail is older than what it once confirmed."""
    return {tail.partition for topic, tail in expected.items() if stored.get(topic, 0) < tail.timestamp}
