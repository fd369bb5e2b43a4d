"""The publisher towards an outside log, the alarm, and the running services: order, retries, wake-ups (R2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from contract.broadcast import Broadcast
from contract.clock import ManualClock
from contract.errors import LeaseLost, LogUnavailable
from contract.runtime.runner import Readiness, run_services
from contract.runtime.system_clock import SystemClock
from contract.schedule import TopicSchedule
from message_producer.adapters.apscheduler_alarm import ApschedulerAlarm
from message_producer.app import Producer, open_producer
from message_producer.dispatch import Dispatcher
from message_producer.lease_keeper import LeaseKeeper
from message_producer.log_publishing import LogPublishing
from message_producer.model import Anchor, Audience, EventDraft, Stage, WriteContext
from message_producer.settings import ProducerSettings

pytestmark = pytest.mark.usefixtures("time_by_hand")
ME = WriteContext(actor="op")
TWO = (Audience(), Audience(name="west", regions=("US",)))


class BrittleLog:
    """A Publisher that refuses chosen sends and yields in between, as a network does."""

    def __init__(self) -> None:
        self.broadcasts: list[Broadcast] = []
        self.schedules: list[TopicSchedule] = []
        self.refuse_topic: str | None = None
        self.refuse_after = 0

    async def publish_broadcast(self, broadcast: Broadcast) -> None:
        await asyncio.sleep(0)
        if broadcast.topic == self.refuse_topic:
            if self.refuse_after <= 0:
                raise LogUnavailable("leader not available")
            self.refuse_after -= 1
        self.broadcasts.append(broadcast)

    async def publish_schedule(self, schedule: TopicSchedule) -> None:
        self.schedules.append(schedule)

    def of(self, topic: str) -> list[str]:
        return [b.state_key for b in self.broadcasts if b.topic == topic]


@asynccontextmanager
async def producing(
    settings: ProducerSettings, log: BrittleLog, clock: ManualClock
) -> AsyncIterator[tuple[Producer, LogPublishing]]:
    async with open_producer(settings, clock=clock, readiness=Readiness(), publisher=log) as producer:
        lease, publishing, _, *_ = producer.services
        assert isinstance(lease, LeaseKeeper)
        assert isinstance(publishing, LogPublishing)
        await lease.compete()
        yield producer, publishing


def night(now: int, audiences: tuple[Audience, ...] = (Audience(),)) -> EventDraft:
    stages = tuple(Stage(key=key, anchor=Anchor.MANUAL) for key in ("one", "two", "three"))
    return EventDraft(event_id="night", title="Night", starts_at=now, stages=stages, audiences=audiences)


async def test_a_dispatcher_whose_epoch_was_taken_dispatches_nothing(producer_settings: ProducerSettings) -> None:
    """R3: with a log outside the store nothing but the epoch, read in the dispatch transaction, stands in the way."""
    log, clock = BrittleLog(), ManualClock()
    async with producing(producer_settings, log, clock) as (producer, _):
        lease, _, dispatcher, *_ = producer.services
        assert isinstance(lease, LeaseKeeper)
        assert isinstance(dispatcher, Dispatcher)
        due = EventDraft(event_id="night", title="Night", starts_at=clock.now_ms(), stages=(Stage(key="live"),))
        await producer.operations.create(due, ME)
        assert lease.epoch is not None
        lease.epoch -= 1
        with pytest.raises(LeaseLost):
            await dispatcher.dispatch_due()
        assert await producer.operations.broadcasts("night") == ()
        lease.epoch += 1
        assert await dispatcher.dispatch_due() == 1


async def test_a_refused_broadcast_holds_back_its_topic_and_no_other(producer_settings: ProducerSettings) -> None:
    log, clock = BrittleLog(), ManualClock()
    async with producing(producer_settings, log, clock) as (producer, publishing):
        await producer.operations.create(night(clock.now_ms(), TWO), ME)
        for key in ("one", "two", "three"):
            await producer.operations.cue("night", key, ME)
        log.refuse_topic, log.refuse_after = "event:night@west", 1
        with pytest.raises(LogUnavailable):
            await publishing.publish_waiting()
        assert log.of("event:night") == ["one", "two", "three"]
        assert log.of("event:night@west") == ["one"], "the next only after the one before is confirmed"
        log.refuse_topic = None
        await publishing.publish_waiting()
        assert log.of("event:night@west") == ["one", "two", "three"]
        assert len(log.broadcasts) == 6, "what was confirmed is not sent again"
        assert await publishing.publish_waiting() == 0
        assert [s.topic for s in log.schedules] == ["event:night", "event:night@west"]


async def test_a_crash_between_send_and_mark_sends_the_same_again(producer_settings: ProducerSettings) -> None:
    log, clock = BrittleLog(), ManualClock()
    async with producing(producer_settings, log, clock) as (producer, _):
        await producer.operations.create(night(clock.now_ms()), ME)
        (said,) = await producer.operations.cue("night", "one", ME)
        await log.publish_broadcast(said)  # confirmed, then the process died before the row was marked
    clock.advance_ms(1501)  # its lease ends by itself
    async with producing(producer_settings, log, clock) as (_, publishing):
        await publishing.publish_waiting()
    assert log.broadcasts == [said, said], "the same timestamp and payload, whatever happened in between"


async def test_a_schedule_replaced_while_it_is_sent_goes_out_again(producer_settings: ProducerSettings) -> None:
    log, clock = BrittleLog(), ManualClock()
    async with producing(producer_settings, log, clock) as (producer, publishing):
        await producer.operations.create(night(clock.now_ms()), ME)
        real = log.publish_schedule

        async def change_meanwhile(schedule: TopicSchedule) -> None:
            await real(schedule)
            if schedule.revision == 1:
                await producer.operations.shift("night", 60_000, ME)

        log.publish_schedule = change_meanwhile  # type: ignore[method-assign]
        await publishing.publish_waiting()
        await publishing.publish_waiting()
        assert [s.revision for s in log.schedules] == [1, 2]


async def test_due_stages_reach_a_waiting_poller_soon_and_never_early(producer_settings: ProducerSettings) -> None:
    """Real time: alarm, dispatcher, publisher and log together. The bound is loose; the bench has the figures."""
    clock, stop = SystemClock(), asyncio.Event()
    async with open_producer(producer_settings, clock=clock, readiness=Readiness()) as producer:
        task = asyncio.create_task(run_services(producer.services, stop=stop))
        stages = tuple(Stage(key=f"s{n}", offset_ms=n * 700) for n in range(4))
        start = clock.now_ms() + 700
        await producer.operations.create(EventDraft(event_id="e", title="E", starts_at=start, stages=stages), ME)
        heard: list[Broadcast] = []
        async with asyncio.timeout(10):
            while len(heard) < 4:
                entries = (await producer.log.poll(max_entries=10, timeout_s=5)).entries
                heard += [entry.broadcast for entry in entries if entry.broadcast]
        stop.set()
        await task
    assert [b.state_key for b in heard] == ["s0", "s1", "s2", "s3"]
    for broadcast in heard:
        assert broadcast.due_at is not None
        assert broadcast.dispatched_at is not None
        assert 0 <= broadcast.dispatched_at - broadcast.due_at < 700


async def test_a_cue_reaches_a_waiting_poller_without_a_polling_interval(producer_settings: ProducerSettings) -> None:
    clock, stop = SystemClock(), asyncio.Event()
    async with open_producer(producer_settings, clock=clock, readiness=Readiness()) as producer:
        task = asyncio.create_task(run_services(producer.services, stop=stop))
        await producer.operations.create(night(clock.now_ms()), ME)
        while not (await producer.log.poll(max_entries=10, timeout_s=1)).entries:
            pass
        polling = asyncio.create_task(producer.log.poll(max_entries=10, timeout_s=5))
        await asyncio.sleep(0.05)
        (said,) = await producer.operations.cue("night", "one", ME)
        batch = await asyncio.wait_for(polling, 0.2)
        assert [entry.broadcast for entry in batch.entries if entry.broadcast] == [said]
        stop.set()
        await task


async def test_the_alarm_rings_the_newest_appointment_only() -> None:
    clock, rung = SystemClock(), asyncio.Queue[int]()
    alarm = ApschedulerAlarm(clock, lambda: rung.put_nowait(clock.now_ms()))
    alarm.start()
    try:
        now = clock.now_ms()
        alarm.arm(now + 50)
        alarm.arm(now + 120)
        rang = await asyncio.wait_for(rung.get(), 5)
        assert rang - now >= 118
        alarm.arm(now - 60_000)  # long past: rings at once, never dropped as a misfire
        await asyncio.wait_for(rung.get(), 5)
        alarm.arm(clock.now_ms() + 50)
        alarm.arm(None)
        alarm.arm(253_402_300_799_999)
        await asyncio.sleep(0.12)
        assert rung.empty()
    finally:
        alarm.close()
        await asyncio.sleep(0)


async def test_an_unfinished_rehearsal_leaves_nothing(producer_settings: ProducerSettings) -> None:
    async with open_producer(producer_settings, clock=ManualClock(), readiness=Readiness()) as producer:
        assert (await producer.operations.page(limit=1)).items == ()
        assert await producer.log.schedules() == []
        assert (await producer.log.poll(max_entries=1, timeout_s=0)).entries == ()
