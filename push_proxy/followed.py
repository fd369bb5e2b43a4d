"""One topic this node follows: what it knows, its schedule, and its frames, each encoded once for everybody."""

from __future__ import annotations

import asyncio

from contract.broadcast import Broadcast
from contract.frames import (
    AckRequest,
    ContinuityFrame,
    ServerFrame,
    Verdict,
    broadcast_frame,
    encode_frame,
    schedule_frame,
)
from contract.schedule import TopicSchedule
from push_proxy.topic_state import TopicState

__all__ = ["Delivery", "FollowedTopic", "text_frame"]


def text_frame(frame: ServerFrame) -> bytes:
    """A complete, unmasked, final text frame (RFC 6455, section 5.2).

    Server frames without extensions carry no state of their connection, so the same bytes serve every device.
    """
    payload = encode_frame(frame)
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 65_536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


class Delivery:
    """A router's batch on its way to the connections; done when everything in it was written or dropped."""

    __slots__ = ("_open", "done", "written")

    def __init__(self, done: asyncio.Future[int]) -> None:
        self.done = done
        self.written = 0
        self._open = 1

    def begin(self) -> None:
        self._open += 1

    def finish(self, written: int = 0) -> None:
        self.written += written
        self._open -= 1
        assert self._open >= 0
        if self._open == 0 and not self.done.done():
            self.done.set_result(self.written)


class FollowedTopic:
    """State of a topic, and caches of frames bounded by the topic's log."""

    __slots__ = (
        "_ack",
        "_continuity",
        "_continuity_of",
        "_replay",
        "awaited",
        "empty_since_s",
        "opening",
        "read_again",
        "reading",
        "registered",
        "schedule",
        "schedule_bytes",
        "schedule_known",
        "state",
    )

    def __init__(self, topic: str, *, ack: AckRequest | None) -> None:
        self.state = TopicState(topic)
        self.schedule: TopicSchedule | None = None
        self.schedule_known = False
        """Whether the schedule view was ever asked with success."""
        self.schedule_bytes = b""
        self.opening: asyncio.Task[None] | None = None
        self.reading: asyncio.Task[None] | None = None
        self.read_again = False
        self.registered = False
        """Whether routers were told of the topic: from then on they send it."""
        self.empty_since_s: float | None = None
        self.awaited: dict[int, list[Delivery]] = {}
        """Held broadcasts -> deliveries to acknowledge once they went out."""
        self._ack = ack
        self._replay: dict[int, bytes] = {}
        self._continuity: dict[Verdict, bytes] = {}
        self._continuity_of: tuple[int, str | None] = (-1, None)

    @property
    def topic(self) -> str:
        return self.state.topic

    @property
    def revision(self) -> int:
        """Of the schedule known here; 0 if none is."""
        return self.schedule.revision if self.schedule is not None else 0

    def live_frame(self, broadcast: Broadcast) -> bytes:
        return text_frame(broadcast_frame(broadcast, ack=self._ack))

    def replay_frame(self, broadcast: Broadcast) -> bytes:
        frame = self._replay.get(broadcast.timestamp)
        if frame is None:
            frame = text_frame(broadcast_frame(broadcast, replayed=True, ack=self._ack))
            if len(self._replay) >= 4096:
                self._replay.clear()
            self._replay[broadcast.timestamp] = frame
        return frame

    def continuity_frame(self, verdict: Verdict) -> bytes:
        says = (self.state.latest, self.state.state_key)
        if self._continuity_of != says:
            self._continuity.clear()
            self._continuity_of = says
        frame = self._continuity.get(verdict)
        if frame is None:
            frame = self._continuity[verdict] = text_frame(
                ContinuityFrame(topic=self.topic, verdict=verdict, state_key=says[1], latest=says[0])
            )
        return frame

    def put_schedule(self, schedule: TopicSchedule) -> bool:
        """Keep it if its revision is higher (R5)."""
        self.schedule_known = True
        if self.schedule is not None and self.schedule.revision >= schedule.revision:
            return False
        self.schedule = schedule
        self.schedule_bytes = text_frame(schedule_frame(schedule))
        return True
