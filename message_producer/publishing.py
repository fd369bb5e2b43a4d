"""The embedded publisher: what waits in the outbox gets its position in the log, in order (R2)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

import structlog

from contract.backoff import Backoff
from contract.clock import Clock
from contract.errors import LeaseLost, StoreUnavailable
from contract.log import LogEntry
from contract.runtime.failpoints import failpoint
from message_producer.lease_keeper import LeaseKeeper
from message_producer.metrics import ProducerMetrics
from message_producer.store import Store, Transaction
from message_producer.wakeups import Wakeups

__all__ = ["PublishingService"]

_ROWS_MAX = 500
_LOOK_EVERY_S = 0.25
_RETRY_FIRST_S = 0.05
_RETRY_CAP_S = 1.0

_log = structlog.get_logger(__name__)


class PublishingService:
    """The outbox is the log: publishing is giving rows their position in it, all of them in one commit."""

    name = "producer.publisher"

    def __init__(
        self,
        store: Store,
        clock: Clock,
        lease: LeaseKeeper,
        wakeups: Wakeups,
        *,
        metrics: ProducerMetrics,
        on_published: Callable[[Sequence[LogEntry]], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._lease = lease
        self._wakeups = wakeups
        self._metrics = metrics
        self._on_published = on_published
        self._backoff = Backoff(first_s=_RETRY_FIRST_S, cap_s=_RETRY_CAP_S, jitter=random.random)

    @property
    def waiting(self) -> int:
        """Rows known to wait: none, they are published where they are found."""
        return 0

    async def run(self, ready: asyncio.Event, stop: asyncio.Event) -> None:
        watching = asyncio.create_task(self._watch(stop), name=f"{self.name}.stop")
        ready.set()
        try:
            while not stop.is_set():
                await self._round()
            await self._round_once()  # what was dispatched while stopping
        finally:
            watching.cancel()

    async def publish_waiting(self) -> int:
        """Publish one batch; returns how many rows. Raises LeaseLost, StoreUnavailable."""
        entries = await self._store.write(self.position, urgent=True)
        self.positioned(entries)
        return len(entries)

    def position(self, transaction: Transaction) -> list[LogEntry]:
        """Put what waits into the log, in order, as part of `transaction`. Raises LeaseLost."""
        self._lease.check(transaction)
        waiting = transaction.outbox.unpublished(_ROWS_MAX)
        if not waiting.schedules and not waiting.broadcasts:
            return []
        failpoint("producer.publish.before_send")
        entries = transaction.outbox.position(waiting, self._clock.now_ms())
        failpoint("producer.publish.after_send")
        return entries

    def positioned(self, entries: Sequence[LogEntry]) -> None:
        """The transaction that put `entries` into the log is committed: whoever waits for them may have them."""
        if entries:
            failpoint("producer.publish.after_mark")
            self._metrics.published(sum(1 for entry in entries if entry.broadcast is not None))
            self._on_published(entries)

    async def _round(self) -> None:
        if not await self._round_once():
            await self._wakeups.publish.wait(_LOOK_EVERY_S)

    async def _round_once(self) -> bool:
        """Whether there may be more to publish at once."""
        if self._lease.epoch is None:
            return False
        try:
            published = await self.publish_waiting()
        except LeaseLost:
            self._lease.lost()
            return False
        except StoreUnavailable as exc:
            wait_s = self._backoff.next_s()
            _log.warning("publish_waits", why=str(exc), retry_in_s=round(wait_s, 3))
            await asyncio.sleep(wait_s)
            return False
        self._backoff.reset()
        return published >= _ROWS_MAX

    async def _watch(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wakeups.publish.set()
