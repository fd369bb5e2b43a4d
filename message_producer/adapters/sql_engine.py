"""Engines, the dialect seam and the lock file: everything that differs between SQLite and PostgreSQL is here."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any, TextIO

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from contract.clock import Clock
from contract.errors import StoreUnavailable

__all__ = ["DatabaseLock", "Dialect", "make_engine", "sqlite_path"]


class Dialect:
    """What SQL does not say the same everywhere."""

    def __init__(self, engine: sa.Engine, clock: Clock) -> None:
        self.name = engine.dialect.name
        self._clock = clock

    def insert(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        """An INSERT that knows ON CONFLICT."""
        return sqlite.insert(table) if self.name == "sqlite" else postgresql.insert(table)

    def lock_row(self, select: sa.Select[Any]) -> sa.Select[Any]:
        """Hold the row until commit. SQLite's BEGIN IMMEDIATE already holds the whole database."""
        return select if self.name == "sqlite" else select.with_for_update()

    def now_ms(self, connection: sa.Connection) -> int:
        """The database's clock (R3). SQLite has none of its own: it reads this host's, as `clock` does."""
        if self.name == "sqlite":
            return self._clock.now_ms()
        seconds = connection.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
        return int(seconds * 1000)


def sqlite_path(url: sa.URL) -> Path | None:
    """The file behind a SQLite URL; None for other databases."""
    if url.get_backend_name() != "sqlite":
        return None
    if not url.database or url.database == ":memory:":
        raise ValueError("the schedule store needs a SQLite file: two connections do not share a memory database")
    return Path(url.database)


def make_engine(url: sa.URL, *, writes: bool, busy_timeout_s: float, pool_size: int) -> sa.Engine:
    """An engine whose transactions begin as they should: on SQLite `BEGIN IMMEDIATE` for writers, durable commits."""
    if url.get_backend_name() != "sqlite":
        # Readers see one snapshot; writers lock the rows they decide upon and must see what others committed before.
        isolation = "READ COMMITTED" if writes else "REPEATABLE READ"
        return sa.create_engine(url, pool_size=pool_size, max_overflow=0, pool_pre_ping=True, isolation_level=isolation)
    engine = sa.create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        connect_args={"timeout": busy_timeout_s, "check_same_thread": False},
    )

    @sa.event.listens_for(engine, "connect")
    def on_connect(connection: Any, record: object) -> None:
        # The driver must not open or end transactions by itself: it would commit DDL behind our back.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        if not writes:
            cursor.execute("PRAGMA query_only=ON")
        cursor.close()

    begin = "BEGIN IMMEDIATE" if writes else "BEGIN"

    @sa.event.listens_for(engine, "begin")
    def on_begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


class DatabaseLock:
    """`<database>.lock`, held for the life of the process: whoever has it is the only producer on that file.

    The kernel releases it the moment the holder dies, so a restart after `kill -9` need not wait for a lease to end.
    """

    def __init__(self, database: Path) -> None:
        self.database = database
        self._path = database.with_name(database.name + ".lock")
        self._file: TextIO | None = None

    def try_acquire(self) -> bool:
        """Take the lock if it is free; never waits."""
        file = self._path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file
        return True

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def refusal(self) -> StoreUnavailable:
        """The error that names who holds the lock."""
        holder = self._path.read_text()[:20].strip() or "unknown"
        return StoreUnavailable(
            f"process {holder} already produces from {self.database}", rule="one producer per SQLite file"
        )
