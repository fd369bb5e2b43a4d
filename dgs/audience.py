"""Which topic of an event a profile follows (R6), and until when it may. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from contract.errors import Forbidden
from contract.schedule import TopicSchedule

__all__ = ["choose_audience", "window_end_ms"]


def choose_audience(schedules: Iterable[TopicSchedule], region: str, *, field: str = "eventId") -> TopicSchedule:
    """The one audience that names `region`, else the one that names none.

    Raises Forbidden when the event is for other regions only. Should two audiences claim a region, which the producer
    refuses, the first by topic is taken, so that all answers agree.
    """
    ordered = sorted(schedules, key=lambda schedule: schedule.topic)
    assert ordered
    for schedule in ordered:
        if region in schedule.regions:
            return schedule
    for schedule in ordered:
        if not schedule.regions:
            return schedule
    raise Forbidden(f"{ordered[0].event_id} is not available in {region}", field=field, rule="rights differ by region")


def window_end_ms(schedule: TopicSchedule, *, open_ended_ms: int) -> int:
    """When the last thing planned for the topic is over; an event without an end lasts `open_ended_ms`."""
    end = schedule.ends_at if schedule.ends_at is not None else schedule.starts_at + open_ended_ms
    return max([end, *(stage.due_at for stage in schedule.stages if stage.due_at is not None)])
