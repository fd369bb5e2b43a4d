"""The publisher towards a log outside the store: at least once, per topic in order (R2), off the critical path.

A broadcast goes out the moment its dispatch is committed; that it did is written down afterwards, many at a time. A
crash in between sends again: the router knows repeats by their timestamps (R9).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Coroutine, Sequence
from itertools import islice
from typing import Any, Final

import structlog

from contract.backoff import Backoff
from contract.broadcast import Broadcast
from contract.clock import Clock
from contract.errors import LeaseLost, LogUnavailable, StoreUnavailable
from contract.runtime.failpoints import failpoint
from contract.schedule import TopicSchedule
from message_producer.lease_keeper import LeaseKeeper
from message_producer.metrics import ProducerMetrics
from message_producer.ports import Publisher
from message_producer.publish_queue import PublishQueue
from message_producer.store import Store, Transaction, Unpublished
from message_producer.wakeups import Wakeup, Wakeups

__all__ = ["LogPublishing"]

_ROWS_MAX: Final = 500
_WAITING_MAX: Final = 2_000
_TOPICS_MAX: Final = 50_000
_LOOK_EVERY_S: Final = 0.25
_MARK_AFTER_S: Final = 0.1
"""Marks are gathered this long: what they cost is paid once, and after the broadcasts went out."""
_MARKS_AT_ONCE: Final = 500
_RETRY_FIRST_S: Final = 0.05
_RETRY_CAP_S: Final = 1.0
_DRAIN_WITHIN_S: Final = 5.0

_log = structlog.get_logger(__name__)


class LogPublishing:
    """A service. What was handed over goes out at once; what others committed, or was left over, is looked up."""

    name = "producer.publisher"

    def __init__(
        self,
        store: Store,
        clock: Clock,
        lease: LeaseKeeper,
        wakeups: Wakeups,
        *,
        publisher: Publisher,
        metrics: ProducerMetrics,
    ) -> None:
        self._store = store
        self._clock = clock
        self._lease = lease
        self._wakeups = wakeups
        self._publisher = publisher
        self._metrics = metrics
        self._epoch: int | None = None
        """The epoch everything below was learnt under."""
        self._queue = self._empty()
        self._to_mark: deque[tuple[Broadcast | TopicSchedule, int]] = deque()
        self._marking = Wakeup()
        self._one_marks = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._look_due = True
        self._backoff = self._new_backoff()
        self._schedule_backoff = self._new_backoff()

    @property
    def waiting(self) -> int:
        """Broadcasts and schedules known to wait for the log."""
        return self._queue.waiting

    def hand_over(self, broadcasts: Sequence[Broadcast]) -> None:
        """These were just dispatched and committed. Event loop only; never blocks."""
        if self._lease.epoch is None or not self._same_epoch():
            return  # whoever leads finds them in the outbox
        if not self._queue.hand(broadcasts):
            self._look_due = True
            self._wakeups.publish.set()
        self._start_sending()

    async def run(self, ready: asyncio.Event, stop: asyncio.Event) -> None:
        watching = asyncio.create_task(self._watch(stop), name=f"{self.name}.stop")
        marking = asyncio.create_task(self._mark_for_ever(), name=f"{self.name}.mark")
        ready.set()
        try:
            while not stop.is_set():
                await self._round()
            await self._drain()
        finally:
            for task in (watching, marking, *self._tasks):
                task.cancel()
            await asyncio.gather(watching, marking, *self._tasks, return_exceptions=True)

    async def publish_waiting(self) -> int:
        """Look, send and mark once, without retries; returns how many rows were confirmed.

        Raises LeaseLost, StoreUnavailable, LogUnavailable: the rest stays, and goes out first next time.
        """
        self._same_epoch()
        await self._look()
        schedules, topics = self._queue.take_schedules(), self._queue.startable()
        failures = await asyncio.gather(*map(self._send_schedule, schedules), *map(self._send_line, topics))
        for schedule, failure in zip(schedules, failures, strict=False):
            if failure is not None:
                self._queue.schedule_done(schedule, confirmed=False)
        for topic in topics:
            self._queue.pause(topic)
        confirmed = len(self._to_mark)
        await self._mark()
        for failure in failures:
            if failure is not None:
                raise failure
        return confirmed

    async def _round(self) -> None:
        if not self._same_epoch():
            await self._wakeups.publish.wait(_LOOK_EVERY_S)
            return
        try:
            if self._look_due:
                await self._look()
        except LeaseLost:
            self._lease.lost()
            return
        except StoreUnavailable as exc:
            wait_s = self._backoff.next_s()
            _log.warning("publish_waits_for_store", why=str(exc), retry_in_s=round(wait_s, 3))
            await asyncio.sleep(wait_s)
            return
        self._backoff.reset()
        self._start_sending()
        if not self._look_due:
            await self._wakeups.publish.wait(_LOOK_EVERY_S)
            self._look_due = True  # somebody committed something, or nobody told us

    def _same_epoch(self) -> bool:
        """Whether the lease is ours. What was learnt under another epoch is forgotten: others may have published."""
        if self._lease.epoch != self._epoch:
            self._epoch = self._lease.epoch
            self._queue, self._look_due = self._empty(), True
            self._to_mark = deque()
        return self._epoch is not None

    def _empty(self) -> PublishQueue:
        return PublishQueue(waiting_max=_WAITING_MAX, topics_max=_TOPICS_MAX)

    async def _look(self) -> None:
        """Read from the outbox what waits there."""
        queue = self._queue
        self._look_due = False

        def look(transaction: Transaction) -> Unpublished:
            self._lease.check(transaction)
            return transaction.outbox.unpublished(_ROWS_MAX)

        try:
            waiting = await self._store.write(look, urgent=True)
        except BaseException:
            self._look_due = True
            raise
        queue.found(waiting.broadcasts, waiting.schedules)

    def _start_sending(self) -> None:
        """A task for every topic and schedule that may go now."""
        if not self._lease.holds:
            return  # the next renewal, or the next look, comes back here
        for schedule in self._queue.take_schedules():
            self._spawn(self._keep_sending_schedule(schedule), f"schedule.{schedule.topic}")
        for topic in self._queue.startable():
            self._queue.next(topic)
            self._spawn(self._keep_sending_line(topic), topic)

    def _spawn(self, work: Coroutine[Any, Any, None], what: str) -> None:
        task = asyncio.create_task(work, name=f"{self.name}.{what}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep_sending_line(self, topic: str) -> None:
        """Send what the topic has until nothing waits, or the lease is not ours any more."""
        queue, backoff = self._queue, self._new_backoff()
        while (failure := await self._send_line(topic)) is not None:
            await self._pause(failure, backoff)
        queue.pause(topic)

    async def _keep_sending_schedule(self, schedule: TopicSchedule) -> None:
        queue = self._queue
        if (failure := await self._send_schedule(schedule)) is not None:
            await self._pause(failure, self._schedule_backoff)
            queue.schedule_done(schedule, confirmed=False)
            self._start_sending()  # this one, or the newer one that came meanwhile
        else:
            self._schedule_backoff.reset()

    async def _send_line(self, topic: str) -> LogUnavailable | None:
        """Send the topic's broadcasts in order, the next only after the one before is confirmed.

        Returns the error when the log did not take one: it stays first. None: no more to do for this producer.
        """
        queue = self._queue
        while (broadcast := queue.next(topic)) is not None:
            if not self._lease.holds or queue is not self._queue:
                return None
            failpoint("producer.publish.before_send")
            try:
                await self._publisher.publish_broadcast(broadcast)
            except LogUnavailable as exc:
                return exc
            failpoint("producer.publish.after_send")
            queue.confirmed(broadcast)
            self._metrics.published(1)
            self._note(queue, broadcast)
        return None

    async def _send_schedule(self, schedule: TopicSchedule) -> LogUnavailable | None:
        """Returns the error when the log did not take it; it is on its way still, as the queue sees it."""
        queue = self._queue
        failpoint("producer.publish.before_send")
        try:
            await self._publisher.publish_schedule(schedule)
        except LogUnavailable as exc:
            return exc
        failpoint("producer.publish.after_send")
        queue.schedule_done(schedule, confirmed=True)
        self._note(queue, schedule)
        return None

    def _note(self, queue: PublishQueue, confirmed: Broadcast | TopicSchedule) -> None:
        """The log has it; to be marked, unless the lease changed hands meanwhile."""
        if queue is self._queue:
            self._to_mark.append((confirmed, self._clock.now_ms()))
            self._marking.set()

    async def _mark_for_ever(self) -> None:
        backoff = self._new_backoff()
        while True:
            if not self._to_mark or self._lease.epoch is None:
                await self._marking.wait(_LOOK_EVERY_S)
                continue
            await asyncio.sleep(_MARK_AFTER_S)
            try:
                await self._mark()
            except LeaseLost:
                self._lease.lost()
            except StoreUnavailable as exc:
                wait_s = backoff.next_s()
                _log.warning("marks_wait_for_store", why=str(exc), retry_in_s=round(wait_s, 3))
                await asyncio.sleep(wait_s)
            else:
                backoff.reset()

    async def _mark(self) -> None:
        """Write down what the log has. Raises LeaseLost, StoreUnavailable; then it is to be done again."""
        async with self._one_marks:
            to_mark = self._to_mark
            some = list(islice(to_mark, _MARKS_AT_ONCE))
            if not some:
                return

            def mark(transaction: Transaction) -> None:
                self._lease.check(transaction)
                transaction.outbox.mark_published(some)

            await self._store.write(mark, urgent=True)
            for _ in some:
                to_mark.popleft()
        failpoint("producer.publish.after_mark")

    async def _pause(self, failure: LogUnavailable, backoff: Backoff) -> None:
        wait_s = backoff.next_s()
        _log.warning("publish_waits_for_log", why=str(failure), retry_in_s=round(wait_s, 3))
        await asyncio.sleep(wait_s)

    async def _drain(self) -> None:
        """What was dispatched while stopping goes out, and is marked, if that can be done in time."""
        with contextlib.suppress(TimeoutError, LeaseLost, StoreUnavailable):
            async with asyncio.timeout(_DRAIN_WITHIN_S):
                if self._lease.epoch is not None and self._same_epoch():
                    await self._look()
                    self._start_sending()
                while self._tasks:
                    await asyncio.wait(set(self._tasks))
                while self._to_mark:
                    await self._mark()

    def _new_backoff(self) -> Backoff:
        return Backoff(first_s=_RETRY_FIRST_S, cap_s=_RETRY_CAP_S, jitter=random.random)

    async def _watch(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wakeups.publish.set()
