"""Who may hold the producer's lease, judged by the database's clock. Pure (R3)."""

from __future__ import annotations

import msgspec

from message_producer.store import LeaseRow

__all__ = ["claim", "released"]


def claim(
    row: LeaseRow, me: str, my_epoch: int | None, now: int, *, length_ms: int, alone: bool
) -> tuple[LeaseRow | None, bool]:
    """The row to write, if any, and whether `me` holds the lease then.

    A holder whose epoch still stands renews, late or not: nobody came in between. Anyone else takes a lease that has
    ended, or one that ends further off than its length (a clock was wrong when it was written), and the epoch rises.
    `alone`: no other process can be alive, so the lease is taken at once.
    """
    if row.holder == me and row.epoch == my_epoch:
        return msgspec.structs.replace(row, expires_at=now + length_ms), True
    remaining = row.expires_at - now
    if alone or remaining <= 0 or remaining > length_ms:
        return LeaseRow(me, row.epoch + 1, now + length_ms), True
    return None, False


def released(row: LeaseRow, me: str, my_epoch: int | None) -> LeaseRow | None:
    """The row to write when `me` stops; None when the lease is not its own any more."""
    return msgspec.structs.replace(row, expires_at=0) if row.holder == me and row.epoch == my_epoch else None
