"""The dispatcher: wakes when a stage is due and dispatches it, once, in one transaction (R1-R4)."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import structlog

from contract.backoff import Backoff
from contract.broadcast import Broadcast
from contract.clock import Clock
from contract.errors import LeaseLost, StoreUnavailable
from contract.log import LogEntry
from message_producer.agenda import Agenda, Entry
from message_producer.lease_keeper import LeaseKeeper
from message_producer.metrics import ProducerMetrics
from message_producer.model import EventState
from message_producer.ports import AlarmClock
from message_producer.published_schedule import topic_schedules
from message_producer.store import Store, Transaction
from message_producer.timeline import Outcome, due_now, next_due_at
from message_producer.wakeups import Wakeups

__all__ = ["DISPATCH_FAILPOINTS", "CommitLog", "Dispatcher", "Pace"]

DISPATCH_FAILPOINTS = ("producer.dispatch.before_commit", "producer.dispatch.after_commit")
_EARLY_MS = 15
"""The alarm rings this much early and the rest is slept, so that its own latency does not make a stage late."""
_AHEAD_MS_MAX = 10
_UPCOMING_MAX = 100
_RETRY_FIRST_S = 0.05
_RETRY_CAP_S = 1.0
_LOCKED_S = 0.02
"""An event whose row somebody else holds is tried again this much later."""
_SET_ASIDE_S = 30.0

_log = structlog.get_logger(__name__)


class CommitLog(Protocol):
    """A log that lives in the store itself, so that dispatching and publishing can be one commit."""

    def position(self, transaction: Transaction) -> list[LogEntry]:
        """Put everything that waits into the log, in order, as part of `transaction`."""
        ...

    def positioned(self, entries: Sequence[LogEntry]) -> None:
        """That transaction is committed."""
        ...


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How much is dispatched together."""

    events_per_commit: int
    """The first of a thousand due at once must not wait for the last."""
    commits_at_once: int
    look_every_s: float
    """A change nobody told of, or an alarm that never rings, costs at most this."""
    ahead_ms: int
    """Transactions begin this long before the due time, and hold their rows when it comes."""


class _Dispatched(msgspec.Struct, frozen=True):
    """What one transaction did."""

    events: int = 0
    broadcasts: tuple[Broadcast, ...] = ()
    entries: tuple[LogEntry, ...] = ()
    following: tuple[Entry, ...] = ()
    """When each of the events is due again."""
    locked: tuple[str, ...] = ()
    """Events whose rows somebody else holds."""

    def __bool__(self) -> bool:
        return self.events > 0


class Dispatcher:
    """Truth lies in the store: the agenda says when to look, and the event's row decides.

    With an embedded log a broadcast is published in the transaction that dispatches it; else `outlet` gets it.
    """

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
        pace: Pace,
        metrics: ProducerMetrics,
        log: CommitLog | None = None,
        outlet: Callable[[Sequence[Broadcast]], None] | None = None,
    ) -> None:
        """`outlet` is given every broadcast right after the commit that dispatched it."""
        self._store = store
        self._clock = clock
        self._lease = lease
        self._alarm = alarm
        self._wakeups = wakeups
        self._late_after_ms = late_after_ms
        self._pace = pace
        self._metrics = metrics
        self._log = log
        self._outlet = outlet
        self._agenda = Agenda(_UPCOMING_MAX)
        self._batches: set[asyncio.Task[None]] = set()
        self._reading: asyncio.Task[None] | None = None
        self._stale = True
        self._read_at_commit = -1
        self._not_before_s = 0.0
        self._backoff = Backoff(first_s=_RETRY_FIRST_S, cap_s=_RETRY_CAP_S, jitter=random.random)

    @property
    def next_due_at(self) -> int | None:
        """Due time of the next stage this producer would dispatch, ms; None: none known, or it does not lead."""
        return self._agenda.next_at(self._clock.monotonic_s())

    async def run(self, ready: asyncio.Event, stop: asyncio.Event) -> None:
        watching = asyncio.create_task(self._watch(stop), name=f"{self.name}.stop")
        ready.set()
        try:
            while not stop.is_set():
                await self._round()
            if self._batches:
                await asyncio.wait(self._batches)
        finally:
            watching.cancel()
            self._alarm.arm(None)
            for task in (*self._batches, *([self._reading] if self._reading else [])):
                task.cancel()

    async def dispatch_due(self) -> int:
        """Dispatch what is due now, at most one commit's worth; returns how many events.

        Raises LeaseLost, StoreUnavailable. An event whose dispatch fails for a reason of its own is set aside for a
        while, so that it does not hold up the others.
        """
        await self._read_agenda()
        now_s = self._clock.monotonic_s()
        due = self._agenda.take_due(self._clock.now_ms(), now_s, self._pace.events_per_commit)
        try:
            return await self._dispatch(due)
        finally:
            self._agenda.done(due)
            self._stale = True

    async def _round(self) -> None:
        if self._lease.epoch is None:
            self._agenda.forget()
            self._stale = True
            await self._wakeups.dispatch.wait(self._pace.look_every_s)
            return
        now_s = self._clock.monotonic_s()
        if now_s < self._not_before_s:
            await self._wakeups.dispatch.wait(self._not_before_s - now_s)
            return
        outdated = self._stale or self._agenda.runs_low or self._wakeups.commits != self._read_at_commit
        if self._reading is None and outdated:
            self._reading = asyncio.create_task(self._read_aside(), name=f"{self.name}.read")
        self._start_due()
        await self._pause()

    def _start_due(self) -> None:
        """Begin as many transactions for what is due as may run at once."""
        while (slots := self._pace.commits_at_once - len(self._batches)) > 0:
            due_by = self._clock.now_ms() + self._pace.ahead_ms
            due = self._agenda.take_due(due_by, self._clock.monotonic_s(), slots * self._pace.events_per_commit)
            if not due:
                return
            size = max(-(-len(due) // slots), min(len(due), self._pace.events_per_commit // 2))
            for start in range(0, len(due), size):
                batch = due[start : start + size]
                task = asyncio.create_task(self._dispatch_aside(batch, due_by), name=f"{self.name}.batch")
                self._batches.add(task)
                task.add_done_callback(self._batch_done)

    def _batch_done(self, task: asyncio.Task[None]) -> None:
        # Its place is free only from here on: woken any earlier, the loop would find it taken and wait.
        self._batches.discard(task)
        self._wakeups.dispatch.set()

    async def _pause(self) -> None:
        """Until the next stage is due, or something happened that changes which that is."""
        free = len(self._batches) < self._pace.commits_at_once
        next_at = self._agenda.next_at(self._clock.monotonic_s()) if free else None
        ahead_ms = self._pace.ahead_ms
        if next_at is not None and (early_ms := next_at - ahead_ms - self._clock.now_ms()) <= _EARLY_MS:
            await self._wakeups.dispatch.wait(max(early_ms, 0.1) / 1000)
            return
        self._alarm.arm(None if next_at is None else next_at - ahead_ms - _EARLY_MS)
        released_in_s = self._agenda.released_in_s(self._clock.monotonic_s())
        wait_s = self._pace.look_every_s
        if not await self._wakeups.dispatch.wait(wait_s if released_in_s is None else min(wait_s, released_in_s)):
            self._stale = True

    async def _read_aside(self) -> None:
        try:
            await self._read_agenda()
        except StoreUnavailable as exc:
            self._wait_for_store(exc)
        finally:
            self._reading = None
            self._wakeups.dispatch.set()

    async def _read_agenda(self) -> None:
        self._stale, self._read_at_commit = False, self._wakeups.commits
        self._agenda.begin_reading()
        skip = self._agenda.held_back(self._clock.monotonic_s() + self._pace.look_every_s)
        try:
            self._agenda.read(await self._store.read(lambda tx: tx.events.upcoming(_UPCOMING_MAX, skip=skip)))
        except BaseException:
            self._stale = True
            raise

    async def _dispatch_aside(self, event_ids: list[str], due_by: int) -> None:
        try:
            await self._dispatch(event_ids, due_by)
            self._backoff.reset()
        except LeaseLost:
            self._lease.lost()
        except StoreUnavailable as exc:
            self._wait_for_store(exc)
        finally:
            self._agenda.done(event_ids)

    def _wait_for_store(self, exc: StoreUnavailable) -> None:
        wait_s = self._backoff.next_s()
        self._stale = True
        self._not_before_s = self._clock.monotonic_s() + wait_s
        _log.warning("dispatch_waits_for_store", why=str(exc), retry_in_s=round(wait_s, 3))

    async def _dispatch(self, event_ids: Sequence[str], due_by: int | None = None) -> int:
        """Dispatch these together, and one by one if that fails: the one at fault is set aside."""
        if not event_ids:
            return 0
        try:
            return await self._commit(event_ids, due_by)
        except (LeaseLost, StoreUnavailable):
            raise
        except Exception as exc:
            _log.exception("dispatch_failed", error=repr(exc))
        self._stale = True
        done = 0
        for event_id in event_ids:
            try:
                done += await self._commit([event_id])
            except (LeaseLost, StoreUnavailable):
                raise
            except Exception as exc:
                _log.exception("event_set_aside", event_id=event_id, error=repr(exc), for_s=_SET_ASIDE_S)
                self._agenda.hold_back(event_id, self._clock.monotonic_s() + _SET_ASIDE_S)
        return done

    async def _commit(self, event_ids: Sequence[str], due_by: int | None = None) -> int:
        done = await self._store.write(
            lambda tx: self._dispatch_all(tx, event_ids, due_by), urgent=True, failpoints=DISPATCH_FAILPOINTS
        )
        for event_id in done.locked:
            self._agenda.hold_back(event_id, self._clock.monotonic_s() + _LOCKED_S)
            self._stale = True
        self._agenda.done((), done.following)
        if not done:
            return 0
        self._metrics.dispatched(done.broadcasts)
        if self._log is not None:
            self._log.positioned(done.entries)
            self._wakeups.publish.set()  # in case more waited than one commit takes
        elif self._outlet is not None:
            self._outlet(done.broadcasts)
        return done.events

    def _dispatch_all(self, transaction: Transaction, event_ids: Sequence[str], due_by: int | None) -> _Dispatched:
        self._lease.check(transaction)
        states = transaction.events.load_free(event_ids)
        if due_by is not None:
            self._await_due(states, due_by)
        changes: list[tuple[EventState, Outcome]] = []
        following: list[Entry] = []
        for state in states:
            # The rows are ours: only now is the clock read, and due times and armings are looked at again (R1).
            outcome = due_now(state, self._clock.now_ms(), late_after_ms=self._late_after_ms)
            if outcome.touched:
                changes.append((state, outcome))
            if (next_at := next_due_at(outcome.state.occurrences)) is not None:
                following.append((next_at, state.event.event_id))
            if outcome.state.event.revision != state.event.revision:
                transaction.outbox.put_schedules(topic_schedules(outcome.state))
        if changes:
            transaction.events.save_all(changes)
        found = {state.event.event_id for state in states}
        return _Dispatched(
            events=len(changes),
            broadcasts=tuple(sent.broadcast for _, outcome in changes for sent in outcome.sent),
            following=tuple(following),
            entries=tuple(self._log.position(transaction)) if self._log is not None and changes else (),
            locked=tuple(event_id for event_id in event_ids if event_id not in found),
        )

    def _await_due(self, states: Sequence[EventState], due_by: int) -> None:
        """Sleep, in the store's thread and for a few milliseconds, until the last of what is due by then is due."""
        times = [at for state in states if (at := next_due_at(state.occurrences)) is not None and at <= due_by]
        while times and 0 < (wait_ms := max(times) - self._clock.now_ms()) <= _AHEAD_MS_MAX:
            time.sleep(wait_ms / 1000)

    async def _watch(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wakeups.dispatch.set()
