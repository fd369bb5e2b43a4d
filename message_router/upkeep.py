"""Keeping the store whole: rebuild what it lost, watch which one it is and what it holds, trim what grew (R9, R10)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final

import structlog

from contract.clock import Clock
from contract.errors import StoreUnavailable
from contract.kv.ports import ReplayLog, ScheduleView
from message_router.commit import PartitionProgress
from message_router.rebuild import Rebuilder
from message_router.settings import RouterSettings
from message_router.store import StoreHealth
from message_router.tails import RecentTails, lost_partitions

__all__ = ["OwnPartition", "StoreUpkeep"]

_PROBE_TOPIC: Final = "router:probe"
"""Asked for when no topic is active, so that a dead store is noticed on a quiet evening."""
_log = structlog.get_logger(__name__)


class OwnPartition:
    """A partition while it is ours; forgotten when revoked, with whatever was still under way."""

    __slots__ = ("gate", "number", "progress")

    def __init__(self, number: int, progress: PartitionProgress) -> None:
        self.number = number
        self.progress = progress
        self.gate = asyncio.Event()
        """Set while its replay logs are whole."""


class StoreUpkeep:
    """Two loops over the partitions that are this router's; the relay owns the mapping and changes it."""

    def __init__(
        self,
        settings: RouterSettings,
        *,
        partitions: Mapping[int, OwnPartition],
        replay_log: ReplayLog,
        schedule_view: ScheduleView,
        rebuilder: Rebuilder,
        health: StoreHealth,
        tails: RecentTails,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._partitions = partitions
        self._replay_log = replay_log
        self._schedule_view = schedule_view
        self._rebuilder = rebuilder
        self._health = health
        self._tails = tails
        self._clock = clock
        self._touched: set[str] = set()
        self._rebuild_due = asyncio.Event()
        self._rebuild_again = False
        self._life: str | None = None
        """The store's life in which the last rebuild began; None before the first."""
        self._check_due = asyncio.Event()
        self.whole = asyncio.Event()
        """Set while no rebuild is under way or due."""

    def assigned(self) -> None:
        """Partitions came, whose gates are closed; or the first poll brought none."""
        self.whole.clear()
        self._rebuild_due.set()

    def touched(self, topic: str) -> None:
        """Its log grew: it is to be trimmed."""
        self._touched.add(topic)

    def rebuild_soon(self, partitions: Iterable[int] | None = None) -> None:
        """The store may have lost something, of these partitions or of all: make them whole again (R10)."""
        chosen = self._partitions if partitions is None else self._partitions.keys() & set(partitions)
        self._rebuild_again = True
        self.whole.clear()
        for number in chosen:
            self._partitions[number].gate.clear()
        self._rebuild_due.set()

    def check_soon(self) -> None:
        """The store answers again: find out at once whether it is still the one we wrote to."""
        self._check_due.set()

    async def rebuild_forever(self) -> None:
        """Whenever a rebuild is due, open the gates of the partitions it made whole; until cancelled."""
        while True:
            await self._rebuild_due.wait()
            self._rebuild_due.clear()
            self._rebuild_again = False
            partitions = [partition for partition in self._partitions.values() if not partition.gate.is_set()]
            self._life = await self._rebuilder.rebuild([partition.number for partition in partitions])
            if self._rebuild_again:
                continue  # the store was in trouble meanwhile: what was just appended may be gone
            for partition in partitions:
                partition.gate.set()
            if all(partition.gate.is_set() for partition in self._partitions.values()):
                self.whole.set()
                await self._mark_whole(self._life)

    async def _mark_whole(self, life: str) -> None:
        """Tell readers that what is not in the store does not exist; a router without a partition cannot know."""
        try:
            if self._partitions:
                await self._schedule_view.mark_whole(life)
        except StoreUnavailable as exc:
            self._health.failed(exc)
        else:
            self._health.whole()

    async def check_forever(self) -> None:
        """Every second: is it still the store we wrote to, does it hold what it confirmed? Then trim what grew."""
        while True:
            self._check_due.clear()
            try:
                await self._check()
                await self._trim()
            except StoreUnavailable as exc:
                self._health.failed(exc)
            else:
                self._health.worked()
            try:
                async with asyncio.timeout(self._settings.tail_check_interval_s):
                    await self._check_due.wait()
            except TimeoutError:
                continue

    async def _check(self) -> None:
        expected, life_before = self._tails.expected(), self._life
        life = await self._schedule_view.life()
        stored = await self._replay_log.tails(list(expected) or [_PROBE_TOPIC])
        if self._rebuild_due.is_set() or not self.whole.is_set() or self._life != life_before or life_before is None:
            return  # a rebuild under way, about to begin or just over read for itself which store this is
        lost = lost_partitions(expected, stored)
        if life.name != life_before or (self._partitions and not life.whole):
            _log.warning("store_is_another", name=life.name, whole=life.whole)
            self.rebuild_soon()
        elif lost:
            _log.warning("replay_log_lost_entries", partitions=sorted(lost))
            self.rebuild_soon(lost)
        else:
            self._health.whole()

    async def _trim(self) -> None:
        before = self._clock.now_ms() - int(self._settings.replay_window_s * 1000)
        while self._touched:
            await self._replay_log.trim(self._touched.pop(), keep=self._settings.replay_keep, before=before)
