"""The dispatcher: wakes when a stage is due and dispatches it, once, in one transaction (R1-R4)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import structlog

from contract.backoff import Backoff
from contract.clock import Clock
from contract.errors import LeaseLost, StoreUnavailable
from contract.log import LogEntry
from message_producer.lease_keeper import LeaseKeeper
from message_producer.ports import AlarmClock
from message_producer.published_schedule import topic_schedules
from message_producer.store import Store, Transaction
from message_producer.timeline import due_now
from message_producer.wakeups import Wakeups

__all__ = ["DISPATCH_FAILPOINTS", "CommitLog", "Dispatcher"]

DISPATCH_FAILPOINTS = ("producer.dispatch.before_commit", "producer.dispatch.after_commit")
_EARLY_MS = 15
"""The alarm rings this much early and the rest is slept, so that its own latency does not make a stage late."""
_EVENTS_MAX = 50
"""Events dispatched in one transaction: the first of a thousand due at once must not wait for the last."""
_LOOK_EVERY_S = 1.0
"""An alarm that never rings costs at most this."""
_RETRY_FIRST_S = 0.05
_RETRY_CAP_S = 1.0
_SET_ASIDE_S = 30.0
_SET_ASIDE_MAX = 1000

_log = structlog.get_logger(__name__)


class CommitLog(Protocol):
    """A log that lives in the store itself, so that dispatching and publishing can be one commit."""

    def position(self, transaction: Transaction) -> list[LogEntry]:
        """Put everything that waits into the log, in order, as part of `transaction`."""
        ...

    def positioned(self, entries: Sequence[LogEntry]) -> None:
        """That transaction is committed."""
        ...


class Dispatcher:
    """Truth lies in the store: it is asked what is due next after every wake-up, whoever caused it."""

    name = "producer.dispatcher"

    def __init__(
        self,
        store: Store,
        clock: Clock,
        lease: LeaseKeeper,
        alarm: AlarmClock,
        wakeups: Wakeups,
        *,
        late_after_ms: int,
        log: CommitLog | None = None,
    ) -> None:
        """`log`: the embedded log takes a broadcast in the very transaction that dispatches it; None: publish later."""
        self._store = store
        self._clock = clock
        self._lease = lease
        self._alarm = alarm
        self._wakeups = wakeups
        self._late_after_ms = late_after_ms
        self._log = log
        self._set_aside: dict[str, float] = {}
        self._backoff = Backoff(first_s=_RETRY_FIRST_S, cap_s=_RETRY_CAP_S, jitter=random.random)

    async def run(self, ready: asyncio.Event, stop: asyncio.Event) -> None:
        watching = asyncio.create_task(self._watch(stop), name=f"{self.name}.stop")
        ready.set()
        try:
            while not stop.is_set():
                await self._round()
        finally:
            watching.cancel()
            self._alarm.arm(None)

    async def dispatch_due(self) -> int:
        """Dispatch what is due now, at most `_EVENTS_MAX` events; returns how many. Raises LeaseLost, StoreUnavailable.

        An event whose dispatch fails for a reason of its own is set aside for a while, so that it does not hold up
        the others.
        """
        try:
            return await self._claim(self._dispatch_batch)
        except (LeaseLost, StoreUnavailable):
            raise
        except Exception as exc:
            _log.exception("dispatch_failed", error=repr(exc))
        return await self._dispatch_singly()

    async def _round(self) -> None:
        if self._lease.epoch is None:
            await self._wakeups.dispatch.wait(_LOOK_EVERY_S)
            return
        try:
            skip = self._skipped()
            next_due = await self._store.read(lambda tx: tx.events.next_due(skip=skip))
            if next_due is not None and (early_ms := next_due - self._clock.now_ms()) <= _EARLY_MS:
                if early_ms > 0:
                    await asyncio.sleep(early_ms / 1000)
                if self._clock.now_ms() >= next_due:  # else the timer was early, and the next round sleeps the rest
                    await self.dispatch_due()
                self._backoff.reset()
                return
        except LeaseLost:
            self._lease.lost()
            return
        except StoreUnavailable as exc:
            wait_s = self._backoff.next_s()
            _log.warning("dispatch_waits_for_store", why=str(exc), retry_in_s=round(wait_s, 3))
            await asyncio.sleep(wait_s)
            return
        self._backoff.reset()
        self._alarm.arm(None if next_due is None else next_due - _EARLY_MS)
        await self._wakeups.dispatch.wait(_LOOK_EVERY_S)

    async def _claim(self, work: Callable[[Transaction], int]) -> int:
        log = self._log
        if log is None:
            count = await self._store.write(work, urgent=True, failpoints=DISPATCH_FAILPOINTS)
            if count:
                self._wakeups.publish.set()
            return count

        def dispatch_into(transaction: Transaction) -> tuple[int, list[LogEntry]] | None:
            count = work(transaction)
            return (count, log.position(transaction)) if count else None

        done = await self._store.write(dispatch_into, urgent=True, failpoints=DISPATCH_FAILPOINTS)
        if done is None:
            return 0
        count, entries = done
        log.positioned(entries)
        self._wakeups.publish.set()  # in case more waited than one commit takes
        return count

    def _dispatch_batch(self, transaction: Transaction) -> int:
        self._lease.check(transaction)
        due = transaction.events.due(self._clock.now_ms(), _EVENTS_MAX, skip=self._skipped())
        return sum(self._dispatch_event(transaction, event_id) for event_id in due)

    def _dispatch_event(self, transaction: Transaction, event_id: str) -> bool:
        state = transaction.events.load(event_id, lock=True)
        if state is None:
            return False
        # The row is ours: only now is the clock read, and due times and armings are looked at again (R1).
        outcome = due_now(state, self._clock.now_ms(), late_after_ms=self._late_after_ms)
        if outcome.touched:
            transaction.events.save(state, outcome)
        if outcome.state.event.revision != state.event.revision:
            transaction.outbox.put_schedules(topic_schedules(outcome.state))
        return bool(outcome.touched)

    async def _dispatch_singly(self) -> int:
        due = await self._store.read(lambda tx: tx.events.due(self._clock.now_ms(), _EVENTS_MAX, skip=self._skipped()))
        done = 0
        for event_id in due:
            try:
                done += await self._claim(partial(self._dispatch_one, event_id))
            except (LeaseLost, StoreUnavailable):
                raise
            except Exception as exc:
                _log.exception("event_set_aside", event_id=event_id, error=repr(exc), for_s=_SET_ASIDE_S)
                if len(self._set_aside) >= _SET_ASIDE_MAX:
                    self._set_aside.pop(next(iter(self._set_aside)))
                self._set_aside[event_id] = self._clock.monotonic_s() + _SET_ASIDE_S
        return done

    def _dispatch_one(self, event_id: str, transaction: Transaction) -> int:
        self._lease.check(transaction)
        return int(self._dispatch_event(transaction, event_id))

    def _skipped(self) -> list[str]:
        now = self._clock.monotonic_s()
        return [event_id for event_id, until in list(self._set_aside.items()) if now < until]

    async def _watch(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wakeups.dispatch.set()
