"""One topic's log as this node knows it: accepted by chain, compared with the log, never falling back (R13, R14)."""

from __future__ import annotations

from bisect import insort
from typing import Final, NamedTuple

from contract.broadcast import Broadcast
from contract.replay_log import BY_TIMESTAMP, LogSnapshot, above, find_entry

__all__ = ["FRESH_FOR_S", "HOLE_BOUND_S", "MAX_ENTRIES", "MAX_HELD", "Accepted", "TopicState"]

FRESH_FOR_S: Final = 3.0
"""A verdict is given only if memory was compared with the log this recently (R14)."""
HOLE_BOUND_S: Final = 0.5
"""How long a broadcast whose predecessor is missing waits for it (R13)."""
MAX_ENTRIES: Final = 4096
"""Entries kept per topic; dropping older ones raises this node's floor."""
MAX_HELD: Final = 64
"""Broadcasts held behind a hole; one more releases them all: memory is bounded, the newest truth never waits."""
_MAX_BELOW: Final = 64


class Accepted(NamedTuple):
    """What became of one delivered broadcast."""

    send: tuple[Broadcast, ...] = ()
    """To be written to subscribers now, ascending."""
    read_log: bool = False
    """A predecessor is missing: read the log."""
    conflict: bool = False
    """A repeat with another payload: an alarm (R9)."""


class TopicState:
    """The known log of one topic. Pure: time comes in as monotonic seconds."""

    __slots__ = (
        "_absorbed_read",
        "_behind_tail",
        "_entries",
        "_held",
        "_held_until_s",
        "_max_entries",
        "_reads_begun",
        "_sent_below",
        "_whole",
        "confirmed_at_s",
        "floor",
        "latest",
        "read_done",
        "state_key",
        "topic",
    )

    def __init__(self, topic: str, *, max_entries: int = MAX_ENTRIES) -> None:
        self.topic = topic
        self.floor = 0
        self.latest = 0
        """Newest timestamp known; never falls (R15)."""
        self.state_key: str | None = None
        """The state `latest` announced, None before the first broadcast."""
        self.read_done = False
        """Whether the log was read since the topic was opened or the store came back."""
        self.confirmed_at_s = float("-inf")
        self._entries: list[Broadcast] = []
        self._held: dict[int, Broadcast] = {}
        self._held_until_s = float("inf")
        self._sent_below: dict[int, None] = {}
        self._whole = True
        self._behind_tail = 0
        self._reads_begun = 0
        self._absorbed_read = 0
        self._max_entries = max_entries

    # What is known.

    @property
    def entries(self) -> tuple[Broadcast, ...]:
        """Everything known above the floor, ascending."""
        return tuple(self._entries)

    @property
    def size(self) -> int:
        """How many entries are known above the floor."""
        return len(self._entries)

    @property
    def holding(self) -> bool:
        """Whether a broadcast waits for its predecessor."""
        return bool(self._held)

    @property
    def hole_open(self) -> bool:
        """Whether something between floor and latest is known to be missing."""
        return bool(self._held) or not self._whole

    @property
    def reads_begun(self) -> int:
        return self._reads_begun

    @property
    def absorbed_read(self) -> int:
        """Number of the newest read whose answer was absorbed."""
        return self._absorbed_read

    def fresh(self, now_s: float) -> bool:
        """Whether memory may answer for the log (R14)."""
        return (
            self.read_done
            and not self.hole_open
            and self._behind_tail <= self.latest
            and now_s - self.confirmed_at_s <= FRESH_FOR_S
        )

    def after(self, cursor: int) -> tuple[Broadcast, ...]:
        """Known entries above `cursor`, ascending."""
        return tuple(self._entries[above(self._entries, cursor) :])

    def newest(self) -> Broadcast | None:
        return self._entries[-1] if self._entries else None

    def knows(self, timestamp: int) -> bool:
        return find_entry(self._entries, timestamp) is not None

    # Live broadcasts.

    def accept(self, broadcast: Broadcast, now_s: float) -> Accepted:
        """R13. The chain decides; a repeat is dropped, whatever precedes an unknown one is asked for."""
        assert broadcast.topic == self.topic
        timestamp = broadcast.timestamp
        if timestamp <= self.latest:
            return self._accept_below(broadcast)
        if broadcast.prev <= self.latest:
            self._append(broadcast)
            sent = (broadcast, *self._follow_chain())
            self._trim()
            return Accepted(sent)
        if timestamp in self._held:
            return Accepted(read_log=True)
        self._held[timestamp] = broadcast
        self._held_until_s = min(self._held_until_s, now_s + HOLE_BOUND_S)
        if len(self._held) > MAX_HELD:
            return Accepted(self._release(), read_log=True)
        return Accepted(read_log=True)

    def release_overdue(self, now_s: float) -> tuple[Broadcast, ...]:
        """Held broadcasts whose hole was not closed in time: they go out with their own `prev`. The hole stays open."""
        if not self._held or now_s < self._held_until_s:
            return ()
        return self._release()

    # The log.

    def begin_read(self) -> int:
        """Number of a read about to be made; hand it to `absorb`."""
        self._reads_begun += 1
        return self._reads_begun

    def absorb(self, snapshot: LogSnapshot, *, read: int, started_at_s: float) -> tuple[Broadcast, ...]:
        """Merge what the log holds; returns what was not known before, ascending, to be sent to live subscribers.

        A log that lost its tail takes nothing away from what is known here.
        """
        assert snapshot.topic == self.topic
        assert 0 < read <= self._reads_begun
        before = self.latest
        if snapshot.floor > self.floor:
            self._raise_floor(snapshot.floor)
        missing = [e for e in snapshot.entries if e.timestamp > self.floor and not self.knows(e.timestamp)]
        if missing:
            self._entries.extend(missing)
            self._entries.sort(key=BY_TIMESTAMP)
            for entry in missing:
                self._held.pop(entry.timestamp, None)
        self.latest = max(self.latest, snapshot.tail, self._entries[-1].timestamp if self._entries else 0)
        if self._entries:
            self.state_key = self._entries[-1].state_key
        missing.extend(self._follow_chain())
        self._whole = self._is_whole()
        self._trim()
        self.read_done = True
        self._absorbed_read = max(self._absorbed_read, read)
        self.confirmed_at_s = max(self.confirmed_at_s, started_at_s)
        assert self.latest >= before
        return tuple(missing)

    def confirm(self, tail: int, *, asked_at_s: float) -> bool:
        """Anti-entropy: the log's tail was `tail` when asked. Returns whether the log must be read."""
        self._behind_tail = max(self._behind_tail, tail)
        if tail > self.latest or self.hole_open or not self.read_done:
            return True
        self.confirmed_at_s = max(self.confirmed_at_s, asked_at_s)
        return False

    def doubt(self) -> None:
        """The store was away: nothing is certain until the log was read again (R14)."""
        self.read_done = False

    # Internals.

    def _accept_below(self, broadcast: Broadcast) -> Accepted:
        timestamp = broadcast.timestamp
        known = find_entry(self._entries, timestamp)
        if known is not None:
            return Accepted(conflict=not known.same_payload(broadcast))
        if timestamp <= self.floor:
            # The log counts it as lost; a device below it may still want it, once.
            if timestamp in self._sent_below:
                return Accepted()
            self._note_below(timestamp)
            return Accepted((broadcast,))
        insort(self._entries, broadcast, key=BY_TIMESTAMP)
        if timestamp == self.latest:
            self.state_key = broadcast.state_key
        self._whole = self._is_whole()
        return Accepted((broadcast,))

    def _append(self, broadcast: Broadcast) -> None:
        assert broadcast.timestamp > self.latest
        self._entries.append(broadcast)
        self.latest = broadcast.timestamp
        self.state_key = broadcast.state_key

    def _follow_chain(self) -> list[Broadcast]:
        """Append held broadcasts whose predecessor is known by now."""
        sent: list[Broadcast] = []
        for timestamp in sorted(self._held):
            held = self._held[timestamp]
            if timestamp > self.latest and held.prev > self.latest:
                break
            del self._held[timestamp]
            if timestamp > self.latest:
                self._append(held)
            elif self.knows(timestamp):
                continue
            elif timestamp > self.floor:
                insort(self._entries, held, key=BY_TIMESTAMP)
            sent.append(held)
        if not self._held:
            self._held_until_s = float("inf")
        return sent

    def _release(self) -> tuple[Broadcast, ...]:
        sent = tuple(self._held[timestamp] for timestamp in sorted(self._held))
        self._held.clear()
        self._held_until_s = float("inf")
        for broadcast in sent:
            self._append(broadcast)
        self._whole = self._is_whole()
        self._trim()
        return sent

    def _is_whole(self) -> bool:
        """No entry names a predecessor above everything known before it."""
        known = self.floor
        for entry in self._entries:
            if entry.prev > known:
                return False
            known = entry.timestamp
        # The log's tail may be a floor above every entry: nothing is missing that the log still has.
        return True

    def _raise_floor(self, floor: int) -> None:
        self.floor = floor
        dropped = above(self._entries, floor)
        for entry in self._entries[max(0, dropped - _MAX_BELOW) : dropped]:
            self._note_below(entry.timestamp)
        del self._entries[:dropped]
        self.latest = max(self.latest, floor)

    def _note_below(self, timestamp: int) -> None:
        """It lies below the floor and was sent: a repeat is not sent again."""
        self._sent_below[timestamp] = None
        if len(self._sent_below) > _MAX_BELOW:
            del self._sent_below[next(iter(self._sent_below))]

    def _trim(self) -> None:
        surplus = len(self._entries) - self._max_entries
        if surplus > 0:
            self._raise_floor(self._entries[surplus - 1].timestamp)
