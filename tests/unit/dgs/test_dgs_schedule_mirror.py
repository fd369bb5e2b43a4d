"""The mirror of the schedule view: what is asked of the store, when, and what is served while it is silent."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from contract.clock import ManualClock
from contract.errors import StoreUnavailable
from contract.kv.memory import MemoryScheduleView
from contract.names import topic_of
from contract.schedule import TopicSchedule
from dgs.caches.schedule_mirror import ScheduleMirror


class CountedView(MemoryScheduleView):
    """Counts what it is asked; may be silent."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()
        self.silent = False

    async def _answer(self, what: str) -> None:
        self.asked[what] += 1
        await asyncio.sleep(0)
        if self.silent:
            raise StoreUnavailable("silent")

    async def schedules(self, topics: Sequence[str]) -> Mapping[str, TopicSchedule]:
        await self._answer("schedules")
        return await super().schedules(topics)

    async def revisions(self, topics: Sequence[str]) -> Mapping[str, int]:
        await self._answer("revisions")
        return await super().revisions(topics)

    async def topics_of(self, event_id: str) -> tuple[str, ...]:
        await self._answer("topics_of")
        return await super().topics_of(event_id)

    async def events(self) -> tuple[str, ...]:
        await self._answer("events")
        return await super().events()

    async def plan(self, event_id: str = "night", audience: str = "all", *, revision: int = 1, version: int = 1) -> str:
        topic = topic_of(event_id, audience)
        await self.put(
            TopicSchedule(
                topic=topic, event_id=event_id, title="Night", revision=revision, version=version, starts_at=0,
                audience=audience,
            )
        )  # fmt: skip
        return topic


class World:
    def __init__(self, **given: Any) -> None:
        self.view, self.clock = CountedView(), ManualClock()
        self.slept: list[float] = []
        self.mirror = ScheduleMirror(self.view, self.clock, draw=lambda: 0.5, sleep=self.sleep, **given)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.advance_ms(round(seconds * 1000))

    def revision(self, event_id: str = "night") -> int | None:
        found = self.mirror.topics_of(event_id)
        return found[0].revision if found else None


async def test_one_round_trip_finds_that_nothing_changed() -> None:
    """Events and revisions, asked side by side; every fifth poll looks at the topics of a few events again."""
    world = World()
    for number in range(3):
        await world.view.plan(f"night-{number}")
    await world.mirror.poll()
    world.view.asked.clear()
    for _ in range(4):
        await world.mirror.poll()
    assert world.view.asked == {"events": 4, "revisions": 4}
    await world.mirror.poll()
    assert world.view.asked["topics_of"] == 3


async def test_events_are_as_fresh_as_schedules() -> None:
    """A new one is among them within a poll; before the first poll they are asked for."""
    world = World()
    await world.view.plan("b")
    assert await world.mirror.events() == ("b",)
    await world.view.plan("a")
    assert await world.mirror.events() == ("b",)
    await world.mirror.poll()
    assert await world.mirror.events() == ("a", "b")
    world.view.silent = True
    world.clock.advance_ms(899_000)
    assert await world.mirror.events() == ("a", "b")
    world.clock.advance_ms(1_000)
    with pytest.raises(StoreUnavailable):
        await world.mirror.events()


async def test_a_revision_is_seen_within_a_poll() -> None:
    world = World()
    await world.view.plan(revision=1)
    await world.mirror.poll()
    await world.view.plan(revision=2)
    assert world.revision() == 1
    await world.mirror.poll()
    assert world.revision() == 2
    assert world.mirror.schedule("event:night") == (world.mirror.topics_of("night") or ())[0]


async def test_an_audience_comes_with_a_revision_and_all_topics_change_at_once() -> None:
    world = World()
    await world.view.plan(revision=1)
    await world.mirror.poll()
    await world.view.plan(revision=2)
    await world.view.plan(audience="us", revision=2)
    await world.mirror.poll()
    assert [each.topic for each in world.mirror.topics_of("night") or ()] == ["event:night", "event:night@us"]


async def test_an_audience_without_a_revision_is_found_in_time() -> None:
    """Put by a router that was late with it."""
    world = World()
    await world.view.plan(revision=1)
    await world.mirror.poll()
    await world.view.plan(audience="us", revision=1)
    for _ in range(5):
        await world.mirror.poll()
    assert len(world.mirror.topics_of("night") or ()) == 2


async def test_an_unknown_event_is_asked_for_once_a_second() -> None:
    world = World()
    await world.mirror.poll()
    world.view.asked.clear()
    assert world.mirror.topics_of("night") is None
    found = await asyncio.gather(*(world.mirror.ensure("night") for _ in range(20)))
    assert set(found) == {()}
    assert world.mirror.topics_of("night") == ()
    world.clock.advance_ms(999)
    assert await world.mirror.ensure("night") == ()
    assert world.view.asked["topics_of"] == 1
    await world.view.plan()
    world.clock.advance_ms(1)
    assert [each.revision for each in await world.mirror.ensure("night")] == [1]


async def test_made_up_events_do_not_reach_the_store_without_bound() -> None:
    """A thousand ids nobody planned: two hundred are asked for, the rest the last look at the index answers."""
    world = World()
    await world.mirror.poll()
    world.view.asked.clear()
    for number in range(1000):
        assert await world.mirror.ensure(f"made-up-{number}") == ()
    assert world.view.asked["topics_of"] == 200
    world.clock.advance_ms(1000)
    await world.view.plan("new")
    assert len(await world.mirror.ensure("new")) == 1


async def test_memory_for_made_up_events_is_bounded() -> None:
    world = World()
    await world.mirror.poll()
    for number in range(5000):
        await world.mirror.ensure(f"made-up-{number}")
    assert len(world.mirror._no_events) == 4096


async def test_a_raised_version_is_read_through() -> None:
    """A device was told a version: it gets it at once, by one read for all; who holds it already asks nobody."""
    world = World()
    await world.view.plan(revision=1, version=1)
    await world.mirror.poll()
    await world.view.plan(revision=2, version=2)
    world.view.asked.clear()
    found = await asyncio.gather(*(world.mirror.ensure("night", version=2) for _ in range(50)))
    assert {each[0].version for each in found} == {2}
    assert world.view.asked == {"topics_of": 1, "schedules": 1}
    await world.mirror.ensure("night", version=2)
    assert world.view.asked["schedules"] == 1


async def test_a_read_that_began_before_the_call_is_not_the_answer() -> None:
    """The version appears while an older read is under way: who asked for it afterwards gets it all the same."""
    world = World()
    await world.view.plan(revision=1, version=1)
    await world.mirror.poll()
    old = asyncio.create_task(world.mirror.ensure("night", version=2))
    for _ in range(4):  # its read of the schedules has been answered, and it has not woken up
        await asyncio.sleep(0)
    assert world.view.asked["schedules"] == 2
    await world.view.plan(revision=2, version=2)
    assert (await world.mirror.ensure("night", version=2))[0].version == 2
    await old


async def test_a_version_nobody_has_is_looked_for_ten_times_a_second_at_most() -> None:
    """A caller that makes versions up waits; it does not make the store work."""
    world = World()
    await world.view.plan(version=1)
    await world.mirror.poll()
    assert (await world.mirror.ensure("night", version=2**31))[0].version == 1
    assert world.slept == []
    world.clock.advance_ms(40)
    await world.mirror.ensure("night", version=2**31)
    assert world.slept == [pytest.approx(0.06)]


async def test_a_silent_store_is_outlived_and_said() -> None:
    """Served as it was up to the limit, with its age; then `ensure` says that the store is away; then all is well."""
    world = World(stale_s=60.0)
    await world.view.plan(revision=1)
    await world.mirror.poll()
    world.view.silent = True
    world.clock.advance_ms(59_000)
    with pytest.raises(StoreUnavailable):
        await world.mirror.poll()
    assert (world.revision(), world.mirror.stale_s, world.mirror.usable) == (1, 59.0, True)
    world.clock.advance_ms(1_000)
    assert world.mirror.topics_of("night") is None
    assert not world.mirror.usable
    with pytest.raises(StoreUnavailable):
        await world.mirror.ensure("night")
    world.view.silent = False
    assert [each.revision for each in await world.mirror.ensure("night")] == [1]
    assert world.mirror.stale_s == 0.0


async def test_a_store_that_lost_everything_takes_nothing_away_at_once() -> None:
    """A restarted store is filled again by the router; until then, and up to the limit, what was known is served."""
    world = World(stale_s=60.0)
    await world.view.plan(revision=5)
    await world.mirror.poll()
    world.view._schedules.clear()
    world.view._topics.clear()
    world.clock.advance_ms(1_000)
    await world.mirror.poll()
    assert world.revision() == 5
    await world.view.plan(revision=3)  # an older life, being replayed
    world.clock.advance_ms(30_000)
    await world.mirror.poll()
    assert world.revision() == 5
    world.clock.advance_ms(30_000)
    await world.mirror.poll()
    assert [each.revision for each in await world.mirror.ensure("night")] == [3], "the store is right in the end"


async def test_before_the_first_answer_it_is_not_usable() -> None:
    world = World()
    world.view.silent = True
    assert not world.mirror.usable
    with pytest.raises(StoreUnavailable):
        await world.mirror.ensure("night")


async def test_an_event_learnt_by_a_read_through_can_be_looked_up_before_any_poll() -> None:
    world = World()
    await world.view.plan()
    assert len(await world.mirror.ensure("night")) == 1
    assert world.revision() == 1
    assert await world.mirror.events() == ("night",)


async def test_more_events_than_one_poll_learns_of() -> None:
    world = World()
    for number in range(1_500):
        await world.view.plan(f"night-{number}")
    await world.mirror.poll()
    await world.mirror.poll()
    assert world.mirror.stats()["events"] == 1_500


async def test_the_service_is_ready_after_the_first_poll_and_goes_on_through_a_silence() -> None:
    world = World(poll_s=0.01)
    world.view.silent = True
    ready, stop = asyncio.Event(), asyncio.Event()
    service = asyncio.create_task(world.mirror.run(ready, stop))
    async with asyncio.timeout(5):
        await ready.wait()
        await world.view.plan()
        world.view.silent = False
        while not world.mirror.topics_of("night"):  # noqa: ASYNC110 - the service tells nobody
            await asyncio.sleep(0.001)
        stop.set()
        await service
    assert world.mirror.stats()["failed_polls"] == 0


async def test_a_shadow_is_served_to_who_asks_for_it_and_listed_to_nobody() -> None:
    world = World()
    await world.view.plan("night")
    await world.view.put(
        TopicSchedule(
            topic="shadow:s-1", event_id="s-1", title="Night", revision=1, version=1, starts_at=0, shadow_of="night"
        )
    )
    await world.mirror.poll()
    assert [found.topic for found in await world.mirror.ensure("s-1")] == ["shadow:s-1"]
    await world.mirror.poll()
    assert await world.mirror.events() == ("night",)
    assert world.revision("s-1") == 1
