"""Continuity and replay for one subscription: verdict first, then what was missed, in order, each once (R15, R16).

There is no separate hold-back buffer. A subscription is registered before its topic's log is read; until it is
answered, live broadcasts for it stay in the topic's memory only, and the answer is taken from that memory in one
piece. So replay and live frames are merged, ordered and deduplicated because they are one list.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from contract.broadcast import Broadcast
from contract.cursor import Cursor
from contract.frames import Verdict
from push_proxy.ports import DevicePort
from push_proxy.topic_state import TopicState

__all__ = ["Answer", "Phase", "Subscription", "judge"]


class Phase(IntEnum):
    """Above zero live broadcasts flow."""

    DEAD = -1
    WAITING = 0
    """Registered, not answered: live broadcasts are held back in the topic's memory."""
    PENDING = 1
    """Told `pending`: live broadcasts flow, the verdict is owed."""
    LIVE = 2


class Answer(NamedTuple):
    verdict: Verdict | None
    """None: only frames, for a subscription that still waits for its verdict."""
    replay: tuple[Broadcast, ...]


def judge(cursor: Cursor, *, floor: int, latest: int) -> Verdict:
    """The verdict of a log that is known to be current (R15)."""
    if cursor is None:
        return "complete"
    if cursor > latest:
        return "ahead"
    return "gap" if cursor < floor else "complete"


class Subscription:
    """One device's interest in one topic, from one subscribe frame on; a repeat makes a new one."""

    __slots__ = (
        "acked",
        "cursor",
        "deadline_s",
        "held_version",
        "hole_told",
        "phase",
        "place",
        "read_mark",
        "sent",
        "sink",
        "told_revision",
        "topic",
    )

    def __init__(
        self,
        sink: DevicePort,
        topic: str,
        cursor: Cursor,
        *,
        deadline_s: float,
        read_mark: int = 0,
        held_revision: int = -1,
        held_version: int = 0,
    ) -> None:
        self.sink = sink
        self.topic = topic
        self.cursor = cursor
        self.phase = Phase.WAITING
        self.deadline_s = deadline_s
        """When a subscription that cannot be answered is told `pending`, monotonic."""
        self.read_mark = read_mark
        """Reads of the log begun before this subscription; only a later one may prove it `ahead`."""
        self.told_revision = held_revision
        """Newest schedule revision this device is known to have."""
        self.held_version = held_version
        """Of the stage map this device holds; 0: none (R7)."""
        self.place = 0
        """In the hub's list of its topic and form."""
        self.sent: set[int] | None = None
        """Timestamps sent while the verdict was owed; bounded by the topic's log."""
        self.acked = 0
        self.hole_told = 0

    @classmethod
    def answered(cls, sink: DevicePort, topic: str, *, told_revision: int, held_version: int) -> Subscription:
        """One that needs no judging: its answer is known and about to be written."""
        made = cls(sink, topic, None, deadline_s=0.0, held_revision=told_revision, held_version=held_version)
        made.phase = Phase.LIVE
        return made

    def end(self) -> None:
        self.phase = Phase.DEAD
        self.sent = None

    def needs_read(self, state: TopicState) -> bool:
        """Whether the device knows more than this node, and the log was not read since it said so."""
        return self.cursor is not None and self.cursor > state.latest and state.absorbed_read <= self.read_mark

    def flow(self, timestamp: int) -> bool:
        """A live broadcast is about to be written to everyone: whether to this one, and remember it."""
        if self.phase <= 0:
            return False
        if self.sent is not None:
            if timestamp in self.sent:
                return False
            self.sent.add(timestamp)
        return True

    def answer(self, state: TopicState, now_s: float, *, give_up: bool = False) -> Answer | None:
        """What to send now, if anything: the verdict once memory may answer, `pending` when told to give up.

        The caller writes the answer in one piece, before it lets any other broadcast of the topic out.
        """
        if self.phase is Phase.DEAD or self.phase is Phase.LIVE:
            return None
        if state.fresh(now_s) and not self.needs_read(state):
            return self._settle(state)
        if self.phase is Phase.PENDING:
            news = self._unsent(state)
            return Answer(None, news) if news else None
        if give_up or now_s >= self.deadline_s:
            self.phase = Phase.PENDING
            self.sent = set()
            return Answer("pending", self._unsent(state))
        return None

    def _settle(self, state: TopicState) -> Answer:
        verdict = judge(self.cursor, floor=state.floor, latest=state.latest)
        replay: tuple[Broadcast, ...] = ()
        if verdict == "complete":
            # A null cursor asks for the current state only, which the verdict itself names; but a device that was
            # already sent something is no longer at null and needs the rest of the chain.
            start = self.cursor if self.cursor is not None else min(self.sent, default=None) if self.sent else None
            if start is not None:
                sent = self.sent or ()
                replay = tuple(entry for entry in state.after(start) if entry.timestamp not in sent)
        self.phase = Phase.LIVE
        self.sent = None
        self.cursor = None  # asked for no more: one object less for every device at rest
        self.deadline_s = 0.0
        return Answer(verdict, replay)

    def _unsent(self, state: TopicState) -> tuple[Broadcast, ...]:
        """The newest truth never waits for a verdict: what memory has above the cursor and this device was not sent."""
        assert self.sent is not None
        news: tuple[Broadcast, ...]
        if self.cursor is None and not self.sent:
            newest = state.newest()
            news = (newest,) if newest else ()
        else:
            start = self.cursor if self.cursor is not None else min(self.sent)
            news = tuple(entry for entry in state.after(start) if entry.timestamp not in self.sent)
        self.sent.update(entry.timestamp for entry in news)
        return news
