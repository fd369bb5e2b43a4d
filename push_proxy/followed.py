"""One topic this node follows: what it knows, its schedule, and its frames, each prepared once for everybody."""

from __future__ import annotations

import asyncio
from typing import Final

from contract.broadcast import Broadcast
from contract.cursor import Cursor
from contract.frames import AckRequest, ContinuityFrame, Verdict, broadcast_frame, schedule_frame
from contract.schedule import TopicSchedule
from push_proxy.forms import Form, PreparedFrame
from push_proxy.topic_state import TopicState

__all__ = ["MAX_READY_ANSWERS", "Delivery", "FollowedTopic", "ReadyAnswer"]

MAX_READY_ANSWERS: Final = 256
"""Answers kept per topic; a log has about as many entries as an event has stages."""


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


class ReadyAnswer:
    """What a subscriber with a certain cursor is answered as long as the topic's log and schedule stay as they are."""

    __slots__ = ("frames", "given", "latest", "replayed", "revision", "topic", "verdict")

    def __init__(
        self, frames: bytes, verdict: Verdict, replayed: tuple[int, ...], *, topic: str, latest: int, revision: int
    ) -> None:
        self.frames = frames
        """Verdict, replay and schedule, in the subscriber's form."""
        self.verdict = verdict
        self.replayed = replayed
        self.topic = topic
        self.latest = latest
        self.revision = revision
        """The schedule the subscriber knows afterwards."""
        self.given = 0
        """How often it was given since that was last counted: a herd is counted in one go, not one by one."""


class FollowedTopic:
    """State of a topic, and caches of frames bounded by the topic's log."""

    __slots__ = (
        "_ack",
        "_continuity",
        "_continuity_of",
        "_ready",
        "_ready_of",
        "_replay",
        "awaited",
        "empty_since_s",
        "opening",
        "prepared_schedule",
        "read_again",
        "reading",
        "registered",
        "schedule",
        "schedule_known",
        "state",
    )

    def __init__(self, topic: str, *, ack: AckRequest | None) -> None:
        self.state = TopicState(topic)
        self.schedule: TopicSchedule | None = None
        self.schedule_known = False
        """Whether the schedule view was ever asked with success."""
        self.prepared_schedule: PreparedFrame | None = None
        self.opening: asyncio.Task[None] | None = None
        self.reading: asyncio.Task[None] | None = None
        self.read_again = False
        self.registered = False
        """Whether routers were told of the topic: from then on they send it."""
        self.empty_since_s: float | None = None
        self.awaited: dict[int, list[Delivery]] = {}
        """Held broadcasts -> deliveries to acknowledge once they went out."""
        self._ack = ack
        self._replay: dict[int, PreparedFrame] = {}
        self._continuity: dict[Verdict, PreparedFrame] = {}
        self._continuity_of: tuple[int, str | None] = (-1, None)
        self._ready: dict[tuple[Form, Cursor, bool], ReadyAnswer] = {}
        self._ready_of: tuple[int, int, int, int] = (-1, -1, -1, -1)

    @property
    def topic(self) -> str:
        return self.state.topic

    @property
    def revision(self) -> int:
        """Of the schedule known here; 0 if none is."""
        return self.schedule.revision if self.schedule is not None else 0

    def live_frame(self, broadcast: Broadcast) -> PreparedFrame:
        return PreparedFrame(broadcast_frame(broadcast, ack=self._ack))

    def replay_frame(self, broadcast: Broadcast) -> PreparedFrame:
        frame = self._replay.get(broadcast.timestamp)
        if frame is None:
            frame = PreparedFrame(broadcast_frame(broadcast, replayed=True, ack=self._ack))
            if len(self._replay) >= 4096:
                self._replay.clear()
            self._replay[broadcast.timestamp] = frame
        return frame

    def continuity_frame(self, verdict: Verdict) -> PreparedFrame:
        state = self.state
        says = (state.latest, state.state_key)
        if self._continuity_of != says:
            self._continuity.clear()
            self._continuity_of = says
        frame = self._continuity.get(verdict)
        if frame is None:
            frame = self._continuity[verdict] = PreparedFrame(
                ContinuityFrame(topic=self.topic, verdict=verdict, state_key=says[1], latest=says[0])
            )
        return frame

    def ready_answer(self, form: Form, cursor: Cursor, held_revision: int, now_s: float) -> ReadyAnswer | None:
        """What whoever came before with the same cursor was answered, if it still holds: then nothing has to be judged.

        After a broadcast, or while a herd returns, a few cursors are all there is.
        """
        if not self._ready or self._ready_of != self._stands() or not self.state.fresh(now_s):
            return None
        return self._ready.get((form, cursor, held_revision >= self.revision))

    def keep_answer(self, form: Form, cursor: Cursor, held_revision: int, answer: ReadyAnswer) -> None:
        """`answer` was just given; it is the same for everybody."""
        stands = self._stands()
        if self._ready_of != stands or len(self._ready) >= MAX_READY_ANSWERS:
            self._ready.clear()
            self._ready_of = stands
        self._ready[form, cursor, held_revision >= self.revision] = answer

    def _stands(self) -> tuple[int, int, int, int]:
        """Another one whenever an answer might be another one."""
        state = self.state
        return state.latest, state.floor, state.size, self.revision

    def put_schedule(self, schedule: TopicSchedule) -> bool:
        """Keep it if its revision is higher (R5)."""
        self.schedule_known = True
        if self.schedule is not None and self.schedule.revision >= schedule.revision:
            return False
        self.schedule = schedule
        self.prepared_schedule = PreparedFrame(schedule_frame(schedule))
        return True
