"""The mirror against the view, under any order of puts, polls, losses, silences and requests."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from contract.clock import ManualClock
from contract.errors import StoreUnavailable
from contract.kv.memory import MemoryScheduleView
from contract.names import topic_of
from contract.schedule import TopicSchedule
from dgs.caches.schedule_mirror import ScheduleMirror

EVENTS = st.sampled_from(["a", "b"])
AUDIENCES = st.sampled_from(["all", "us"])
STALE_S = 60.0
T = TypeVar("T")


class FlakyView(MemoryScheduleView):
    silent = False

    async def schedules(self, topics: Sequence[str]) -> Mapping[str, TopicSchedule]:
        return await super().schedules(self._heard(topics))

    async def revisions(self, topics: Sequence[str]) -> Mapping[str, int]:
        return await super().revisions(self._heard(topics))

    async def topics_of(self, event_id: str) -> tuple[str, ...]:
        return await super().topics_of(self._heard(event_id))

    async def events(self) -> tuple[str, ...]:
        return self._heard(await super().events())

    def lose(self) -> None:
        self._schedules.clear()
        self._topics.clear()

    def held(self, event_id: str) -> dict[str, TopicSchedule]:
        return {topic: each for topic, each in self._schedules.items() if each.event_id == event_id}

    def _heard(self, what: T) -> T:
        if self.silent:
            raise StoreUnavailable("silent")
        return what


class MirrorMachine(RuleBasedStateMachine):
    """The model: every schedule ever put, by topic, and what of them the mirror may know."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.view, self.clock = FlakyView(), ManualClock()
        self.mirror = ScheduleMirror(self.view, self.clock, stale_s=STALE_S, draw=lambda: 0.5, sleep=self.sleep)
        self.ever: dict[str, list[TopicSchedule]] = {}
        self.seen: dict[str, int] = {}
        """Highest revision the mirror has shown, until it may forget it."""

    async def sleep(self, seconds: float) -> None:
        self.clock.advance_ms(round(seconds * 1000))

    def teardown(self) -> None:
        self.loop.close()

    def do(self, call: Coroutine[Any, Any, T]) -> T | None:
        """None: the store was silent, and the call said so."""
        try:
            return self.loop.run_until_complete(call)
        except StoreUnavailable:
            assert self.view.silent
            return None

    @rule(event_id=EVENTS, audience=AUDIENCES, by=st.integers(1, 3), content=st.booleans())
    def put(self, event_id: str, audience: str, by: int, content: bool) -> None:
        topic = topic_of(event_id, audience)
        before = self.ever.get(topic, [])
        revision = (before[-1].revision if before else 0) + by
        version = (before[-1].version if before else 1) + content
        schedule = TopicSchedule(
            topic=topic, event_id=event_id, title="T", revision=revision, version=version, starts_at=0
        )
        self.ever.setdefault(topic, []).append(schedule)
        self.loop.run_until_complete(self.view.put(schedule))

    @rule()
    def lose_everything(self) -> None:
        self.view.lose()

    @rule(back=st.integers(0, 2))
    def replay_an_older_life(self, back: int) -> None:
        """A store that lost everything is filled again, and not always with the newest first."""
        self.view.lose()
        for known in self.ever.values():
            self.loop.run_until_complete(self.view.put(known[max(0, len(known) - 1 - back)]))

    @rule()
    def fall_silent(self) -> None:
        self.view.silent = True

    @rule()
    def return_(self) -> None:
        self.view.silent = False

    @rule(seconds=st.sampled_from([0.5, 1.0, 20.0, STALE_S]))
    def wait(self, seconds: float) -> None:
        self.clock.advance_ms(round(seconds * 1000))

    @rule()
    def poll(self) -> None:
        """What was known before has the store's revision afterwards, or a higher one."""
        held = [topic for topic in self.ever if self.mirror.schedule(topic) is not None]
        self.do(self.mirror.poll())
        stored = {} if self.view.silent else {**self.view.held("a"), **self.view.held("b")}
        for topic in held:
            found = self.mirror.schedule(topic)
            if found is None:
                self.seen.pop(topic, None)  # the store had not confirmed it for long enough
            elif topic in stored:
                assert found.revision >= stored[topic].revision

    @precondition(lambda self: not self.view.silent)
    @rule()
    def settle(self) -> None:
        """After a few polls the mirror has everything the store has, or newer."""
        for _ in range(6):
            self.poll()
        for event_id in ("a", "b"):
            held = {each.topic: each for each in self.mirror.topics_of(event_id) or ()}
            for topic, schedule in self.view.held(event_id).items():
                assert held[topic].revision >= schedule.revision

    @rule(event_id=EVENTS)
    def ask(self, event_id: str) -> None:
        found = self.do(self.mirror.ensure(event_id))
        if self.view.silent:
            return
        # What was not known is asked for; what the store has not had for less than a second may be denied that long.
        assert found is not None
        assert self.mirror.topics_of(event_id) == found

    @rule(event_id=EVENTS)
    def ask_for_the_newest(self, event_id: str) -> None:
        """A version the store has is what the answer has, at least; one it has not is not waited for."""
        held = self.view.held(event_id)
        version = min((each.version for each in held.values()), default=0)
        found = self.do(self.mirror.ensure(event_id, version=version))
        if found:
            assert all(each.version >= version for each in found if each.topic in held)

    @invariant()
    def shows_only_what_was_put_and_never_goes_back(self) -> None:
        # What the store had not confirmed for long enough is forgotten, by whichever call looked at it.
        self.seen = {topic: seen for topic, seen in self.seen.items() if self.mirror.schedule(topic) is not None}
        for event_id in ("a", "b"):
            found = self.mirror.topics_of(event_id)
            if self.mirror.stale_s >= STALE_S:
                assert not found
            for schedule in found or ():
                assert schedule in self.ever[schedule.topic]
                assert schedule.event_id == event_id
                assert schedule.revision >= self.seen.get(schedule.topic, 0)
                self.seen[schedule.topic] = schedule.revision
            assert list(found or ()) == sorted(found or (), key=lambda each: each.topic)


TestMirror = MirrorMachine.TestCase
TestMirror.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
