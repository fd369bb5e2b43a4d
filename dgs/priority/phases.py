"""Where an event stands, from the due times of its stages. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from contract.schedule import TopicSchedule
from dgs.priority.rules import Phase, PhaseTimes

__all__ = ["Standing", "due_times_of", "standing_of"]


class Standing(NamedTuple):
    phase: Phase
    next_stage_ms: int | None
    """When its next stage is due; None: no stage is to come that anybody knows the time of."""


def standing_of(due_times_ms: Collection[int], now_ms: int, times: PhaseTimes) -> Standing:
    """`due_times_ms`: of all its stages, past ones as well, in any order; none: the phase is `none`."""
    if not due_times_ms:
        return Standing("none", None)
    next_stage_ms = min((at for at in due_times_ms if at > now_ms), default=None)
    from_ms = now_ms - times.stage_after_s * 1000
    until_ms = now_ms + times.stage_before_s * 1000
    if any(from_ms <= at <= until_ms for at in due_times_ms):
        return Standing("stage", next_stage_ms)
    if now_ms < min(due_times_ms) - times.window_before_s * 1000:
        return Standing("before", next_stage_ms)
    if now_ms > max(due_times_ms) + times.window_after_s * 1000:
        return Standing("after", None)
    return Standing("window", next_stage_ms)


def due_times_of(schedules: Iterable[TopicSchedule]) -> dict[str, tuple[int, ...]]:
    """Event id -> due times in ms over all its audiences; a cancelled audience has none, as nobody waits for it."""
    found: dict[str, set[int]] = {}
    for schedule in schedules:
        times = found.setdefault(schedule.event_id, set())
        if not schedule.cancelled:
            times.update(stage.due_at for stage in schedule.stages if stage.due_at is not None)
    return {event_id: tuple(sorted(times)) for event_id, times in found.items()}
