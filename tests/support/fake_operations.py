"""The producer's Operations in memory: enough of the contract to test interfaces without a store."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from contract.broadcast import Broadcast, Cause
from contract.clock import ManualClock
from contract.coverage import TopicCoverage
from contract.errors import BudgetSpent, Conflict, InvalidRequest, NotFound, RevisionConflict, UnknownStage
from contract.names import check_event_id, topic_of
from contract.reach import ReachCount
from message_producer.coverage import EventCoverage, StageCoverage, TopicHoldings, TopicStanding
from message_producer.drafts import draft_of
from message_producer.model import (
    Anchor,
    AuditEntry,
    BroadcastReach,
    EventDraft,
    EventPatch,
    LiveEvent,
    Occurrence,
    OccurrenceState,
    OutboxEntry,
    Page,
    PreviewEntry,
    Stage,
    WriteContext,
)
from message_producer.shadows import ShadowPlan, shadow_draft

__all__ = ["FakeOperations"]


class FakeOperations:
    """One dict of events. `fail_with` makes the next call raise; `budget` bounds cues; `writes` counts changes."""

    def __init__(self, clock: ManualClock | None = None) -> None:
        self.clock = clock or ManualClock()
        self.events: dict[str, LiveEvent] = {}
        self.outbox: list[OutboxEntry] = []
        self.trail: list[AuditEntry] = []
        self.reached: list[ReachCount] = []
        self.covered: list[TopicCoverage] = []
        self.budget = 60
        self.writes = 0
        self.fail_with: Exception | None = None
        self._keys: dict[tuple[str, str], tuple[str, object]] = {}

    async def create(self, draft: EventDraft, context: WriteContext) -> LiveEvent:
        if (known := self._replayed(context)) is not None:
            assert isinstance(known, LiveEvent)
            return known
        check_event_id(draft.event_id)
        self._check(draft)
        if draft.event_id in self.events:
            raise Conflict(f"event {draft.event_id!r} exists", field="event_id", rule="ids are used once")
        now = self.clock.now_ms()
        fields = {name: getattr(draft, name) for name in draft.__struct_fields__}
        event = LiveEvent(**fields, revision=1, version=1, created_at=now, updated_at=now)
        return self._store(event, context, "create", None)

    async def get(self, event_id: str) -> LiveEvent:
        self._maybe_fail()
        if event_id not in self.events:
            raise NotFound(f"no event {event_id!r}", field="event_id")
        return self.events[event_id]

    async def find_by_source(self, source: str, source_uid: str) -> LiveEvent | None:
        self._maybe_fail()
        return next((e for e in self.events.values() if (e.source, e.source_uid) == (source, source_uid)), None)

    async def page(self, *, limit: int, after: str | None = None, shadows: bool = False) -> Page:
        self._maybe_fail()
        listed = [name for name, event in self.events.items() if shadows or event.shadow_of is None]
        ids = sorted(name for name in listed if after is None or name > after)
        items = tuple(self.events[name] for name in ids[:limit])
        return Page(items=items, next_after=ids[limit - 1] if len(ids) > limit else None)

    async def change(
        self, event_id: str, patch: EventPatch, context: WriteContext, *, if_revision: int | None
    ) -> LiveEvent:
        if (known := self._replayed(context)) is not None:
            assert isinstance(known, LiveEvent)
            return known
        before = await self._open(event_id, if_revision)
        changes = {
            name: value
            for name in patch.__struct_fields__
            if (value := getattr(patch, name)) is not msgspec.UNSET
        }  # fmt: skip
        after = msgspec.structs.replace(before, **changes)
        self._check(after)
        if after == before:
            return before
        return self._store(self._risen(after), context, "change", before)

    async def shift(
        self, event_id: str, by_ms: int, context: WriteContext, *, if_revision: int | None = None
    ) -> LiveEvent:
        if (known := self._replayed(context)) is not None:
            assert isinstance(known, LiveEvent)
            return known
        before = await self._open(event_id, if_revision)
        ends_at = None if before.ends_at is None else before.ends_at + by_ms
        after = msgspec.structs.replace(before, starts_at=before.starts_at + by_ms, ends_at=ends_at)
        return self._store(self._risen(after), context, "shift", before)

    async def cancel(self, event_id: str, context: WriteContext, *, if_revision: int | None = None) -> LiveEvent:
        if (known := self._replayed(context)) is not None:
            assert isinstance(known, LiveEvent)
            return known
        before = await self._open(event_id, if_revision)
        return self._store(self._risen(msgspec.structs.replace(before, cancelled=True)), context, "cancel", before)

    async def rehearse(self, event_id: str, plan: ShadowPlan, context: WriteContext) -> LiveEvent:
        draft = shadow_draft(draft_of(await self.get(event_id)), f"shadow-{self.writes}", plan, self.clock.now_ms())
        return await self.create(draft, context)

    async def cue(
        self,
        event_id: str,
        stage_key: str,
        context: WriteContext,
        *,
        audience: str | None = None,
        override_coverage: bool = False,
    ) -> tuple[Broadcast, ...]:
        if (known := self._replayed(context)) is not None:
            assert isinstance(known, tuple)
            return known
        event = await self._open(event_id, None)
        if stage_key not in {stage.key for stage in event.stages}:
            raise UnknownStage(f"event {event_id!r} has no stage {stage_key!r}", field="stage", rule="a stage key")
        names = [item.name for item in event.audiences]
        if audience is not None and audience not in names:
            raise InvalidRequest(f"no audience {audience!r}", field="audience", rule=f"one of {', '.join(names)}")
        if len(self.outbox) >= self.budget:
            raise BudgetSpent("budget spent", rule=f"{self.budget} broadcasts per topic and hour", retry_after_s=60.0)
        timestamp = max(self.clock.now_ms(), event.last_timestamp + 1)
        sent = tuple(
            Broadcast(
                topic=topic_of(event_id, name),
                state_key=stage_key,
                timestamp=timestamp + index,
                prev=0,
                event_id=event_id,
                cause=Cause.CUE,
                dispatched_at=self.clock.now_ms(),
            )
            for index, name in enumerate(names if audience is None else [audience])
        )
        self.outbox += [OutboxEntry(position=len(self.outbox) + 1 + i, broadcast=b) for i, b in enumerate(sent)]
        self._store(msgspec.structs.replace(event, last_timestamp=sent[-1].timestamp), context, "cue", event)
        self._remember(context, sent)
        return sent

    async def announce_content(self, event_id: str, context: WriteContext) -> LiveEvent:
        before = await self._open(event_id, None)
        after = msgspec.structs.replace(self._risen(before), version=before.version + 1)
        return self._store(after, context, "content", before)

    async def preview(self, event_id: str, *, until: int | None = None) -> tuple[PreviewEntry, ...]:
        event = await self.get(event_id)
        entries = (
            PreviewEntry(
                topic=topic_of(event_id, audience.name),
                audience=audience.name,
                state_key=stage.key,
                due_at=_due(event, stage),
                state=OccurrenceState.ARMED,
                headline=stage.headline,
            )
            for audience in event.audiences
            for stage in event.stages
        )
        return tuple(e for e in entries if until is None or (e.due_at is not None and e.due_at <= until))

    async def broadcasts(self, event_id: str) -> tuple[OutboxEntry, ...]:
        await self.get(event_id)
        return tuple(entry for entry in self.outbox if entry.broadcast.event_id == event_id)

    async def reach(self, event_id: str) -> tuple[BroadcastReach, ...]:
        sent = [entry.broadcast for entry in await self.broadcasts(event_id)]
        return tuple(
            BroadcastReach(
                topic=b.topic, state_key=b.state_key, timestamp=b.timestamp, cause=b.cause,
                dispatched_at=b.dispatched_at, nodes=2, subscribers=500, written=498, replayed=2, acked=5,
            )
            for b in sent
        )  # fmt: skip

    async def audit(self, event_id: str, *, limit: int = 100, after: int = 0) -> tuple[AuditEntry, ...]:
        await self.get(event_id)
        return tuple(e for e in self.trail if e.event_id == event_id and e.sequence > after)[:limit]

    async def record_reach(self, counts: Sequence[ReachCount]) -> None:
        self.reached += counts

    async def coverage(self, event_id: str) -> EventCoverage:
        event = await self.get(event_id)
        held = {event.version: 8, 0: 2}
        topics = tuple(
            TopicStanding(
                audience=audience.name,
                holdings=TopicHoldings(topic=topic_of(event_id, audience.name), nodes=1, held=held),
                current=0.8,
                stages=tuple(
                    StageCoverage(stage_key=stage.key, version=event.version, holders=8, share=0.8, enough=True)
                    for stage in event.stages[1:]
                    if event.version > 1
                ),
            )
            for audience in event.audiences
        )
        return EventCoverage(version=event.version, threshold=event.coverage_threshold, topics=topics)

    async def record_coverage(self, shares: Sequence[TopicCoverage]) -> None:
        self.covered += shares

    def _maybe_fail(self) -> None:
        if self.fail_with is not None:
            failing, self.fail_with = self.fail_with, None
            raise failing

    def _check(self, draft: EventDraft) -> None:
        if draft.ends_at is not None and draft.ends_at <= draft.starts_at:
            raise InvalidRequest("not after the start", field="ends_at", rule="an event ends after it starts")
        keys = [stage.key for stage in draft.stages]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise InvalidRequest(f"{key!r} is there twice", field=f"stages[{index}].key", rule="each key once")

    def _replayed(self, context: WriteContext) -> object | None:
        self._maybe_fail()
        if context.idempotency_key is None:
            return None
        known = self._keys.get((context.actor, context.idempotency_key))
        if known is None:
            return None
        if known[0] != context.fingerprint:
            raise Conflict("key was used for another request", field="Idempotency-Key", rule="a key per request")
        return known[1]

    def _remember(self, context: WriteContext, result: object) -> None:
        if context.idempotency_key is not None:
            self._keys[context.actor, context.idempotency_key] = (context.fingerprint, result)

    async def _open(self, event_id: str, if_revision: int | None) -> LiveEvent:
        event = await self.get(event_id)
        if if_revision is not None and if_revision != event.revision:
            raise RevisionConflict(f"revision {if_revision} is not current", field="If-Match", rule="the newest ETag")
        if event.cancelled:
            raise Conflict("the event is cancelled", rule="a cancelled event does not change")
        return event

    def _risen(self, event: LiveEvent) -> LiveEvent:
        return msgspec.structs.replace(event, revision=event.revision + 1, updated_at=self.clock.now_ms())

    def _store(self, event: LiveEvent, context: WriteContext, action: str, before: LiveEvent | None) -> LiveEvent:
        occurrences = tuple(
            Occurrence(
                topic=topic_of(event.event_id, audience.name), stage_key=stage.key, arming=event.revision,
                state=OccurrenceState.ARMED, order=order, due_at=_due(event, stage),
            )
            for audience in event.audiences
            for order, stage in enumerate(event.stages)
        )  # fmt: skip
        event = msgspec.structs.replace(event, occurrences=occurrences)
        self.events[event.event_id] = event
        self.writes += 1
        self.trail.append(
            AuditEntry(
                sequence=len(self.trail) + 1, at=self.clock.now_ms(), actor=context.actor, action=action,
                event_id=event.event_id, before=None if before is None else {"revision": before.revision},
                after={"revision": event.revision},
            )
        )  # fmt: skip
        self._remember(context, event)
        return event


def _due(event: LiveEvent, stage: Stage) -> int | None:
    base = {Anchor.START: event.starts_at, Anchor.END: event.ends_at, Anchor.ABSOLUTE: stage.at}.get(stage.anchor)
    return None if base is None else base + stage.offset_ms
