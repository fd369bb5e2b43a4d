"""What waits for a slow consumer: bounded, and coalesced by topic: it is behind by one frame per topic at most.

The newest broadcast of a topic stands for all that waited: `skipped` lists the others' timestamps, and `prev` is that
of the oldest of them from which the chain to the newest is unbroken. A device that applies it learns of every one it
missed, and reports a hole only where there is one (R8, R18).
"""

from __future__ import annotations

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

__all__ = ["Backlog", "Coalesced", "coalesce"]

_NEWEST_COUNTS: Final = (ScheduleFrame, StaleFrame, TokenFrame, WindowFrame)
"""Frames that tell a state: of one kind (and topic) only the newest is worth sending."""


class Coalesced(NamedTuple):
    """A broadcast that waited and will not be written itself: a later one lists it as skipped."""

    topic: str
    timestamp: int


def coalesce(waiting: BroadcastFrame, newer: BroadcastFrame) -> BroadcastFrame:
    """One frame for both; `newer` was to be written after `waiting`, on the same topic."""
    assert waiting.topic == newer.topic
    if newer.timestamp <= waiting.timestamp:  # an older one found late: above it the device would not apply it anyway
        return _with(waiting, waiting.prev, (*waiting.skipped, newer.timestamp))
    unbroken = newer.prev == waiting.timestamp
    return _with(newer, waiting.prev if unbroken else newer.prev, (*waiting.skipped, waiting.timestamp, *newer.skipped))


def _with(frame: BroadcastFrame, prev: int, skipped: tuple[int, ...]) -> BroadcastFrame:
    return BroadcastFrame(
        topic=frame.topic,
        state_key=frame.state_key,
        timestamp=frame.timestamp,
        prev=prev,
        replayed=frame.replayed,
        skipped=tuple(sorted(set(skipped) - {frame.timestamp})),
        ack=frame.ack,
    )


class Backlog:
    """Frames of one stream in the order they are owed, from the moment its socket took no more."""

    __slots__ = ("_bytes", "_frames", "_max_bytes", "_newest", "since_s")

    def __init__(self, *, since_s: float, max_bytes: int) -> None:
        self.since_s = since_s
        """When the socket stopped taking bytes, monotonic."""
        self._max_bytes = max_bytes
        self._bytes = 0
        self._frames: dict[int, ServerFrame] = {}
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
            assert isinstance(waiting, BroadcastFrame)
            merged = coalesce(waiting, frame)
            self._put(number, merged)
            return Coalesced(topic, frame.timestamp if merged.timestamp == waiting.timestamp else waiting.timestamp)
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
        return tuple(self._frames.values())

    def _next(self) -> int:
        return next(reversed(self._frames), -1) + 1

    def _put(self, number: int, frame: ServerFrame) -> None:
        known = self._frames.get(number)
        if known is not None:
            self._bytes -= len(encode_frame(known))
        self._frames[number] = frame
        self._bytes += len(encode_frame(frame))
