"""Writing to the KV store: every append ends in one of R9's outcomes, however long the store is in trouble (R9-R11)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import structlog

from contract.backoff import Backoff
from contract.broadcast import Broadcast
from contract.clock import Clock
from contract.errors import LogUnavailable, StoreUnavailable
from contract.kv.ports import ReplayLog, ScheduleView
from contract.log import BroadcastLog, LogEntry
from contract.replay_log import AppendOutcome, AppendResult
from contract.runtime.failpoints import failpoint
from contract.runtime.runner import Readiness
from contract.schedule import TopicSchedule
from message_router.chain import chain_above, plan_steps
from message_router.metrics import RouterMetrics
from message_router.tails import RecentTails

__all__ = ["StoreHealth", "StoreWriter", "ended", "lay"]

_T = TypeVar("_T")
KV_CONDITION: Final = "router.kv"
_log = structlog.get_logger(__name__)


class StoreHealth:
    """Whether the KV store answers and is whole: a readiness condition, and a call once it answers again (R10)."""

    def __init__(self, readiness: Readiness, on_recovered: Callable[[], None]) -> None:
        self._readiness = readiness
        self._on_recovered = on_recovered
        self._failing = False
        readiness.expect(KV_CONDITION, "not reached yet")

    def failed(self, error: StoreUnavailable) -> None:
        self._failing = True
        self._readiness.fail(KV_CONDITION, str(error))

    def worked(self) -> None:
        if self._failing:
            self._failing = False
            self._on_recovered()

    def whole(self) -> None:
        """Everything it should hold is in it."""
        if not self._failing:
            self._readiness.hold(KV_CONDITION)


class StoreWriter:
    """Writes broadcasts and schedules until the store has them. Cancelling a call gives that write up."""

    def __init__(
        self,
        *,
        log: BroadcastLog,
        replay_log: ReplayLog,
        schedule_view: ScheduleView,
        health: StoreHealth,
        tails: RecentTails,
        clock: Clock,
        new_backoff: Callable[[], Backoff],
        metrics: RouterMetrics,
        replay_window_s: float,
        max_concurrent: int,
        on_lost: Callable[[int], None],
    ) -> None:
        self._log = log
        self._replay_log = replay_log
        self._schedule_view = schedule_view
        self._health = health
        self._tails = tails
        self._clock = clock
        self._new_backoff = new_backoff
        self._metrics = metrics
        self._replay_window_ms = int(replay_window_s * 1000)
        self._on_lost = on_lost
        self._slots = asyncio.Semaphore(max_concurrent)
        self._rereading = asyncio.Lock()

    async def append(self, broadcast: Broadcast, partition: int, *, open_gate: asyncio.Event) -> AppendOutcome:
        """Append under R9, filling what is missing; returns once the store gave an outcome other than REFUSED.

        Waits for `open_gate`: while a partition is rebuilt, its appends would all be refused.
        """

        async def attempt() -> AppendResult | None:
            await open_gate.wait()
            async with self._slots:
                failpoint("router.append.before")
                result = await self._replay_log.append(broadcast)
                failpoint("router.append.after")
            if result.outcome is not AppendOutcome.REFUSED:
                return result
            if result.tail < self._tails.newest(broadcast.topic):
                # It lost what it had confirmed, and hardly of one topic only: one reread serves them all.
                self._on_lost(partition)
                return None
            return await self._repair(broadcast, partition, result.tail)

        result = await self._until_done(attempt)
        outcome = result.outcome
        self._metrics.appends.labels(outcome.value).inc()
        if outcome is AppendOutcome.CONFLICT:
            # Below a tail nothing is rewritten: it may be another router's newer truth. The next broadcast above it
            # shows which chain is the true one.
            self._metrics.conflicts.inc()
            _log.error(
                "replay_log_conflict",
                topic=broadcast.topic,
                timestamp=broadcast.timestamp,
                prev=broadcast.prev,
                state_key=broadcast.state_key,
            )
        self._tails.note(broadcast.topic, partition, result.tail)
        return outcome

    async def put_schedule(self, schedule: TopicSchedule) -> bool:
        """Store a schedule if its revision is the highest (R5); returns whether it was."""

        async def attempt() -> bool | None:
            async with self._slots:
                return await self._schedule_view.put(schedule)

        return await self._until_done(attempt)

    async def _until_done(self, attempt: Callable[[], Awaitable[_T | None]]) -> _T:
        """Repeat `attempt`, with growing pauses, until it neither fails nor returns None."""
        backoff: Backoff | None = None
        while True:
            try:
                done = await attempt()
            except StoreUnavailable as exc:
                self._health.failed(exc)
            except LogUnavailable:
                pass  # the poll loop reports it
            else:
                self._health.worked()
                if done is not None:
                    return done
            backoff = backoff or self._new_backoff()
            await asyncio.sleep(backoff.next_s())

    async def _repair(self, broadcast: Broadcast, partition: int, tail: int) -> AppendResult | None:
        """The store does not end where `broadcast` begins: fill from the log, or give up what does not fit (R9).

        None if the store ends somewhere else meanwhile: start over.
        """
        async with self._rereading:
            known = await self._still_known(broadcast, partition, tail)
            return await lay(self._replay_log, chain_above(broadcast, tail, known), tail, self._metrics)

    async def _still_known(self, broadcast: Broadcast, partition: int, tail: int) -> dict[int, Broadcast]:
        since_ms = max(tail + 1, self._clock.now_ms() - self._replay_window_ms)
        if broadcast.prev < since_ms:
            return {}
        known: dict[int, Broadcast] = {}
        async with ended(self._log.reread(partition, since_ms=since_ms)) as entries:
            async for entry in entries:
                found = entry.broadcast
                if found is not None and found.topic == broadcast.topic and found.timestamp < broadcast.timestamp:
                    known[found.timestamp] = found
        return known


@asynccontextmanager
async def ended(entries: AsyncIterator[LogEntry]) -> AsyncIterator[AsyncIterator[LogEntry]]:
    """End a reread that was not read to its end, at once: the log lends out few readers."""
    try:
        yield entries
    finally:
        if isinstance(entries, AsyncGenerator):
            await entries.aclose()


async def lay(
    replay_log: ReplayLog, broadcasts: Sequence[Broadcast], tail: int, metrics: RouterMetrics
) -> AppendResult | None:
    """Put one topic's `broadcasts`, ascending, into its log, which ends in `tail` and becomes whole again.

    None if somebody else changed the log in between, whose end is then another one; each step is whole or not there.
    """
    result = AppendResult(AppendOutcome.DUPLICATE, tail)
    for step in plan_steps(broadcasts, tail):
        result = await replay_log.extend(step.broadcasts, tail=step.tail, floor=step.floor)
        if result.outcome is AppendOutcome.REFUSED:
            return None
        if step.foreign:
            metrics.conflicts.inc()
            _log.error("replay_log_foreign", topic=step.broadcasts[0].topic, given_up=step.floor)
        elif step.floor is not None:
            metrics.floors_raised.inc()
            _log.warning("replay_floor_raised", topic=step.broadcasts[0].topic, floor=step.floor, tail=step.tail)
    return result
