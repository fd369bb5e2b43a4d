"""Events, their topics and the newest arming of each stage, as rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from contract.errors import AlreadyDispatched
from message_producer.adapters.postgres_dispatch import save_dispatched
from message_producer.adapters.sql_engine import Dialect
from message_producer.adapters.sql_outbox import SqlOutboxRows
from message_producer.adapters.sql_schema import coverage, events, occurrences, outbox, reach, schedule_outbox, topics
from message_producer.drafts import draft_of
from message_producer.model import EventDraft, EventState, LiveEvent, Occurrence, OccurrenceState, TopicState
from message_producer.shadows import SHADOW_SOURCE
from message_producer.timeline import Outcome, stages_of

__all__ = ["SqlEventRows"]

_encode = msgspec.json.Encoder().encode
_decode_draft = msgspec.json.Decoder(EventDraft).decode
_decode_versions = msgspec.json.Decoder(dict[str, int]).decode

_ARMED = OccurrenceState.ARMED.value
_STATES = {state.value: state for state in OccurrenceState}
_CHANGING = ("arming", "state", "stage_order", "due_at", "timestamp", "cued_at", "passed_over_at")
_event = sa.select(events).where(events.c.event_id == sa.bindparam("event_id"))
_occurrence_columns = sa.select(
    occurrences.c.event_id,
    occurrences.c.topic,
    occurrences.c.stage_key,
    occurrences.c.arming,
    occurrences.c.state,
    occurrences.c.stage_order,
    occurrences.c.due_at,
    occurrences.c.timestamp,
    occurrences.c.cued_at,
    occurrences.c.passed_over_at,
)
_upcoming = (
    sa.select(occurrences.c.due_at, occurrences.c.event_id)
    .where(occurrences.c.state == _ARMED, occurrences.c.due_at.is_not(None))
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


class _Statements:
    """What differs between databases, built once: building takes as long as running."""

    def __init__(self, dialect: Dialect) -> None:
        some = dialect.among(events.c.event_id, "some")
        self.lock_event = dialect.lock_row(_event)
        # In one order, so that two who take several cannot wait for each other.
        self.lock_free_events = dialect.lock_free_rows(sa.select(events).where(some).order_by(events.c.event_id))
        self.plans_of = (
            sa.select(
                topics.c.event_id,
                topics.c.topic,
                topics.c.audience,
                topics.c.last_timestamp,
                topics.c.last_state,
                topics.c.removed,
                *_occurrence_columns.selected_columns,
            )
            .select_from(topics.outerjoin(occurrences, occurrences.c.topic == topics.c.topic))
            .where(dialect.among(topics.c.event_id, "some"))
            .order_by(topics.c.topic, occurrences.c.stage_order)
        )
        insert = dialect.insert(topics)
        self.put_topics = insert.on_conflict_do_update(
            index_elements=[topics.c.topic],
            set_={name: insert.excluded[name] for name in ("last_timestamp", "last_state", "removed")},
        )
        insert = dialect.insert(occurrences)
        self.put_occurrences = insert.on_conflict_do_update(
            index_elements=[occurrences.c.topic, occurrences.c.stage_key],
            set_={name: insert.excluded[name] for name in _CHANGING},
        )


_statements: dict[str, _Statements] = {}


class SqlEventRows:
    """See EventRows."""

    def __init__(self, connection: sa.Connection, dialect: Dialect, outbox: SqlOutboxRows) -> None:
        self._connection = connection
        self._dialect = dialect
        self._outbox = outbox
        found = _statements.get(dialect.name)
        self._statements = found if found is not None else _statements.setdefault(dialect.name, _Statements(dialect))

    def load(self, event_id: str, *, lock: bool = False) -> EventState | None:
        select = self._statements.lock_event if lock else _event
        states = self._states(self._connection.execute(select, {"event_id": event_id}).all())
        return states[0] if states else None

    def load_free(self, event_ids: Collection[str]) -> list[EventState]:
        given = {"some": self._dialect.values(event_ids)}
        return self._states(self._connection.execute(self._statements.lock_free_events, given).all())

    def find_by_source(self, source: str, source_uid: str) -> str | None:
        found: str | None = self._connection.execute(
            sa.select(events.c.event_id).where(events.c.source == source, events.c.source_uid == source_uid)
        ).scalar()
        return found

    def page(self, limit: int, after: str | None, *, shadows: bool = False) -> tuple[LiveEvent, ...]:
        select = sa.select(events).order_by(events.c.event_id).limit(limit)
        if not shadows:
            select = select.where(events.c.source != SHADOW_SOURCE)
        if after is not None:
            select = select.where(events.c.event_id > after)
        rows = self._connection.execute(select).all()
        by_event: dict[str, list[Occurrence]] = {row.event_id: [] for row in rows}
        wanted = _occurrence_columns.where(occurrences.c.event_id.in_(by_event))
        for found in self._connection.execute(wanted):
            by_event[found.event_id].append(_occurrence(found))
        return tuple(_live_event(row, by_event[row.event_id]) for row in rows)

    def shadows(self) -> list[EventState]:
        select = sa.select(events).where(events.c.source == SHADOW_SOURCE).order_by(events.c.event_id)
        return self._states(self._connection.execute(select).all())

    def forget(self, event_ids: Collection[str]) -> None:
        gone = sa.select(topics.c.topic).where(topics.c.event_id.in_(event_ids))
        for table in (reach, coverage):
            self._connection.execute(sa.delete(table).where(table.c.topic.in_(gone)))
        for table in (outbox, schedule_outbox, occurrences, topics, events):
            self._connection.execute(sa.delete(table).where(table.c.event_id.in_(event_ids)))

    def upcoming(self, limit: int, *, skip: Collection[str] = ()) -> list[tuple[int, str]]:
        select = _upcoming.where(occurrences.c.event_id.not_in(sorted(skip))) if skip else _upcoming
        return [(due_at, event_id) for due_at, event_id in self._connection.execute(select, {"limit": limit})]

    def insert(self, state: EventState) -> None:
        event = state.event
        self._connection.execute(
            sa.insert(events).values(event_id=event.event_id, created_at=event.created_at, **_event_values(state))
        )
        self._put(_topic_rows(event.event_id, state.topics), _occurrence_rows(event.event_id, state.occurrences))

    def save(self, before: EventState, outcome: Outcome) -> None:
        self.save_all([(before, outcome)])

    def save_all(self, changes: Sequence[tuple[EventState, Outcome]]) -> None:
        try:
            if self._dialect.name == "postgresql" and all(_is_time_alone(*change) for change in changes):
                save_dispatched(self._connection, changes)
            else:
                self._save_rows(changes)
        except IntegrityError as exc:
            names = ", ".join(before.event.event_id for before, _ in changes)
            raise AlreadyDispatched(f"an occurrence of {names} was dispatched before") from exc

    def _save_rows(self, changes: Sequence[tuple[EventState, Outcome]]) -> None:
        topic_rows: list[dict[str, Any]] = []
        occurrence_rows: list[dict[str, Any]] = []
        last: list[dict[str, Any]] = []
        for before, outcome in changes:
            after, event = outcome.state, outcome.state.event
            if _is_time_alone(before, outcome):
                last.append({"which": event.event_id, "last": event.last_timestamp})
            else:
                self._connection.execute(_save_event, {"which": event.event_id, **_event_values(after)})
            known = set(before.topics)
            topic_rows += _topic_rows(event.event_id, [topic for topic in after.topics if topic not in known])
            occurrence_rows += _occurrence_rows(event.event_id, outcome.touched)
        if last:
            self._connection.execute(_save_last, last)
        self._put(topic_rows, occurrence_rows)
        self._outbox.append([sent for _, outcome in changes for sent in outcome.sent])

    def _put(self, topic_rows: list[dict[str, Any]], occurrence_rows: list[dict[str, Any]]) -> None:
        if topic_rows:
            self._connection.execute(self._statements.put_topics, topic_rows)
        if occurrence_rows:
            self._connection.execute(self._statements.put_occurrences, occurrence_rows)

    def _states(self, rows: Sequence[Any]) -> list[EventState]:
        """Whole events: their topics and occurrences are read after their rows were locked, if they were."""
        if not rows:
            return []
        given = {"some": self._dialect.values([row.event_id for row in rows])}
        topic_states: dict[str, list[TopicState]] = {row.event_id: [] for row in rows}
        known: dict[str, list[Occurrence]] = {row.event_id: [] for row in rows}
        of_topic = None
        for found in self._connection.execute(self._statements.plans_of, given):
            event_id, topic, audience, last_timestamp, last_state, removed = found[:6]
            if topic != of_topic:
                of_topic = topic
                topic_states[event_id].append(
                    TopicState(
                        topic=topic,
                        audience=audience,
                        last_timestamp=last_timestamp,
                        announced=last_state,
                        removed=removed,
                    )
                )
            if found[6] is not None:  # a topic without a single stage has no occurrence
                known[event_id].append(_occurrence(found[6:]))
        return [
            EventState(
                event=_live_event(row, known[row.event_id]),
                topics=tuple(topic_states[row.event_id]),
                occurrences=tuple(known[row.event_id]),
                added_at_version=_decode_versions(row.added_at_version),
            )
            for row in rows
        ]


def _is_time_alone(before: EventState, outcome: Outcome) -> bool:
    """Whether nothing but time passed, the hot path of dispatching: revision, plan and audiences are what they were."""
    return outcome.state.event.revision == before.event.revision


def _topic_rows(event_id: str, found: Iterable[TopicState]) -> list[dict[str, Any]]:
    return [
        {
            "topic": row.topic,
            "event_id": event_id,
            "audience": row.audience,
            "last_timestamp": row.last_timestamp,
            "last_state": row.announced,
            "removed": row.removed,
        }
        for row in found
    ]


def _occurrence_rows(event_id: str, found: Iterable[Occurrence]) -> list[dict[str, Any]]:
    return [
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
        for row in found
    ]


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


def _occurrence(row: Any) -> Occurrence:
    # Unpacked by position: a dispatch reads an event's every stage, and looking names up takes half of that time.
    _, topic, stage_key, arming, state, order, due_at, timestamp, cued_at, passed_over_at = row
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
