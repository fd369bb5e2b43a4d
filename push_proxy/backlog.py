"""What waits for a slow consumer: bounded, and coalesced by topic: it is behind by one frame per topic at most.

The newest broadcast of a topic stands for all that waited: `skipped` lists the others' timestamps, and `prev` is that
of the oldest of them from which the chain to the newest is unbroken. A device that applies it learns of every one it
missed, and reports a hole only where there is one (R8, R18).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final, NamedTuple

from contract.frames import (
    BroadcastFrame,
    ContinuityFrame,
    ScheduleFrame,
    ServerFrame,
    StaleFrame,
    TokenFrame,
    WindowFrame,
    encode_frame,
)

__all__ = ["Backlog", "Coalesced"]

_NEWEST_COUNTS: Final = (ScheduleFrame, StaleFrame, TokenFrame, WindowFrame)
"""Frames that tell a state: of one kind (and topic) only the newest is worth sending."""
_LIST_BYTES: Final = len(',"skipped":[]')


class Coalesced(NamedTuple):
    """A broadcast that waited and will not be written itself: a later one lists it as skipped."""

    topic: str
    timestamp: int


class _Merged:
    """The broadcasts of a topic that wait for one frame; what one more costs does not depend on how many there are."""

    __slots__ = ("_listed_digits", "_newest", "_newest_bytes", "_prev", "_skipped")

    def __init__(self, frame: BroadcastFrame) -> None:
        self._skipped: list[int] = []
        """Rising, without repeats."""
        self._listed_digits = 0
        self._become(frame, frame.prev)
        self._list(frame.skipped)

    @property
    def size_bytes(self) -> int:
        """Of the one frame, encoded."""
        listed = len(self._skipped)
        return self._newest_bytes + (_LIST_BYTES + self._listed_digits + listed - 1 if listed else 0)

    def add(self, frame: BroadcastFrame) -> int:
        """The timestamp of the one of `frame` and the newest so far that will not be written itself."""
        waiting = self._newest.timestamp
        if frame.timestamp <= waiting:  # an older one found late: above it the device would not apply it anyway
            if frame.timestamp < waiting:
                self._list((frame.timestamp,))
            return frame.timestamp
        self._become(frame, self._prev if frame.prev == waiting else frame.prev)
        self._list((waiting, *frame.skipped))
        return waiting

    def frame(self) -> BroadcastFrame:
        """One for all."""
        newest = self._newest
        return BroadcastFrame(
            topic=newest.topic,
            state_key=newest.state_key,
            timestamp=newest.timestamp,
            prev=self._prev,
            replayed=newest.replayed,
            skipped=tuple(self._skipped),
            ack=newest.ack,
        )

    def _become(self, newest: BroadcastFrame, prev: int) -> None:
        self._newest, self._prev = newest, prev
        own = newest.skipped
        own_list_bytes = _LIST_BYTES + sum(map(_digits, own)) + len(own) - 1 if own else 0
        self._newest_bytes = len(encode_frame(newest)) - own_list_bytes + _digits(prev) - _digits(newest.prev)

    def _list(self, timestamps: Iterable[int]) -> None:
        skipped = self._skipped
        for timestamp in timestamps:
            place = bisect_left(skipped, timestamp)  # the end, but for one found late
            if place == len(skipped) or skipped[place] != timestamp:
                skipped.insert(place, timestamp)
                self._listed_digits += _digits(timestamp)


def _digits(number: int) -> int:
    return len(str(number))


class Backlog:
    """Frames of one stream in the order they are owed, from the moment its socket took no more."""

    __slots__ = ("_bytes", "_frames", "_max_bytes", "_newest", "since_s")

    def __init__(self, *, since_s: float, max_bytes: int) -> None:
        self.since_s = since_s
        """When the socket stopped taking bytes, monotonic."""
        self._max_bytes = max_bytes
        self._bytes = 0
        self._frames: dict[int, ServerFrame | _Merged] = {}
        """By a rising number; one that is replaced keeps its number, so that nothing overtakes."""
        self._newest: dict[tuple[type, str], int] = {}

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def size_bytes(self) -> int:
        return self._bytes

    def add(self, frame: ServerFrame) -> Coalesced | None:
        """Let it wait; returns which broadcast will now never be written itself, if one."""
        topic = getattr(frame, "topic", None) or ""
        if isinstance(frame, ContinuityFrame):
            # What follows answers another subscribe: nothing before it may be moved behind it.
            self._newest.pop((BroadcastFrame, topic), None)
        key = (type(frame), topic)
        number = self._newest.get(key)
        if isinstance(frame, BroadcastFrame):
            self._newest[key] = number = self._next() if number is None else number
            waiting = self._frames.get(number)
            if waiting is None:
                self._put(number, frame)
                return None
            return Coalesced(topic, self._merge(number, waiting, frame))
        if isinstance(frame, _NEWEST_COUNTS):
            if number is not None and isinstance(frame, ScheduleFrame):
                known = self._frames[number]
                if isinstance(known, ScheduleFrame) and known.revision >= frame.revision:
                    return None
            self._newest[key] = number = self._next() if number is None else number
            self._put(number, frame)
        else:
            self._put(self._next(), frame)
        return None

    @property
    def overflowing(self) -> bool:
        """Whether more waits than may: this consumer is too slow."""
        return self._bytes > self._max_bytes

    def frames(self) -> tuple[ServerFrame, ...]:
        """All that waits, in order."""
        return tuple(frame.frame() if isinstance(frame, _Merged) else frame for frame in self._frames.values())

    def _next(self) -> int:
        return next(reversed(self._frames), -1) + 1

    def _put(self, number: int, frame: ServerFrame) -> None:
        known = self._frames.get(number)
        if known is not None:
            self._bytes -= _size_bytes(known)
        self._frames[number] = frame
        self._bytes += _size_bytes(frame)

    def _merge(self, number: int, waiting: ServerFrame | _Merged, frame: BroadcastFrame) -> int:
        self._bytes -= _size_bytes(waiting)
        if not isinstance(waiting, _Merged):
            assert isinstance(waiting, BroadcastFrame)
            self._frames[number] = waiting = _Merged(waiting)
        passed_over = waiting.add(frame)
        self._bytes += waiting.size_bytes
        return passed_over


def _size_bytes(frame: ServerFrame | _Merged) -> int:
    return frame.size_bytes if isinstance(frame, _Merged) else len(encode_frame(frame))
