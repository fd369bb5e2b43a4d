"""The JSON of the operator API, both ways: what is taken (unknown fields refused) and what is shown."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from contract.broadcast import Broadcast
from contract.errors import InvalidRequest
from contract.names import DEFAULT_AUDIENCE
from message_producer.durations import format_duration, parse_duration
from message_producer.feeds.template import StageTemplate
from message_producer.model import (
    Anchor,
    Audience,
    AuditEntry,
    BroadcastReach,
    EventDraft,
    EventPatch,
    LiveEvent,
    Occurrence,
    OutboxEntry,
    PreviewEntry,
    Stage,
)
from message_producer.moments import check_time_zone, format_moment, parse_moment

__all__ = [
    "AudienceIn",
    "AuditPage",
    "AuditView",
    "BroadcastList",
    "BroadcastView",
    "CueIn",
    "CueResult",
    "EventIn",
    "EventPage",
    "EventPatchIn",
    "EventView",
    "OccurrenceView",
    "PreviewList",
    "PreviewView",
    "ReachList",
    "ReachView",
    "ShiftIn",
    "StageIn",
]

_EVENT: Final[dict[str, Any]] = {
    "id": "tyson-paul",
    "title": "Jake Paul vs. Mike Tyson",
    "starts_at": "2024-11-15T20:00:00-05:00",
    "ends_at": "2024-11-16T01:00:00-05:00",
    "time_zone": "America/New_York",
    "stages": [
        {"key": "upcoming", "offset": "-P1D", "headline": "Tonight: Paul vs. Tyson"},
        {"key": "starting_soon", "offset": "-PT15M"},
        {"key": "live"},
        {"key": "ended", "anchor": "end"},
    ],
}


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Out(BaseModel):
    model_config = ConfigDict(extra="forbid")


Text = Annotated[str, Field(max_length=2_000)]


class StageIn(_In):
    key: Text = Field(description="Name of the stage, and the state key its broadcast announces.")
    anchor: Literal["start", "end", "absolute", "manual"] = Field(
        "start", description="What its time hangs on; `manual` waits for a cue."
    )
    offset: Text = Field("PT0S", description="ISO 8601 duration from the anchor, such as `-PT15M`.")
    at: Text | None = Field(None, description="RFC 3339 time; only with the anchor `absolute`.")
    headline: Text = Field("", description="Heading of the row shown in this stage.")


class AudienceIn(_In):
    name: Text = DEFAULT_AUDIENCE
    regions: list[Text] = Field(default=[], description="ISO 3166-1 alpha-2; empty: everyone no other claims.")
    offsets: dict[str, Text] = Field(default={}, description="Stage key -> offset that replaces the event's.")
    stages: list[Text] | None = Field(None, description="Stage keys this audience sees; null: all.")


class EventIn(_In):
    model_config = ConfigDict(json_schema_extra={"examples": [_EVENT]})

    id: Text = Field(description="1-64 of a-z 0-9 . _ -, starting and ending with a letter or digit.")
    title: Text
    starts_at: Text = Field(description="RFC 3339 with an offset, or a local time together with `time_zone`.")
    ends_at: Text | None = None
    time_zone: Text | None = Field(None, description="IANA name; UTC if left out.")
    stages: list[StageIn] | None = Field(None, description="In order of time; left out: the default template.")
    audiences: list[AudienceIn] | None = None
    coverage_threshold: float = Field(
        0.0, ge=0, le=1, description="Share of devices that must hold a map with a late stage before its cue."
    )
    announce_late: bool = Field(True, description="Whether a stage that is true now goes out however late.")
    broadcast_budget_per_hour: int = Field(60, ge=1, le=3600)

    def to_draft(self, template: StageTemplate) -> EventDraft:
        """Raises InvalidRequest naming the field."""
        zone = check_time_zone(self.time_zone) if self.time_zone is not None else None
        stages = template.stages_for(self.title)
        if self.stages is not None:
            stages = _stages(self.stages, self.time_zone)
        return EventDraft(
            event_id=self.id,
            title=self.title,
            starts_at=parse_moment(self.starts_at, "starts_at", zone=zone),
            ends_at=None if self.ends_at is None else parse_moment(self.ends_at, "ends_at", zone=zone),
            time_zone=self.time_zone or "UTC",
            stages=stages,
            audiences=(Audience(),) if self.audiences is None else _audiences(self.audiences),
            coverage_threshold=self.coverage_threshold,
            announce_late=self.announce_late,
            broadcast_budget_per_hour=self.broadcast_budget_per_hour,
        )


class EventPatchIn(_In):
    """Only what is named changes; `"ends_at": null` clears the end. A local time needs `time_zone` beside it."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"starts_at": "2024-11-15T20:10:00-05:00", "title": "Paul vs. Tyson"}]}
    )

    title: Text = ""
    starts_at: Text = ""
    ends_at: Text | None = None
    time_zone: Text = ""
    stages: list[StageIn] = []
    audiences: list[AudienceIn] = []
    coverage_threshold: float = Field(0.0, ge=0, le=1)
    announce_late: bool = True
    broadcast_budget_per_hour: int = Field(60, ge=1, le=3600)

    def to_patch(self) -> EventPatch:
        """Raises InvalidRequest naming the field."""
        given = self.model_fields_set
        if not given:
            raise InvalidRequest("changes nothing", field="body", rule="at least one field")
        zone = check_time_zone(self.time_zone) if "time_zone" in given else None
        changes: dict[str, Any] = {}
        for name in ("title", "time_zone", "coverage_threshold", "announce_late", "broadcast_budget_per_hour"):
            if name in given:
                changes[name] = getattr(self, name)
        if "starts_at" in given:
            changes["starts_at"] = parse_moment(self.starts_at, "starts_at", zone=zone)
        if "ends_at" in given:
            changes["ends_at"] = None if self.ends_at is None else parse_moment(self.ends_at, "ends_at", zone=zone)
        if "stages" in given:
            changes["stages"] = _stages(self.stages, self.time_zone if "time_zone" in given else None)
        if "audiences" in given:
            changes["audiences"] = _audiences(self.audiences)
        return EventPatch(**changes)


class ShiftIn(_In):
    model_config = ConfigDict(json_schema_extra={"examples": [{"by": "PT10M"}]})

    by: Text = Field(description="ISO 8601 duration; `-PT30S` moves start and end forward in time.")

    def by_ms(self) -> int:
        return parse_duration(self.by, "by")


class CueIn(_In):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"stage": "live", "audience": None, "override_coverage": False}]}
    )

    stage: Text
    audience: Text | None = Field(None, description="Name of one audience; null: all.")
    override_coverage: bool = Field(False, description="Cue although too few devices hold the stage.")


def _stages(stages: list[StageIn], time_zone: str | None) -> tuple[Stage, ...]:
    zone = check_time_zone(time_zone) if time_zone is not None else None
    return tuple(
        Stage(
            key=stage.key,
            anchor=Anchor(stage.anchor),
            offset_ms=parse_duration(stage.offset, f"stages[{index}].offset"),
            at=None if stage.at is None else parse_moment(stage.at, f"stages[{index}].at", zone=zone),
            headline=stage.headline,
        )
        for index, stage in enumerate(stages)
    )


def _audiences(audiences: list[AudienceIn]) -> tuple[Audience, ...]:
    return tuple(
        Audience(
            name=audience.name,
            regions=tuple(audience.regions),
            offsets_ms={
                key: parse_duration(offset, f"audiences[{index}].offsets.{key[:80]}")
                for key, offset in audience.offsets.items()
            },
            stages=None if audience.stages is None else tuple(audience.stages),
        )
        for index, audience in enumerate(audiences)
    )


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
    dispatch_lag_ms: int | None
    nodes: int
    subscribers: int
    written: int
    replayed: int
    coalesced: int
    acked: int
    told: int

    @classmethod
    def of(cls, item: BroadcastReach) -> ReachView:
        late = None if item.due_at is None or item.dispatched_at is None else item.dispatched_at - item.due_at
        return cls(
            topic=item.topic,
            state_key=item.state_key,
            timestamp=item.timestamp,
            cause=item.cause.value,
            due_at_ms=item.due_at,
            dispatched_at_ms=item.dispatched_at,
            published_at_ms=item.published_at,
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
