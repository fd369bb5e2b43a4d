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

__all__ = ["Answer", "Phase", "Subscription", "Waiting", "judge"]


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


class Waiting:
    """What a subscription needs only until it has its verdict; few have one at a time."""

    __slots__ = ("cursor", "deadline_s", "read_mark", "sent")

    def __init__(self, cursor: Cursor, deadline_s: float, read_mark: int) -> None:
        self.cursor = cursor
        self.deadline_s = deadline_s
        """When a subscription that cannot be answered is told `pending`, monotonic."""
        self.read_mark = read_mark
        """Reads of the log begun before this subscription; only a later one may prove it `ahead`."""
        self.sent: set[int] = set()
        """Timestamps sent while the verdict was owed; bounded by the topic's log."""


class Subscription:
    """One device's interest in one topic, from one subscribe frame on; a repeat makes a new one.

    Two of them belong to nearly every device of a node, at rest: no field is kept that is not needed then.
    """

    __slots__ = ("held_version", "phase", "place", "sink", "told_revision", "topic", "waiting")

    def __init__(
        self,
        sink: DevicePort,
        topic: str,
        *,
        waiting: Waiting | None,
        told_revision: int = -1,
        held_version: int = 0,
    ) -> None:
        """`waiting` None: its answer is known and about to be written."""
        self.sink = sink
        self.topic = topic
        self.phase = Phase.LIVE if waiting is None else Phase.WAITING
        self.waiting = waiting
        self.told_revision = told_revision
        """Newest schedule revision this device is known to have."""
        self.held_version = held_version
        """Of the stage map this device holds; 0: none (R7)."""
        self.place = 0
        """In the row of its topic and form (`peers`)."""

    def end(self) -> None:
        self.phase = Phase.DEAD
        self.waiting = None

    def needs_read(self, state: TopicState) -> bool:
        """Whether the device knows more than this node, and the log was not read since it said so."""
        wait = self.waiting
        return (
            wait is not None
            and wait.cursor is not None
            and wait.cursor > state.latest
            and state.absorbed_read <= wait.read_mark
        )

    def overdue(self, now_s: float) -> bool:
        """Whether it has waited for its first answer as long as it may."""
        return self.phase is Phase.WAITING and self.waiting is not None and self.waiting.deadline_s <= now_s

    def flow(self, timestamp: int) -> bool:
        """A live broadcast is about to be written to everyone: whether to this one, and remember it."""
        if self.phase <= 0:
            return False
        if self.waiting is not None:
            if timestamp in self.waiting.sent:
                return False
            self.waiting.sent.add(timestamp)
        return True

    def answer(self, state: TopicState, now_s: float, *, give_up: bool = False) -> Answer | None:
        """What to send now, if anything: the verdict once memory may answer, `pending` when told to give up.

        The caller writes the answer in one piece, before it lets any other broadcast of the topic out.
        """
        wait = self.waiting
        if wait is None:
            return None
        if state.fresh(now_s) and not self.needs_read(state):
            return self._settle(wait, state)
        if self.phase is Phase.PENDING:
            news = _unsent(wait, state)
            return Answer(None, news) if news else None
        if give_up or now_s >= wait.deadline_s:
            self.phase = Phase.PENDING
            return Answer("pending", _unsent(wait, state))
        return None

    def _settle(self, wait: Waiting, state: TopicState) -> Answer:
        verdict = judge(wait.cursor, floor=state.floor, latest=state.latest)
        replay: tuple[Broadcast, ...] = ()
        if verdict == "complete":
            # A null cursor asks for the current state only, which the verdict itself names; but a device that was
            # already sent something is no longer at null and needs the rest of the chain.
            start = wait.cursor if wait.cursor is not None else min(wait.sent, default=None)
            if start is not None:
                replay = tuple(entry for entry in state.after(start) if entry.timestamp not in wait.sent)
        self.phase = Phase.LIVE
        self.waiting = None
        return Answer(verdict, replay)


def _unsent(wait: Waiting, state: TopicState) -> tuple[Broadcast, ...]:
    """The newest truth never waits for a verdict: what memory has above the cursor and this device was not sent."""
    news: tuple[Broadcast, ...]
    if wait.cursor is None and not wait.sent:
        newest = state.newest()
        news = (newest,) if newest else ()
    else:
        start = wait.cursor if wait.cursor is not None else min(wait.sent)
        news = tuple(entry for entry in state.after(start) if entry.timestamp not in wait.sent)
    wait.sent.update(entry.timestamp for entry in news)
    return news
