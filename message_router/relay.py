"""The router's use case: take from the log, store, deliver, collect acknowledgements, commit (R9-R12).

Per topic, entries are stored and delivered in the log's order, store first: a node that learns of a hole reads the
log. Topics do not wait for each other. If the store takes longer than its patience, delivery goes ahead (R11).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog

from contract.backoff import Backoff
from contract.clock import Clock
from contract.errors import LogUnavailable, StoreUnavailable
from contract.log import BroadcastLog, LogBatch, LogEntry
from contract.replay_log import AppendOutcome
from contract.runtime.failpoints import failpoint
from contract.runtime.runner import Readiness
from message_router.commit import PartitionProgress, Work
from message_router.coverage import CoverageForwarder
from message_router.links import NodeLinks
from message_router.metrics import RouterMetrics
from message_router.reach import ReachForwarder
from message_router.settings import RouterSettings
from message_router.store import StoreWriter
from message_router.tails import RecentTails
from message_router.upkeep import OwnPartition, StoreUpkeep

__all__ = ["Relay"]

_LOG_CONDITION: Final = "router.log"
_LaneKey = tuple[int, str, bool]
_log = structlog.get_logger(__name__)


class _Item:
    __slots__ = ("delivered", "entry", "taken_s", "work")

    def __init__(self, entry: LogEntry, work: Work, taken_s: float) -> None:
        self.entry = entry
        self.work = work
        self.taken_s = taken_s
        self.delivered = False


class _Lane:
    """What one topic's broadcasts, or its schedules, still have to go through, in order."""

    __slots__ = ("items", "key", "late", "partition", "task", "timer")

    def __init__(self, key: _LaneKey, partition: OwnPartition) -> None:
        self.key = key
        self.partition = partition
        self.items: deque[_Item] = deque()
        self.late = False
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None


class Relay:
    """A Service; owns the partitions assigned to this router."""

    name = "router"

    def __init__(
        self,
        settings: RouterSettings,
        *,
        log: BroadcastLog,
        writer: StoreWriter,
        tails: RecentTails,
        links: NodeLinks,
        reach: ReachForwarder,
        coverage: CoverageForwarder,
        clock: Clock,
        readiness: Readiness,
        new_backoff: Callable[[], Backoff],
        metrics: RouterMetrics,
        partitions: dict[int, OwnPartition],
        upkeep: StoreUpkeep,
    ) -> None:
        self._settings = settings
        self._log = log
        self._writer = writer
        self._tails = tails
        self._links = links
        self._reach = reach
        self._coverage = coverage
        self._clock = clock
        self._readiness = readiness
        self._new_backoff = new_backoff
        self._metrics = metrics
        self._partitions = partitions
        self._upkeep = upkeep
        self._committed: dict[int, int] = {}
        self._lanes: dict[_LaneKey, _Lane] = {}
        self._polled = False
        self._committable_since_s: float | None = None
        self._advanced = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        readiness.expect(_LOG_CONDITION, "not polled yet")

    # -- lifecycle ----------------------------------------------------------------------------------------------

    async def run(self, ready: asyncio.Event, stop: asyncio.Event) -> None:
        """Serve until `stop`, then take nothing more, drain for at most `drain_s`, commit, and close the links."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                polling = group.create_task(self._poll_forever(), name="router-poll")
                background = [
                    group.create_task(self._upkeep.rebuild_forever(), name="router-rebuild"),
                    group.create_task(self._commit_forever(), name="router-commit"),
                    group.create_task(self._upkeep.check_forever(), name="router-store"),
                    group.create_task(self._reach.run(), name="router-reach"),
                    group.create_task(self._coverage.run(), name="router-coverage"),
                ]
                await self._wait(self._upkeep.whole, stop, timeout_s=self._settings.start_patience_s)
                ready.set()
                await stop.wait()
                polling.cancel()
                await self._drain()
                for task in [*background, *(lane.task for lane in self._lanes.values() if lane.task)]:
                    task.cancel()
        finally:
            for lane in list(self._lanes.values()):
                self._abandon(lane)
            self._group = None
            await self._links.close()

    async def _drain(self) -> None:
        """Let what was taken finish, within `drain_s`, and commit it; the rest is repeated after a restart."""
        try:
            async with asyncio.timeout(self._settings.drain_s):
                while self._in_flight():
                    self._advanced.clear()
                    await self._advanced.wait()
                await self._commit()
                await self._reach.flush()
                return
        except TimeoutError:
            _log.warning("router_drain_cut_off", in_flight=self._in_flight())
        except (LogUnavailable, StoreUnavailable) as exc:
            _log.warning("router_drain_incomplete", why=str(exc))
            return
        try:
            async with asyncio.timeout(1.0):
                await self._commit()
        except (TimeoutError, LogUnavailable) as exc:
            _log.warning("router_last_commit_failed", why=str(exc))

    def partitions(self) -> dict[str, dict[str, int | bool]]:
        """What of each partition of ours is committed, how much is on its way, whether its replay logs are whole."""
        return {
            str(number): {
                "committed": self._committed[number],
                "in_flight": partition.progress.in_flight,
                "whole": partition.gate.is_set(),
            }
            for number, partition in sorted(self._partitions.items())
        }

    @property
    def lag(self) -> int:
        """Entries not finished: those taken, and those the log says it has not handed out yet, where it says so."""
        return self._in_flight() + (getattr(self._log, "lag", None) or 0)

    # -- taking from the log ------------------------------------------------------------------------------------

    async def _poll_forever(self) -> None:
        settings, backoff = self._settings, self._new_backoff()
        while True:
            room = settings.max_in_flight - self._in_flight()
            if room <= 0:
                self._advanced.clear()
                await self._advanced.wait()
                continue
            try:
                batch = await self._log.poll(
                    max_entries=min(settings.poll_max_entries, room), timeout_s=settings.poll_timeout_s
                )
            except LogUnavailable as exc:
                self._readiness.fail(_LOG_CONDITION, str(exc))
                await asyncio.sleep(backoff.next_s())
                continue
            backoff.reset()
            self._readiness.hold(_LOG_CONDITION)
            self._accept(batch)

    def _accept(self, batch: LogBatch) -> None:
        """Never awaits: between a poll and this, nothing can be lost to a cancellation."""
        for number in batch.revoked:
            self._revoke(number)
        for number, next_offset in batch.assigned.items():
            self._revoke(number)
            self._partitions[number] = OwnPartition(number, PartitionProgress(next_offset, self._on_advance))
            self._committed[number] = next_offset
        if batch.assigned or not self._polled:
            # The first time even without a partition: a router in reserve must know whether the store answers.
            self._polled = True
            self._upkeep.assigned()
        if not batch.entries:
            return
        now_s = self._clock.monotonic_s()
        for entry in batch.entries:
            partition = self._partitions.get(entry.partition)
            if partition is not None:
                self._take(partition, entry, now_s)
        self._metrics.in_flight.set(self._in_flight())

    def _take(self, partition: OwnPartition, entry: LogEntry, now_s: float) -> None:
        work = partition.progress.begin(entry.offset)
        if entry.broadcast is not None:
            key = (partition.number, entry.broadcast.topic, True)
        elif entry.schedule is not None:
            key = (partition.number, entry.schedule.topic, False)
        else:
            _log.error("empty_log_entry", partition=entry.partition, offset=entry.offset)
            work.release()
            return
        lane = self._lanes.get(key)
        if lane is None:
            assert self._group is not None
            lane = self._lanes[key] = _Lane(key, partition)
            lane.task = self._group.create_task(self._run_lane(lane), name=f"router-lane-{key[1]}")
            self._restart_patience(lane)
        lane.items.append(_Item(entry, work, now_s))
        if lane.late:
            self._lose_patience(lane)

    def _revoke(self, number: int) -> None:
        """Drop everything of a partition that is no longer ours; whoever has it now starts at the commit."""
        if self._partitions.pop(number, None) is None:
            return
        self._committed.pop(number, None)
        self._tails.forget_partition(number)
        for lane in [lane for lane in self._lanes.values() if lane.key[0] == number]:
            self._abandon(lane)
        self._advanced.set()

    def _abandon(self, lane: _Lane) -> None:
        if lane.task is not None:
            lane.task.cancel()
        self._forget(lane)

    def _forget(self, lane: _Lane) -> None:
        if lane.timer is not None:
            lane.timer.cancel()
            lane.timer = None
        if self._lanes.get(lane.key) is lane:
            del self._lanes[lane.key]

    # -- one topic's lane ---------------------------------------------------------------------------------------

    async def _run_lane(self, lane: _Lane) -> None:
        while lane.items:
            item = lane.items[0]
            wanted = await self._store(lane, item)
            if wanted and not item.delivered:
                self._deliver(item)
            lane.items.popleft()
            item.work.release()
            if lane.items and not lane.late:
                self._restart_patience(lane)
        self._forget(lane)

    async def _store(self, lane: _Lane, item: _Item) -> bool:
        """Whether the entry is to be delivered now that the store has answered: all but the stale (R9)."""
        entry = item.entry
        if entry.broadcast is not None:
            outcome = await self._writer.append(entry.broadcast, entry.partition, open_gate=lane.partition.gate)
            self._upkeep.touched(entry.broadcast.topic)
            return outcome is not AppendOutcome.STALE
        assert entry.schedule is not None
        await self._writer.put_schedule(entry.schedule)
        return True

    def _deliver(self, item: _Item) -> None:
        """Offer to the interested links, once."""
        assert not item.delivered
        item.delivered = True
        if item.entry.broadcast is not None:
            self._links.deliver_broadcast(item.entry.broadcast, item.work)
            self._metrics.broadcasts_routed.inc()
            self._metrics.route_s.observe(self._clock.monotonic_s() - item.taken_s)
        elif item.entry.schedule is not None:
            self._links.deliver_schedule(item.entry.schedule, item.work)
            self._metrics.schedules_routed.inc()

    def _restart_patience(self, lane: _Lane) -> None:
        if lane.timer is not None:
            lane.timer.cancel()
        loop = asyncio.get_running_loop()
        lane.timer = loop.call_later(self._settings.store_patience_s, self._lose_patience, lane)

    def _lose_patience(self, lane: _Lane) -> None:
        """The store's trouble is not the audience's (R11): deliver all that waits, in order, and what follows."""
        lane.late = True
        for item in lane.items:
            if not item.delivered:
                self._deliver(item)
                self._metrics.delivered_unstored.inc()

    # -- commit -------------------------------------------------------------------------------------------------

    def _in_flight(self) -> int:
        return sum(partition.progress.in_flight for partition in self._partitions.values())

    def _on_advance(self) -> None:
        if self._committable_since_s is None:
            self._committable_since_s = self._clock.monotonic_s()
        self._advanced.set()

    async def _commit_forever(self) -> None:
        backoff = self._new_backoff()
        while True:
            await asyncio.sleep(self._settings.commit_interval_s)
            try:
                await self._commit()
            except LogUnavailable as exc:
                self._readiness.fail(_LOG_CONDITION, str(exc))
                await asyncio.sleep(backoff.next_s())
            else:
                backoff.reset()

    async def _commit(self) -> None:
        due = {
            number: partition.progress.committable
            for number, partition in self._partitions.items()
            if partition.progress.committable > self._committed[number]
        }
        if not due:
            return
        since_s, self._committable_since_s = self._committable_since_s, None
        failpoint("router.commit.before")
        try:
            await self._log.commit(due)
        except BaseException:
            self._committable_since_s = since_s
            raise
        failpoint("router.commit.after")
        for number, offset in due.items():
            if number in self._committed:
                self._committed[number] = max(self._committed[number], offset)
        if since_s is not None:
            self._metrics.commit_lag_s.observe(self._clock.monotonic_s() - since_s)
        self._metrics.in_flight.set(self._in_flight())

    @staticmethod
    async def _wait(event: asyncio.Event, stop: asyncio.Event, *, timeout_s: float) -> None:
        """Until either is set or the time is over."""
        waits = {asyncio.ensure_future(event.wait()), asyncio.ensure_future(stop.wait())}
        try:
            await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiting in waits:
                waiting.cancel()
