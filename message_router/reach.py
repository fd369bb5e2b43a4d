"""Reach on its way back: counts of all nodes, merged, written in batches, kept while the store is in trouble."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable

from contract.backoff import Backoff
from contract.errors import StoreUnavailable
from contract.log import ReachSink
from contract.reach import ReachCount
from message_router.metrics import RouterMetrics

__all__ = ["ReachForwarder"]

_BATCH = 1_000
_Key = tuple[str, str, str, int]


class ReachForwarder:
    """Holds the newest count per (node, incarnation, topic, timestamp), at most `bound` of them.

    Counts are absolute and nodes repeat them, so dropping one delays it and loses nothing.
    """

    def __init__(
        self,
        sink: ReachSink,
        *,
        bound: int,
        interval_s: float,
        new_backoff: Callable[[], Backoff],
        metrics: RouterMetrics,
    ) -> None:
        self._sink = sink
        self._bound = bound
        self._interval_s = interval_s
        self._new_backoff = new_backoff
        self._metrics = metrics
        self._pending: OrderedDict[_Key, ReachCount] = OrderedDict()
        self._arrived = asyncio.Event()

    def report(self, counts: Iterable[ReachCount]) -> None:
        for count in counts:
            self._pending[_key(count)] = count
        while len(self._pending) > self._bound:
            self._pending.popitem(last=False)
            self._metrics.reach_dropped.inc()
        self._arrived.set()

    async def run(self) -> None:
        """Forward until cancelled; retries with growing pauses."""
        backoff = self._new_backoff()
        while True:
            await self._arrived.wait()
            try:
                await self.flush()
            except StoreUnavailable:
                await asyncio.sleep(backoff.next_s())
            else:
                backoff.reset()
                await asyncio.sleep(self._interval_s)

    async def flush(self) -> None:
        """Write everything held now. Raises StoreUnavailable; what was not written stays held."""
        self._arrived.clear()
        for _ in range(-(-len(self._pending) // _BATCH)):
            taken = [self._pending.popitem(last=False) for _ in range(min(_BATCH, len(self._pending)))]
            try:
                await self._sink.record_reach([count for _, count in taken])
            except BaseException:
                for key, count in reversed(taken):
                    if key not in self._pending:  # a newer count may have come meanwhile
                        self._pending[key] = count
                        self._pending.move_to_end(key, last=False)
                self._arrived.set()
                raise
        if self._pending:
            self._arrived.set()


def _key(count: ReachCount) -> _Key:
    return (count.node_id, count.incarnation, count.topic, count.timestamp)
