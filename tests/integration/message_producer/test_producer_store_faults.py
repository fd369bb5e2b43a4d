"""A locked database and a full disk: not ready, nothing half done, and it recovers by itself."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from contract.errors import LogUnavailable, StoreUnavailable
from contract.runtime.runner import Readiness, run_services
from contract.runtime.system_clock import SystemClock
from message_producer.adapters.sql_engine import make_engine
from message_producer.adapters.sql_store import SqlStore
from message_producer.app import Producer, open_producer
from message_producer.model import EventDraft, Stage, WriteContext
from message_producer.operations import StoreOperations
from message_producer.settings import ProducerSettings

ME = WriteContext(actor="op")
CLOCK = SystemClock()


def draft(event_id: str, *, in_ms: int, title: str = "Night") -> EventDraft:
    return EventDraft(
        event_id=event_id, title=title, starts_at=CLOCK.now_ms() + in_ms, stages=(Stage(key="live"), Stage(key="more"))
    )


class Running:
    def __init__(self, producer: Producer, readiness: Readiness, database: Path) -> None:
        self.producer = producer
        self.readiness = readiness
        self.database = database

    async def until(self, condition: Callable[[], bool], within_s: float = 5.0) -> None:
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110 - what is awaited is set by another task's retries
                await asyncio.sleep(0.01)

    async def heard(self, within_s: float = 5.0) -> str:
        """The next broadcast's state key."""
        async with asyncio.timeout(within_s):
            while True:
                with contextlib.suppress(LogUnavailable):
                    for entry in (await self.producer.log.poll(max_entries=1, timeout_s=1)).entries:
                        if entry.broadcast is not None:
                            return entry.broadcast.state_key


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    readiness, stop = Readiness(), asyncio.Event()
    settings = ProducerSettings(data_dir=tmp_path, busy_timeout_s=0.1)
    async with open_producer(settings, clock=CLOCK, readiness=readiness) as producer:
        task = asyncio.create_task(run_services(producer.services, stop=stop))
        up = Running(producer, readiness, tmp_path / "producer.db")
        await up.until(lambda: readiness.ready)
        yield up
        stop.set()
        await task


async def test_a_locked_database_makes_it_unready_and_it_recovers(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    await running.producer.operations.create(draft("night", in_ms=400), ME)
    with contextlib.closing(sqlite3.connect(running.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await running.until(lambda: not running.readiness.ready)
        assert "locked" in running.readiness.failing()["store"]
        with pytest.raises(StoreUnavailable, match="locked") as refused:
            await running.producer.operations.create(draft("other", in_ms=60_000), ME)
        assert refused.value.retryable
        assert (await running.producer.operations.get("night")).revision == 1, "reads go on"
        await asyncio.sleep(0.5)
        assert await running.producer.operations.broadcasts("night") == ()
        other.execute("ROLLBACK")
    assert await running.heard() == "more", "dispatched late, never lost (R4)"
    await running.until(lambda: running.readiness.ready)
    await running.producer.operations.create(draft("other", in_ms=60_000), ME)
    out = capsys.readouterr().out
    assert "not_ready" in out
    assert "ready_again" in out


async def test_a_full_disk_makes_it_unready_and_it_recovers(running: Running) -> None:
    """The size limit of the database file stands in for the disk's: SQLite reports the same error."""
    operations = running.producer.operations
    await operations.create(draft("night", in_ms=1500), ME)
    assert isinstance(operations, StoreOperations)
    store = operations._store
    assert isinstance(store, SqlStore)
    await set_max_pages(store, limit=True)
    written = 0
    with contextlib.suppress(StoreUnavailable):
        for number in range(200):
            await operations.create(draft(f"e{number}", in_ms=3_600_000), ME)
            written += 1
    with pytest.raises(StoreUnavailable, match="full"):
        await operations.create(draft("one-more", in_ms=3_600_000), ME)
    await running.until(lambda: "store" in running.readiness.failing(), within_s=1)
    assert len((await operations.page(limit=500)).items) == written + 1, "a refused write leaves nothing behind"
    await set_max_pages(store, limit=False)
    await running.until(lambda: running.readiness.ready)
    assert await running.heard() == "more"
    await operations.create(draft("after", in_ms=3_600_000), ME)


async def set_max_pages(store: SqlStore, *, limit: bool) -> None:
    """Set the limit on the writer's own connection, where SQLite keeps it."""

    def work() -> None:
        with store.write_engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            pages = driver.execute("PRAGMA page_count").fetchone()[0]
            driver.execute(f"PRAGMA max_page_count = {pages + 2 if limit else 1_000_000}")

    await store._writes.run(lambda attempt: work(), within_s=5)


async def test_services_stop_while_the_store_is_locked(tmp_path: Path) -> None:
    readiness, stop = Readiness(), asyncio.Event()
    settings = ProducerSettings(data_dir=tmp_path, busy_timeout_s=0.1)
    async with open_producer(settings, clock=CLOCK, readiness=readiness) as producer:
        task = asyncio.create_task(run_services(producer.services, stop=stop))
        await Running(producer, readiness, tmp_path).until(lambda: readiness.ready)
        with contextlib.closing(sqlite3.connect(tmp_path / "producer.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            stop.set()
            async with asyncio.timeout(3):
                await task
            other.execute("ROLLBACK")


async def test_a_writer_never_commits_half(tmp_path: Path) -> None:
    """DDL included: the driver must not commit behind our back."""
    engine = make_engine(sa.make_url(f"sqlite:///{tmp_path / 'x.db'}"), writes=True, busy_timeout_s=1, pool_size=1)
    with engine.connect() as connection, connection.begin() as transaction:
        connection.execute(sa.text("CREATE TABLE one (id INTEGER)"))
        transaction.rollback()
    with engine.connect() as connection:
        assert sa.inspect(connection).get_table_names() == []
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    engine.dispose()
