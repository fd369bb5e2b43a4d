"""Picks from memory, store and source in turn: who is asked how often, and what is shown when nobody answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from contract.clock import ManualClock
from contract.errors import StoreUnavailable, Unavailable
from contract.schedule import PlannedStage, TopicSchedule
from dgs.adapters.materialised_memory import MemoryMaterialised
from dgs.caches.expiring import Lifetimes
from dgs.caches.picks_cache import CachedPicks
from dgs.picks import Missing, Picks, Wanted
from dgs.ports import MaterialisedStore
from dgs.shelf import index_picks
from dgs.stage_map import stage_keys

TOPIC = "event:night"
CATALOG = "c"


def schedule(*keys: str, revision: int = 1, version: int = 1, due_at: int | None = None) -> TopicSchedule:
    return TopicSchedule(
        topic=TOPIC, event_id="night", title="Night", revision=revision, version=version, starts_at=0,
        stages=tuple(PlannedStage(key=key, order=order, due_at=due_at) for order, key in enumerate(keys or ("live",))),
    )  # fmt: skip


def picks_of(profile_id: str, planned: TopicSchedule, *, at: int = 0, source: str = "catalog", **more: Any) -> Picks:
    first = int(profile_id[2:]) * 100
    return index_picks(
        stage_keys(planned), range(first, first + 40), (), per_row=4, catalog=CATALOG, now_ms=at, source=source, **more
    )


class Source:
    """Ranks when it may, and counts; every answer is of its own moment."""

    name = "counted"

    def __init__(self, world: World) -> None:
        self.world = world
        self.asked: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.answer: Callable[[Wanted], Picks | Missing] | None = None

    def at_once(self, wanted: Wanted) -> Picks | None:
        return None

    async def find(self, wanted: Sequence[Wanted], deadline_s: float) -> Mapping[Wanted, Picks | Missing]:
        self.asked.append([each.profile_id for each in wanted])
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        answer = self.answer or (
            lambda each: picks_of(each.profile_id, self.world.planned, at=self.world.clock.now_ms())
        )
        return {each: answer(each) for each in wanted}

    @property
    def profiles(self) -> int:
        return sum(len(batch) for batch in self.asked)


class CountedStore(MemoryMaterialised):
    """A store that has to be waited for; may be silent."""

    read_now = None  # type: ignore[assignment]

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock, catalog=lambda: CATALOG)
        self.reads: list[list[str]] = []
        self.silent = False
        self.broken = False

    async def read(self, topic: str, version: int, profiles: Sequence[str]) -> Mapping[str, Picks]:
        self.reads.append(list(profiles))
        await asyncio.sleep(0)
        if self.silent:
            raise StoreUnavailable("silent")
        if self.broken:
            raise ValueError("what is this?")
        found = ((each, MemoryMaterialised.read_now(self, topic, version, each)) for each in profiles)
        return {each: picks for each, picks in found if picks is not None}


class World:
    def __init__(self, *, store: Callable[[ManualClock], MaterialisedStore] | None = None, **given: Any) -> None:
        self.clock = ManualClock()
        self.planned = schedule()
        self.source = Source(self)
        self.store: Any = store(self.clock) if store else None
        self.cache = CachedPicks(
            self.source,
            schedule_of=lambda topic: self.planned if topic == TOPIC else None,
            catalog=lambda: CATALOG,
            clock=self.clock,
            lifetimes=Lifetimes(mean_s=100, spread=0.0, early=0.2, guard_s=0, draw=lambda: 0.5),
            draw=lambda: 0.5,
            store=self.store,
            **{"stale_s": 1_000.0, **given},
        )

    def wanted(self, number: int = 1) -> Wanted:
        return Wanted(TOPIC, self.planned.revision, self.planned.version, f"p-{number}")

    async def find(self, *numbers: int, deadline_s: float = 5.0) -> list[Picks | Missing]:
        wanted = [self.wanted(number) for number in numbers or (1,)]
        found = await self.cache.find(wanted, deadline_s)
        assert set(found) == set(wanted)
        return [found[each] for each in wanted]

    def at_once(self, number: int = 1) -> Picks | None:
        return self.cache.at_once(self.wanted(number))


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_asked_once_then_from_memory_until_it_expires() -> None:
    world = World()
    assert world.at_once() is None
    [picks] = await world.find()
    assert world.at_once() == picks == picks_of("p-1", world.planned, at=world.clock.now_ms())
    assert await world.find() == [picks]
    assert world.source.asked == [["p-1"]]
    world.clock.advance_ms(100_000)
    assert world.at_once() is None
    await world.find()
    assert world.source.profiles == 2


async def test_an_entry_that_falls_due_is_made_anew_for_all_by_one() -> None:
    """Everybody is served the old one meanwhile, then the new one; nobody waited."""
    world = World()
    [old] = await world.find()
    world.clock.advance_ms(95_000)
    world.source.gate.clear()
    assert [world.at_once() for _ in range(50)] == [old] * 50
    await turns()
    assert world.source.asked == [["p-1"], ["p-1"]]
    world.source.gate.set()
    await turns()
    new = world.at_once()
    assert new is not None
    assert new.made_at_ms == old.made_at_ms + 95_000  # type: ignore[union-attr]
    world.clock.advance_ms(50_000)
    assert world.at_once() == new
    assert world.cache.stats()["early_refreshes"] == 1


async def test_callers_of_one_profile_share_a_question() -> None:
    """Some in the same turn, some while it is under way; cancelling the first leaves the others be."""
    world = World()
    world.source.gate.clear()
    first = asyncio.create_task(world.find(1, 2))
    second = asyncio.create_task(world.find(2, 3))
    await turns()
    third = asyncio.create_task(world.find(1, 3))
    await turns()
    first.cancel()
    await turns()
    world.source.gate.set()
    assert [each.cells[0] for each in (*await second, *await third)] == [200, 300, 100, 300]  # type: ignore[union-attr]
    assert first.cancelled()
    assert world.source.asked == [["p-1", "p-2", "p-3"]]
    assert world.cache.stats()["joined"] == 3
    assert world.cache.stats()["waiting"] == 0


async def test_another_version_is_another_question() -> None:
    world = World()
    await world.find()
    world.planned = schedule(revision=2, version=2)
    assert world.at_once() is None
    await world.find()
    assert world.source.profiles == 2


async def test_a_moved_time_keeps_the_picks_and_another_stage_does_not() -> None:
    """A revision alone changes nothing that picks depend on, unless stages come or go."""
    world = World()
    [picks] = await world.find()
    world.planned = schedule(revision=2, due_at=5)
    assert world.at_once() == picks
    world.planned = schedule("live", "ended", revision=3)
    assert world.at_once() is None
    [other] = await world.find()
    assert isinstance(other, Picks)
    assert world.at_once() == other != picks


async def test_what_one_turn_misses_is_one_read_of_the_store() -> None:
    """Thirty callers, one read; those it has are not asked of the source, the others are, together."""
    world = World(store=CountedStore)
    made = {f"p-{number}": picks_of(f"p-{number}", world.planned) for number in range(0, 30, 2)}
    await world.store.write(TOPIC, 1, made, keep_s=60)
    found = await asyncio.gather(*(world.find(number) for number in range(30)))
    assert [each[0].source for each in found] == ["materialised", "catalog"] * 15  # type: ignore[union-attr]
    assert [len(read) for read in world.store.reads] == [30]
    assert [len(batch) for batch in world.source.asked] == [15]
    assert world.at_once(4) == made["p-4"]._replace(source="materialised")
    assert world.cache.stats()["store_hits"] == 15


async def test_a_store_that_can_be_read_at_once_is() -> None:
    world = World(store=lambda clock: MemoryMaterialised(clock, catalog=lambda: CATALOG))
    await world.store.write(TOPIC, 1, {"p-1": picks_of("p-1", world.planned)}, keep_s=60)
    picks = world.at_once()
    assert picks is not None
    assert picks.source == "materialised"
    assert world.at_once() is picks, "kept in memory"
    assert world.source.asked == []


async def test_materialised_for_other_stages_is_not_shown() -> None:
    world = World(store=CountedStore)
    await world.store.write(TOPIC, 1, {"p-1": picks_of("p-1", schedule("ended", "live"))}, keep_s=60)
    [picks] = await world.find()
    assert picks.source == "catalog"  # type: ignore[union-attr]


async def test_a_silent_store_is_passed_over_and_left_alone_for_a_second() -> None:
    world = World(store=CountedStore)
    world.store.silent = True
    assert [each.source for each in await world.find(1)] == ["catalog"]  # type: ignore[union-attr]
    await world.find(2)
    assert len(world.store.reads) == 1
    world.clock.advance_ms(1_000)
    world.store.silent = False
    await world.find(3)
    assert len(world.store.reads) == 2
    assert world.cache.stats()["store_failures"] == 1


async def test_a_failing_source_shows_older_picks_and_says_so() -> None:
    """Then for a few seconds nobody asks it again; then it is asked, and what it says is shown."""
    world = World()
    [old] = await world.find()
    world.clock.advance_ms(150_000)
    world.source.error = Unavailable("the ranking service is away")
    [shown] = await world.find()
    assert shown == old._replace(degraded=True, why="the ranking service is away")  # type: ignore[union-attr]
    assert world.at_once() == shown
    assert world.source.profiles == 2
    world.source.error = None
    world.clock.advance_ms(5_000)
    assert world.at_once() is None
    [new] = await world.find()
    assert not new.degraded  # type: ignore[union-attr]
    assert world.at_once() == new
    assert world.cache.stats()["stale"] == 1


@pytest.mark.parametrize("error", [Unavailable("away"), RuntimeError("a bug in a plug-in")])
async def test_without_older_picks_there_are_the_default_ones(error: Exception) -> None:
    world = World(otherwise=lambda wanted, why: picks_of("p-9", schedule(), source="cohort", degraded=True))
    world.source.error = error
    [shown] = await world.find()
    assert (shown.source, shown.degraded) == ("cohort", True)  # type: ignore[union-attr]
    assert world.at_once() == shown
    assert world.cache.stats()["otherwise"] == 1


async def test_without_any_it_is_missing_and_why_is_said() -> None:
    world = World(stale_s=10.0)
    await world.find()
    world.clock.advance_ms(110_000)
    world.source.error = Unavailable("away")
    assert await world.find() == [Missing("away")]


async def test_degraded_answers_of_the_source_do_not_push_out_older_ones_of_its_own() -> None:
    world = World()
    [old] = await world.find()
    world.clock.advance_ms(150_000)
    world.source.answer = lambda each: picks_of("p-9", world.planned, degraded=True)
    [shown] = await world.find(1)
    assert shown.cells == old.cells  # type: ignore[union-attr]
    [other] = await world.find(2)
    assert other == picks_of("p-9", world.planned, degraded=True)
    assert world.at_once(2) == other


async def test_a_missing_profile_is_told_and_the_others_served() -> None:
    world = World()
    world.source.answer = lambda each: (
        Missing("no profile") if each.profile_id == "p-2" else picks_of(each.profile_id, world.planned)
    )
    first, second, third = await world.find(1, 2, 3)
    assert isinstance(first, Picks)
    assert second == Missing("no profile")
    assert isinstance(third, Picks)
    assert world.at_once(2) is None


async def test_who_waits_too_long_gets_what_there_is_before_the_deadline() -> None:
    """The others of the question go on; the late answer is kept for the next one."""
    world = World(otherwise=lambda wanted, why: picks_of("p-9", schedule(), source=why, degraded=True))
    world.source.gate.clear()
    patient = asyncio.create_task(world.find(1, deadline_s=60))
    async with asyncio.timeout(4):  # the source itself never answers
        [shown] = await world.find(1, deadline_s=0.05)
    assert (shown.source, shown.degraded) == ("late", True)  # type: ignore[union-attr]
    world.source.gate.set()
    [own] = await patient
    assert not own.degraded  # type: ignore[union-attr]
    assert world.at_once() == own
    assert world.cache.stats()["late"] == 1


async def test_rankings_of_this_process_get_so_many_per_turn() -> None:
    """Forty profiles, two per turn: others of the loop have their turn twenty times in between."""
    world = World(per_turn=2)
    others = 0

    async def other() -> None:
        nonlocal others
        while True:
            await asyncio.sleep(0)
            others += 1

    task = asyncio.create_task(other())
    await world.find(*range(40))
    task.cancel()
    assert [len(batch) for batch in world.source.asked] == [2] * 20
    assert others >= 19


async def test_nobody_ranks_for_those_who_left() -> None:
    world = World(per_turn=1)
    world.source.gate.clear()
    callers = [asyncio.create_task(world.find(number)) for number in range(5)]
    await turns()
    for caller in callers[1:]:
        caller.cancel()
    await turns()
    world.source.gate.set()
    await callers[0]
    await turns()
    assert world.source.asked == [["p-0"]]
    assert world.cache.stats()["waiting"] == 0


async def test_too_many_questions_are_refused_with_what_there_is() -> None:
    world = World()
    world.source.gate.clear()
    asking = asyncio.create_task(world.find(*range(4_096)))
    await turns()
    assert await world.find(9_999) == [Missing("too many rankings wait already")]
    assert world.cache.stats()["refused"] == 1
    world.source.gate.set()
    assert all(isinstance(each, Picks) for each in await asking)


async def test_early_refreshes_stand_back_while_many_are_asked_for() -> None:
    """The entry stays due: it is made anew once it is quieter."""
    world = World()
    await world.find(1)
    world.clock.advance_ms(95_000)
    world.source.gate.clear()
    asking = asyncio.create_task(world.find(*range(100, 200)))
    await turns()
    assert world.at_once(1) is not None
    world.source.gate.set()
    await asking
    assert world.source.profiles == 101
    assert world.at_once(1) is not None
    await turns()
    assert world.source.profiles == 102


async def test_memory_is_bounded() -> None:
    world = World(max_bytes=10_000)
    await world.find(*range(100))
    stats = world.cache.stats()
    assert 5 < stats["entries"] < 20
    assert stats["bytes"] <= 10_000


async def test_closing_gives_everybody_what_there_is() -> None:
    world = World()
    world.source.gate.clear()
    asking = asyncio.create_task(world.find(1))
    await turns()
    await world.cache.aclose()
    assert await asking == [Missing("no answer")]
    await world.cache.aclose()


async def test_a_store_that_fails_in_a_way_nobody_foresaw_leaves_nobody_behind() -> None:
    """Whoever was looked for in it is ranked; none stays "being asked for", which would keep its profile from picks."""
    world = World(store=CountedStore)
    world.store.broken = True
    found = await world.find(1, 2, deadline_s=1.0)
    assert found == [picks_of(f"p-{number}", world.planned, at=world.clock.now_ms()) for number in (1, 2)]
    stats = world.cache.stats()
    assert (stats["waiting"], stats["store_failures"]) == (0, 1)
    await world.find(3)
    assert len(world.store.reads) == 1, "and is left alone for a moment, like one that is silent"


async def test_what_is_missed_within_a_while_is_asked_for_together_in_batches() -> None:
    world = World(gather_s=0.01, batch=3)
    first = asyncio.create_task(world.find(1))
    await turns()
    others = asyncio.create_task(world.find(2, 3, 4))
    await turns()
    assert world.source.asked == [], "the while is not over"
    found = [*await first, *await others]
    assert world.source.asked == [["p-1", "p-2", "p-3"], ["p-4"]]
    assert all(isinstance(picks, Picks) for picks in found)


async def test_a_cache_that_closes_while_it_gathers_leaves_nobody_waiting() -> None:
    world = World(gather_s=60.0)
    waiting = asyncio.create_task(world.find(1))
    await turns()
    await world.cache.aclose()
    async with asyncio.timeout(5):
        assert [type(each) for each in await waiting] == [Missing]
    assert world.source.asked == []
