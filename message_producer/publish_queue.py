"""In which order broadcasts and schedules go to the log (R2, R5). Pure.

The outbox holds the truth; this is what one leader knows of it. A broadcast that was just dispatched need not be looked
up again if its `prev` is the newest this queue knows of its topic: then nothing earlier waits in the outbox unseen.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence

from contract.broadcast import Broadcast
from contract.schedule import TopicSchedule

__all__ = ["PublishQueue"]


class _Line:
    """One topic's broadcasts, ascending; the first one may be on its way."""

    __slots__ = ("busy", "known_to", "waiting")

    def __init__(self, known_to: int) -> None:
        self.waiting: deque[Broadcast] = deque()
        self.known_to = known_to
        """Timestamp up to which every broadcast of the topic is in the log or waits here."""
        self.busy = False


class PublishQueue:
    """Per topic, one at a time, in timestamp order; a failed one stays first. Schedules: the newest revision only.

    Bounded: of more than `waiting_max` broadcasts the rest is left to the outbox, and topics that are done are
    forgotten, the longest quiet first, beyond `topics_max`.
    """

    def __init__(self, *, waiting_max: int, topics_max: int) -> None:
        self._waiting_max = waiting_max
        self._topics_max = topics_max
        self._lines: OrderedDict[str, _Line] = OrderedDict()
        self._waiting = 0
        self._schedules: dict[str, TopicSchedule] = {}
        self._sending: dict[str, TopicSchedule] = {}
        self._sent_revisions: OrderedDict[str, int] = OrderedDict()

    @property
    def waiting(self) -> int:
        """Broadcasts and schedules that are not confirmed yet."""
        return self._waiting + len(self._schedules.keys() | self._sending.keys())

    def hand(self, broadcasts: Sequence[Broadcast]) -> bool:
        """Take what was just committed. False: some did not join their topic's order, the outbox has to be read."""
        joined = True
        for broadcast in broadcasts:
            line = self._lines.get(broadcast.topic)
            known_to = line.known_to if line is not None else 0
            if broadcast.timestamp <= known_to:
                continue  # the outbox was read between the commit and now
            if broadcast.prev != known_to or not self._append(broadcast):
                joined = False
        return joined

    def found(self, broadcasts: Sequence[Broadcast], schedules: Sequence[TopicSchedule]) -> None:
        """Take what the outbox says is not published: of each topic the earliest ones, ascending."""
        for broadcast in broadcasts:
            line = self._lines.get(broadcast.topic)
            if line is None or broadcast.timestamp > line.known_to:
                self._append(broadcast)
        for schedule in schedules:
            topic = schedule.topic
            newest = max(
                self._sent_revisions.get(topic, 0),
                self._sending[topic].revision if topic in self._sending else 0,
                self._schedules[topic].revision if topic in self._schedules else 0,
            )
            if schedule.revision > newest:
                self._schedules[topic] = schedule

    def startable(self) -> list[str]:
        """Topics with a broadcast that waits and none on its way."""
        return [topic for topic, line in self._lines.items() if line.waiting and not line.busy]

    def next(self, topic: str) -> Broadcast | None:
        """The topic's first broadcast, on its way from now on; None: nothing waits, the line is free."""
        line = self._lines.get(topic)
        if line is None:
            return None
        line.busy = bool(line.waiting)
        return line.waiting[0] if line.waiting else None

    def confirmed(self, broadcast: Broadcast) -> None:
        """The log has it: the next one of its topic may go."""
        line = self._lines.get(broadcast.topic)
        if line is not None and line.waiting and line.waiting[0].timestamp == broadcast.timestamp:
            line.waiting.popleft()
            self._waiting -= 1
            self._lines.move_to_end(broadcast.topic)
            self._trim()

    def pause(self, topic: str) -> None:
        """Nothing of the topic is on its way: what waits can be started again, the same one first."""
        line = self._lines.get(topic)
        if line is not None:
            line.busy = False

    def take_schedules(self) -> list[TopicSchedule]:
        """Schedules to send, on their way from now on; of a topic one at a time."""
        taken = [schedule for topic, schedule in self._schedules.items() if topic not in self._sending]
        for schedule in taken:
            self._sending[schedule.topic] = self._schedules.pop(schedule.topic)
        return taken

    def schedule_done(self, schedule: TopicSchedule, *, confirmed: bool) -> None:
        """The log has it, or it waits again unless a newer one came meanwhile."""
        self._sending.pop(schedule.topic, None)
        if confirmed:
            self._sent_revisions[schedule.topic] = schedule.revision
            self._sent_revisions.move_to_end(schedule.topic)
            while len(self._sent_revisions) > self._topics_max:
                self._sent_revisions.popitem(last=False)
        else:
            self._schedules.setdefault(schedule.topic, schedule)

    def _append(self, broadcast: Broadcast) -> bool:
        """Whether there was room."""
        if self._waiting >= self._waiting_max:
            return False
        line = self._lines.get(broadcast.topic)
        if line is None:
            line = self._lines[broadcast.topic] = _Line(broadcast.prev)
        line.waiting.append(broadcast)
        line.known_to = broadcast.timestamp
        self._waiting += 1
        return True

    def _trim(self) -> None:
        while len(self._lines) > self._topics_max:
            topic, line = next(iter(self._lines.items()))
            if line.waiting or line.busy:
                return
            del self._lines[topic]
