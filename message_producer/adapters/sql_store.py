"""The Store port on SQLAlchemy: transactions in threads of its own, library errors translated once."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from contract.clock import Clock
from contract.errors import StoreUnavailable
from contract.runtime.failpoints import failpoint
from contract.runtime.runner import Readiness
from message_producer.adapters.sql_engine import Dialect, make_engine, sqlite_path
from message_producer.adapters.sql_events import SqlEventRows
from message_producer.adapters.sql_journal import SqlJournalRows, SqlLeaseRows, SqlReachRows
from message_producer.adapters.sql_migrate import migrate
from message_producer.adapters.sql_outbox import SqlOutboxRows
from message_producer.model import EventDraft, Stage
from message_producer.published_schedule import topic_schedules
from message_producer.store import Transaction
from message_producer.timeline import due_now, plan

__all__ = ["SqlStore", "SqlTransaction", "open_store"]

T = TypeVar("T")
_CONDITION = "store"
_READERS = 2
_ROOM_BYTES = 1024 * 1024
"""Free space that ends a full disk: small commits may still fit into room the journal has, and prove nothing."""


class SqlTransaction:
    """One connection inside one transaction, and the rows it can reach."""

    def __init__(self, connection: sa.Connection, dialect: Dialect) -> None:
        self.outbox = SqlOutboxRows(connection, dialect)
        self.events = SqlEventRows(connection, dialect, self.outbox)
        self.leases = SqlLeaseRows(connection, dialect)
        self.journal = SqlJournalRows(connection)
        self.reach = SqlReachRows(connection, dialect)


class SqlStore:
    """See Store. SQLite has one writer thread, so writers of this process queue instead of meeting a lock."""

    def __init__(self, url: sa.URL, *, clock: Clock, readiness: Readiness | None, busy_timeout_s: float) -> None:
        writers = 1 if sqlite_path(url) else 4
        self.write_engine = make_engine(url, writes=True, busy_timeout_s=busy_timeout_s, pool_size=writers)
        self._read_engine = make_engine(url, writes=False, busy_timeout_s=busy_timeout_s, pool_size=_READERS)
        self._dialect = Dialect(self.write_engine, clock)
        self._readiness = readiness
        self._file = sqlite_path(url)
        self._failed = False
        self._writers = ThreadPoolExecutor(writers, thread_name_prefix="store-write")
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="store-read")

    async def read(self, work: Callable[[Transaction], T]) -> T:
        return await self._run(self._readers, lambda: self._in_transaction(self._read_engine, work, (None, None)))

    async def write(
        self, work: Callable[[Transaction], T], *, failpoints: tuple[str | None, str | None] = (None, None)
    ) -> T:
        return await self._run(self._writers, lambda: self._in_transaction(self.write_engine, work, failpoints))

    async def migrate(self) -> None:
        """Bring the schema up to date; see sql_migrate."""
        await self._run(self._writers, lambda: migrate(self.write_engine))

    async def warm_up(self) -> None:
        """Compile the statements of a dispatch before the first stage needs them (it costs 50 ms), changing nothing."""

        def rehearse() -> None:
            with self.write_engine.connect() as connection, connection.begin() as transaction:
                _rehearse(SqlTransaction(connection, self._dialect))
                transaction.rollback()

        with contextlib.suppress(StoreUnavailable):  # a full disk at start is waited for, like any other
            await self._run(self._writers, rehearse)
            await self.read(lambda tx: (tx.events.next_due(), tx.outbox.entries_after(0, 1)))

    async def close(self) -> None:
        """Wait for transactions in progress and close every connection."""
        loop = asyncio.get_running_loop()
        for pool in (self._readers, self._writers):
            await loop.run_in_executor(None, pool.shutdown)
        self._read_engine.dispose()
        self.write_engine.dispose()

    async def _run(self, pool: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        try:
            result = await asyncio.get_running_loop().run_in_executor(pool, call)
        except (DBAPIError, PoolTimeout) as exc:
            why = str(exc.orig) if isinstance(exc, DBAPIError) else "no free connection"
            self._failed = True
            if self._readiness is not None:
                self._readiness.fail(_CONDITION, why)
            raise StoreUnavailable(f"the schedule store failed: {why}", retry_after_s=1.0) from exc
        if self._readiness is not None and pool is self._writers and (not self._failed or self._has_room()):
            # Reads succeed on a full disk: only a write that came through, with room for the next, proves recovery.
            self._failed = False
            self._readiness.hold(_CONDITION)
        return result

    def _has_room(self) -> bool:
        """Whether the disk under a SQLite file has space again; other databases know for themselves."""
        if self._file is None:
            return True
        disk = os.statvfs(self._file.parent)
        return disk.f_bavail * disk.f_frsize >= _ROOM_BYTES

    def _in_transaction(
        self, engine: sa.Engine, work: Callable[[Transaction], T], failpoints: tuple[str | None, str | None]
    ) -> T:
        before, after = failpoints
        with engine.connect() as connection, connection.begin():
            result = work(SqlTransaction(connection, self._dialect))
            if before is not None and result:
                failpoint(before)
        if after is not None and result:
            failpoint(after)
        return result


def _rehearse(transaction: SqlTransaction) -> None:
    """One stage from creation to its place in the log, of an event with a name no real one can have; rolled back."""
    stages = tuple(Stage(key=key, offset_ms=offset) for offset, key in enumerate(("one", "two", "three")))
    planned = plan(EventDraft(event_id="~rehearsal", title="Rehearsal", starts_at=0, stages=stages), 0).state
    transaction.events.insert(planned)
    transaction.outbox.put_schedules(topic_schedules(planned))
    transaction.leases.read(lock=True)
    transaction.events.next_due()
    transaction.events.due(0, 1)
    for now in range(len(stages)):
        state = transaction.events.load(planned.event.event_id, lock=True)
        assert state is not None
        transaction.events.save(state, due_now(state, now, late_after_ms=0))
        transaction.outbox.mark_published(transaction.outbox.unpublished(1), now)


@asynccontextmanager
async def open_store(
    url: sa.URL, *, clock: Clock, readiness: Readiness | None = None, busy_timeout_s: float = 2.0
) -> AsyncIterator[SqlStore]:
    """A store at the newest schema. Raises StoreUnavailable, also for a database newer than this code."""
    store = SqlStore(url, clock=clock, readiness=readiness, busy_timeout_s=busy_timeout_s)
    try:
        await store.migrate()
        await store.warm_up()
        yield store
    finally:
        await store.close()
