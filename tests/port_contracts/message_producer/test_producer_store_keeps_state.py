"""The store brings back exactly what the timeline decided, through any sequence of operations and restarts."""

from __future__ import annotations

import random

import msgspec
import pytest

from contract.clock import ManualClock
from contract.errors import InvalidRequest
from contract.names import topic_of
from contract.runtime.runner import Readiness
from message_producer.app import Producer, open_producer
from message_producer.dispatch import Dispatcher
from message_producer.drafts import apply_patch, draft_of, shifted
from message_producer.lease_keeper import LeaseKeeper
from message_producer.model import Anchor, Audience, EventDraft, EventPatch, EventState, Stage, WriteContext
from message_producer.operations import StoreOperations
from message_producer.published_schedule import topic_schedules
from message_producer.settings import ProducerSettings
from message_producer.timeline import after_cancel, after_change, after_content, after_cue, due_now, plan

pytestmark = pytest.mark.usefixtures("time_by_hand")
ME = WriteContext(actor="op")
MINUTE = 60_000
LATE = 5_000
STEPS = 60


class Mirror:
    """Every operation is done twice: through the store, and by the pure timeline alone."""

    def __init__(self, settings: ProducerSettings, seed: int) -> None:
        self.rng = random.Random(seed)
        self.clock = ManualClock()
        self.settings = settings.model_copy(update={"late_after_ms": LATE})
        stages = (
            Stage(key="soon", offset_ms=-5 * MINUTE),
            Stage(key="hold", anchor=Anchor.MANUAL),
            Stage(key="live"),
            Stage(key="fixed", anchor=Anchor.ABSOLUTE, at=self.clock.now_ms() + 20 * MINUTE),
            Stage(key="replay", anchor=Anchor.END),
        )
        self.draft = EventDraft(
            event_id="night",
            title="Night",
            starts_at=self.clock.now_ms() + 10 * MINUTE,
            stages=stages,
            audiences=(Audience(), Audience(name="west", regions=("US",), offsets_ms={"live": MINUTE})),
            announce_late=self.rng.random() < 0.7,
            broadcast_budget_per_hour=3600,
        )
        self.state: EventState = plan(self.draft, self.clock.now_ms()).state

    async def life(self, steps: int) -> None:
        async with open_producer(self.settings, clock=self.clock, readiness=Readiness()) as producer:
            if self.state.event.revision == 1 and not self.state.event.last_timestamp:
                await producer.operations.create(self.draft, ME)
            for _ in range(steps):
                await self.step(producer)
                await self.compare(producer)

    async def step(self, producer: Producer) -> None:
        ops, now = producer.operations, self.clock.now_ms()
        match self.rng.choice(["time", "time", "dispatch", "dispatch", "shift", "cue", "change", "content"]):
            case "time":
                self.clock.advance_ms(self.rng.randrange(4 * MINUTE))
            case "dispatch":
                lease, _, dispatcher, *_ = producer.services
                assert isinstance(lease, LeaseKeeper)
                assert isinstance(dispatcher, Dispatcher)
                await lease.compete()
                await dispatcher.dispatch_due()
                self.state = due_now(self.state, now, late_after_ms=LATE).state
            case "shift":
                by = self.rng.choice([-3, -1, 1, 5, 9]) * MINUTE
                try:
                    await ops.shift("night", by, ME)
                except InvalidRequest:
                    return
                self.change(shifted(draft_of(self.state.event), by), now)
            case "cue":
                key = self.rng.choice([stage.key for stage in self.state.event.stages])
                await ops.cue("night", key, ME)
                topics = [topic_of("night", audience.name) for audience in self.state.event.audiences]
                self.state = after_cue(self.state, key, topics, now).state
            case "change":
                patch = self.rng.choice(
                    [
                        EventPatch(title=f"Night {self.rng.random()}"),
                        EventPatch(ends_at=self.state.event.starts_at + self.rng.randrange(15, 60) * MINUTE),
                        EventPatch(ends_at=None),
                        EventPatch(audiences=(Audience(),)),
                        EventPatch(audiences=self.draft.audiences),
                        EventPatch(stages=self.draft.stages[:3]),
                        EventPatch(stages=self.draft.stages),
                    ]
                )
                changed = apply_patch(draft_of(self.state.event), patch)
                try:
                    await ops.change("night", patch, ME, if_revision=self.state.event.revision)
                except InvalidRequest:
                    return
                if changed != draft_of(self.state.event):
                    self.change(changed, now)
            case "content":
                await ops.announce_content("night", ME)
                self.state = after_content(self.state, now).state

    def change(self, draft: EventDraft, now: int) -> None:
        self.state = after_change(self.state, draft, now, late_after_ms=LATE).state

    async def compare(self, producer: Producer) -> None:
        operations = producer.operations
        assert isinstance(operations, StoreOperations)
        stored = await operations._state("night")
        assert canonical(stored) == canonical(self.state)
        published = sorted(topic_schedules(self.state), key=lambda schedule: schedule.topic)
        assert await producer.log.schedules() == published
        tails: dict[str, int] = {}
        for entry in await operations.broadcasts("night"):
            assert entry.broadcast.prev == tails.get(entry.broadcast.topic, 0)
            tails[entry.broadcast.topic] = entry.broadcast.timestamp
        assert tails == {t.topic: t.last_timestamp for t in stored.topics if t.last_timestamp}


def canonical(state: EventState) -> EventState:
    return msgspec.structs.replace(
        state,
        topics=tuple(sorted(state.topics, key=lambda topic: topic.topic)),
        occurrences=tuple(sorted(state.occurrences, key=lambda o: (o.topic, o.stage_key))),
    )


@pytest.mark.parametrize("seed", [1, 4, 7])
async def test_the_store_and_the_timeline_agree(
    producer_settings: ProducerSettings,
    seed: int,
) -> None:
    mirror = Mirror(producer_settings, seed)
    await mirror.life(STEPS // 2)
    await mirror.life(STEPS // 2)  # another process, the same store
    async with open_producer(mirror.settings, clock=mirror.clock, readiness=Readiness()) as producer:
        await producer.operations.cancel("night", ME)
        mirror.state = after_cancel(mirror.state, mirror.clock.now_ms()).state
        await mirror.compare(producer)
