"""A shadow event: another event's schedule, compressed, for a rehearsal on topics of its own. Pure.

Each gap between two instants of the real schedule keeps its share of the time, but at least GAP_MIN_MS, so that every
stage is seen; what falls together falls together again. A shadow's stages hang on its start, so that it can be shifted
to the moment its devices are ready. It is over after its last stage whatever becomes of whoever made it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from contract.errors import InvalidRequest
from message_producer.drafts import due_at
from message_producer.model import Audience, EventDraft, EventState, OccurrenceState, Stage

__all__ = [
    "BEGINS_IN_MAX_MS",
    "GAP_MIN_MS",
    "OPEN_SHADOWS_MAX",
    "OVER_MAX_MS",
    "SHADOW_SOURCE",
    "ShadowPlan",
    "is_over",
    "outlived",
    "shadow_draft",
]

SHADOW_SOURCE: Final = "shadow"
"""The source of every shadow event, and of nothing else."""
GAP_MIN_MS: Final = 1_000
OVER_MAX_MS: Final = 3_600_000
BEGINS_IN_MAX_MS: Final = 900_000
OPEN_SHADOWS_MAX: Final = 8
"""Rehearsals at the same time."""
_KEEP_MS: Final = 3_600_000
"""A shadow that is over can be asked about for an hour."""


class ShadowPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How a schedule is to be compressed: into `over_ms`, or by a `factor`."""

    begins_in_ms: int
    """From now to its first stage: time for devices to prefetch."""
    over_ms: int | None = None
    """From its first stage to its last."""
    factor: float | None = None


def shadow_draft(event: EventDraft, shadow_id: str, plan: ShadowPlan, now: int) -> EventDraft:
    """`event` as a rehearsal that begins `plan.begins_in_ms` after `now`. Raises InvalidRequest naming the field."""
    if event.shadow_of is not None:
        raise InvalidRequest(f"rehearses {event.shadow_of!r} itself", field="event_id", rule="a real event")
    _check(plan.begins_in_ms, "begins_in", 0, BEGINS_IN_MAX_MS)
    instants = sorted(set(_instants(event)))
    if not instants:
        raise InvalidRequest("has no stage with a time", field="event_id", rule="at least one stage with a time")
    compressed = _compressing(instants, _over_ms(plan, instants))
    starts = compressed(event.starts_at)
    begins_at = now + plan.begins_in_ms

    def stage(one: Stage) -> Stage:
        due = due_at(event, Audience(), one)
        if due is None:  # manual, or at an end nobody knows: as in the real event it waits
            return one
        return Stage(key=one.key, offset_ms=compressed(due) - starts, headline=one.headline)

    return msgspec.structs.replace(
        event,
        event_id=shadow_id,
        starts_at=begins_at + starts,
        ends_at=None if event.ends_at is None else begins_at + compressed(event.ends_at),
        stages=tuple(stage(one) for one in event.stages),
        audiences=tuple(_audience(event, one, compressed, starts) for one in event.audiences),
        source=SHADOW_SOURCE,
        source_uid=None,
        shadow_of=event.event_id,
    )


def is_over(state: EventState, now: int) -> bool:
    """Whether nothing goes out by itself any more."""
    armed = (o.due_at or 0 for o in state.occurrences if o.state is OccurrenceState.ARMED)
    return state.event.cancelled or max(armed, default=0) <= now


def outlived(state: EventState, now: int) -> bool:
    """Whether it has been over for so long that it may be forgotten."""
    since = state.event.updated_at
    if not state.event.cancelled:
        since = max(since, max((o.due_at or 0 for o in state.occurrences), default=0))
    return is_over(state, now) and since + _KEEP_MS <= now


def _instants(event: EventDraft) -> Iterable[int]:
    """Every moment at which a stage becomes true for somebody."""
    for audience in event.audiences:
        for stage in event.stages:
            due = due_at(event, audience, stage)
            if due is not None and (audience.stages is None or stage.key in audience.stages):
                yield due


def _over_ms(plan: ShadowPlan, instants: list[int]) -> int:
    span, least = instants[-1] - instants[0], (len(instants) - 1) * GAP_MIN_MS
    if plan.factor is not None:
        if plan.over_ms is not None:
            raise InvalidRequest("was given beside `over`", field="compress", rule="one of the two")
        if not 1 <= plan.factor <= 1e6:
            raise InvalidRequest(f"{plan.factor} is out of range", field="compress", rule="a factor from 1 to 1000000")
        over, field = max(least, round(span / plan.factor)), "compress"
    else:
        over, field = 60_000 if plan.over_ms is None else plan.over_ms, "over"
    _check(over, field, least, max(least, OVER_MAX_MS))
    return over


def _check(value_ms: int, field: str, at_least: int, at_most: int) -> None:
    if not at_least <= value_ms <= at_most:
        raise InvalidRequest(
            f"comes to {value_ms / 1000:g} s", field=field, rule=f"{at_least / 1000:g} to {at_most / 1000:g} s"
        )


def _compressing(instants: list[int], over_ms: int) -> Callable[[int], int]:
    """Real time -> ms after the first stage: rising, and by at least GAP_MIN_MS from one instant to the next."""
    first, last = instants[0], instants[-1]
    shared = over_ms - (len(instants) - 1) * GAP_MIN_MS

    def compressed(at: int) -> int:
        at = min(max(at, first), last)
        share = shared * (at - first) // (last - first) if last > first else 0
        return (bisect_right(instants, at) - 1) * GAP_MIN_MS + share

    return compressed


def _audience(event: EventDraft, audience: Audience, compressed: Callable[[int], int], starts: int) -> Audience:
    offsets = dict(audience.offsets_ms)
    for stage in event.stages:
        due = due_at(event, audience, stage)
        if stage.key in offsets and due is not None:
            offsets[stage.key] = compressed(due) - starts
    return msgspec.structs.replace(audience, offsets_ms=offsets)
