"""Engines, the dialect seam and the lock file: everything that differs between SQLite and PostgreSQL is here."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final, TextIO

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from contract.clock import Clock
from contract.errors import InvalidRequest, StoreUnavailable
from message_producer.store import LeaseLock

__all__ = ["CHANNEL", "URL_SETTING", "DatabaseLock", "Dialect", "database_url", "make_engine", "sqlite_path"]

CHANNEL: Final = "stagecue"
"""PostgreSQL's notification channel by which producers tell each other that something was committed."""
URL_SETTING: Final = "--database (PRODUCER_DATABASE_URL)"
_URL_RULE: Final = "postgresql://user:password@host:port/database, or sqlite:///path"
_CONNECT_WITHIN_S: Final = 2
_LOCK_TIMEOUT_MS: Final = 1000
_IDLE_TIMEOUT_MS: Final = 1000
_STATEMENT_TIMEOUT_MS: Final = 2000
_DEAD_AFTER_MS: Final = 2000
_POSTGRES: Final = {
    "connect_timeout": _CONNECT_WITHIN_S,
    # A host that vanished is noticed by the kernel, whether it owes us an answer or a connection lies idle.
    "tcp_user_timeout": _DEAD_AFTER_MS,
    "keepalives": 1,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 2,
    "application_name": "stagecue-producer",
    # A producer that is paused inside a transaction keeps its row locks: the server ends it, and nobody waits longer.
    "options": (
        f"-c lock_timeout={_LOCK_TIMEOUT_MS} -c idle_in_transaction_session_timeout={_IDLE_TIMEOUT_MS}"
        f" -c statement_timeout={_STATEMENT_TIMEOUT_MS} -c synchronous_commit=on -c timezone=UTC"
    ),
}


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

    def lock_free_rows(self, select: sa.Select[Any]) -> sa.Select[Any]:
        """Hold those of the rows until commit that nobody else holds; the others are left out."""
        return select if self.name == "sqlite" else select.with_for_update(skip_locked=True)

    def among(self, column: sa.ColumnElement[str], name: str) -> sa.ColumnElement[bool]:
        """`column` is one of the values of the parameter `name`, given as `values`: one statement for any number."""
        if self.name == "sqlite":
            each = sa.func.json_each(sa.bindparam(name)).table_valued("value")
            return column.in_(sa.select(each.c.value))
        return column == sa.any_(sa.bindparam(name, type_=postgresql.ARRAY(sa.Text)))

    def values(self, given: Collection[str]) -> object:
        """A parameter for `among`."""
        return json.dumps(list(given)) if self.name == "sqlite" else list(given)

    def lock_lease(self, select: sa.Select[Any], lock: LeaseLock) -> sa.Select[Any]:
        """Read the lease's row under `lock`.

        FENCE is the weakest row lock: any number of transactions hold it side by side, renewals pass it (they change
        no key), and only a takeover, which asks for the row whole, waits for them.
        """
        if self.name == "sqlite" or lock is LeaseLock.NONE:
            return select
        return select.with_for_update() if lock is LeaseLock.TAKE else select.with_for_update(read=True, key_share=True)

    def now_ms(self, connection: sa.Connection) -> int:
        """The database's clock (R3). SQLite has none of its own: it reads this host's, as `clock` does."""
        if self.name == "sqlite":
            return self._clock.now_ms()
        return int(connection.execute(_now).scalar_one())

    def notify(self, connection: sa.Connection) -> None:
        """Tell whoever listens on CHANNEL, when this transaction commits. A SQLite file has one producer."""
        if self.name != "sqlite":
            connection.execute(_notify)


_now = sa.text("SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint")
_notify = sa.text(f"SELECT pg_notify('{CHANNEL}', '')")


def database_url(text: str) -> sa.URL:
    """The SQLAlchemy URL a person meant. Raises InvalidRequest naming the setting; secrets are not repeated."""
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError) as exc:
        raise InvalidRequest("is no database URL", field=URL_SETTING, rule=_URL_RULE) from exc
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("postgresql+psycopg", "sqlite", "sqlite+pysqlite"):
        raise InvalidRequest(f"{url.drivername[:40]!r} is not supported", field=URL_SETTING, rule=_URL_RULE)
    if url.get_backend_name() == "postgresql" and not url.database:
        raise InvalidRequest("names no database", field=URL_SETTING, rule=_URL_RULE)
    return url


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
        from message_producer.adapters.psycopg_cursor import StepwiseCursor

        # Readers see one snapshot; writers lock the rows they decide upon and must see what others committed before.
        isolation = "READ COMMITTED" if writes else "REPEATABLE READ"
        # No ping before use: whoever meets a connection that broke repeats its transaction on a new one.
        return sa.create_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            isolation_level=isolation,
            connect_args={
                "cursor_factory": StepwiseCursor,
                **{name: value for name, value in _POSTGRES.items() if name not in url.query},
            },
            execution_options={} if writes else {"postgresql_readonly": True},
        )
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
