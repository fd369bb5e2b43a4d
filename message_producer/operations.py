"""Everything an operator or a feed can do, as transactions on the schedule store (see ports.Operations)."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from contract.broadcast import Broadcast
from contract.clock import Clock
from contract.coverage import TopicCoverage
from contract.errors import BudgetSpent, Conflict, InvalidRequest, NotFound, RevisionConflict
from contract.reach import ReachCount
from message_producer.coverage import EventCoverage, TopicHoldings, check_coverage, coverage_of
from message_producer.coverage_records import CoverageRecords
from message_producer.drafts import apply_patch, audience_topic, differences, draft_of, shifted
from message_producer.model import (
    AuditEntry,
    BroadcastReach,
    EventDraft,
    EventPatch,
    EventState,
    LiveEvent,
    OutboxEntry,
    Page,
    PreviewEntry,
    WriteContext,
)
from message_producer.published_schedule import preview, topic_schedules
from message_producer.reach_records import store_reach
from message_producer.shadows import OPEN_SHADOWS_MAX, ShadowPlan, is_over, outlived, shadow_draft
from message_producer.store import Store, Transaction
from message_producer.timeline import Outcome, after_cancel, after_change, after_content, after_cue, plan
from message_producer.validation import check_cue, check_draft, check_shift
from message_producer.wakeups import Wakeups

__all__ = ["StoreOperations"]

T = TypeVar("T")
_HOUR_MS: Final = 3_600_000
_KEEP_KEYS_MS: Final = 24 * _HOUR_MS
_PAGE_MAX: Final = 500
_BROADCASTS_MAX: Final = 1000
"""Broadcasts and reach of an event go back this far."""
SCHEDULE_FAILPOINTS: Final = ("producer.schedule.before_commit", "producer.schedule.after_commit")


class StoreOperations:
    """Operations on a Store. Every method is one transaction; `wakeups` tell the dispatcher and the publisher."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        wakeups: Wakeups,
        *,
        coverage_fresh_ms: int,
        late_after_ms: int,
        new_shadow_id: Callable[[], str] = lambda: f"shadow-{secrets.token_hex(6)}",
    ) -> None:
        self._store = store
        self._new_shadow_id = new_shadow_id
        self._clock = clock
        self._wakeups = wakeups
        self._coverage_fresh_ms = coverage_fresh_ms
        self._coverage_records = CoverageRecords(store)
        self._late_after_ms = late_after_ms

    async def create(self, draft: EventDraft, context: WriteContext) -> LiveEvent:
        check_draft(draft)

        def work(tx: Transaction) -> LiveEvent:
            if tx.events.load(draft.event_id) is not None:
                raise Conflict(f"{draft.event_id!r} exists", field="event_id", rule="one event per id; change it")
            if draft.source_uid is not None:
                other = tx.events.find_by_source(draft.source, draft.source_uid)
                if other is not None:
                    raise Conflict(f"is {other!r} already", field="source_uid", rule="one event per entry of a source")
            state = plan(draft, self._clock.now_ms()).state
            tx.events.insert(state)
            tx.outbox.put_schedules(topic_schedules(state))
            tx.journal.audit(
                state.event.created_at, context.actor, "create", draft.event_id, None, msgspec.to_builtins(draft)
            )
            return state.event

        return await self._write("create", context, LiveEvent, work)

    async def get(self, event_id: str) -> LiveEvent:
        return (await self._state(event_id)).event

    async def find_by_source(self, source: str, source_uid: str) -> LiveEvent | None:
        def work(tx: Transaction) -> LiveEvent | None:
            event_id = tx.events.find_by_source(source, source_uid)
            return None if event_id is None else _existing(tx, event_id).event

        return await self._store.read(work)

    async def page(self, *, limit: int, after: str | None = None, shadows: bool = False) -> Page:
        limit = _check_limit(limit)
        found = await self._store.read(lambda tx: tx.events.page(limit + 1, after, shadows=shadows))
        items = found[:limit]
        return Page(items=items, next_after=items[-1].event_id if len(found) > limit else None)

    async def change(
        self, event_id: str, patch: EventPatch, context: WriteContext, *, if_revision: int | None
    ) -> LiveEvent:
        return await self._change("change", event_id, context, if_revision, lambda draft: apply_patch(draft, patch))

    async def shift(
        self, event_id: str, by_ms: int, context: WriteContext, *, if_revision: int | None = None
    ) -> LiveEvent:
        check_shift(by_ms)
        return await self._change("shift", event_id, context, if_revision, lambda draft: shifted(draft, by_ms))

    async def cancel(self, event_id: str, context: WriteContext, *, if_revision: int | None = None) -> LiveEvent:
        def work(tx: Transaction) -> LiveEvent:
            state = _open(tx, event_id, if_revision)
            outcome = after_cancel(state, self._clock.now_ms())
            return self._store_outcome(tx, context, "cancel", state, outcome, {"cancelled": False}, {"cancelled": True})

        return await self._write("cancel", context, LiveEvent, work)

    async def rehearse(self, event_id: str, shadow: ShadowPlan, context: WriteContext) -> LiveEvent:
        def work(tx: Transaction) -> LiveEvent:
            now = self._clock.now_ms()
            real = _existing(tx, event_id).event
            if real.cancelled:
                raise Conflict(f"{event_id!r} is cancelled", field="event_id", rule="an event that is to take place")
            draft = check_draft(shadow_draft(draft_of(real), self._new_shadow_id(), shadow, now))
            _make_room(tx, now)
            state = plan(draft, now).state
            tx.events.insert(state)
            tx.outbox.put_schedules(topic_schedules(state))
            tx.journal.audit(now, context.actor, "rehearse", event_id, None, {"shadow": draft.event_id})
            tx.journal.audit(now, context.actor, "create", draft.event_id, None, msgspec.to_builtins(draft))
            return state.event

        return await self._write("rehearse", context, LiveEvent, work)

    async def cue(
        self,
        event_id: str,
        stage_key: str,
        context: WriteContext,
        *,
        audience: str | None = None,
        override_coverage: bool = False,
    ) -> tuple[Broadcast, ...]:
        def work(tx: Transaction) -> tuple[Broadcast, ...]:
            state = _open(tx, event_id, None)
            now = self._clock.now_ms()
            topics = _cued_topics(state.event, stage_key, audience)
            holdings = {} if override_coverage else self._holdings(tx, topics)
            for topic in topics:
                self._check_budget(tx, state.event, topic, now)
                if not override_coverage:
                    check_coverage(state, stage_key, holdings.get(topic) or TopicHoldings(topic=topic))
            outcome = after_cue(state, stage_key, topics, now)
            sent = tuple(one.broadcast for one in outcome.sent)
            facts: dict[str, object] = {
                "stage": stage_key,
                "audience": audience,
                "override_coverage": override_coverage,
                "timestamps": {broadcast.topic: broadcast.timestamp for broadcast in sent},
            }
            told = {topic.topic: topic.announced for topic in state.topics if topic.topic in topics}
            self._store_outcome(tx, context, "cue", state, outcome, {"announced": told}, facts)
            return sent

        return await self._write("cue", context, tuple[Broadcast, ...], work, dispatches=True)

    async def announce_content(self, event_id: str, context: WriteContext) -> LiveEvent:
        def work(tx: Transaction) -> LiveEvent:
            state = _open(tx, event_id, None)
            outcome = after_content(state, self._clock.now_ms())
            before, after = state.event.version, outcome.state.event.version
            return self._store_outcome(
                tx, context, "announce_content", state, outcome, {"version": before}, {"version": after}
            )

        return await self._write("announce_content", context, LiveEvent, work)

    async def preview(self, event_id: str, *, until: int | None = None) -> tuple[PreviewEntry, ...]:
        return preview(await self._state(event_id), self._clock.now_ms(), until)

    async def broadcasts(self, event_id: str) -> tuple[OutboxEntry, ...]:
        def work(tx: Transaction) -> tuple[OutboxEntry, ...]:
            _existing(tx, event_id)
            return tx.outbox.of_event(event_id, _BROADCASTS_MAX)

        return await self._store.read(work)

    async def reach(self, event_id: str) -> tuple[BroadcastReach, ...]:
        def work(tx: Transaction) -> tuple[BroadcastReach, ...]:
            _existing(tx, event_id)
            return tx.reach.of_event(event_id, _BROADCASTS_MAX)

        return await self._store.read(work)

    async def coverage(self, event_id: str) -> EventCoverage:
        def work(tx: Transaction) -> EventCoverage:
            state = _existing(tx, event_id)
            return coverage_of(state, self._holdings(tx, [topic.topic for topic in state.topics]))

        return await self._store.read(work)

    async def audit(self, event_id: str, *, limit: int = 100, after: int = 0) -> tuple[AuditEntry, ...]:
        limit = _check_limit(limit)

        def work(tx: Transaction) -> tuple[AuditEntry, ...]:
            _existing(tx, event_id)
            return tx.journal.audit_of(event_id, limit, after)

        return await self._store.read(work)

    async def record_reach(self, counts: Sequence[ReachCount]) -> None:
        await store_reach(self._store, counts)

    async def record_coverage(self, shares: Sequence[TopicCoverage]) -> None:
        await self._coverage_records.record(shares)

    def _holdings(self, tx: Transaction, topics: Sequence[str]) -> Mapping[str, TopicHoldings]:
        return tx.coverage.of_topics(topics, tx.leases.database_now_ms() - self._coverage_fresh_ms)

    async def _state(self, event_id: str) -> EventState:
        return await self._store.read(lambda tx: _existing(tx, event_id))

    async def _change(
        self,
        action: str,
        event_id: str,
        context: WriteContext,
        if_revision: int | None,
        changed: Callable[[EventDraft], EventDraft],
    ) -> LiveEvent:
        def work(tx: Transaction) -> LiveEvent:
            state = _open(tx, event_id, if_revision)
            before = draft_of(state.event)
            draft = check_draft(changed(before))
            if draft == before:
                return state.event  # nothing to publish, nothing to tell
            outcome = after_change(state, draft, self._clock.now_ms(), late_after_ms=self._late_after_ms)
            return self._store_outcome(tx, context, action, state, outcome, *differences(before, draft))

        return await self._write(action, context, LiveEvent, work)

    def _store_outcome(
        self,
        tx: Transaction,
        context: WriteContext,
        action: str,
        before: EventState,
        outcome: Outcome,
        was: dict[str, object],
        became: dict[str, object],
    ) -> LiveEvent:
        event = outcome.state.event
        tx.events.save(before, outcome)
        tx.outbox.put_schedules(topic_schedules(outcome.state))
        tx.journal.audit(event.updated_at, context.actor, action, event.event_id, was, became)
        return event

    async def _write(
        self,
        action: str,
        context: WriteContext,
        kind: type[T],
        work: Callable[[Transaction], T],
        *,
        dispatches: bool = False,
    ) -> T:
        """Run `work` once per idempotency key, and remember its answer in the same transaction."""

        def once(tx: Transaction) -> T:
            now = self._clock.now_ms()
            known = tx.journal.recall(context, now, keep_ms=_KEEP_KEYS_MS)
            if known is not None:
                if (known.action, known.fingerprint) != (action, context.fingerprint):
                    raise Conflict(
                        "was used for another request", field="Idempotency-Key", rule="one key, one request, 24 hours"
                    )
                return msgspec.json.decode(known.response, type=kind)
            result = work(tx)
            tx.journal.remember(context, action, msgspec.json.encode(result), now, keep_ms=_KEEP_KEYS_MS)
            tx.tell_others()  # whoever leads may be another process
            return result

        result = await self._store.write(once, failpoints=_points(dispatches))
        self._wakeups.committed()
        return result

    def _check_budget(self, tx: Transaction, event: LiveEvent, topic: str, now: int) -> None:
        spent = tx.outbox.dispatched_since(topic, now - _HOUR_MS)
        over = len(spent) - event.broadcast_budget_per_hour
        if over >= 0:
            raise BudgetSpent(
                f"{topic} had {len(spent)} broadcasts in the last hour",
                field="stage",
                rule=f"at most {event.broadcast_budget_per_hour} per topic and hour",
                retry_after_s=max(0, spent[over] + _HOUR_MS - now) / 1000,
            )


def _points(dispatches: bool) -> tuple[str, str]:
    if dispatches:
        return "producer.dispatch.before_commit", "producer.dispatch.after_commit"
    return SCHEDULE_FAILPOINTS


def _existing(tx: Transaction, event_id: str, *, lock: bool = False) -> EventState:
    state = tx.events.load(event_id, lock=lock)
    if state is None:
        raise NotFound(f"no event {event_id[:80]!r}", field="event_id")
    return state


def _open(tx: Transaction, event_id: str, if_revision: int | None) -> EventState:
    """The event, locked, at the revision asked for, and not cancelled."""
    state = _existing(tx, event_id, lock=True)
    revision = state.event.revision
    if if_revision is not None and if_revision != revision:
        raise RevisionConflict(
            f"the event is at revision {revision}, not {if_revision}",
            field="If-Match",
            rule="read it again and repeat the change",
        )
    if state.event.cancelled:
        raise Conflict(f"{event_id!r} is cancelled", field="event_id", rule="a cancelled event changes no more")
    return state


def _make_room(tx: Transaction, now: int) -> None:
    """Forget rehearsals long over. Raises Conflict while too many are under way."""
    held = tx.events.shadows()
    gone = [state.event.event_id for state in held if outlived(state, now)]
    if gone:
        tx.events.forget(gone)
    under_way = sum(not is_over(state, now) for state in held)
    if under_way >= OPEN_SHADOWS_MAX:
        raise Conflict(
            f"{under_way} rehearsals are under way", field="event_id", rule=f"at most {OPEN_SHADOWS_MAX} at a time"
        )


def _cued_topics(event: LiveEvent, stage_key: str, audience: str | None) -> tuple[str, ...]:
    """The topics a cue goes to: those of the audience, or of all audiences, that have the stage."""
    names = [one.name for one in event.audiences]
    if audience is not None and audience not in names:
        raise InvalidRequest(f"{audience[:80]!r} is no audience", field="audience", rule="one of " + ", ".join(names))
    topics = [audience_topic(event, name) for name in (names if audience is None else [audience])]
    order = {stage.key: number for number, stage in enumerate(event.stages)}
    known = sorted({o.stage_key for o in event.occurrences if o.topic in topics}, key=lambda key: order[key])
    check_cue(stage_key, known)
    having = {o.topic for o in event.occurrences if o.stage_key == stage_key}
    return tuple(topic for topic in topics if topic in having)


def _check_limit(limit: int) -> int:
    if not 1 <= limit <= _PAGE_MAX:
        raise InvalidRequest(f"{limit} is out of range", field="limit", rule=f"1-{_PAGE_MAX}")
    return limit
