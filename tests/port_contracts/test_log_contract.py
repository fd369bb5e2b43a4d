"""The log between producer and router: Publisher and BroadcastLog, on the embedded outbox and on Kafka, alike."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from contract.broadcast import Broadcast
from contract.errors import LogUnavailable
from contract.log import BroadcastLog, LogEntry
from contract.runtime.kafka_settings import KafkaSettings
from contract.runtime.runner import Readiness, run_services
from contract.runtime.system_clock import SystemClock
from message_producer.adapters.kafka_publisher import open_kafka_publisher
from message_producer.app import Producer, open_producer
from message_producer.model import Anchor, Audience, EventDraft, Stage, WriteContext
from message_producer.settings import ProducerSettings
from message_router.adapters.kafka_log import open_kafka_log
from tests.support.kafka_server import kafka, kafka_group, kafka_server

__all__ = ["kafka", "kafka_group", "kafka_server"]
CLOCK = SystemClock()
ME = WriteContext(actor="op")
STAGES = tuple(Stage(key=f"s{number}", anchor=Anchor.MANUAL) for number in range(12))
Collected = Callable[[], bool]
PATIENCE_S = 45.0
"""With a busy machine: what hangs fails."""


class World:
    """A producer that publishes to a log, and whoever reads it; `reopen` is a router that starts anew."""

    def __init__(self, folder: Path, kafka: KafkaSettings | None, group: str) -> None:
        self._folder = folder
        self._kafka = kafka
        self._group = group
        self._producing = AsyncExitStack()
        self._reading = AsyncExitStack()
        self.producer: Producer
        self.log: BroadcastLog
        self.assigned: dict[int, int] = {}
        self.entries: list[LogEntry] = []

    async def open(self) -> None:
        readiness, stop = Readiness(), asyncio.Event()
        publisher = None
        if self._kafka is not None:
            publisher = await self._producing.enter_async_context(
                open_kafka_publisher(self._kafka, readiness=readiness)
            )
        self.producer = await self._producing.enter_async_context(
            open_producer(
                ProducerSettings(data_dir=self._folder), clock=CLOCK, readiness=readiness, publisher=publisher
            )
        )
        running = asyncio.create_task(run_services(self.producer.services, stop=stop), name="producer")

        async def stopped() -> None:
            stop.set()
            await running

        self._producing.push_async_callback(stopped)
        await self._open_log()

    async def _open_log(self) -> None:
        self.assigned, self.entries = {}, []
        if self._kafka is None:
            self.log = self.producer.log
        else:
            self.log = await self._reading.enter_async_context(
                open_kafka_log(self._kafka, group=self._group, readiness=Readiness(), clock=CLOCK)
            )

    async def reopen(self) -> None:
        """The router's process ends and another begins; embedded, the producer's ends with it."""
        await self._reading.aclose()
        if self._kafka is None:
            await self._producing.aclose()
            await self.open()
        else:
            await self._open_log()

    async def close(self) -> None:
        await self._reading.aclose()
        await self._producing.aclose()

    async def event(self, event_id: str, *, audiences: tuple[str, ...] = ("all",)) -> None:
        draft = EventDraft(
            event_id=event_id,
            title=event_id,
            starts_at=CLOCK.now_ms() + 3_600_000,
            stages=STAGES,
            audiences=tuple(
                Audience(name=name, regions=() if number == 0 else ("NO",)) for number, name in enumerate(audiences)
            ),
        )
        await self.producer.operations.create(draft, ME)

    async def cue(self, event_id: str, stage: int) -> list[Broadcast]:
        return list(await self.producer.operations.cue(event_id, f"s{stage}", ME, override_coverage=True))

    async def poll(self, *, max_entries: int = 100, timeout_s: float = 0.2) -> list[LogEntry]:
        batch = await self.log.poll(max_entries=max_entries, timeout_s=timeout_s)
        for partition in batch.revoked:
            del self.assigned[partition]
        self.assigned |= batch.assigned
        for entry in batch.entries:
            assert entry.partition in self.assigned, "an entry of a partition nobody said is ours"
            assert (entry.broadcast is None) != (entry.schedule is None)
        self.entries += batch.entries
        return list(batch.entries)

    async def until(self, enough: Collected, within_s: float = PATIENCE_S) -> None:
        async with asyncio.timeout(within_s):
            while not enough():
                try:
                    await self.poll()
                except LogUnavailable:
                    await asyncio.sleep(0.05)  # as whoever polls a log must: it says so, and goes on

    async def broadcasts(self, number: int) -> list[Broadcast]:
        """Poll until `number` broadcasts came; returns all that did."""
        await self.until(lambda: len(self.said) >= number)
        return self.said

    @property
    def said(self) -> list[Broadcast]:
        return [entry.broadcast for entry in self.entries if entry.broadcast is not None]

    async def finish(self, entries: list[LogEntry]) -> None:
        offsets: dict[int, int] = {}
        for entry in entries:
            offsets[entry.partition] = entry.offset + 1
        await self.log.commit(offsets)

    async def reread(self, since_ms: int) -> list[Broadcast]:
        """What rereading every assigned partition gives."""
        found = []
        for partition in sorted(self.assigned):
            found += [entry async for entry in self.log.reread(partition, since_ms=since_ms)]
        return [entry.broadcast for entry in found if entry.broadcast is not None]


@pytest.fixture(params=["outbox", pytest.param("kafka", marks=pytest.mark.external_service)])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """A log nothing was written to."""
    if request.param == "kafka":
        opened = World(tmp_path, request.getfixturevalue("kafka"), request.getfixturevalue("kafka_group"))
    else:
        opened = World(tmp_path, None, "")
    await opened.open()
    yield opened
    await opened.close()


async def test_what_is_published_comes_in_order(world: World) -> None:
    """Per topic in the order of its chain, offsets rising in each partition, the first poll naming where it begins."""
    await world.event("a", audiences=("all", "north"))
    await world.event("b")
    sent = []
    for stage in range(4):
        sent += await world.cue("a", stage)
        sent += await world.cue("b", stage)
    got = await world.broadcasts(len(sent))
    by_topic, offsets = defaultdict(list), defaultdict(list)
    for one in got:
        by_topic[one.topic].append(one)
    assert sorted(by_topic) == ["event:a", "event:a@north", "event:b"]
    for topic, chain in by_topic.items():
        assert chain == [one for one in sent if one.topic == topic]
        assert [one.prev for one in chain] == [0, *(one.timestamp for one in chain[:-1])]
    for entry in world.entries:
        offsets[entry.partition].append(entry.offset)
    for partition, found in offsets.items():
        assert found == sorted(set(found))
        assert found[0] >= world.assigned[partition]


async def test_schedules_come_and_can_be_read_whole(world: World) -> None:
    """Every topic's schedule is an entry; read whole there is the newest of each."""
    await world.event("a", audiences=("all", "north"))
    await world.event("b")
    await world.producer.operations.shift("b", 60_000, ME)
    wanted = {"event:a": 1, "event:a@north": 1, "event:b": 2}

    def newest() -> dict[str, int]:
        found: dict[str, int] = {}
        for entry in world.entries:
            if entry.schedule is not None:
                found[entry.schedule.topic] = max(found.get(entry.schedule.topic, 0), entry.schedule.revision)
        return found

    await world.until(lambda: newest() == wanted)
    assert {one.topic: one.revision for one in await world.log.schedules()} == wanted


async def test_only_what_was_not_finished_comes_again(world: World) -> None:
    """A router that starts anew gets what lies above the commit, all of it, and is told that offset."""
    await world.event("a")
    sent = [broadcast for stage in range(6) for broadcast in await world.cue("a", stage)]
    await world.broadcasts(6)
    third = next(index for index, entry in enumerate(world.entries) if entry.broadcast == sent[2])
    done, rest = world.entries[: third + 1], world.entries[third + 1 :]
    await world.finish(done)
    await world.reopen()
    assert await world.broadcasts(3) == sent[3:]
    assert all(world.assigned[entry.partition] <= entry.offset for entry in rest)
    assert world.assigned[done[-1].partition] == done[-1].offset + 1


async def test_a_commit_is_never_taken_back(world: World) -> None:
    """A lower offset changes nothing, nor does a partition nobody gave us."""
    await world.event("a")
    sent = [broadcast for stage in range(4) for broadcast in await world.cue("a", stage)]
    await world.broadcasts(4)
    await world.finish(world.entries)
    first = next(entry for entry in world.entries if entry.broadcast is not None)
    await world.log.commit({first.partition: first.offset, 999_999: 5})
    await world.reopen()
    await world.poll()
    sent += await world.cue("a", 4)
    assert await world.broadcasts(1) == sent[4:]


async def test_nothing_new_ends_in_time_and_a_batch_has_a_bound(world: World) -> None:
    """A poll of a silent log returns empty about when it was told to; no batch is larger than asked for."""
    await world.event("a")
    for stage in range(9):
        await world.cue("a", stage)
    await world.broadcasts(9)
    while await world.poll(timeout_s=0.5):
        pass  # schedules that follow the cues
    begun_s = time.monotonic()
    assert await world.poll(timeout_s=0.5) == []
    assert 0.4 < time.monotonic() - begun_s < 1.0
    await world.reopen()
    async with asyncio.timeout(PATIENCE_S):
        while len(world.said) < 9:
            assert len(await world.poll(max_entries=2)) <= 2


async def test_rereading_gives_the_window_and_the_newest_of_every_topic(world: World) -> None:
    """From `since_ms` on everything, ascending per topic; of a topic silent since then, its newest; no schedules."""
    await world.event("old")
    await world.event("new")
    old = [broadcast for stage in range(3) for broadcast in await world.cue("old", stage)]
    new = [broadcast for stage in range(2) for broadcast in await world.cue("new", stage)]
    await asyncio.sleep(0.01)
    since_ms = CLOCK.now_ms()
    await asyncio.sleep(0.01)  # the dispatcher's clock may be some milliseconds off this one
    new += [broadcast for stage in range(2, 6) for broadcast in await world.cue("new", stage)]
    await world.broadcasts(9)
    found = await world.reread(since_ms)
    assert [one for one in found if one.topic == "event:old"] == old[-1:]
    assert [one for one in found if one.topic == "event:new"] == new[2:]
    assert sorted(one.timestamp for one in await world.reread(0)) == sorted(one.timestamp for one in (*old, *new))
    later = await world.cue("old", 5)
    await world.broadcasts(10)
    found = await world.reread(since_ms)
    assert [one for one in found if one.topic == "event:old"] == later
    assert [one for one in found if one.topic == "event:new"] == new[2:]
    latest = {one.topic: one for one in await world.reread(CLOCK.now_ms() + 60_000)}
    assert latest == {"event:old": later[-1], "event:new": new[-1]}


async def test_rereading_neither_moves_nor_commits(world: World) -> None:
    """What was not polled yet is still given out afterwards, and what was reread and not finished comes again."""
    await world.event("a")
    sent = await world.cue("a", 0)
    await world.broadcasts(1)
    sent += await world.cue("a", 1)
    async with asyncio.timeout(PATIENCE_S):
        while await world.reread(0) != sent:  # noqa: ASYNC110 - until it is published
            await asyncio.sleep(0.01)
    assert await world.broadcasts(2) == sent
    await world.reopen()
    assert await world.broadcasts(2) == sent


async def test_a_poll_may_be_cut_off(world: World) -> None:
    """Cancelled at any instant, it loses nothing and repeats nothing."""
    await world.event("a")
    await world.until(lambda: bool(world.entries))
    sent: list[Broadcast] = []

    async def night() -> None:
        for stage in range(12):
            sent.extend(await world.cue("a", stage))
            await asyncio.sleep(0.005)

    publishing = asyncio.create_task(night(), name="night")
    cut = 0
    async with asyncio.timeout(PATIENCE_S):
        while len(world.said) < 12:
            polling = asyncio.create_task(world.poll(timeout_s=0.5), name="poll")
            await asyncio.wait({polling}, timeout=0.002)
            polling.cancel()
            await asyncio.wait({polling})
            if polling.cancelled():
                cut += 1
            else:
                polling.result()
    await publishing
    assert cut
    assert world.said == sent
