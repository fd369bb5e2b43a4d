"""When the first push node had a broadcast from a router: reach.routed_at."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("reach") as batch:
        batch.add_column(sa.Column("routed_at", sa.BigInteger(), nullable=True))
