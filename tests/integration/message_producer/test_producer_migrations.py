"""Migrations are all or nothing, also when the process is killed in the middle of one."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from contract.errors import StoreUnavailable
from message_producer.adapters.sql_engine import make_engine
from message_producer.adapters.sql_migrate import MIGRATIONS, migrate, schema_revision
from message_producer.adapters.sql_schema import SCHEMA_HEAD, metadata

SECOND = f'''
"""A later schema: a batch alteration copies the table."""

import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{SCHEMA_HEAD}"


def upgrade() -> None:
    with op.batch_alter_table("audit") as batch:
        batch.add_column(sa.Column("reason", sa.Text))
        batch.alter_column("actor", nullable=True)
    op.create_table("extra", sa.Column("id", sa.Integer, primary_key=True))
'''
# Dies at the nth statement of the migration, as `kill -9` would make it.
KILLED = textwrap.dedent(
    """
    import os, pathlib, signal, sys
    import sqlalchemy as sa
    from message_producer.adapters.sql_engine import make_engine
    from message_producer.adapters.sql_migrate import migrate

    database, migrations, head, fatal = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    engine = make_engine(sa.make_url("sqlite:///" + database), writes=True, busy_timeout_s=1, pool_size=1)
    seen = 0

    @sa.event.listens_for(engine, "after_cursor_execute")
    def count(*args):
        global seen
        seen += 1
        if seen == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    migrate(engine, migrations=migrations, head=head)
    """
)


def engine_for(path: Path) -> sa.Engine:
    return make_engine(sa.make_url(f"sqlite:///{path}"), writes=True, busy_timeout_s=1, pool_size=1)


def killed(database: Path, migrations: Path, head: str, at_statement: int) -> bool:
    """Whether the migration lived long enough to be killed at that statement."""
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(database), str(migrations), head, str(at_statement)],
        check=False,
        capture_output=True,
        timeout=20,
    )
    assert child.returncode in (0, -signal.SIGKILL), child.stderr
    return child.returncode != 0


def tables(database: Path) -> set[str]:
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


@pytest.fixture
def later(tmp_path: Path) -> Path:
    """The project's migrations and one after them."""
    copy = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, copy)
    (copy / "versions" / "9999_later.py").write_text(SECOND)
    return copy


def test_migrations_lead_to_the_schema_the_code_declares(tmp_path: Path) -> None:
    engine = engine_for(tmp_path / "x.db")
    migrate(engine)
    with engine.connect() as connection:
        assert schema_revision(connection) == SCHEMA_HEAD
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    migrate(engine)  # a second time finds nothing to do
    engine.dispose()


@pytest.mark.fault
@pytest.mark.parametrize("at_statement", [4, 9, 17])
def test_killed_in_the_first_migration_leaves_an_empty_database(tmp_path: Path, at_statement: int) -> None:
    database = tmp_path / "x.db"
    assert killed(database, MIGRATIONS, SCHEMA_HEAD, at_statement)
    assert tables(database) == set()
    engine = engine_for(database)
    migrate(engine)
    engine.dispose()
    assert "outbox" in tables(database)


@pytest.mark.fault
def test_killed_in_a_later_migration_leaves_the_old_schema_with_its_rows(tmp_path: Path, later: Path) -> None:
    database = tmp_path / "x.db"
    engine = engine_for(database)
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO audit (at, actor, action, event_id) VALUES (1, 'me', 'create', 'night')")
        )
    engine.dispose()
    before = tables(database)
    kills = 0
    for at_statement in (8, 11, 14):
        kills += killed(database, later, "9999", at_statement)
        assert tables(database) == before, "half a migration"
    assert kills == 3
    engine = engine_for(database)
    migrate(engine, migrations=later, head="9999")
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT actor, reason FROM audit")).one() == ("me", None)
    engine.dispose()
    assert tables(database) == before | {"extra"}


def test_reach_of_the_first_schema_is_kept_with_no_time_at_the_nodes(tmp_path: Path) -> None:
    """Goal: 0002 adds `routed_at` to rows that are there, and knows it of none of them."""
    engine = engine_for(tmp_path / "x.db")
    migrate(engine, head="0001")
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO reach VALUES ('event:night', 10, 'n1', 'a', 5, 4, 3, 2, 1, 0, 0)"))
    migrate(engine)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT node_id, subscribers, routed_at FROM reach")).one() == ("n1", 5, None)
    engine.dispose()


def test_a_database_newer_than_the_code_is_refused(tmp_path: Path, later: Path) -> None:
    engine = engine_for(tmp_path / "x.db")
    migrate(engine, migrations=later, head="9999")
    with pytest.raises(StoreUnavailable, match="schema 9999"):
        migrate(engine)
    engine.dispose()
