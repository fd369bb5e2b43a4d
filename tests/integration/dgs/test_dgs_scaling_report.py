"""What `/scaling` answers over a schedule view, as events come and go in it."""

from __future__ import annotations

import json

from contract.clock import ManualClock
from contract.kv.memory import MemoryScheduleView
from contract.schedule import TopicSchedule
from dgs.sharding.clusters import Cluster, Clusters, Expected, Part
from dgs.sharding.report import ScalingReport
from tests.support.read_through import ReadThroughSchedules

HOUR_MS = 3_600_000


async def test_every_event_counts() -> None:
    """Both audiences of one event once, another beside it; nothing once they are over."""
    push = Part(urls=("ws://x",), per_instance=100)
    cluster = Cluster(name="main", prefetch=Part(urls=("http://x",)), push=push)
    view, clock = MemoryScheduleView(), ManualClock()
    report = ScalingReport(
        Clusters([cluster], expected=Expected(devices=250)), ReadThroughSchedules(view), clock, open_ended_ms=HOUR_MS
    )

    async def desired() -> int:
        return int(json.loads(await report.body())["clusters"]["main"]["push"]["desired"])

    assert await desired() == 0
    for topic, event_id in (("event:a", "a"), ("event:a@east", "a"), ("event:b", "b")):
        await view.put(
            TopicSchedule(
                topic=topic, event_id=event_id, title="x", revision=1, version=1, starts_at=clock.now_ms() + HOUR_MS
            )
        )
    clock.advance_ms(HOUR_MS)
    assert await desired() == 5
    clock.advance_ms(3 * HOUR_MS)
    assert await desired() == 0
