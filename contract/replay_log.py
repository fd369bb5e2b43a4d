"""The rules of one topic's replay log (R8, R9), pure: what an append may do, what a reader sees.

The Redis script and the memory adapter both obey this module; the port contract tests compare them with it.
"""

from __future__ import annotations

from bisect import bisect_left
from enum import StrEnum

import msgspec

from contract.broadcast import Broadcast

__all__ = ["AppendOutcome", "AppendResult", "LogSnapshot", "TopicLog"]


class AppendOutcome(StrEnum):
    APPENDED = "appended"
    DUPLICATE = "duplicate"
    """At or below the tail and known with the same payload: still delivered."""
    CONFLICT = "conflict"
    """At or below the tail with another payload, or one the log does not hold: still delivered, and an alarm."""
    STALE = "stale"
    """At or below the floor: dropped."""
    REFUSED = "refused"
    """`prev` is above the tail: something is missing in between; the result names the tail."""


class AppendResult(msgspec.Struct, frozen=True):
    outcome: AppendOutcome
    tail: int
    """The log's tail after the call."""


class LogSnapshot(msgspec.Struct, frozen=True):
    """A topic's whole bounded log, read at one instant."""

    topic: str
    floor: int = 0
    entries: tuple[Broadcast, ...] = ()
    """Ascending by timestamp, all above `floor`."""

    @property
    def tail(self) -> int:
        """Newest timestamp, or the floor when there is no entry."""
        return self.entries[-1].timestamp if self.entries else self.floor

    def after(self, cursor: int) -> tuple[Broadcast, ...]:
        """Entries above `cursor`, ascending."""
        start = bisect_left(self.entries, cursor + 1, key=_timestamp)
        return self.entries[start:]


class TopicLog:
    """A mutable topic log; `floor` and the tail only ever rise."""

    __slots__ = ("_entries", "floor", "topic")

    def __init__(self, topic: str, floor: int = 0) -> None:
        self.topic = topic
        self.floor = floor
        self._entries: list[Broadcast] = []

    @property
    def tail(self) -> int:
        return self._entries[-1].timestamp if self._entries else self.floor

    def append(self, broadcast: Broadcast) -> AppendResult:
        """R9: stale, duplicate, append, or refuse; never raises."""
        assert broadcast.topic == self.topic
        tail = self.tail
        if broadcast.timestamp <= self.floor:
            return AppendResult(AppendOutcome.STALE, tail)
        if broadcast.timestamp <= tail:
            known = self._find(broadcast.timestamp)
            same = known is not None and known.same_payload(broadcast)
            return AppendResult(AppendOutcome.DUPLICATE if same else AppendOutcome.CONFLICT, tail)
        if broadcast.prev != tail:
            return AppendResult(AppendOutcome.REFUSED, tail)
        self._entries.append(broadcast)
        return AppendResult(AppendOutcome.APPENDED, broadcast.timestamp)

    def raise_floor(self, floor: int) -> None:
        """Declare everything at or below `floor` lost; a lower floor than today's changes nothing."""
        if floor <= self.floor:
            return
        self.floor = floor
        self._entries = [entry for entry in self._entries if entry.timestamp > floor]

    def trim(self, *, keep: int, before: int) -> int:
        """Drop entries older than `before` or beyond the newest `keep`; the newest entry always stays.

        Returns how many were dropped; the floor rises to the newest dropped timestamp.
        """
        assert keep >= 1
        cut = max(len(self._entries) - keep, bisect_left(self._entries, before, key=_timestamp))
        cut = min(cut, len(self._entries) - 1)
        if cut <= 0:
            return 0
        self.raise_floor(self._entries[cut - 1].timestamp)
        return cut

    def snapshot(self) -> LogSnapshot:
        return LogSnapshot(self.topic, self.floor, tuple(self._entries))

    def _find(self, timestamp: int) -> Broadcast | None:
        at = bisect_left(self._entries, timestamp, key=_timestamp)
        if at < len(self._entries) and self._entries[at].timestamp == timestamp:
            return self._entries[at]
        return None


def _timestamp(broadcast: Broadcast) -> int:
    return broadcast.timestamp
