"""Events, their topics and the newest arming of each stage, as rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from contract.errors import AlreadyDispatched
from message_producer.adapters.sql_engine import Dialect
from message_producer.adapters.sql_outbox import SqlOutboxRows
from message_producer.adapters.sql_schema import events, occurrences, topics
from message_producer.drafts import draft_of
from message_producer.model import EventDraft, EventState, LiveEvent, Occurrence, OccurrenceState, TopicState
from message_producer.timeline import Outcome, stages_of

__all__ = ["SqlEventRows"]

_encode = msgspec.json.Encoder().encode
_decode_draft = msgspec.json.Decoder(EventDraft).decode
_decode_versions = msgspec.json.Decoder(dict[str, int]).decode

_ARMED = OccurrenceState.ARMED.value
_event = sa.select(events).where(events.c.event_id == sa.bindparam("event_id"))
_topics = sa.select(topics).where(topics.c.event_id == sa.bindparam("event_id")).order_by(topics.c.topic)
_STATES = {state.value: state for state in OccurrenceState}
_occurrence_columns = sa.select(
    occurrences.c.topic,
    occurrences.c.stage_key,
    occurrences.c.arming,
    occurrences.c.state,
    occurrences.c.stage_order,
    occurrences.c.due_at,
    occurrences.c.timestamp,
    occurrences.c.cued_at,
    occurrences.c.passed_over_at,
    occurrences.c.event_id,
)
_occurrences = _occurrence_columns.where(occurrences.c.event_id == sa.bindparam("event_id")).order_by(
    occurrences.c.topic, occurrences.c.stage_order
)
_next_due = sa.select(sa.func.min(occurrences.c.due_at)).where(occurrences.c.state == _ARMED)
_due = (
    sa.select(occurrences.c.event_id)
    .where(occurrences.c.state == _ARMED, occurrences.c.due_at <= sa.bindparam("now"))
    .order_by(occurrences.c.due_at)
    .limit(sa.bindparam("limit"))
)
_save_event = (
    sa.update(events)
    .where(events.c.event_id == sa.bindparam("which"))
    .values({c.name: sa.bindparam(c.name) for c in events.c if c.name not in ("event_id", "created_at")})
)
_save_last = (
    sa.update(events).where(events.c.event_id == sa.bindparam("which")).values(last_timestamp=sa.bindparam("last"))
)


class SqlEventRows:
    """See EventRows."""

    def __init__(self, connection: sa.Connection, dialect: Dialect, outbox: SqlOutboxRows) -> None:
        self._connection = connection
        self._dialect = dialect
        self._outbox = outbox

    def load(self, event_id: str, *, lock: bool = False) -> EventState | None:
        select = self._dialect.lock_row(_event) if lock else _event
        given = {"event_id": event_id}
        row = self._connection.execute(select, given).one_or_none()
        if row is None:
            return None
        topic_rows = self._connection.execute(_topics, given)
        known = tuple(_occurrence(found) for found in self._connection.execute(_occurrences, given))
        return EventState(
            event=_live_event(row, known),
            topics=tuple(_topic(found) for found in topic_rows),
            occurrences=known,
            added_at_version=_decode_versions(row.added_at_version),
        )

    def find_by_source(self, source: str, source_uid: str) -> str | None:
        found: str | None = self._connection.execute(
            sa.select(events.c.event_id).where(events.c.source == source, events.c.source_uid == source_uid)
        ).scalar()
        return found

    def page(self, limit: int, after: str | None) -> tuple[LiveEvent, ...]:
        select = sa.select(events).order_by(events.c.event_id).limit(limit)
        if after is not None:
            select = select.where(events.c.event_id > after)
        rows = self._connection.execute(select).all()
        by_event: dict[str, list[Occurrence]] = {row.event_id: [] for row in rows}
        wanted = _occurrence_columns.where(occurrences.c.event_id.in_(by_event))
        for found in self._connection.execute(wanted):
            by_event[found.event_id].append(_occurrence(found))
        return tuple(_live_event(row, by_event[row.event_id]) for row in rows)

    def due(self, now: int, limit: int, *, skip: Collection[str] = ()) -> list[str]:
        select = _due.where(occurrences.c.event_id.not_in(sorted(skip))) if skip else _due
        # Many stages of one event may be overdue at once: distinct after the limit, in the order of their times.
        return list(dict.fromkeys(self._connection.execute(select, {"now": now, "limit": limit}).scalars()))

    def next_due(self, *, skip: Collection[str] = ()) -> int | None:
        select = _next_due.where(occurrences.c.event_id.not_in(sorted(skip))) if skip else _next_due
        found: int | None = self._connection.execute(select).scalar()
        return found

    def insert(self, state: EventState) -> None:
        event = state.event
        self._connection.execute(
            sa.insert(events).values(event_id=event.event_id, created_at=event.created_at, **_event_values(state))
        )
        self._put_topics(event.event_id, state.topics)
        self._put_occurrences(event.event_id, state.occurrences)

    def save(self, before: EventState, outcome: Outcome) -> None:
        after, event = outcome.state, outcome.state.event
        if event.revision == before.event.revision:  # time passed, nothing else: the hot path of dispatching
            self._connection.execute(_save_last, {"which": event.event_id, "last": event.last_timestamp})
        else:
            self._connection.execute(_save_event, {"which": event.event_id, **_event_values(after)})
        known = set(before.topics)
        self._put_topics(event.event_id, [topic for topic in after.topics if topic not in known])
        self._put_occurrences(event.event_id, outcome.touched)
        try:
            self._outbox.append(outcome.sent)
        except IntegrityError as exc:
            raise AlreadyDispatched(f"an occurrence of {event.event_id} was dispatched before") from exc

    def _put_topics(self, event_id: str, rows: Collection[TopicState]) -> None:
        if not rows:
            return
        insert = self._dialect.insert(topics)
        new = insert.excluded
        upsert = insert.on_conflict_do_update(
            index_elements=[topics.c.topic],
            set_={"last_timestamp": new.last_timestamp, "last_state": new.last_state, "removed": new.removed},
        )
        self._connection.execute(
            upsert,
            [
                {
                    "topic": row.topic,
                    "event_id": event_id,
                    "audience": row.audience,
                    "last_timestamp": row.last_timestamp,
                    "last_state": row.announced,
                    "removed": row.removed,
                }
                for row in rows
            ],
        )

    def _put_occurrences(self, event_id: str, rows: Collection[Occurrence]) -> None:
        if not rows:
            return
        insert = self._dialect.insert(occurrences)
        changing = ("arming", "state", "stage_order", "due_at", "timestamp", "cued_at", "passed_over_at")
        upsert = insert.on_conflict_do_update(
            index_elements=[occurrences.c.topic, occurrences.c.stage_key],
            set_={name: insert.excluded[name] for name in changing},
        )
        self._connection.execute(
            upsert,
            [
                {
                    "topic": row.topic,
                    "stage_key": row.stage_key,
                    "event_id": event_id,
                    "arming": row.arming,
                    "state": row.state.value,
                    "stage_order": row.order,
                    "due_at": row.due_at,
                    "timestamp": row.timestamp,
                    "cued_at": row.cued_at,
                    "passed_over_at": row.passed_over_at,
                }
                for row in rows
            ],
        )


def _event_values(state: EventState) -> dict[str, Any]:
    event = state.event
    return {
        "draft": _encode(draft_of(event)).decode(),
        "source": event.source,
        "source_uid": event.source_uid,
        "revision": event.revision,
        "version": event.version,
        "cancelled": event.cancelled,
        "updated_at": event.updated_at,
        "last_timestamp": event.last_timestamp,
        "added_at_version": _encode(state.added_at_version).decode(),
    }


def _live_event(row: Any, known: Iterable[Occurrence]) -> LiveEvent:
    draft = _decode_draft(row.draft)
    return LiveEvent(
        **{name: getattr(draft, name) for name in EventDraft.__struct_fields__},
        revision=row.revision,
        version=row.version,
        cancelled=row.cancelled,
        created_at=row.created_at,
        updated_at=row.updated_at,
        last_timestamp=row.last_timestamp,
        occurrences=stages_of(draft, known),
    )


def _topic(row: Any) -> TopicState:
    return TopicState(
        topic=row.topic,
        audience=row.audience,
        last_timestamp=row.last_timestamp,
        announced=row.last_state,
        removed=row.removed,
    )


def _occurrence(row: Any) -> Occurrence:
    # Unpacked by position: a dispatch reads an event's every stage, and looking names up takes half of that time.
    topic, stage_key, arming, state, order, due_at, timestamp, cued_at, passed_over_at, _ = row
    return Occurrence(
        topic=topic,
        stage_key=stage_key,
        arming=arming,
        state=_STATES[state],
        order=order,
        due_at=due_at,
        timestamp=timestamp,
        cued_at=cued_at,
        passed_over_at=passed_over_at,
    )
