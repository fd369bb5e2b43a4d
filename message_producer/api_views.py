"""The JSON the operator API shows: every time twice, RFC 3339 for people and milliseconds for machines."""

from __future__ import annotations

from typing import Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from contract.broadcast import Broadcast
from contract.durations import format_duration
from message_producer.coverage import EventCoverage, StageCoverage, TopicStanding
from message_producer.model import (
    Audience,
    AuditEntry,
    BroadcastReach,
    LiveEvent,
    Occurrence,
    OutboxEntry,
    PreviewEntry,
    Stage,
)
from message_producer.moments import format_moment

__all__ = [
    "AudienceView",
    "AuditPage",
    "AuditView",
    "BroadcastList",
    "BroadcastView",
    "CoverageView",
    "CueResult",
    "EventPage",
    "EventView",
    "OccurrenceView",
    "PreviewList",
    "PreviewView",
    "ReachList",
    "ReachView",
    "StageCoverageView",
    "StageView",
    "TopicCoverageView",
]


class _Out(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StageView(_Out):
    key: str
    anchor: str
    offset: str
    offset_ms: int
    at: str | None
    at_ms: int | None
    headline: str


class AudienceView(_Out):
    name: str
    regions: list[str]
    offsets: dict[str, str]
    stages: list[str] | None


class OccurrenceView(_Out):
    topic: str
    stage: str
    state: str
    arming: int
    order: int
    due_at: str | None
    due_at_ms: int | None
    timestamp: int | None

    @classmethod
    def of(cls, item: Occurrence, zone: str) -> OccurrenceView:
        return cls(
            topic=item.topic,
            stage=item.stage_key,
            state=item.state.value,
            arming=item.arming,
            order=item.order,
            due_at=_moment(item.due_at, zone),
            due_at_ms=item.due_at,
            timestamp=item.timestamp,
        )


class EventView(_Out):
    """Times twice: RFC 3339 in the event's time zone for people, milliseconds for machines."""

    id: str
    title: str
    starts_at: str
    starts_at_ms: int
    ends_at: str | None
    ends_at_ms: int | None
    time_zone: str
    revision: int
    version: int
    cancelled: bool
    stages: list[StageView]
    audiences: list[AudienceView]
    occurrences: list[OccurrenceView]
    coverage_threshold: float
    announce_late: bool
    broadcast_budget_per_hour: int
    source: str
    source_uid: str | None
    shadow_of: str | None = Field(description="The event this one rehearses; null: a real event.")
    last_timestamp: int
    created_at: str
    created_at_ms: int
    updated_at: str
    updated_at_ms: int

    @classmethod
    def of(cls, event: LiveEvent) -> EventView:
        zone = event.time_zone
        return cls(
            id=event.event_id,
            title=event.title,
            starts_at=format_moment(event.starts_at, zone),
            starts_at_ms=event.starts_at,
            ends_at=_moment(event.ends_at, zone),
            ends_at_ms=event.ends_at,
            time_zone=zone,
            revision=event.revision,
            version=event.version,
            cancelled=event.cancelled,
            stages=[_stage_view(stage, zone) for stage in event.stages],
            audiences=[_audience_view(audience) for audience in event.audiences],
            occurrences=[OccurrenceView.of(item, zone) for item in event.occurrences],
            coverage_threshold=event.coverage_threshold,
            announce_late=event.announce_late,
            broadcast_budget_per_hour=event.broadcast_budget_per_hour,
            source=event.source,
            source_uid=event.source_uid,
            shadow_of=event.shadow_of,
            last_timestamp=event.last_timestamp,
            created_at=format_moment(event.created_at),
            created_at_ms=event.created_at,
            updated_at=format_moment(event.updated_at),
            updated_at_ms=event.updated_at,
        )


class EventPage(_Out):
    items: list[EventView]
    next: str | None = Field(description="Address of the next page; null: this is the last.")


class BroadcastView(_Out):
    topic: str
    state_key: str
    timestamp: int
    prev: int
    cause: str
    due_at: str | None
    due_at_ms: int | None
    dispatched_at: str | None
    dispatched_at_ms: int | None
    position: int | None = Field(description="Place in the embedded log; null: not published yet, or in Kafka.")
    published_at: str | None
    published_at_ms: int | None

    @classmethod
    def of(cls, item: Broadcast, zone: str, entry: OutboxEntry | None = None) -> BroadcastView:
        published = entry.published_at if entry else None
        return cls(
            topic=item.topic,
            state_key=item.state_key,
            timestamp=item.timestamp,
            prev=item.prev,
            cause=item.cause.value,
            due_at=_moment(item.due_at, zone),
            due_at_ms=item.due_at,
            dispatched_at=_moment(item.dispatched_at, zone),
            dispatched_at_ms=item.dispatched_at,
            position=entry.position if entry else None,
            published_at=_moment(published, zone),
            published_at_ms=published,
        )


class BroadcastList(_Out):
    items: list[BroadcastView]


class CueResult(_Out):
    broadcasts: list[BroadcastView]


class PreviewView(_Out):
    topic: str
    audience: str
    state_key: str
    state: str
    due_at: str | None = Field(description="Null: goes out only when cued, or hangs on an end nobody knows.")
    due_at_ms: int | None
    headline: str

    @classmethod
    def of(cls, item: PreviewEntry, zone: str) -> PreviewView:
        return cls(
            topic=item.topic,
            audience=item.audience,
            state_key=item.state_key,
            state=item.state.value,
            due_at=_moment(item.due_at, zone),
            due_at_ms=item.due_at,
            headline=item.headline,
        )


class PreviewList(_Out):
    items: list[PreviewView]


class ReachView(_Out):
    """`written` is handed to the kernel, not received; `acked` is the asked sample; `told` know they missed it."""

    topic: str
    state_key: str
    timestamp: int
    cause: str
    due_at_ms: int | None
    dispatched_at_ms: int | None
    published_at_ms: int | None
    routed_at: str | None = Field(
        description="When the first push node had it from a router, by that node's clock. Null: none did, or says so."
    )
    routed_at_ms: int | None
    dispatch_lag_ms: int | None
    nodes: int
    subscribers: int
    written: int
    replayed: int
    coalesced: int
    acked: int
    told: int

    @classmethod
    def of(cls, item: BroadcastReach, zone: str) -> ReachView:
        late = None if item.due_at is None or item.dispatched_at is None else item.dispatched_at - item.due_at
        return cls(
            topic=item.topic,
            state_key=item.state_key,
            timestamp=item.timestamp,
            cause=item.cause.value,
            due_at_ms=item.due_at,
            dispatched_at_ms=item.dispatched_at,
            published_at_ms=item.published_at,
            routed_at=_moment(item.routed_at, zone),
            routed_at_ms=item.routed_at,
            dispatch_lag_ms=late,
            nodes=item.nodes,
            subscribers=item.subscribers,
            written=item.written,
            replayed=item.replayed,
            coalesced=item.coalesced,
            acked=item.acked,
            told=item.told,
        )


class ReachList(_Out):
    items: list[ReachView]


class StageCoverageView(_Out):
    """A stage that came after the first map; its cue needs `share` to reach the threshold, or an override."""

    stage: str
    version: int = Field(description="The first map that has it.")
    holders: int
    share: float | None = Field(description="Share (0-1) of connected devices that hold it; null: nobody is connected.")
    enough: bool

    @classmethod
    def of(cls, item: StageCoverage) -> StageCoverageView:
        return cls(
            stage=item.stage_key, version=item.version, holders=item.holders, share=item.share, enough=item.enough
        )


class HeldVersionView(_Out):
    version: int = Field(description="0: connected without a map.")
    subscribers: int


class TopicCoverageView(_Out):
    topic: str
    audience: str
    nodes: int
    subscribers: int
    current: float | None = Field(description="Share (0-1) that holds the event's version; null: nobody is connected.")
    held: list[HeldVersionView] = Field(description="Newest first.")
    late_stages: list[StageCoverageView]

    @classmethod
    def of(cls, item: TopicStanding) -> TopicCoverageView:
        holdings = item.holdings
        return cls(
            topic=holdings.topic,
            audience=item.audience,
            nodes=holdings.nodes,
            subscribers=holdings.subscribers,
            current=item.current,
            held=[
                HeldVersionView(version=version, subscribers=count)
                for version, count in sorted(holdings.held.items(), reverse=True)
            ],
            late_stages=[StageCoverageView.of(stage) for stage in item.stages],
        )


class CoverageView(_Out):
    """Which stage maps connected devices hold, as far as push nodes reported lately."""

    version: int
    coverage_threshold: float
    items: list[TopicCoverageView]

    @classmethod
    def of(cls, item: EventCoverage) -> CoverageView:
        return cls(
            version=item.version,
            coverage_threshold=item.threshold,
            items=[TopicCoverageView.of(topic) for topic in item.topics],
        )


class AuditView(_Out):
    sequence: int
    at: str
    at_ms: int
    actor: str
    action: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None

    @classmethod
    def of(cls, item: AuditEntry) -> AuditView:
        return cls(
            sequence=item.sequence,
            at=format_moment(item.at),
            at_ms=item.at,
            actor=item.actor,
            action=item.action,
            before=msgspec.to_builtins(item.before),
            after=msgspec.to_builtins(item.after),
        )


class AuditPage(_Out):
    items: list[AuditView]
    next: str | None


def _moment(at: int | None, zone: str) -> str | None:
    return None if at is None else format_moment(at, zone)


def _stage_view(stage: Stage, zone: str) -> StageView:
    return StageView(
        key=stage.key,
        anchor=stage.anchor.value,
        offset=format_duration(stage.offset_ms),
        offset_ms=stage.offset_ms,
        at=_moment(stage.at, zone),
        at_ms=stage.at,
        headline=stage.headline,
    )


def _audience_view(audience: Audience) -> AudienceView:
    return AudienceView(
        name=audience.name,
        regions=list(audience.regions),
        offsets={key: format_duration(offset) for key, offset in audience.offsets_ms.items()},
        stages=None if audience.stages is None else list(audience.stages),
    )
