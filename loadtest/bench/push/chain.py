"""The one event every bench of the push node is about: two topics, a chain of broadcasts, and what a device asks. Pure
but for the clock it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from contract.broadcast import Broadcast
from contract.frames import AckRequest, Held, SubscribeFrame, broadcast_frame, encode_frame
from contract.schedule import PlannedStage, TopicSchedule

__all__ = ["TOPICS", "Chain"]

TOPICS: Final = ("event:tyson-paul", "event:tyson-paul-undercard")
"""What every device follows; broadcasts are of the first."""
_EVENT: Final = "tyson-paul"
_STAGES: Final = ("upcoming", "starting-soon", "live", "ended", "replay")
_REVISION, _VERSION = 3, 2
_GUARDED_STAGES: Final = 8
_GUARDED_EVERY_MS: Final = 100_000
"""Each keeps connections for a minute before and after it; together they must not last a quarter of an hour."""


class Chain:
    """Broadcasts of the first topic, one after the other; each topic begins with two."""

    def __init__(self, now_ms: Callable[[], int], *, ack: AckRequest | None, guarded: bool = False) -> None:
        """`guarded`: stages are due for the next twelve minutes, as on a night, so that no connection's life ends."""
        self._now_ms = now_ms
        self._ack = ack
        start = now_ms()
        self.history = tuple(
            Broadcast(topic=topic, state_key=key, timestamp=start + at, prev=start + at - 1000 if at > -2000 else 0,
                      event_id=_EVENT)
            for topic in TOPICS
            for at, key in ((-2000, "upcoming"), (-1000, "starting-soon"))
        )  # fmt: skip
        self._latest = dict.fromkeys(TOPICS, (start - 2000, start - 1000))
        self.schedules = tuple(
            TopicSchedule(
                topic=topic, event_id=_EVENT, title="Tyson vs Paul", revision=_REVISION, version=_VERSION,
                starts_at=start, stages=tuple(_planned(start if guarded else None)),
            )
            for topic in TOPICS
        )  # fmt: skip

    def next(self) -> Broadcast:
        """The next broadcast, now (R1)."""
        topic = TOPICS[0]
        _, prev = self._latest[topic]
        timestamp = max(self._now_ms(), prev + 1)
        self._latest[topic] = (prev, timestamp)
        return Broadcast(
            topic=topic, state_key="live", timestamp=timestamp, prev=prev, event_id=_EVENT, dispatched_at=timestamp
        )

    def payload(self, broadcast: Broadcast) -> bytes:
        """What a device receives of it, live: one text message."""
        return encode_frame(broadcast_frame(broadcast, ack=self._ack))

    def marker(self, broadcast: Broadcast) -> str:
        """Found in every message that carries it, live or replayed, and in no other."""
        return f'"timestamp":{broadcast.timestamp},'

    def subscribe(self) -> SubscribeFrame:
        """A device that comes back: the first topic lacks one broadcast, its maps and schedules are current."""
        cursors = {TOPICS[0]: self._latest[TOPICS[0]][0], TOPICS[1]: self._latest[TOPICS[1]][1]}
        held = {topic: Held(version=_VERSION, revision=_REVISION) for topic in TOPICS}
        return SubscribeFrame(topics=dict(cursors), held=held)


def _planned(start_ms: int | None) -> list[PlannedStage]:
    """Stages of the schedule; those that guard from `start_ms` on, if that is wanted, behind the event's own."""
    found = [PlannedStage(key=key, order=order) for order, key in enumerate(_STAGES)]
    if start_ms is not None:
        found += [
            PlannedStage(
                key=f"part-{number}", order=len(_STAGES) + number, due_at=start_ms + number * _GUARDED_EVERY_MS
            )
            for number in range(_GUARDED_STAGES)
        ]
    return found
