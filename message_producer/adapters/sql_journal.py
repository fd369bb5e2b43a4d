"""The lease, the audit trail, idempotency keys and reach, as rows."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from contract.broadcast import Cause
from contract.reach import ReachCount
from message_producer.adapters.sql_engine import Dialect
from message_producer.adapters.sql_schema import audit, idempotency_keys, lease, outbox, reach
from message_producer.model import AuditEntry, BroadcastReach, WriteContext
from message_producer.store import LeaseLock, LeaseRow, Remembered

__all__ = ["SqlJournalRows", "SqlLeaseRows", "SqlReachRows"]

_LEASE_NAME = "producer"
_COUNTS = ("subscribers", "written", "replayed", "coalesced", "acked", "gaps", "holes")
_encode = msgspec.json.Encoder().encode
_decode_facts = msgspec.json.Decoder(dict[str, object]).decode
_lease = sa.select(lease.c.holder, lease.c.epoch, lease.c.expires_at).where(lease.c.name == _LEASE_NAME)
_renew_lease = (
    sa.update(lease)
    .where(lease.c.name == _LEASE_NAME, lease.c.holder == sa.bindparam("h"), lease.c.epoch == sa.bindparam("e"))
    .values(expires_at=sa.bindparam("until"))
)
_write_lease = (
    sa.update(lease)
    .where(lease.c.name == _LEASE_NAME)
    .values({name: sa.bindparam(name) for name in ("holder", "epoch", "expires_at")})
)


class SqlLeaseRows:
    """See LeaseRows."""

    def __init__(self, connection: sa.Connection, dialect: Dialect) -> None:
        self._connection = connection
        self._dialect = dialect

    def database_now_ms(self) -> int:
        return self._dialect.now_ms(self._connection)

    def read(self, lock: LeaseLock = LeaseLock.NONE) -> LeaseRow:
        select = self._dialect.lock_lease(_lease, lock)
        row = self._connection.execute(select).one_or_none()
        if row is None and lock is LeaseLock.TAKE:
            # Where there is no row there is nothing to lock: two would both find the lease free, and both take it.
            first = self._dialect.insert(lease).values(name=_LEASE_NAME, holder="", epoch=0, expires_at=0)
            self._connection.execute(first.on_conflict_do_nothing())
            row = self._connection.execute(select).one_or_none()
        return LeaseRow() if row is None else LeaseRow(row.holder, row.epoch, row.expires_at)

    def renew(self, lease_row: LeaseRow) -> bool:
        given = {"h": lease_row.holder, "e": lease_row.epoch, "until": lease_row.expires_at}
        return bool(self._connection.execute(_renew_lease, given).rowcount)

    def write(self, lease_row: LeaseRow) -> None:
        self._connection.execute(_write_lease, msgspec.structs.asdict(lease_row))


class SqlJournalRows:
    """See JournalRows."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def remember(self, context: WriteContext, action: str, response: bytes, now: int, *, keep_ms: int) -> None:
        if context.idempotency_key is None:
            return
        self._connection.execute(sa.delete(idempotency_keys).where(idempotency_keys.c.created_at < now - keep_ms))
        self._connection.execute(
            sa.insert(idempotency_keys).values(
                actor=context.actor,
                key=context.idempotency_key,
                action=action,
                fingerprint=context.fingerprint,
                response=response,
                created_at=now,
            )
        )

    def recall(self, context: WriteContext, now: int, *, keep_ms: int) -> Remembered | None:
        if context.idempotency_key is None:
            return None
        keys = idempotency_keys.c
        row = self._connection.execute(
            sa.select(keys.action, keys.fingerprint, keys.response).where(
                keys.actor == context.actor, keys.key == context.idempotency_key, keys.created_at >= now - keep_ms
            )
        ).one_or_none()
        return None if row is None else Remembered(row.action, row.fingerprint, row.response)

    def audit(
        self,
        at: int,
        actor: str,
        action: str,
        event_id: str,
        before: dict[str, object] | None,
        after: dict[str, object] | None,
    ) -> None:
        self._connection.execute(
            sa.insert(audit).values(
                at=at,
                actor=actor,
                action=action,
                event_id=event_id,
                before=None if before is None else _encode(before),
                after=None if after is None else _encode(after),
            )
        )

    def audit_of(self, event_id: str, limit: int, after: int) -> tuple[AuditEntry, ...]:
        select = (
            sa.select(audit)
            .where(audit.c.event_id == event_id, audit.c.sequence > after)
            .order_by(audit.c.sequence)
            .limit(limit)
        )
        return tuple(
            AuditEntry(
                sequence=row.sequence,
                at=row.at,
                actor=row.actor,
                action=row.action,
                event_id=row.event_id,
                before=None if row.before is None else _decode_facts(row.before),
                after=None if row.after is None else _decode_facts(row.after),
            )
            for row in self._connection.execute(select)
        )


def _reach_key(count: ReachCount) -> tuple[str, int, str, str]:
    return count.topic, count.timestamp, count.node_id, count.incarnation


class SqlReachRows:
    """See ReachRows."""

    def __init__(self, connection: sa.Connection, dialect: Dialect) -> None:
        self._connection = connection
        self._dialect = dialect

    def record(self, counts: Sequence[ReachCount]) -> None:
        if not counts:
            return
        insert = self._dialect.insert(reach)
        new = insert.excluded
        kept = {name: sa.case((new[name] > reach.c[name], new[name]), else_=reach.c[name]) for name in _COUNTS}
        # A new null is not below anything, so a time that is known stays.
        earlier = sa.or_(reach.c.routed_at.is_(None), new.routed_at < reach.c.routed_at)
        kept["routed_at"] = sa.case((earlier, new.routed_at), else_=reach.c.routed_at)
        self._connection.execute(
            insert.on_conflict_do_update(index_elements=list(reach.primary_key.columns), set_=kept),
            # In one order everywhere: two routers that report the same node's counts must not lock them crosswise.
            [msgspec.structs.asdict(count) for count in sorted(counts, key=_reach_key)],
        )

    def of_event(self, event_id: str, limit: int) -> tuple[BroadcastReach, ...]:
        newest = (
            sa.select(outbox).where(outbox.c.event_id == event_id).order_by(outbox.c.timestamp.desc()).limit(limit)
        ).subquery()
        sums = [sa.func.coalesce(sa.func.sum(reach.c[name]), 0).label(name) for name in _COUNTS]
        facts = [newest.c[name] for name in ("topic", "state_key", "timestamp", "cause")]
        times = [newest.c[name] for name in ("due_at", "dispatched_at", "published_at")]
        nodes = sa.func.count(sa.distinct(reach.c.node_id)).label("nodes")
        routed_at = sa.func.min(reach.c.routed_at).label("routed_at")
        joined = newest.outerjoin(
            reach, sa.and_(reach.c.topic == newest.c.topic, reach.c.timestamp == newest.c.timestamp)
        )
        select = (
            sa.select(*facts, *times, nodes, routed_at, *sums)
            .select_from(joined)
            .group_by(*facts, *times)
            .order_by(newest.c.timestamp)
        )
        return tuple(
            BroadcastReach(
                topic=row.topic,
                state_key=row.state_key,
                timestamp=row.timestamp,
                cause=Cause(row.cause),
                due_at=row.due_at,
                dispatched_at=row.dispatched_at,
                published_at=row.published_at,
                routed_at=row.routed_at,
                nodes=row.nodes,
                subscribers=int(row.subscribers),
                written=int(row.written),
                replayed=int(row.replayed),
                coalesced=int(row.coalesced),
                acked=int(row.acked),
                told=int(row.gaps + row.holes),
            )
            for row in self._connection.execute(select)
        )
