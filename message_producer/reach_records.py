"""How reach is stored: in short transactions, so that nothing else waits behind a long one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from contract.reach import ReachCount
from message_producer.store import Store

__all__ = ["store_reach"]

_ROWS_AT_ONCE: Final = 500


async def store_reach(store: Store, counts: Sequence[ReachCount]) -> None:
    """Keep the greatest of each count; repeats and reordering do no harm. Raises StoreUnavailable."""
    for start in range(0, len(counts), _ROWS_AT_ONCE):
        some = counts[start : start + _ROWS_AT_ONCE]
        await store.write(lambda tx, some=some: tx.reach.record(some))  # type: ignore[misc]
