"""`GET /scaling`: every schedule there is, read and summed up."""

from __future__ import annotations

from contract.clock import Clock
from contract.schedule import TopicSchedule
from dgs.ports import ScheduleReader
from dgs.sharding.clusters import Clusters
from dgs.sharding.scaling import scaling_report

__all__ = ["ScalingReport"]


class ScalingReport:
    """Made anew for each asking: some 25 ms for a thousand events."""

    def __init__(self, clusters: Clusters, schedules: ScheduleReader, clock: Clock, *, open_ended_ms: int) -> None:
        self._clusters = clusters
        self._schedules = schedules
        self._clock = clock
        self._open_ended_ms = open_ended_ms

    async def body(self) -> bytes:
        """JSON, see docs/sharding.md. Raises StoreUnavailable: no number is better than one without half the events."""
        topics: list[TopicSchedule] = []
        for event_id in await self._schedules.events():
            known = self._schedules.topics_of(event_id)
            topics.extend(known if known is not None else await self._schedules.ensure(event_id))
        return scaling_report(self._clusters, topics, self._clock.now_ms(), open_ended_ms=self._open_ended_ms)
