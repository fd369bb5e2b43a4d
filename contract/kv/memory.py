"""The KV store in this process's memory: embedded mode and tests. Rebuilt from the log at start (R10)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from contract.broadcast import Broadcast
from contract.clock import Clock
from contract.kv.ports import MAX_EXTEND, NodeLease, StoreLife
from contract.replay_log import AppendResult, LogSnapshot, TopicLog
from contract.schedule import TopicSchedule

__all__ = ["MemoryNodeLeases", "MemoryReplayLog", "MemoryScheduleView"]

_ONLY_LIFE: Final = "process"


class MemoryReplayLog:
    """ReplayLog over `TopicLog`s; bounded by the topics of the schedule and by `trim`."""

    def __init__(self) -> None:
        self._logs: dict[str, TopicLog] = {}

    async def append(self, broadcast: Broadcast) -> AppendResult:
        return self._log(broadcast.topic).append(broadcast)

    async def extend(self, broadcasts: Sequence[Broadcast], *, tail: int, floor: int | None = None) -> AppendResult:
        assert len(broadcasts) <= MAX_EXTEND
        return self._log(broadcasts[0].topic).extend(broadcasts, tail=tail, floor=floor)

    async def trim(self, topic: str, *, keep: int, before: int) -> int:
        log = self._logs.get(topic)
        return log.trim(keep=keep, before=before) if log else 0

    async def read(self, topic: str) -> LogSnapshot:
        log = self._logs.get(topic)
        return log.snapshot() if log else LogSnapshot(topic)

    async def tails(self, topics: Sequence[str]) -> Mapping[str, int]:
        return {topic: log.tail if (log := self._logs.get(topic)) else 0 for topic in topics}

    def _log(self, topic: str) -> TopicLog:
        log = self._logs.get(topic)
        if log is None:
            log = self._logs[topic] = TopicLog(topic)
        return log


class MemoryScheduleView:
    """ScheduleView in two dictionaries. It lives as long as its process, and its router starts before its readers."""

    def __init__(self) -> None:
        self._schedules: dict[str, TopicSchedule] = {}
        self._topics: dict[str, set[str]] = {}
        self._shadows: set[str] = set()

    async def put(self, schedule: TopicSchedule) -> bool:
        held = self._schedules.get(schedule.topic)
        if held is not None and held.revision >= schedule.revision:
            return False
        self._schedules[schedule.topic] = schedule
        self._topics.setdefault(schedule.event_id, set()).add(schedule.topic)
        if schedule.shadow_of is not None:
            self._shadows.add(schedule.event_id)
        return True

    async def schedules(self, topics: Sequence[str]) -> Mapping[str, TopicSchedule]:
        return {topic: self._schedules[topic] for topic in topics if topic in self._schedules}

    async def revisions(self, topics: Sequence[str]) -> Mapping[str, int]:
        return {topic: self._schedules[topic].revision for topic in topics if topic in self._schedules}

    async def topics_of(self, event_id: str) -> tuple[str, ...]:
        return tuple(sorted(self._topics.get(event_id, ())))

    async def events(self) -> tuple[str, ...]:
        return tuple(sorted(self._topics.keys() - self._shadows))

    async def life(self) -> StoreLife:
        return StoreLife(_ONLY_LIFE, whole=True)

    async def mark_whole(self, name: str) -> None:
        assert name == _ONLY_LIFE


class MemoryNodeLeases:
    """NodeLeases judged by the given clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._leases: dict[str, tuple[NodeLease, float]] = {}

    async def renew(self, lease: NodeLease, *, lifetime_s: float) -> None:
        self._leases[lease.node_id] = (lease, self._clock.monotonic_s() + lifetime_s)

    async def release(self, lease: NodeLease) -> None:
        held = self._leases.get(lease.node_id)
        if held and held[0].incarnation == lease.incarnation:
            del self._leases[lease.node_id]

    async def alive(self) -> Iterable[NodeLease]:
        now = self._clock.monotonic_s()
        self._leases = {key: (lease, until) for key, (lease, until) in self._leases.items() if until > now}
        return [lease for lease, _ in self._leases.values()]
