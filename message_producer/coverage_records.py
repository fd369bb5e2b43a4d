"""How coverage is stored: in short transactions, and what nobody reports any more leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from contract.coverage import TopicCoverage
from message_producer.store import Store, Transaction

__all__ = ["CoverageRecords"]

_ROWS_AT_ONCE: Final = 500
_PRUNE_EVERY_MS: Final = 60_000
_KEEP_MS: Final = 600_000
"""Far longer than a share counts: a report delayed by a database in trouble must not bring back what is over."""


class CoverageRecords:
    """Writes shares into the store. One per process; times are the database's."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._prune_at = 0

    async def record(self, shares: Sequence[TopicCoverage]) -> None:
        """See CoverageSink."""
        for start in range(0, len(shares), _ROWS_AT_ONCE):
            some = shares[start : start + _ROWS_AT_ONCE]
            now = await self._store.write(lambda tx, some=some: _record(tx, some))  # type: ignore[misc]
            if now >= self._prune_at:
                await self._store.write(lambda tx, now=now: tx.coverage.prune(now - _KEEP_MS))  # type: ignore[misc]
                self._prune_at = now + _PRUNE_EVERY_MS


def _record(tx: Transaction, shares: Sequence[TopicCoverage]) -> int:
    now = tx.leases.database_now_ms()
    tx.coverage.record(shares, now)
    return now
