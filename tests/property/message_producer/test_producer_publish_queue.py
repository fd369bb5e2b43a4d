"""Whatever is committed, handed over, found, confirmed and refused: the log has each topic's chain (R2)."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from contract.broadcast import Broadcast, Cause
from contract.schedule import TopicSchedule
from message_producer.publish_queue import PublishQueue

TOPICS = ["a", "b", "c"]
topics = st.sampled_from(TOPICS)


class Publishing(RuleBasedStateMachine):
    """An outbox, a log, and a queue between them that is told of commits late, twice, or not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = PublishQueue(waiting_max=6, topics_max=2)
        self.outbox: dict[str, list[Broadcast]] = {topic: [] for topic in TOPICS}
        self.log: dict[str, list[int]] = {topic: [] for topic in TOPICS}
        self.marked: set[tuple[str, int]] = set()
        self.on_its_way: dict[str, Broadcast] = {}
        self.untold: list[Broadcast] = []
        self.now = 0

    def commit(self, topic: str) -> Broadcast:
        self.now += 1
        prev = self.outbox[topic][-1].timestamp if self.outbox[topic] else 0
        made = Broadcast(
            topic=topic, state_key="x", timestamp=self.now, prev=prev, event_id=topic, cause=Cause.CUE, dispatched_at=0
        )
        self.outbox[topic].append(made)
        return made

    @rule(topic=topics, told=st.booleans())
    def dispatch(self, topic: str, told: bool) -> None:
        made = self.commit(topic)
        if told:
            self.queue.hand([made])
        else:
            self.untold.append(made)

    @precondition(lambda self: self.untold)
    @rule()
    def hear_late(self) -> None:
        self.queue.hand([self.untold.pop()])

    @rule(limit=st.integers(1, 5))
    def look(self, limit: int) -> None:
        """The earliest rows that are not marked, of all topics together."""
        waiting = [b for rows in self.outbox.values() for b in rows if (b.topic, b.timestamp) not in self.marked]
        self.queue.found(sorted(waiting, key=lambda b: b.timestamp)[:limit], [])

    @rule()
    def start(self) -> None:
        for topic in self.queue.startable():
            assert topic not in self.on_its_way, "two of a topic on their way"
            found = self.queue.next(topic)
            assert found is not None
            self.on_its_way[topic] = found

    @precondition(lambda self: self.on_its_way)
    @rule(data=st.data(), confirmed=st.booleans())
    def answer(self, data: st.DataObject, confirmed: bool) -> None:
        topic = data.draw(st.sampled_from(sorted(self.on_its_way)))
        sent = self.on_its_way.pop(topic)
        if confirmed:
            self.log[topic].append(sent.timestamp)
            self.queue.confirmed(sent)
        if confirmed and (following := self.queue.next(topic)) is not None:
            self.on_its_way[topic] = following
        elif not confirmed:
            self.queue.pause(topic)

    @rule(topic=topics)
    def mark(self, topic: str) -> None:
        self.marked.update((topic, timestamp) for timestamp in self.log[topic])

    @invariant()
    def each_topic_is_a_prefix_of_its_chain(self) -> None:
        for topic, log in self.log.items():
            once = list(dict.fromkeys(log))
            assert once == [b.timestamp for b in self.outbox[topic]][: len(once)], "one overtook the one before it"

    @invariant()
    def it_is_bounded(self) -> None:
        assert self.queue.waiting <= 6

    def teardown(self) -> None:
        """Looked at often enough, everything gets there."""
        for topic, sent in list(self.on_its_way.items()):
            self.log[topic].append(sent.timestamp)
            self.queue.confirmed(sent)
            self.queue.pause(topic)
        for _ in range(len(TOPICS) * (self.now + 1)):
            self.look(500)
            for topic in self.queue.startable():
                while (found := self.queue.next(topic)) is not None:
                    self.log[topic].append(found.timestamp)
                    self.queue.confirmed(found)
            self.marked.update((topic, timestamp) for topic, log in self.log.items() for timestamp in log)
        self.each_topic_is_a_prefix_of_its_chain()
        assert {t: len(set(log)) for t, log in self.log.items()} == {t: len(rows) for t, rows in self.outbox.items()}
        assert self.queue.waiting == 0


TestPublishing = Publishing.TestCase
TestPublishing.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True)


def schedule(revision: int) -> TopicSchedule:
    return TopicSchedule(
        topic="a", event_id="a", title="A", revision=revision, version=1, starts_at=0, ends_at=None, stages=()
    )


def test_of_schedules_only_the_newest_goes_and_one_at_a_time() -> None:
    queue = PublishQueue(waiting_max=6, topics_max=2)
    queue.found([], [schedule(1)])
    queue.found([], [schedule(1)])
    assert queue.take_schedules() == [schedule(1)]
    queue.found([], [schedule(2)])
    queue.found([], [schedule(3)])
    assert queue.take_schedules() == [], "the first is on its way"
    queue.schedule_done(schedule(1), confirmed=False)
    assert queue.take_schedules() == [schedule(3)], "the refused one was replaced"
    queue.schedule_done(schedule(3), confirmed=True)
    queue.found([], [schedule(3)])  # read before it was marked
    assert queue.take_schedules() == []
    assert queue.waiting == 0


def test_a_refused_schedule_goes_out_again() -> None:
    queue = PublishQueue(waiting_max=6, topics_max=2)
    queue.found([], [schedule(1)])
    queue.take_schedules()
    queue.schedule_done(schedule(1), confirmed=False)
    assert queue.take_schedules() == [schedule(1)]
