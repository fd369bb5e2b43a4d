"""Schedules and newest broadcasts asked of the store each time: for a DGS that keeps nothing in memory."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from contract.kv.ports import ReplayLogReader, ScheduleViewReader
from contract.schedule import TopicSchedule

__all__ = ["ReadThroughNewest", "ReadThroughSchedules"]

_MAX_TOPICS: Final = 10_000


class ReadThroughSchedules:
    """ScheduleReader without a memory but for the schedules it gave last."""

    def __init__(self, view: ScheduleViewReader) -> None:
        self._view = view
        self._given: OrderedDict[str, TopicSchedule] = OrderedDict()

    def topics_of(self, event_id: str) -> tuple[TopicSchedule, ...] | None:
        return None

    async def ensure(self, event_id: str, *, version: int = 0) -> tuple[TopicSchedule, ...]:
        found = await self._view.schedules(await self._view.topics_of(event_id))
        for topic, schedule in found.items():
            self._given[topic] = schedule
            self._given.move_to_end(topic)
        while len(self._given) > _MAX_TOPICS:
            self._given.popitem(last=False)
        return tuple(found[topic] for topic in sorted(found))

    def schedule(self, topic: str) -> TopicSchedule | None:
        return self._given.get(topic)

    async def events(self) -> tuple[str, ...]:
        return await self._view.events()


class _Newest(NamedTuple):
    state_key: str | None
    timestamp: int


class ReadThroughNewest:
    """NewestReader that reads the log."""

    def __init__(self, replay_log: ReplayLogReader) -> None:
        self._replay_log = replay_log

    async def latest(self, topic: str) -> _Newest:
        entries = (await self._replay_log.read(topic)).entries
        return _Newest(entries[-1].state_key, entries[-1].timestamp) if entries else _Newest(None, 0)
