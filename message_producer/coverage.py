"""Coverage, pure: how many of a topic's devices hold which stage map, and whether that is enough for a cue (R7)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from contract.errors import Conflict
from message_producer.model import EventState

__all__ = ["EventCoverage", "StageCoverage", "TopicHoldings", "TopicStanding", "check_coverage", "coverage_of"]


class TopicHoldings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the connected devices of one topic hold, added up over the nodes heard from lately."""

    topic: str
    nodes: int = 0
    held: dict[int, int] = {}
    """Version -> subscribers; 0: without a map."""

    @property
    def subscribers(self) -> int:
        return sum(self.held.values())

    def holders(self, version: int) -> int:
        """Subscribers whose map is at `version` or newer."""
        return sum(count for held, count in self.held.items() if held >= version)

    def share(self, version: int) -> float | None:
        """Their share (0-1); None while nobody is connected to be counted."""
        subscribers = self.subscribers
        return self.holders(version) / subscribers if subscribers else None


class StageCoverage(msgspec.Struct, frozen=True, kw_only=True):
    """A stage that came after the first map: whether enough devices have it."""

    stage_key: str
    version: int
    """The first map that has it."""
    holders: int
    share: float | None
    enough: bool
    """Whether it can be cued without an override."""


class TopicStanding(msgspec.Struct, frozen=True, kw_only=True):
    """One topic's coverage of the current map, and of stages added late."""

    audience: str
    holdings: TopicHoldings
    current: float | None
    stages: tuple[StageCoverage, ...]


class EventCoverage(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds the maps of an event, by topic."""

    version: int
    threshold: float
    topics: tuple[TopicStanding, ...]


def coverage_of(state: EventState, holdings: Mapping[str, TopicHoldings]) -> EventCoverage:
    """The coverage of an event's present topics; `holdings` may lack those nobody follows."""
    event = state.event
    topics = []
    for topic in state.topics:
        if topic.removed:
            continue
        held = holdings.get(topic.topic) or TopicHoldings(topic=topic.topic)
        stages = tuple(
            _stage(occurrence.stage_key, state.added_at_version[occurrence.stage_key], held, event.coverage_threshold)
            for occurrence in event.occurrences
            if occurrence.topic == topic.topic and state.added_at_version.get(occurrence.stage_key, 1) > 1
        )
        topics.append(
            TopicStanding(audience=topic.audience, holdings=held, current=held.share(event.version), stages=stages)
        )
    return EventCoverage(version=event.version, threshold=event.coverage_threshold, topics=tuple(topics))


def check_coverage(state: EventState, stage_key: str, held: TopicHoldings) -> None:
    """Raises Conflict where a stage added late may not be cued to this topic without an override (R7).

    What nobody can tell is not enough: with no device connected, those that come back may hold any map.
    """
    version, threshold = state.added_at_version[stage_key], state.event.coverage_threshold
    if version <= 1 or threshold == 0:
        return
    stage = _stage(stage_key, version, held, threshold)
    if stage.enough:
        return
    if stage.share is None:
        measured = f"no device of {held.topic} is connected to tell whether it holds it"
    else:
        measured = f"{_percent(stage.share)} of {held.subscribers} connected devices of {held.topic} hold it"
    raise Conflict(
        f"{stage_key!r} was added to the map later, at version {version}, and {measured}",
        field="stage",
        rule=f"at least {_percent(threshold)} of them (coverage_threshold), or override_coverage",
    )


def _stage(stage_key: str, version: int, held: TopicHoldings, threshold: float) -> StageCoverage:
    share = held.share(version)
    enough = threshold == 0 or (share is not None and share >= threshold)
    return StageCoverage(
        stage_key=stage_key, version=version, holders=held.holders(version), share=share, enough=enough
    )


def _percent(share: float) -> str:
    """Down to a tenth, never up: what falls short of a threshold must not look as if it reached it."""
    return f"{math.floor(share * 1000 + 1e-9) / 10:g}%"
