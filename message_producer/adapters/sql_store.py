"""The Store port on SQLAlchemy: transactions in threads of its own, library errors translated once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from contract.broadcast import Broadcast
from contract.clock import Clock
from contract.errors import StoreUnavailable
from contract.runtime.failpoints import failpoint
from contract.runtime.runner import Readiness
from contract.schedule import TopicSchedule
from message_producer.adapters.postgres_notify import follow_notifications
from message_producer.adapters.sql_coverage import SqlCoverageRows
from message_producer.adapters.sql_engine import URL_SETTING, Dialect, sqlite_path
from message_producer.adapters.sql_errors import DatabaseError, Trouble, store_error, trouble_of
from message_producer.adapters.sql_events import SqlEventRows
from message_producer.adapters.sql_journal import SqlJournalRows, SqlLeaseRows, SqlReachRows
from message_producer.adapters.sql_lane import Attempt, Lane, NoAnswer
from message_producer.adapters.sql_migrate import migrate
from message_producer.adapters.sql_outbox import SqlOutboxRows
from message_producer.model import EventDraft, Stage
from message_producer.published_schedule import topic_schedules
from message_producer.store import LeaseLock, Transaction
from message_producer.timeline import due_now, plan

__all__ = ["SqlStore", "SqlTransaction", "open_store"]

T = TypeVar("T")
_CONDITION = "store"
_TRIES: Final = 3
"""A transaction that collided or lost its connection is repeated; the third time it is the caller's."""
_ANSWER_WITHIN_S: Final = 4.0
"""More than a lock's and a statement's own timeouts, which the database keeps; this is for one that does not answer."""
_MIGRATE_WITHIN_S: Final = 120.0
_ROOM_BYTES = 1024 * 1024
"""Free space that ends a full disk: small commits may still fit into room the journal has, and prove nothing."""


class SqlTransaction:
    """One connection inside one transaction, and the rows it can reach."""

    def __init__(self, connection: sa.Connection, dialect: Dialect) -> None:
        self._connection = connection
        self._dialect = dialect
        self.outbox = SqlOutboxRows(connection, dialect)
        self.events = SqlEventRows(connection, dialect, self.outbox)
        self.leases = SqlLeaseRows(connection, dialect)
        self.journal = SqlJournalRows(connection)
        self.reach = SqlReachRows(connection, dialect)
        self.coverage = SqlCoverageRows(connection, dialect)

    def tell_others(self) -> None:
        self._dialect.notify(self._connection)


class SqlStore:
    """See Store. SQLite has one writer thread, so writers of this process queue instead of meeting a lock.

    On PostgreSQL what keeps the lease and dispatches has threads and connections of its own: operators whose
    transactions wait for a lock must not cost the lease.
    """

    def __init__(self, url: sa.URL, *, clock: Clock, readiness: Readiness | None, busy_timeout_s: float) -> None:
        self._url = url
        self._file = sqlite_path(url)

        def lane(name: str, threads: int, *, writes: bool = True) -> Lane:
            return Lane(name, url, writes=writes, threads=threads, busy_timeout_s=busy_timeout_s)

        self._writes = lane("write", 1 if self._file else 4)
        self._urgent = self._writes if self._file else lane("urgent", 3)
        self._reads = lane("read", 2 if self._file else 3, writes=False)
        self._dialect = Dialect(self._writes.engine, clock)
        self._readiness = readiness
        self._failed = False

    @property
    def write_engine(self) -> sa.Engine:
        return self._writes.engine

    async def read(self, work: Callable[[Transaction], T]) -> T:
        return await self._run(self._reads, work)

    async def write(
        self,
        work: Callable[[Transaction], T],
        *,
        urgent: bool = False,
        failpoints: tuple[str | None, str | None] = (None, None),
    ) -> T:
        return await self._run(self._urgent if urgent else self._writes, work, failpoints)

    async def watch(self, changed: Callable[[], None]) -> None:
        if self._file is not None:
            await asyncio.Event().wait()  # a SQLite file has one producer: nobody else changes anything
        await follow_notifications(self._url, changed)

    async def migrate(self) -> None:
        """Bring the schema up to date; see sql_migrate."""
        await self._translated(self._writes, lambda attempt: migrate(self._writes.engine), within_s=_MIGRATE_WITHIN_S)

    async def warm_up(self) -> None:
        """Compile the statements of a dispatch before the first stage needs them (it costs 50 ms), changing nothing."""

        def rehearse(attempt: Attempt) -> None:
            # On every connection that dispatches: each prepares its statements, and opening one takes time, too.
            with contextlib.ExitStack() as stack:
                engine, embedded = self._urgent.engine, self._file is not None
                for connection in [stack.enter_context(engine.connect()) for _ in range(self._urgent.threads)]:
                    with connection.begin() as transaction:
                        _rehearse(SqlTransaction(connection, self._dialect), embedded=embedded)
                        transaction.rollback()

        with contextlib.suppress(StoreUnavailable):  # a full disk at start is waited for, like any other
            await self._translated(self._urgent, rehearse)
            await self.read(lambda tx: (tx.events.upcoming(1), tx.outbox.entries_after(0, 1)))

    async def close(self) -> None:
        """Wait for transactions in progress and close every connection."""
        for lane in dict.fromkeys((self._reads, self._urgent, self._writes)):
            await lane.close()

    async def _run(
        self,
        lane: Lane,
        work: Callable[[Transaction], T],
        failpoints: tuple[str | None, str | None] = (None, None),
    ) -> T:
        return await self._translated(lane, lambda attempt: self._repeated(lane.engine, attempt, work, failpoints))

    async def _translated(self, lane: Lane, call: Callable[[Attempt], T], *, within_s: float = _ANSWER_WITHIN_S) -> T:
        """Run `call`; a database's errors leave as ours, and readiness follows what they mean."""
        try:
            result = await lane.run(call, within_s=within_s)
        except NoAnswer as exc:
            raise self._unavailable(
                StoreUnavailable(
                    f"the schedule store did not answer within {within_s:g} s; what was asked may have happened",
                    retry_after_s=1.0,
                )
            ) from exc
        except DatabaseError as exc:
            error = store_error(exc, self._url)
            if error is None:
                raise
            if isinstance(error, StoreUnavailable) and self._troubled(exc):
                self._unavailable(error)
            raise error from exc
        if self._readiness is not None and lane.writes and (not self._failed or self._has_room()):
            # Reads succeed on a full disk: only a write that came through, with room for the next, proves recovery.
            self._failed = False
            self._readiness.hold(_CONDITION)
        return result

    def _troubled(self, exc: BaseException) -> bool:
        """Whether the error says something about the store, not only about a row another transaction holds."""
        return self._file is not None or trouble_of(exc) is not Trouble.LOCKED

    def _unavailable(self, error: StoreUnavailable) -> StoreUnavailable:
        self._failed = True
        if self._readiness is not None:
            self._readiness.fail(_CONDITION, str(error))
        return error

    def _has_room(self) -> bool:
        """Whether the disk under a SQLite file has space again; other databases know for themselves."""
        if self._file is None:
            return True
        disk = os.statvfs(self._file.parent)
        return disk.f_bavail * disk.f_frsize >= _ROOM_BYTES

    def _repeated(
        self,
        engine: sa.Engine,
        attempt: Attempt,
        work: Callable[[Transaction], T],
        failpoints: tuple[str | None, str | None],
    ) -> T:
        for tried in range(_TRIES):
            try:
                return self._in_transaction(engine, attempt, work, failpoints)
            except DBAPIError as exc:
                if tried + 1 == _TRIES or not self._worth_repeating(exc, attempt):
                    raise
        raise AssertionError("unreachable")

    def _worth_repeating(self, exc: DBAPIError, attempt: Attempt) -> bool:
        """Whether nothing of it happened, and the next try may fare better."""
        match trouble_of(exc):
            case Trouble.AGAIN:
                return self._file is None
            case Trouble.BROKEN:
                return not attempt.committing and not attempt.was_cut
            case _:
                return False

    def _in_transaction(
        self,
        engine: sa.Engine,
        attempt: Attempt,
        work: Callable[[Transaction], T],
        failpoints: tuple[str | None, str | None],
    ) -> T:
        before, after = failpoints
        with engine.connect() as connection:
            attempt.begin(connection)
            try:
                with connection.begin():
                    result = work(SqlTransaction(connection, self._dialect))
                    if before is not None and result:
                        failpoint(before)
                    attempt.committing = True
                attempt.committing = False
            finally:
                attempt.end()
        if after is not None and result:
            failpoint(after)
        return result


def _rehearse(transaction: SqlTransaction, *, embedded: bool) -> None:
    """One stage from creation to its place in the log, of an event with a name no real one can have; rolled back."""
    stages = tuple(Stage(key=key, offset_ms=offset) for offset, key in enumerate(("one", "two", "three")))
    draft = EventDraft(event_id=f"~{secrets.token_hex(8)}", title="Rehearsal", starts_at=0, stages=stages)
    planned = plan(draft, 0).state
    schedules = topic_schedules(planned)
    transaction.events.insert(planned)
    transaction.outbox.put_schedules(schedules)
    transaction.leases.read(LeaseLock.FENCE)
    transaction.events.upcoming(1)
    for now in range(len(stages)):
        (state,) = transaction.events.load_free([draft.event_id])
        outcome = due_now(state, now, late_after_ms=0)
        transaction.events.save_all([(state, outcome)])
        waiting = transaction.outbox.unpublished(1)
        if embedded:
            transaction.outbox.position(waiting, now)
        else:
            confirmed: list[Broadcast | TopicSchedule] = [*schedules, *(one.broadcast for one in outcome.sent)]
            transaction.outbox.mark_published([(one, now) for one in confirmed])


@asynccontextmanager
async def open_store(
    url: sa.URL,
    *,
    clock: Clock,
    readiness: Readiness | None = None,
    busy_timeout_s: float = 2.0,
    rehearse: bool = True,
) -> AsyncIterator[SqlStore]:
    """A store at the newest schema. Raises StoreUnavailable, also for a database newer than this code.

    The error names the setting, and carries `retry_after_s` where waiting can help. `rehearse`: for who dispatches.
    """
    store = SqlStore(url, clock=clock, readiness=readiness, busy_timeout_s=busy_timeout_s)
    try:
        try:
            await store.migrate()
        except StoreUnavailable as exc:
            if url.get_backend_name() == "postgresql" and exc.field is None:
                exc.field = URL_SETTING
            raise
        if rehearse:
            await store.warm_up()
        yield store
    finally:
        await store.close()
