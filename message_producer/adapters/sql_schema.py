"""Tables of the schedule store. Migrations bring a database here; a test compares the two."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

__all__ = [
    "SCHEMA_HEAD",
    "audit",
    "coverage",
    "coverage_nodes",
    "events",
    "idempotency_keys",
    "lease",
    "log_consumers",
    "log_head",
    "metadata",
    "occurrences",
    "outbox",
    "reach",
    "schedule_outbox",
    "topics",
]

SCHEMA_HEAD: Final = "0003"
"""The newest revision in migrations/versions."""

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    }
)
_Ms = sa.BigInteger
_RowId = sa.BigInteger().with_variant(sa.Integer, "sqlite")

events = sa.Table(
    "events",
    metadata,
    sa.Column("event_id", sa.Text, primary_key=True),
    sa.Column("draft", sa.Text, nullable=False),  # what operators and feeds say, as JSON: nothing queries inside
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("source_uid", sa.Text),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("cancelled", sa.Boolean, nullable=False),
    sa.Column("created_at", _Ms, nullable=False),
    sa.Column("updated_at", _Ms, nullable=False),
    sa.Column("last_timestamp", _Ms, nullable=False),
    sa.Column("added_at_version", sa.Text, nullable=False),
    sa.UniqueConstraint("source", "source_uid"),
)

topics = sa.Table(
    "topics",
    metadata,
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("event_id", sa.Text, sa.ForeignKey("events.event_id"), nullable=False, index=True),
    sa.Column("audience", sa.Text, nullable=False),
    sa.Column("last_timestamp", _Ms, nullable=False),
    sa.Column("last_state", sa.Text),
    sa.Column("removed", sa.Boolean, nullable=False),
)

# The newest arming of each stage. Which armings were dispatched is in the outbox, which holds each at most once.
occurrences = sa.Table(
    "occurrences",
    metadata,
    sa.Column("topic", sa.Text, sa.ForeignKey("topics.topic"), primary_key=True),
    sa.Column("stage_key", sa.Text, primary_key=True),
    sa.Column("event_id", sa.Text, sa.ForeignKey("events.event_id"), nullable=False, index=True),
    sa.Column("arming", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("stage_order", sa.Integer, nullable=False),
    sa.Column("due_at", _Ms),
    sa.Column("timestamp", _Ms),
    sa.Column("cued_at", _Ms),
    sa.Column("passed_over_at", _Ms),
    sa.UniqueConstraint("topic", "stage_key", "arming"),
    sa.Index("ix_occurrences_state_due_at", "state", "due_at"),
)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("id", _RowId, primary_key=True, autoincrement=True),
    sa.Column("event_id", sa.Text, sa.ForeignKey("events.event_id"), nullable=False),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("state_key", sa.Text, nullable=False),
    sa.Column("arming", sa.Integer, nullable=False),
    sa.Column("timestamp", _Ms, nullable=False),
    sa.Column("prev", _Ms, nullable=False),
    sa.Column("cause", sa.Text, nullable=False),
    sa.Column("due_at", _Ms),
    sa.Column("dispatched_at", _Ms, nullable=False),
    sa.Column("published_at", _Ms),
    sa.Column("position", sa.BigInteger, unique=True),
    sa.UniqueConstraint("topic", "state_key", "arming"),
    sa.UniqueConstraint("event_id", "timestamp"),
    sa.Index(
        "ix_outbox_unpublished",
        "timestamp",
        sqlite_where=sa.text("published_at IS NULL"),
        postgresql_where=sa.text("published_at IS NULL"),
    ),
    sa.Index("ix_outbox_timestamp", "timestamp"),
)

schedule_outbox = sa.Table(
    "schedule_outbox",
    metadata,
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("event_id", sa.Text, sa.ForeignKey("events.event_id"), nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("published_at", _Ms),
    sa.Column("position", sa.BigInteger, unique=True),
    sa.Index(
        "ix_schedule_outbox_unpublished",
        "topic",
        sqlite_where=sa.text("published_at IS NULL"),
        postgresql_where=sa.text("published_at IS NULL"),
    ),
)

log_head = sa.Table(
    "log_head",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("position", sa.BigInteger, nullable=False),
)

log_consumers = sa.Table(
    "log_consumers",
    metadata,
    sa.Column("consumer", sa.Text, primary_key=True),
    sa.Column("next_offset", sa.BigInteger, nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("sequence", _RowId, primary_key=True, autoincrement=True),
    sa.Column("at", _Ms, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("event_id", sa.Text, nullable=False),
    sa.Column("before", sa.LargeBinary),
    sa.Column("after", sa.LargeBinary),
    sa.Index("ix_audit_event_id_sequence", "event_id", "sequence"),
)

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("actor", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("response", sa.LargeBinary, nullable=False),
    sa.Column("created_at", _Ms, nullable=False, index=True),
)

lease = sa.Table(
    "lease",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("expires_at", _Ms, nullable=False),
)

reach = sa.Table(
    "reach",
    metadata,
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("timestamp", _Ms, primary_key=True),
    sa.Column("node_id", sa.Text, primary_key=True),
    sa.Column("incarnation", sa.Text, primary_key=True),
    *(
        sa.Column(name, sa.BigInteger, nullable=False)
        for name in ("subscribers", "written", "replayed", "coalesced", "acked", "gaps", "holes")
    ),
    sa.Column("routed_at", _Ms),
)

# A share counts while its node is heard from, whichever of its topics it last reported.
coverage_nodes = sa.Table(
    "coverage_nodes",
    metadata,
    sa.Column("node_id", sa.Text, primary_key=True),
    sa.Column("incarnation", sa.Text, primary_key=True),
    sa.Column("begun_at", _Ms, nullable=False),
    sa.Column("seen_at", _Ms, nullable=False),
)

coverage = sa.Table(
    "coverage",
    metadata,
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("node_id", sa.Text, primary_key=True),
    sa.Column("incarnation", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("held", sa.Text, nullable=False),  # version -> subscribers, as JSON: a node bounds how many versions
    sa.Column("counted_at", _Ms, nullable=False),
)
