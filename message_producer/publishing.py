"""The publisher: rows that wait in the outbox reach the log, at least once, per topic in order (R2)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

import structlog

from contract.backoff import Backoff
from contract.broadcast import Broadcast
from contract.clock import Clock
from contract.errors import LeaseLost, LogUnavailable, StoreUnavailable
from contract.log import LogEntry
from contract.runtime.failpoints import failpoint
from message_producer.lease_keeper import LeaseKeeper
from message_producer.ports import Publisher
from message_producer.store import Store, Transaction, Unpublished
from message_producer.wakeups import Wakeups

__all__ = ["PublishingService"]

_ROWS_MAX = 500
_TOPICS_AT_ONCE = 64
_LOOK_EVERY_S = 0.25
_RETRY_FIRST_S = 0.05
_RETRY_CAP_S = 1.0

_log = structlog.get_logger(__name__)


class PublishingService:
    """Publishes what the outbox holds; embedded (`publisher` None), publishing is giving rows their log position.

    A crash between sending and marking sends again: the router knows repeats by their timestamps (R9).
    """

    name = "producer.publisher"

    def __init__(
        self,
        store: Store,
        clock: Clock,
        lease: LeaseKeeper,
        wakeups: Wakeups,
        *,
        publisher: Publisher | None,
        on_published: Callable[[Sequence[LogEntry]], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._lease = lease
        self._wakeups = wakeups
        self._publisher = publisher
        self._on_published = on_published
        self._backoff = Backoff(first_s=_RETRY_FIRST_S, cap_s=_RETRY_CAP_S, jitter=random.random)

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
        """Publish one batch; returns how many rows. Raises LeaseLost, StoreUnavailable, LogUnavailable."""
        if self._publisher is None:
            entries = await self._store.write(self.position)
        else:
            entries = await self._send(self._publisher)
        self.positioned(entries)
        return len(entries)

    def position(self, transaction: Transaction) -> list[LogEntry]:
        """Embedded: put what waits into the log, in order, as part of `transaction`. Raises LeaseLost."""
        self._lease.check(transaction)
        waiting = transaction.outbox.unpublished(_ROWS_MAX)
        if not waiting.schedules and not waiting.broadcasts:
            return []
        failpoint("producer.publish.before_send")
        entries = transaction.outbox.mark_published(waiting, self._clock.now_ms())
        failpoint("producer.publish.after_send")
        return entries

    def positioned(self, entries: Sequence[LogEntry]) -> None:
        """The transaction that put `entries` into the log is committed: whoever waits for them may have them."""
        if entries:
            failpoint("producer.publish.after_mark")
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
        except (StoreUnavailable, LogUnavailable) as exc:
            wait_s = self._backoff.next_s()
            _log.warning("publish_waits", why=str(exc), retry_in_s=round(wait_s, 3))
            await asyncio.sleep(wait_s)
            return False
        self._backoff.reset()
        return published >= _ROWS_MAX

    async def _send(self, publisher: Publisher) -> list[LogEntry]:
        def look(transaction: Transaction) -> Unpublished:
            self._lease.check(transaction)
            return transaction.outbox.unpublished(_ROWS_MAX)

        waiting = await self._store.write(look)
        if not waiting.schedules and not waiting.broadcasts:
            return []
        failpoint("producer.publish.before_send")
        for schedule in waiting.schedules:
            await publisher.publish_schedule(schedule)
        sent, failure = await _send_by_topic(publisher, waiting.broadcasts)
        failpoint("producer.publish.after_send")
        done = Unpublished(waiting.schedules, sent)
        entries = await self._store.write(lambda tx: tx.outbox.mark_published(done, self._clock.now_ms()))
        if failure is not None:
            raise failure
        return entries

    async def _watch(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wakeups.publish.set()


async def _send_by_topic(
    publisher: Publisher, broadcasts: Sequence[Broadcast]
) -> tuple[tuple[Broadcast, ...], LogUnavailable | None]:
    """Send topics side by side, each in order, the next only after the one before is confirmed."""
    by_topic: dict[str, list[Broadcast]] = {}
    for broadcast in broadcasts:
        by_topic.setdefault(broadcast.topic, []).append(broadcast)
    sent: set[tuple[str, int]] = set()
    failures: list[LogUnavailable] = []
    slots = asyncio.Semaphore(_TOPICS_AT_ONCE)

    async def send(topic: Sequence[Broadcast]) -> None:
        async with slots:
            try:
                for broadcast in topic:
                    await publisher.publish_broadcast(broadcast)
                    sent.add((broadcast.topic, broadcast.timestamp))
            except LogUnavailable as exc:
                failures.append(exc)

    async with asyncio.TaskGroup() as group:
        for topic, rows in by_topic.items():
            group.create_task(send(rows), name=f"producer.publish.{topic}")
    return tuple(b for b in broadcasts if (b.topic, b.timestamp) in sent), failures[0] if failures else None
