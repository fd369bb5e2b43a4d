"""The rules of one topic's replay log (R8, R9), pure: what an append may do, what a reader sees.

The Redis script and the memory adapter both obey this module; the port contract tests compare them with it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise
from operator import attrgetter
from typing import Final

import msgspec

from contract.broadcast import Broadcast

__all__ = [
    "BY_TIMESTAMP",
    "AppendOutcome",
    "AppendResult",
    "LogSnapshot",
    "TopicLog",
    "above",
    "assert_extends",
    "find_entry",
]

BY_TIMESTAMP: Final = attrgetter("timestamp")
"""Sort key of every list of entries."""


def find_entry(entries: Sequence[Broadcast], timestamp: int) -> Broadcast | None:
    """The entry of that timestamp in a list sorted by timestamp."""
    at = bisect_left(entries, timestamp, key=BY_TIMESTAMP)
    return entries[at] if at < len(entries) and entries[at].timestamp == timestamp else None


def above(entries: Sequence[Broadcast], timestamp: int) -> int:
    """Index of the first entry above `timestamp` in a list sorted by timestamp."""
    return bisect_left(entries, timestamp + 1, key=BY_TIMESTAMP)


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
        return self.entries[above(self.entries, cursor) :]


def assert_extends(broadcasts: Sequence[Broadcast], *, tail: int, floor: int | None) -> None:
    """What a caller of `extend` vouches for: one chain, that begins at `tail` or else above the floor it gives."""
    assert broadcasts
    first = broadcasts[0]
    assert first.prev == tail if floor is None else tail <= floor < first.timestamp and first.prev <= floor
    assert first.timestamp > tail
    for before, after in pairwise(broadcasts):
        assert before.topic == after.topic
        assert after.prev == before.timestamp < after.timestamp


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
            known = find_entry(self._entries, broadcast.timestamp)
            same = known is not None and known.same_payload(broadcast)
            return AppendResult(AppendOutcome.DUPLICATE if same else AppendOutcome.CONFLICT, tail)
        if broadcast.prev != tail:
            return AppendResult(AppendOutcome.REFUSED, tail)
        self._entries.append(broadcast)
        return AppendResult(AppendOutcome.APPENDED, broadcast.timestamp)

    def extend(self, broadcasts: Sequence[Broadcast], *, tail: int, floor: int | None = None) -> AppendResult:
        """Append a chain in one step if the log still ends in `tail`; else REFUSED, and nothing changed.

        With a floor, all the log held is given up first: it was lost, or belongs to another chain (R9). No reader and
        no death comes between the two, so a tail that was raised always has the entry that says what is true there.
        """
        assert_extends(broadcasts, tail=tail, floor=floor)
        if self.tail != tail:
            return AppendResult(AppendOutcome.REFUSED, self.tail)
        if floor is not None:
            self.raise_floor(floor)
        self._entries.extend(broadcasts)
        return AppendResult(AppendOutcome.APPENDED, self.tail)

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
        cut = max(len(self._entries) - keep, bisect_left(self._entries, before, key=BY_TIMESTAMP))
        cut = min(cut, len(self._entries) - 1)
        if cut <= 0:
            return 0
        self.raise_floor(self._entries[cut - 1].timestamp)
        return cut

    def snapshot(self) -> LogSnapshot:
        return LogSnapshot(self.topic, self.floor, tuple(self._entries))
