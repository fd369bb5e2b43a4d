"""Alembic's entry point: run on the connection handed over, inside the transaction it already has."""

from __future__ import annotations

from alembic import context

from message_producer.adapters.sql_schema import metadata

# One explicit transaction around everything (see sql_migrate): Alembic must neither begin nor commit its own.
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
