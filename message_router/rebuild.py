"""Rebuild (R10): what the KV store must hold of a partition, read from the log and appended where it is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Final

import structlog

from contract.backoff import Backoff
from contract.broadcast import Broadcast
from contract.clock import Clock
from contract.errors import LogUnavailable, StoreUnavailable
from contract.kv.ports import ReplayLog, ScheduleView
from contract.log import BroadcastLog
from contract.schedule import TopicSchedule
from message_router.metrics import RouterMetrics
from message_router.store import StoreHealth, StoreWriter, ended, lay
from message_router.tails import RecentTails

__all__ = ["Rebuilder"]

_SCHEDULES_AT_ONCE: Final = 64
_TOPICS_AT_ONCE: Final = 64
_ENTRIES_AT_ONCE: Final = 5_000
"""Broadcasts held at once, about 5 MB, however many the window has."""
_ATTEMPTS: Final = 4
_log = structlog.get_logger(__name__)


class Rebuilder:
    """Reads the log from the start of the replay window and appends what the store misses; safe to repeat."""

    def __init__(
        self,
        *,
        log: BroadcastLog,
        replay_log: ReplayLog,
        schedule_view: ScheduleView,
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
        self._schedule_view = schedule_view
        self._writer = writer
        self._health = health
        self._tails = tails
        self._clock = clock
        self._new_backoff = new_backoff
        self._metrics = metrics
        self._replay_window_ms = int(replay_window_s * 1000)
        self._on_schedule = on_schedule

    async def rebuild(self, partitions: Sequence[int]) -> str:
        """Return once schedules and replay logs of `partitions` are whole; retries while a source is unavailable.

        Returns the name of the store's life in which that began: a store that died meanwhile bears another one.
        """
        backoff = self._new_backoff()
        while True:
            try:
                life = await self._schedule_view.life()
                await self._schedules()
                for partition in partitions:
                    await self._replay_logs(partition)
                    self._metrics.rebuilds.inc()
            except StoreUnavailable as exc:
                self._health.failed(exc)
            except LogUnavailable as exc:
                _log.warning("rebuild_postponed", why=str(exc))
            else:
                return life.name
            await asyncio.sleep(backoff.next_s())

    async def _schedules(self) -> None:
        schedules = iter(await self._log.schedules())
        while chunk := list(islice(schedules, _SCHEDULES_AT_ONCE)):
            await asyncio.gather(*(self._writer.put_schedule(schedule) for schedule in chunk))
            for schedule in chunk:
                self._on_schedule(schedule)

    async def _replay_logs(self, partition: int) -> None:
        """Read the partition once, in pieces: what is held at any moment does not grow with the window."""
        since_ms = max(0, self._clock.now_ms() - self._replay_window_ms)
        # What it must hold is what the log says now: an end that only we remember would be missed for ever.
        self._tails.forget_partition(partition)
        ends: dict[str, int] = {}
        piece: dict[str, list[Broadcast]] = {}
        held = 0
        async with ended(self._log.reread(partition, since_ms=since_ms)) as entries:
            async for entry in entries:
                if entry.broadcast is None:
                    continue
                piece.setdefault(entry.broadcast.topic, []).append(entry.broadcast)
                held += 1
                if held >= _ENTRIES_AT_ONCE:
                    await self._store(partition, piece, ends)
                    piece, held = {}, 0
        await self._store(partition, piece, ends)

    async def _store(self, partition: int, piece: Mapping[str, Sequence[Broadcast]], ends: dict[str, int]) -> None:
        topics = iter(piece)
        while chunk := list(islice(topics, _TOPICS_AT_ONCE)):
            unknown = [topic for topic in chunk if topic not in ends]
            if unknown:
                ends.update(await self._replay_log.tails(unknown))
            await asyncio.gather(*(self._topic(partition, topic, piece[topic], ends) for topic in chunk))

    async def _topic(self, partition: int, topic: str, broadcasts: Sequence[Broadcast], ends: dict[str, int]) -> None:
        """Append what is missing; a log is contiguous from its floor to its tail, so that lies above the tail.

        Raises StoreUnavailable if the store keeps losing what is written.
        """
        for _ in range(_ATTEMPTS):
            result = await lay(self._replay_log, broadcasts, ends[topic], self._metrics)
            if result is not None:
                ends[topic] = result.tail
                self._tails.note(topic, partition, result.tail)
                return
            # Another router, or a death of the store, came in between.
            ends.update(await self._replay_log.tails([topic]))
        raise StoreUnavailable("the replay log does not stay where it was left")
