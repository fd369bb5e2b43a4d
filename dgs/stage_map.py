"""A stage map before any title stands in it: the stages in order, their rows and the words above them. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from contract.names import CANCELLED, DEFAULT_STATE
from contract.schedule import PlannedStage, TopicSchedule
from dgs import words
from dgs.model import Title
from dgs.picks import Layout

__all__ = [
    "BECAUSE_STAGES",
    "Recommendations",
    "StageHead",
    "ordered_stages",
    "reasons_needed",
    "stage_heads",
    "stage_keys",
    "titles_needed",
]

BECAUSE_STAGES: Final = frozenset({"live", "ended"})
"""Stages with a row for a watched title after the plain one every stage has."""
_CLOSING: Final = (CANCELLED, DEFAULT_STATE)


class Recommendations(msgspec.Struct, frozen=True):
    """What a recommendation source says for one profile."""

    ranked: tuple[Title, ...]
    """Best first, nothing watched."""
    because: tuple[tuple[Title, tuple[Title, ...]], ...] = ()
    """(watched title, titles nearest to it, best first), newest watched first."""


class StageHead(NamedTuple):
    """What a stage shows besides titles: the same for every profile of the topic."""

    key: str
    order: int
    starts_at: int | None
    headline: str
    headings: tuple[str | None, ...]
    """One per row of the layout; None for a because-row, whose heading names its first cell."""


def ordered_stages(schedule: TopicSchedule) -> tuple[PlannedStage, ...]:
    """The stages in order, `cancelled` after them and `default` last: these two have no time, whatever is planned."""
    stages = sorted((stage for stage in schedule.stages if stage.key not in _CLOSING), key=lambda stage: stage.order)
    own = {stage.key: stage.headline for stage in schedule.stages if stage.key in _CLOSING}
    after = stages[-1].order + 1 if stages else 0
    closing = (
        PlannedStage(key=key, order=after + place, headline=own.get(key, "")) for place, key in enumerate(_CLOSING)
    )
    return (*stages, *closing)


def stage_keys(schedule: TopicSchedule) -> tuple[str, ...]:
    """Keys of `ordered_stages`: all that a layout depends on."""
    stages = sorted((stage.order, place, stage.key) for place, stage in enumerate(schedule.stages))
    return (*(key for _, _, key in stages if key not in _CLOSING), *_CLOSING)


def titles_needed(schedule: TopicSchedule, per_row: int) -> int:
    """How long a ranking the shelf can use for this schedule."""
    keys = [*(stage.key for stage in schedule.stages), *_CLOSING]
    return per_row * (len(keys) + sum(key in BECAUSE_STAGES for key in keys))


def reasons_needed(schedule: TopicSchedule) -> int:
    """How many because-rows this schedule has."""
    return sum(stage.key in BECAUSE_STAGES for stage in schedule.stages)


def stage_heads(schedule: TopicSchedule, layout: Layout, language: str) -> tuple[StageHead, ...]:
    """One per stage of the layout, which must fit the schedule."""
    heads: list[StageHead] = []
    for stage, (key, rows) in zip(ordered_stages(schedule), layout.stages, strict=True):
        assert stage.key == key
        plain = iter(words.headings(language, key, schedule.title))
        heads.append(
            StageHead(
                key=key,
                order=stage.order,
                starts_at=stage.due_at,
                headline=stage.headline or words.headline(language, key, schedule.title),
                headings=tuple(None if row.because else next(plain) for row in rows),
            )
        )
    return tuple(heads)
