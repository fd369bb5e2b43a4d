"""Brings a database to the newest schema, all or nothing: one explicit transaction around every migration."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from contract.errors import StoreUnavailable
from message_producer.adapters.sql_schema import SCHEMA_HEAD

__all__ = ["MIGRATIONS", "migrate", "schema_revision"]

MIGRATIONS = Path(__file__).with_name("migrations")
_ADVISORY_LOCK = 0x57A6E0
_LIMITS = {
    "lock_timeout": "60s",
    "statement_timeout": "110s",
    "idle_in_transaction_session_timeout": "60s",
}


def schema_revision(connection: sa.Connection) -> str | None:
    """The revision a database is at; None for an empty one."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return found


def migrate(engine: sa.Engine, *, migrations: Path = MIGRATIONS, head: str = SCHEMA_HEAD) -> None:
    """Upgrade to `head` in the one transaction `engine` begins (BEGIN IMMEDIATE on SQLite). Blocks.

    A process killed at any instant leaves the old schema or the new one. Two starting at once: the second waits and
    finds nothing to do. Raises StoreUnavailable for a database newer than this code.
    """
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            # Whoever comes second waits for the first one's migration, and that may take longer than a dispatch may.
            for name, limit in _LIMITS.items():
                connection.execute(sa.text(f"SET LOCAL {name} = '{limit}'"))
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        found = schema_revision(connection)
        if found == head:
            return
        # Imported only when there is something to do: starting up takes a fifth of a second less without it.
        from alembic import command
        from alembic.config import Config
        from alembic.script import ScriptDirectory

        config = Config()
        config.set_main_option("script_location", str(migrations))
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if found is not None and found not in known:
            raise StoreUnavailable(
                f"the database has schema {found}, which this version does not know",
                rule=f"use a version that does, or restore a backup; this one goes up to {head}",
            )
        config.attributes["connection"] = connection
        command.upgrade(config, head)
