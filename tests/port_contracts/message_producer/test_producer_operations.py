"""Operations on each schedule store, time moved by hand: what operators ask for is stored, and published."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec
import pytest

from contract.broadcast import Broadcast, Cause
from contract.clock import ManualClock
from contract.coverage import TopicCoverage
from contract.errors import (
    BudgetSpent,
    Conflict,
    InvalidRequest,
    LeaseLost,
    NotFound,
    RevisionConflict,
    UnknownStage,
)
from contract.log import LogEntry
from contract.names import topic_of
from contract.reach import ReachCount
from contract.runtime.runner import Readiness
from message_producer.adapters.sql_engine import database_url
from message_producer.adapters.sql_store import open_store
from message_producer.app import Producer, open_log, open_producer
from message_producer.coverage import EventCoverage, StageCoverage, TopicHoldings
from message_producer.dispatch import Dispatcher
from message_producer.lease_keeper import LeaseKeeper
from message_producer.model import Anchor, Audience, EventDraft, EventPatch, OccurrenceState, Stage, WriteContext
from message_producer.publishing import PublishingService
from message_producer.settings import ProducerSettings
from message_producer.shadows import OPEN_SHADOWS_MAX, ShadowPlan
from message_producer.timeline import due_now

pytestmark = pytest.mark.usefixtures("time_by_hand")
MINUTE = 60_000
ME = WriteContext(actor="op@example.org")


@dataclass
class Desk:
    """A producer whose services are stepped by hand."""

    producer: Producer
    clock: ManualClock
    settings: ProducerSettings
    start: int

    @property
    def ops(self):  # type: ignore[no-untyped-def]
        return self.producer.operations

    def draft(self, **changes: object) -> EventDraft:
        night = EventDraft(
            event_id="night",
            title="Night",
            starts_at=self.start,
            stages=(
                Stage(key="soon", offset_ms=-15 * MINUTE, headline="Starting soon"),
                Stage(key="live", headline="Live now"),
                Stage(key="overtime", anchor=Anchor.MANUAL),
                Stage(key="replay", anchor=Anchor.END),
            ),
        )
        return msgspec.structs.replace(night, **changes)

    async def step(self, minutes: float = 0) -> list[LogEntry]:
        """Let time pass, dispatch and publish what is due, and return what the log brought."""
        self.clock.advance_ms(round(minutes * MINUTE))
        lease, publishing, dispatcher, *_ = self.producer.services
        assert isinstance(lease, LeaseKeeper)
        assert isinstance(publishing, PublishingService)
        assert isinstance(dispatcher, Dispatcher)
        assert await lease.compete()
        await dispatcher.dispatch_due()
        await publishing.publish_waiting()
        return list((await self.producer.log.poll(max_entries=1000, timeout_s=0)).entries)

    async def said(self, minutes: float = 0) -> list[tuple[str, str]]:
        return [(e.broadcast.topic, e.broadcast.state_key) for e in await self.step(minutes) if e.broadcast]


@pytest.fixture
async def desk(producer_settings: ProducerSettings) -> AsyncIterator[Desk]:
    clock = ManualClock()
    async with open_producer(producer_settings, clock=clock, readiness=Readiness()) as producer:
        yield Desk(producer, clock, producer_settings, clock.now_ms() + 60 * MINUTE)


async def test_a_night_from_creation_to_the_log(desk: Desk) -> None:
    created = await desk.ops.create(desk.draft(), ME)
    assert created == await desk.ops.get("night")
    assert (created.revision, created.version) == (1, 1)
    first = await desk.step()
    assert [(e.schedule.topic, e.schedule.revision) for e in first if e.schedule] == [("event:night", 1)]
    soon = (await desk.step(45))[0].broadcast
    live = (await desk.step(15))[0].broadcast
    assert soon is not None
    assert live is not None
    assert (live.state_key, live.prev, live.due_at, live.cause) == (
        "live",
        soon.timestamp,
        desk.start,
        Cause.SCHEDULED,
    )
    stored = await desk.ops.broadcasts("night")
    assert [(e.broadcast, e.position) for e in stored] == [(soon, 2), (live, 3)]
    assert (await desk.ops.get("night")).last_timestamp == live.timestamp


async def test_nothing_goes_out_before_its_time(desk: Desk) -> None:
    await desk.ops.create(desk.draft(), ME)
    desk.clock.advance_ms(45 * MINUTE - 1)
    assert await desk.said() == []
    desk.clock.advance_ms(1)
    assert await desk.said() == [("event:night", "soon")]


async def test_a_shift_rewinds_and_publishes_the_new_times(desk: Desk) -> None:
    await desk.ops.create(desk.draft(ends_at=desk.start + 90 * MINUTE), ME)
    await desk.step(60)
    moved = await desk.ops.shift("night", 10 * MINUTE, ME, if_revision=1)
    entries = await desk.step()
    assert [e.schedule.times()["live"] for e in entries if e.schedule] == [desk.start + 10 * MINUTE]
    assert [(e.broadcast.state_key, e.broadcast.cause) for e in entries if e.broadcast] == [("soon", Cause.REWIND)]
    assert (moved.starts_at, moved.ends_at) == (desk.start + 10 * MINUTE, desk.start + 100 * MINUTE)
    assert (moved.revision, moved.version) == (2, 1)
    assert await desk.said(10) == [("event:night", "live")]


async def test_a_stale_revision_is_refused_naming_both_and_changes_nothing(desk: Desk) -> None:
    await desk.ops.create(desk.draft(), ME)
    await desk.ops.shift("night", MINUTE, ME)
    for attempt in (
        desk.ops.change("night", EventPatch(title="Other"), ME, if_revision=1),
        desk.ops.shift("night", MINUTE, ME, if_revision=1),
        desk.ops.cancel("night", ME, if_revision=1),
    ):
        with pytest.raises(RevisionConflict, match="revision 2, not 1"):
            await attempt
    assert (await desk.ops.get("night")).revision == 2


async def test_a_change_of_nothing_publishes_nothing(desk: Desk) -> None:
    await desk.ops.create(desk.draft(), ME)
    await desk.step()
    same = await desk.ops.change("night", EventPatch(title="Night"), ME, if_revision=1)
    assert same.revision == 1
    assert await desk.step() == []
    assert len(await desk.ops.audit("night")) == 1


async def test_the_version_rises_with_content_only(desk: Desk) -> None:
    await desk.ops.create(desk.draft(), ME)
    assert (await desk.ops.change("night", EventPatch(starts_at=desk.start + 1), ME, if_revision=1)).version == 1
    assert (await desk.ops.change("night", EventPatch(title="Big night"), ME, if_revision=None)).version == 2
    announced = await desk.ops.announce_content("night", ME)
    assert (announced.revision, announced.version) == (4, 3)
    schedule = [e.schedule for e in await desk.step() if e.schedule]
    assert [(s.revision, s.version) for s in schedule] == [(4, 3)], "only the newest revision is published"


async def test_cancelling_tells_the_audience_and_ends_the_event(desk: Desk) -> None:
    await desk.ops.create(desk.draft(), ME)
    await desk.step(45)
    cancelled = await desk.ops.cancel("night", ME)
    assert cancelled.cancelled
    entries = await desk.step(100)
    assert [e.broadcast.state_key for e in entries if e.broadcast] == ["cancelled"]
    schedule = next(e.schedule for e in entries if e.schedule)
    assert schedule.cancelled
    assert set(schedule.times().values()) >= {None}
    for attempt in (
        desk.ops.shift("night", MINUTE, ME),
        desk.ops.cue("night", "live", ME),
        desk.ops.cancel("night", ME),
        desk.ops.announce_content("night", ME),
    ):
        with pytest.raises(Conflict, match="cancelled"):
            await attempt
    assert [entry.state_key for entry in await desk.ops.preview("night")] == ["cancelled"]


async def test_cues_go_to_one_audience_or_all_and_raise_the_revision(desk: Desk) -> None:
    await desk.ops.create(desk.draft(audiences=(Audience(), Audience(name="west", regions=("US",)))), ME)
    one = await desk.ops.cue("night", "live", ME, audience="west")
    assert [(b.topic, b.state_key, b.cause, b.due_at) for b in one] == [("event:night@west", "live", Cause.CUE, None)]
    both = await desk.ops.cue("night", "overtime", ME)
    assert {b.topic for b in both} == {"event:night", "event:night@west"}
    assert len({b.timestamp for b in (*one, *both)}) == 3
    assert (await desk.ops.get("night")).revision == 3
    times = {s.topic: s.times() for s in await desk.producer.log.schedules()}
    assert times["event:night@west"]["soon"] is None, "a device offline must not go back to what the cue overtook"
    assert times["event:night@west"]["live"] == one[0].timestamp


async def test_what_cannot_be_cued_is_refused_by_name(desk: Desk) -> None:
    west = Audience(name="west", regions=("US",), stages=("live",))
    await desk.ops.create(desk.draft(audiences=(Audience(), west)), ME)
    for key in ("encore", "cancelled", "default"):
        with pytest.raises(UnknownStage, match="soon, live, overtime, replay"):
            await desk.ops.cue("night", key, ME)
    with pytest.raises(UnknownStage, match="one of live"):
        await desk.ops.cue("night", "soon", ME, audience="west")
    with pytest.raises(InvalidRequest, match="one of all, west"):
        await desk.ops.cue("night", "live", ME, audience="east")
    assert await desk.ops.broadcasts("night") == ()


async def test_the_budget_refuses_cues_but_not_schedules_or_rewinds(desk: Desk) -> None:
    stages = (Stage(key="delayed", anchor=Anchor.MANUAL), *desk.draft().stages)
    await desk.ops.create(desk.draft(stages=stages, broadcast_budget_per_hour=2), ME)
    await desk.ops.cue("night", "delayed", ME)
    desk.clock.advance_ms(20 * MINUTE)
    await desk.ops.cue("night", "delayed", ME)
    with pytest.raises(BudgetSpent) as refused:
        await desk.ops.cue("night", "delayed", ME)
    assert refused.value.retry_after_s == 40 * 60
    assert [key for _, key in await desk.said(40)] == ["delayed", "delayed", "live"]
    await desk.ops.shift("night", 30 * MINUTE, ME)
    assert [b.broadcast.cause for b in await desk.ops.broadcasts("night")][-1] is Cause.REWIND
    desk.clock.advance_ms(61 * MINUTE)
    await desk.ops.cue("night", "delayed", ME)


def share(held: dict[int, int], **of: object) -> TopicCoverage:
    """Of node n1's first incarnation, its first report, on the night's topic, unless `of` says otherwise."""
    share = TopicCoverage(node_id="n1", incarnation="a", begun_at=1_000, seq=1, topic="event:night", held=held)
    return msgspec.structs.replace(share, **of)


async def late_stage(desk: Desk, **changes: object) -> None:
    """An event at version 2, whose `encore` version 1 did not have."""
    await desk.ops.create(desk.draft(coverage_threshold=0.8, **changes), ME)
    late = (*desk.draft().stages, Stage(key="encore", anchor=Anchor.MANUAL))
    await desk.ops.change("night", EventPatch(stages=late), ME, if_revision=None)


async def test_a_stage_added_late_needs_coverage_or_an_override(desk: Desk) -> None:
    """Unknown is not enough; the refusal names what was measured, what is asked for, and the way round it."""
    await late_stage(desk)
    with pytest.raises(Conflict, match=r"no device of event:night is connected.*at least 80% .*override_coverage"):
        await desk.ops.cue("night", "encore", ME)
    await desk.ops.record_coverage([share({2: 799, 1: 101, 0: 100})])
    with pytest.raises(Conflict, match=r"79\.9% of 1000 connected devices of event:night hold it") as refused:
        await desk.ops.cue("night", "encore", ME)
    assert refused.value.field == "stage"
    await desk.ops.cue("night", "live", ME)
    await desk.ops.cue("night", "encore", ME, override_coverage=True)
    await desk.ops.record_coverage([share({3: 1, 2: 799, 1: 200}, seq=2)])
    await desk.ops.cue("night", "encore", ME)
    await desk.ops.record_coverage([share({}, seq=3)])
    with pytest.raises(Conflict, match="no device"):
        await desk.ops.cue("night", "encore", ME)
    await desk.ops.change("night", EventPatch(coverage_threshold=0.0), ME, if_revision=None)
    await desk.ops.cue("night", "encore", ME)


async def test_every_topic_of_a_cue_needs_coverage(desk: Desk) -> None:
    """A cue to all audiences goes to none while one of them lacks the stage."""
    await late_stage(desk, audiences=(Audience(), Audience(name="west", regions=("US",))))
    west = topic_of("night", "west")
    assert {one.holdings.topic for one in (await desk.ops.coverage("night")).topics} == {"event:night", west}
    await desk.ops.record_coverage([share({2: 9}), share({1: 9}, topic=west)])
    with pytest.raises(Conflict, match="0% of 9"):
        await desk.ops.cue("night", "encore", ME)
    assert await desk.ops.broadcasts("night") == ()
    await desk.ops.cue("night", "encore", ME, audience="all")


async def test_coverage_adds_up_the_nodes_and_says_which_late_stages_can_be_cued(desk: Desk) -> None:
    await late_stage(desk)
    (nobody,) = (await desk.ops.coverage("night")).topics
    assert (nobody.holdings.subscribers, nobody.current, nobody.stages[0].enough) == (0, None, False)
    await desk.ops.record_coverage([share({2: 3, 1: 1}), share({2: 5, 0: 1}, node_id="n2"), share({}, node_id="n3")])
    coverage = await desk.ops.coverage("night")
    assert (coverage.version, coverage.threshold) == (2, 0.8)
    (topic,) = coverage.topics
    assert topic.holdings == TopicHoldings(topic="event:night", nodes=2, held={2: 8, 1: 1, 0: 1})
    assert topic.current == 0.8
    assert topic.stages == (StageCoverage(stage_key="encore", version=2, holders=8, share=0.8, enough=True),)


async def test_of_a_nodes_reports_the_latest_stands_whatever_way_it_came(desk: Desk) -> None:
    """Two routers may write them in any order; repeats add nothing."""
    await late_stage(desk)

    async def held() -> dict[int, int]:
        found: EventCoverage = await desk.ops.coverage("night")
        return found.topics[0].holdings.held

    await desk.ops.record_coverage([share({2: 2}, seq=5)])
    await desk.ops.record_coverage([share({1: 1}, seq=4)])
    assert await held() == {2: 2}
    await desk.ops.record_coverage([share({1: 9}, seq=6), share({2: 3}, seq=7), share({2: 2}, seq=5)])
    await desk.ops.record_coverage([share({2: 3}, seq=7)])
    assert await held() == {2: 3}
    await desk.ops.record_coverage([share({1: 1}, incarnation="b", begun_at=2_000)])
    assert await held() == {1: 1}, "the node began anew: its former devices are gone"
    await desk.ops.record_coverage([share({2: 4}, seq=8)])
    assert await held() == {1: 1}, "a late report of the former incarnation brings nothing back"
    await desk.ops.record_coverage([])


async def test_the_share_of_a_silent_node_ages_out(desk: Desk) -> None:
    """A node that reports any topic lives, and all its shares count."""
    await late_stage(desk)
    await desk.ops.record_coverage([share({2: 9}), share({1: 1}, node_id="n2")])
    desk.clock.advance_ms(20_000)
    await desk.ops.record_coverage([share({1: 1}, node_id="n2", seq=2)])
    assert (await desk.ops.coverage("night")).topics[0].current == 0.9
    desk.clock.advance_ms(10_001)
    (topic,) = (await desk.ops.coverage("night")).topics
    assert (topic.holdings.nodes, topic.current) == (1, 0.0)
    with pytest.raises(Conflict, match="0% of 1 "):
        await desk.ops.cue("night", "encore", ME)
    await desk.ops.record_coverage([share({1: 1}, topic="event:other", seq=3)])
    assert (await desk.ops.coverage("night")).topics[0].current == 0.9


async def test_coverage_nobody_reports_any_more_leaves_the_store(
    desk: Desk, producer_settings: ProducerSettings
) -> None:
    """Rows of dead nodes, and of topics everybody left; those of nodes alive stay."""
    await desk.ops.record_coverage(
        [share({2: 9}), share({}, topic="event:over"), share({1: 1}, node_id="n2"), share({1: 1}, topic="event:over")]
    )
    await desk.ops.record_coverage([share({}, topic="event:over", node_id="n2", seq=2)])
    for _ in range(11):
        desk.clock.advance_ms(MINUTE)
        await desk.ops.record_coverage([share({2: 9}, topic="event:kept", node_id="n2", seq=3)])
    async with open_store(database_url(producer_settings.url()), clock=desk.clock, rehearse=False) as store:
        found = await store.read(lambda tx: tx.coverage.of_topics(["event:night", "event:over", "event:kept"], since=0))
    assert {topic: held.held for topic, held in found.items()} == {"event:night": {1: 1}, "event:kept": {2: 9}}


async def test_an_idempotency_key_answers_the_same_and_acts_once(desk: Desk) -> None:
    key = msgspec.structs.replace(ME, idempotency_key="k1", fingerprint="f1")
    first = await desk.ops.create(desk.draft(), key)
    assert await desk.ops.create(desk.draft(), key) == first
    cue = msgspec.structs.replace(ME, idempotency_key="k2", fingerprint="f2")
    said = await desk.ops.cue("night", "live", cue)
    assert await desk.ops.cue("night", "live", cue) == said
    assert all(isinstance(b, Broadcast) for b in said)
    assert len(await desk.ops.broadcasts("night")) == 1
    with pytest.raises(Conflict, match="another request"):
        await desk.ops.cue("night", "soon", msgspec.structs.replace(cue, fingerprint="f3"))
    with pytest.raises(Conflict, match="another request"):
        await desk.ops.cancel("night", cue)
    other = msgspec.structs.replace(cue, actor="somebody@example.org")
    assert await desk.ops.cue("night", "live", other) != said, "keys belong to their actor"
    desk.clock.advance_ms(24 * 60 * MINUTE + 1)
    assert await desk.ops.cue("night", "live", cue) != said, "keys are kept for a day"


async def test_a_refused_write_leaves_no_key_behind(desk: Desk) -> None:
    key = msgspec.structs.replace(ME, idempotency_key="k1", fingerprint="f1")
    with pytest.raises(NotFound):
        await desk.ops.cancel("night", key)
    await desk.ops.create(desk.draft(), ME)
    assert (await desk.ops.cancel("night", key)).cancelled


async def test_the_audit_trail_says_who_changed_what(desk: Desk) -> None:
    await desk.ops.create(desk.draft(), ME)
    await desk.ops.shift("night", MINUTE, msgspec.structs.replace(ME, actor="feed:league"))
    await desk.ops.cue("night", "live", ME)
    entries = await desk.ops.audit("night")
    assert [(e.actor, e.action) for e in entries] == [
        ("op@example.org", "create"),
        ("feed:league", "shift"),
        ("op@example.org", "cue"),
    ]
    assert entries[0].before is None
    assert (entries[1].before, entries[1].after) == (
        {"starts_at": desk.start},
        {"starts_at": desk.start + MINUTE},
    )
    assert await desk.ops.audit("night", limit=1, after=entries[0].sequence) == entries[1:2]


async def test_ids_and_source_entries_are_taken_once(desk: Desk) -> None:
    await desk.ops.create(desk.draft(source="league", source_uid="uid-1"), ME)
    with pytest.raises(Conflict, match="event_id"):
        await desk.ops.create(desk.draft(), ME)
    with pytest.raises(Conflict, match="source_uid"):
        await desk.ops.create(desk.draft(event_id="other", source="league", source_uid="uid-1"), ME)
    found = await desk.ops.find_by_source("league", "uid-1")
    assert found is not None
    assert found.event_id == "night"
    assert await desk.ops.find_by_source("league", "uid-2") is None


async def test_a_change_is_validated_as_a_whole(desk: Desk) -> None:
    await desk.ops.create(desk.draft(), ME)
    with pytest.raises(InvalidRequest, match="ends_at"):
        await desk.ops.change("night", EventPatch(ends_at=desk.start - 1), ME, if_revision=1)
    assert (await desk.ops.get("night")).revision == 1


async def test_paging_goes_through_all_events_once(desk: Desk) -> None:
    for number in range(5):
        await desk.ops.create(desk.draft(event_id=f"e{number}"), ME)
    seen: list[str] = []
    after: str | None = None
    while True:
        page = await desk.ops.page(limit=2, after=after)
        seen += [event.event_id for event in page.items]
        assert all(len(event.occurrences) == 4 for event in page.items)
        after = page.next_after
        if after is None:
            break
    assert seen == [f"e{n}" for n in range(5)]
    with pytest.raises(InvalidRequest):
        await desk.ops.page(limit=0)


async def test_the_preview_says_what_is_true_what_comes_and_what_waits(desk: Desk) -> None:
    await desk.ops.create(desk.draft(ends_at=desk.start + 90 * MINUTE), ME)
    await desk.step(50)
    entries = await desk.ops.preview("night")
    assert [(e.state_key, e.state) for e in entries] == [
        ("soon", OccurrenceState.DISPATCHED),
        ("live", OccurrenceState.ARMED),
        ("replay", OccurrenceState.ARMED),
        ("overtime", OccurrenceState.PLANNED),
    ]
    until = await desk.ops.preview("night", until=desk.start)
    assert [e.state_key for e in until] == ["soon", "live", "overtime"]


async def test_reach_sums_nodes_and_keeps_the_greatest_report(desk: Desk) -> None:
    await desk.ops.create(desk.draft(), ME)
    (said,) = await desk.ops.cue("night", "live", ME)
    one = ReachCount(
        node_id="n1", incarnation="a", topic=said.topic, timestamp=said.timestamp, subscribers=10, written=9, gaps=1
    )
    two = msgspec.structs.replace(one, node_id="n2", written=4, holes=2)
    await desk.ops.record_reach([one, two])
    await desk.ops.record_reach([msgspec.structs.replace(one, written=3), msgspec.structs.replace(two, acked=1)])
    (reach,) = await desk.ops.reach("night")
    assert (reach.state_key, reach.cause, reach.nodes) == ("live", Cause.CUE, 2)
    assert (reach.subscribers, reach.written, reach.acked, reach.told) == (20, 13, 1, 4)


async def test_routed_at_is_the_earliest_of_all_reports_and_nodes(desk: Desk) -> None:
    """Whatever the order of reports: a later time or none at all never replaces an earlier one."""
    await desk.ops.create(desk.draft(), ME)
    (said,) = await desk.ops.cue("night", "live", ME)

    async def routed(node_id: str, at: int | None) -> int | None:
        await desk.ops.record_reach(
            [ReachCount(node_id=node_id, incarnation="a", topic=said.topic, timestamp=said.timestamp, routed_at=at)]
        )
        (reach,) = await desk.ops.reach("night")
        return reach.routed_at

    t = said.timestamp
    assert (await desk.ops.reach("night"))[0].routed_at is None
    assert await routed("n1", None) is None
    assert await routed("n1", t + 9) == t + 9
    assert await routed("n1", t + 20) == t + 9
    assert await routed("n1", None) == t + 9
    assert await routed("n1", t + 7) == t + 7
    assert await routed("n2", None) == t + 7
    assert await routed("n2", t + 8) == t + 7
    assert await routed("n2", t + 5) == t + 5


async def test_unknown_events_are_not_found(desk: Desk) -> None:
    for attempt in (
        desk.ops.get("nothing"),
        desk.ops.change("nothing", EventPatch(title="x"), ME, if_revision=None),
        desk.ops.cue("nothing", "live", ME),
        desk.ops.preview("nothing"),
        desk.ops.broadcasts("nothing"),
        desk.ops.reach("nothing"),
        desk.ops.coverage("nothing"),
        desk.ops.audit("nothing"),
    ):
        with pytest.raises(NotFound):
            await attempt


async def test_a_lost_epoch_dispatches_nothing(desk: Desk) -> None:
    """R3: somebody took the lease meanwhile; the transaction that would dispatch finds out."""
    await desk.ops.create(desk.draft(), ME)
    lease, publishing, dispatcher, *_ = desk.producer.services
    assert isinstance(lease, LeaseKeeper)
    assert isinstance(publishing, PublishingService)
    assert isinstance(dispatcher, Dispatcher)
    await lease.compete()
    assert lease.epoch is not None
    lease.epoch -= 1
    desk.clock.advance_ms(60 * MINUTE)
    with pytest.raises(LeaseLost):
        await dispatcher.dispatch_due()
    with pytest.raises(LeaseLost):
        await publishing.publish_waiting()
    assert await desk.ops.broadcasts("night") == ()


async def test_a_stepped_database_clock_costs_the_lease_until_anchored_anew(desk: Desk) -> None:
    lease = desk.producer.services[0]
    assert isinstance(lease, LeaseKeeper)
    assert await lease.compete()
    epoch = lease.epoch
    desk.clock.step_ms(501)
    assert not await lease.compete()
    given_up: int | None = lease.epoch
    assert await lease.compete()
    assert (epoch, given_up, lease.epoch) == (1, None, 2)


async def test_an_event_that_cannot_be_dispatched_does_not_hold_up_the_others(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(state, now, *, late_after_ms):  # type: ignore[no-untyped-def]
        if state.event.event_id == "bad":
            raise RuntimeError("broken row")
        return due_now(state, now, late_after_ms=late_after_ms)

    monkeypatch.setattr("message_producer.dispatch.due_now", broken)
    for name in ("bad", "good"):
        await desk.ops.create(desk.draft(event_id=name), ME)
    assert await desk.said(60) == [("event:good", "live")]


async def test_another_process_reads_the_same_log(desk: Desk) -> None:
    """A log opened apart from the producer: assigned from the committed offset, then follows by looking."""
    await desk.ops.create(desk.draft(), ME)
    await desk.step(45)
    async with open_log(desk.settings, clock=desk.clock, readiness=Readiness(), consumer="other") as shared:
        log = shared.log
        first = await log.poll(max_entries=1, timeout_s=0)
        assert first.assigned == {0: 0}
        assert first.entries[0].schedule is not None
        await log.commit({0: first.entries[0].offset + 1})
        second = await log.poll(max_entries=10, timeout_s=0)
        assert [e.broadcast.state_key for e in second.entries if e.broadcast] == ["soon"]
        await desk.step(15)
        third = await log.poll(max_entries=10, timeout_s=1)
        assert [e.broadcast.state_key for e in third.entries if e.broadcast] == ["live"]
    async with open_log(desk.settings, clock=desk.clock, readiness=Readiness(), consumer="other") as shared:
        log = shared.log
        again = await log.poll(max_entries=10, timeout_s=0)
        assert again.assigned == {0: 2}
        assert [e.broadcast.state_key for e in again.entries if e.broadcast] == ["soon", "live"]


async def test_the_log_rereads_from_an_instant(desk: Desk) -> None:
    await desk.ops.create(desk.draft(), ME)
    await desk.step(45)
    await desk.step(15)
    every = [e async for e in desk.producer.log.reread(0, since_ms=0)]
    assert [e.broadcast.state_key for e in every if e.broadcast] == ["soon", "live"]
    late = [e async for e in desk.producer.log.reread(0, since_ms=desk.start)]
    assert [e.broadcast.state_key for e in late if e.broadcast] == ["live"]
    assert [e async for e in desk.producer.log.reread(1, since_ms=0)] == []


async def test_the_log_rereads_the_newest_of_every_topic_however_old(desk: Desk) -> None:
    """Goal: a restart days after the last stage still knows which state that was, as a store that only trims does.

    Else a device that slept since before it would be told `ahead` and keep an older state for good (R9, R15).
    """
    await desk.ops.create(desk.draft(audiences=(Audience(), Audience(name="west", regions=("US",)))), ME)
    await desk.step(45)
    await desk.step(15)
    again = [e async for e in desk.producer.log.reread(0, since_ms=desk.clock.now_ms() + MINUTE)]
    newest = {e.broadcast.topic: e.broadcast for e in again if e.broadcast}
    assert {topic: b.state_key for topic, b in newest.items()} == {"event:night": "live", "event:night@west": "live"}
    assert len(again) == 2
    assert [e.offset for e in again] == sorted(e.offset for e in again)


async def test_memory_and_database_give_the_log_the_same(desk: Desk) -> None:
    """A poller that lags behind the tail kept in memory reads the rest from the database, without a gap."""
    await desk.ops.create(desk.draft(broadcast_budget_per_hour=3600), ME)
    heard = [e.offset for e in await desk.step()]
    for number in range(30):
        await desk.ops.cue("night", "live" if number % 2 else "overtime", ME)
        publishing = desk.producer.services[1]
        assert isinstance(publishing, PublishingService)
        await publishing.publish_waiting()
        if number % 7 == 0:
            heard += [e.offset for e in (await desk.producer.log.poll(max_entries=3, timeout_s=0)).entries]
    while entries := (await desk.producer.log.poll(max_entries=3, timeout_s=0)).entries:
        heard += [e.offset for e in entries]
    broadcasts = {e.position for e in await desk.ops.broadcasts("night")}
    assert broadcasts <= set(heard)
    assert heard == sorted(set(heard))


async def test_text_no_store_can_keep_is_refused_everywhere(desk: Desk) -> None:
    """Goal: PostgreSQL keeps no NUL; the answer names the field, and is the same on a store that would keep it."""
    for field in ("title", "source", "source_uid"):
        with pytest.raises(InvalidRequest, match="NUL") as refused:
            await desk.ops.create(desk.draft(**{field: "a\0b"}), ME)
        assert refused.value.field == field
    with pytest.raises((NotFound, InvalidRequest)):
        await desk.ops.get("a\0b")


async def test_the_same_event_created_twice_at_once_is_there_once(desk: Desk) -> None:
    """Goal: who comes second is told so, not that the store failed; with the same key both get the same answer."""
    outcomes = await asyncio.gather(*(desk.ops.create(desk.draft(), ME) for _ in range(4)), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict"] * 3 + ["LiveEvent"]
    keyed = WriteContext(actor="op", idempotency_key="k", fingerprint="f")
    other = desk.draft(event_id="other")
    first, *rest = await asyncio.gather(*(desk.ops.create(other, keyed) for _ in range(4)))
    assert all(answer == first for answer in rest)
    cues = await asyncio.gather(*(desk.ops.cue("other", "live", ME) for _ in range(4)))
    stamps = sorted(broadcast.timestamp for sent in cues for broadcast in sent)
    assert len(set(stamps)) == 4, "cues of one event never share a timestamp (R1)"
    log = [entry.broadcast for entry in await desk.ops.broadcasts("other")]
    assert [b.prev for b in log] == [0, *(b.timestamp for b in log[:-1])]


async def test_a_rehearsal_plays_the_plan_on_its_own_topic_and_leaves_the_event_alone(desk: Desk) -> None:
    before = await desk.ops.create(desk.draft(), ME)
    await desk.step()
    shadow = await desk.ops.rehearse("night", ShadowPlan(begins_in_ms=1_000, over_ms=10_000), ME)
    topic = topic_of(shadow.event_id, shadow=True)
    published = [(e.schedule.topic, e.schedule.shadow_of) for e in await desk.step() if e.schedule]
    assert published == [(topic, "night")]
    desk.clock.advance_ms(1_000)
    assert await desk.said() == [(topic, "soon")]
    desk.clock.advance_ms(10_000)
    assert await desk.said() == [(topic, "live")]
    assert await desk.ops.get("night") == before
    assert await desk.ops.broadcasts("night") == ()
    assert await desk.said(44) == []
    assert await desk.said(1) == [("event:night", "soon")]


async def test_a_rehearsal_can_be_shifted_cued_and_called_off_like_an_event(desk: Desk) -> None:
    await desk.ops.create(desk.draft(), ME)
    shadow = await desk.ops.rehearse("night", ShadowPlan(begins_in_ms=900_000, over_ms=10_000), ME)
    topic = topic_of(shadow.event_id, shadow=True)
    await desk.ops.shift(shadow.event_id, -899_000, ME)
    desk.clock.advance_ms(1_000)
    assert await desk.said() == [(topic, "soon")]
    await desk.ops.cue(shadow.event_id, "overtime", ME)
    await desk.ops.cancel(shadow.event_id, ME)
    assert await desk.said(60) == [(topic, "overtime"), (topic, "cancelled"), ("event:night", "live")]


async def test_lists_have_rehearsals_only_for_who_asks(desk: Desk) -> None:
    await desk.ops.create(desk.draft(), ME)
    shadow = await desk.ops.rehearse("night", ShadowPlan(begins_in_ms=1_000, over_ms=10_000), ME)
    assert [event.event_id for event in (await desk.ops.page(limit=10)).items] == ["night"]
    both = (await desk.ops.page(limit=10, shadows=True)).items
    assert [event.event_id for event in both] == ["night", shadow.event_id]
    assert both[1].shadow_of == "night"


async def test_rehearsals_are_bounded_and_old_ones_forgotten(desk: Desk) -> None:
    await desk.ops.create(desk.draft(), ME)
    how = ShadowPlan(begins_in_ms=1_000, over_ms=10_000)
    shadows = [await desk.ops.rehearse("night", how, ME) for _ in range(OPEN_SHADOWS_MAX)]
    with pytest.raises(Conflict, match="8 rehearsals are under way"):
        await desk.ops.rehearse("night", how, ME)
    await desk.step()
    desk.clock.advance_ms(11_000)
    assert len(await desk.said()) == OPEN_SHADOWS_MAX
    another = await desk.ops.rehearse("night", how, ME)
    assert (await desk.ops.get(shadows[0].event_id)).shadow_of == "night"
    await desk.step(61)
    await desk.ops.rehearse("night", how, ME)
    for gone in (*shadows, another):
        with pytest.raises(NotFound):
            await desk.ops.get(gone.event_id)


async def test_a_cancelled_event_is_not_rehearsed(desk: Desk) -> None:
    await desk.ops.create(desk.draft(), ME)
    await desk.ops.cancel("night", ME)
    with pytest.raises(Conflict, match="is cancelled"):
        await desk.ops.rehearse("night", ShadowPlan(begins_in_ms=0, over_ms=10_000), ME)
