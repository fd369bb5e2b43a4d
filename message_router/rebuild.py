"""Rebuild (R10): what the KV store must hold of a partition, read from the log and appended where it is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final

import structlog

from contract.backoff import Backoff
from contract.broadcast import Broadcast
from contract.clock import Clock
from contract.errors import LogUnavailable, StoreUnavailable
from contract.kv.ports import ReplayLog
from contract.log import BroadcastLog
from contract.replay_log import AppendOutcome
from contract.schedule import TopicSchedule
from message_router.metrics import RouterMetrics
from message_router.store import StoreHealth, StoreWriter, append_repaired
from message_router.tails import RecentTails

__all__ = ["Rebuilder"]

_SCHEDULES_AT_ONCE: Final = 64
_TOPICS_AT_ONCE: Final = 64
_REPAIRS: Final = 3
_log = structlog.get_logger(__name__)


class Rebuilder:
    """Reads the log from the start of the replay window and appends what the store misses; safe to repeat."""

    def __init__(
        self,
        *,
        log: BroadcastLog,
        replay_log: ReplayLog,
        writer: StoreWriter,
        health: StoreHealth,
        tails: RecentTails,
        clock: Clock,
        new_backoff: Callable[[], Backoff],
        metrics: RouterMetrics,
        replay_window_s: float,
        on_schedule: Callable[[TopicSchedule], object],
    ) -> None:
        self._log = log
        self._replay_log = replay_log
        self._writer = writer
        self._health = health
        self._tails = tails
        self._clock = clock
        self._new_backoff = new_backoff
        self._metrics = metrics
        self._replay_window_ms = int(replay_window_s * 1000)
        self._on_schedule = on_schedule

    async def rebuild(self, partitions: Sequence[int]) -> None:
        """Return once schedules and replay logs of `partitions` are whole; retries while a source is unavailable."""
        backoff = self._new_backoff()
        while True:
            try:
                await self._schedules()
                for partition in partitions:
                    await self._replay_logs(partition)
                    self._metrics.rebuilds.inc()
            except StoreUnavailable as exc:
                self._health.failed(exc)
            except LogUnavailable as exc:
                _log.warning("rebuild_postponed", why=str(exc))
            else:
                return
            await asyncio.sleep(backoff.next_s())

    async def _schedules(self) -> None:
        schedules = iter(await self._log.schedules())
        while chunk := list(islice(schedules, _SCHEDULES_AT_ONCE)):
            await asyncio.gather(*(self._writer.put_schedule(schedule) for schedule in chunk))
            for schedule in chunk:
                self._on_schedule(schedule)

    async def _replay_logs(self, partition: int) -> None:
        since_ms = max(0, self._clock.now_ms() - self._replay_window_ms)
        by_topic: dict[str, list[Broadcast]] = {}
        async for entry in self._log.reread(partition, since_ms=since_ms):
            if entry.broadcast is not None:
                by_topic.setdefault(entry.broadcast.topic, []).append(entry.broadcast)
        topics = iter(by_topic)
        while chunk := list(islice(topics, _TOPICS_AT_ONCE)):
            tails = await self._replay_log.tails(chunk)
            await asyncio.gather(*(self._topic(partition, topic, by_topic[topic], tails[topic]) for topic in chunk))

    async def _topic(self, partition: int, topic: str, broadcasts: Sequence[Broadcast], tail: int) -> None:
        """Append what is missing; a log is contiguous from its floor to its tail, so that lies above the tail.

        Raises StoreUnavailable if the store keeps losing what is written.
        """
        known = {broadcast.timestamp: broadcast for broadcast in broadcasts}
        for broadcast in broadcasts:
            if broadcast.timestamp <= tail:
                continue
            result = await self._replay_log.append(broadcast)
            for _ in range(_REPAIRS):
                if result.outcome is not AppendOutcome.REFUSED:
                    break
                # Below the window, or lost since its tail was read: only what the log no longer has is given up.
                result = await append_repaired(self._replay_log, broadcast, result.tail, known, self._metrics)
            if result.outcome is AppendOutcome.REFUSED:
                raise StoreUnavailable("the replay log loses what is written to it")
            if result.outcome is AppendOutcome.CONFLICT:
                self._metrics.conflicts.inc()
                _log.error("replay_log_conflict", topic=topic, timestamp=broadcast.timestamp, partition=partition)
            tail = result.tail
        self._tails.note(topic, partition, tail)
