"""The outbox as rows: dispatched broadcasts, published schedules, positions of the embedded log, consumers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from contract.broadcast import Broadcast, Cause
from contract.log import LogEntry
from contract.schedule import TopicSchedule, decode_schedule, encode_schedule
from message_producer.adapters.sql_engine import Dialect
from message_producer.adapters.sql_schema import log_consumers, log_head, outbox, schedule_outbox, topics
from message_producer.model import OutboxEntry
from message_producer.store import Unpublished
from message_producer.timeline import Sent

__all__ = ["SqlOutboxRows", "broadcast_of"]

_PARTITION = 0
_newest = outbox.alias("newest")
_unpublished_schedules = (
    sa.select(schedule_outbox.c.payload).where(schedule_outbox.c.published_at.is_(None)).limit(sa.bindparam("limit"))
)
# Never `id > last`: ids are given out before the commit and become visible in another order (R2).
_unpublished_broadcasts = (
    sa.select(outbox)
    .where(outbox.c.published_at.is_(None))
    .order_by(outbox.c.timestamp, outbox.c.id)
    .limit(sa.bindparam("limit"))
)
_head = sa.select(log_head.c.position).where(log_head.c.id == 1)
_move_head = sa.update(log_head).where(log_head.c.id == 1).values(position=sa.bindparam("to"))
_mark_broadcast = (
    sa.update(outbox)
    .where(outbox.c.topic == sa.bindparam("t"), outbox.c.timestamp == sa.bindparam("ts"))
    .where(outbox.c.published_at.is_(None))
    .values(published_at=sa.bindparam("now"), position=sa.bindparam("at"))
)
_mark_sent = (
    sa.update(outbox)
    .where(outbox.c.event_id == sa.bindparam("e"), outbox.c.timestamp == sa.bindparam("ts"))
    .where(outbox.c.published_at.is_(None))
    .values(published_at=sa.bindparam("now"))
)
_mark_schedule = (
    sa.update(schedule_outbox)
    .where(schedule_outbox.c.topic == sa.bindparam("t"), schedule_outbox.c.revision == sa.bindparam("r"))
    .where(schedule_outbox.c.published_at.is_(None))
    .values(published_at=sa.bindparam("now"), position=sa.bindparam("at"))
)
_broadcasts_after = (
    sa.select(outbox)
    .where(outbox.c.position > sa.bindparam("after"))
    .order_by(outbox.c.position)
    .limit(sa.bindparam("limit"))
)
_schedules_after = (
    sa.select(schedule_outbox.c.position, schedule_outbox.c.payload)
    .where(schedule_outbox.c.position > sa.bindparam("after"))
    .order_by(schedule_outbox.c.position)
    .limit(sa.bindparam("limit"))
)


def broadcast_of(row: Any) -> Broadcast:
    """The broadcast in an outbox row."""
    return Broadcast(
        topic=row.topic,
        state_key=row.state_key,
        timestamp=row.timestamp,
        prev=row.prev,
        event_id=row.event_id,
        cause=Cause(row.cause),
        due_at=row.due_at,
        dispatched_at=row.dispatched_at,
    )


class SqlOutboxRows:
    """See OutboxRows."""

    def __init__(self, connection: sa.Connection, dialect: Dialect) -> None:
        self._connection = connection
        self._dialect = dialect

    def append(self, sent: Iterable[Sent]) -> None:
        rows = [
            {
                "event_id": one.broadcast.event_id,
                "topic": one.broadcast.topic,
                "state_key": one.broadcast.state_key,
                "arming": one.arming,
                "timestamp": one.broadcast.timestamp,
                "prev": one.broadcast.prev,
                "cause": one.broadcast.cause.value,
                "due_at": one.broadcast.due_at,
                "dispatched_at": one.broadcast.dispatched_at,
            }
            for one in sent
        ]
        if rows:
            self._connection.execute(sa.insert(outbox), rows)

    def put_schedules(self, schedules: Iterable[TopicSchedule]) -> None:
        insert = self._dialect.insert(schedule_outbox)
        new = insert.excluded
        upsert = insert.on_conflict_do_update(
            index_elements=[schedule_outbox.c.topic],
            set_={"revision": new.revision, "payload": new.payload, "published_at": None, "position": None},
            where=schedule_outbox.c.revision < new.revision,
        )
        rows = [
            {
                "topic": schedule.topic,
                "event_id": schedule.event_id,
                "revision": schedule.revision,
                "payload": encode_schedule(schedule),
            }
            for schedule in schedules
        ]
        if rows:
            self._connection.execute(upsert, rows)

    def of_event(self, event_id: str, limit: int) -> tuple[OutboxEntry, ...]:
        newest = sa.select(outbox).where(outbox.c.event_id == event_id).order_by(outbox.c.timestamp.desc()).limit(limit)
        rows = self._connection.execute(newest).all()
        return tuple(
            OutboxEntry(position=row.position, broadcast=broadcast_of(row), published_at=row.published_at)
            for row in reversed(rows)
        )

    def dispatched_since(self, topic: str, since: int) -> list[int]:
        found = (
            sa.select(outbox.c.dispatched_at)
            .where(outbox.c.topic == topic, outbox.c.dispatched_at > since)
            .order_by(outbox.c.dispatched_at)
        )
        return list(self._connection.execute(found).scalars())

    def unpublished(self, limit: int) -> Unpublished:
        given = {"limit": limit}
        payloads = self._connection.execute(_unpublished_schedules, given).scalars()
        schedules = tuple(decode_schedule(payload) for payload in payloads)
        rows = self._connection.execute(_unpublished_broadcasts, given)
        return Unpublished(schedules, tuple(broadcast_of(row) for row in rows))

    def mark_published(self, published: Sequence[tuple[Broadcast | TopicSchedule, int]]) -> None:
        broadcasts = [
            {"e": one.event_id, "ts": one.timestamp, "now": at} for one, at in published if isinstance(one, Broadcast)
        ]
        schedules = [
            {"t": one.topic, "r": one.revision, "now": at, "at": None}
            for one, at in published
            if isinstance(one, TopicSchedule)
        ]
        # In one order, so that two who believe they lead cannot wait for each other.
        if broadcasts:
            broadcasts.sort(key=lambda row: (row["e"], row["ts"]))
            self._connection.execute(_mark_sent, broadcasts)
        if schedules:
            schedules.sort(key=lambda row: (row["t"], row["r"]))
            self._connection.execute(_mark_schedule, schedules)

    def position(self, batch: Unpublished, now: int) -> list[LogEntry]:
        if not batch.schedules and not batch.broadcasts:
            return []
        # The head's row is held until commit, so positions become visible in their order, without gaps.
        head: int | None = self._connection.execute(self._dialect.lock_row(_head)).scalar()
        position = head or 0
        entries: list[LogEntry] = []
        for schedule in batch.schedules:
            given = {"t": schedule.topic, "r": schedule.revision, "now": now, "at": position + 1}
            if self._connection.execute(_mark_schedule, given).rowcount:
                position += 1
                entries.append(LogEntry(_PARTITION, position, schedule=schedule))
        for broadcast in batch.broadcasts:
            given = {"t": broadcast.topic, "ts": broadcast.timestamp, "now": now, "at": position + 1}
            if self._connection.execute(_mark_broadcast, given).rowcount:
                position += 1
                entries.append(LogEntry(_PARTITION, position, broadcast=broadcast))
        if head is None:
            self._connection.execute(sa.insert(log_head).values(id=1, position=position))
        else:
            self._connection.execute(_move_head, {"to": position})
        return entries

    def entries_after(self, position: int, limit: int) -> list[LogEntry]:
        given = {"after": position, "limit": limit}
        found = [
            LogEntry(_PARTITION, row.position, broadcast=broadcast_of(row))
            for row in self._connection.execute(_broadcasts_after, given)
        ]
        found += [
            LogEntry(_PARTITION, row.position, schedule=decode_schedule(row.payload))
            for row in self._connection.execute(_schedules_after, given)
        ]
        found.sort(key=lambda entry: entry.offset)
        return found[:limit]

    def broadcasts_since(self, since_ms: int, after: int, until: int, limit: int) -> list[LogEntry]:
        newest = (
            sa.select(_newest.c.id)
            .join_from(topics, _newest, _newest.c.event_id == topics.c.event_id)
            .where(_newest.c.timestamp == topics.c.last_timestamp)
        )
        select = (
            sa.select(outbox)
            .where(outbox.c.position > after, outbox.c.position <= until)
            .where(sa.or_(outbox.c.timestamp >= since_ms, outbox.c.id.in_(newest)))
            .order_by(outbox.c.position)
            .limit(limit)
        )
        return [
            LogEntry(_PARTITION, row.position, broadcast=broadcast_of(row)) for row in self._connection.execute(select)
        ]

    def head(self) -> int:
        return self._connection.execute(_head).scalar() or 0

    def schedules(self) -> list[TopicSchedule]:
        payloads = self._connection.execute(sa.select(schedule_outbox.c.payload).order_by(schedule_outbox.c.topic))
        return [decode_schedule(payload) for payload in payloads.scalars()]

    def committed(self, consumer: str) -> int:
        select = sa.select(log_consumers.c.next_offset).where(log_consumers.c.consumer == consumer)
        return self._connection.execute(select).scalar() or 0

    def commit(self, consumer: str, next_offset: int) -> None:
        insert = self._dialect.insert(log_consumers).values(consumer=consumer, next_offset=next_offset)
        self._connection.execute(
            insert.on_conflict_do_update(
                index_elements=[log_consumers.c.consumer], set_={"next_offset": insert.excluded.next_offset}
            )
        )
