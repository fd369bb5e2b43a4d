"""The JSON an operator sends: unknown fields refused, times and durations read, every fault named by its path."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from contract.durations import parse_duration
from contract.errors import InvalidRequest
from contract.names import DEFAULT_AUDIENCE
from message_producer.feeds.template import StageTemplate
from message_producer.model import Anchor, Audience, EventDraft, EventPatch, Stage
from message_producer.moments import check_time_zone, parse_moment
from message_producer.shadows import ShadowPlan

__all__ = ["AudienceIn", "CueIn", "EventIn", "EventPatchIn", "RehearsalIn", "ShiftIn", "StageIn"]

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


class RehearsalIn(_In):
    model_config = ConfigDict(json_schema_extra={"examples": [{"over": "PT60S", "begins_in": "PT2M"}]})

    over: Text | None = Field(None, description="ISO 8601 duration from first stage to last; PT60S if left out.")
    compress: float | None = Field(None, description="Instead of `over`: how many times faster than the real event.")
    begins_in: Text = Field("PT2M", description="From now to the first stage, at most PT15M; shift it when ready.")

    def to_plan(self) -> ShadowPlan:
        """Raises InvalidRequest naming the field."""
        return ShadowPlan(
            begins_in_ms=parse_duration(self.begins_in, "begins_in"),
            over_ms=None if self.over is None else parse_duration(self.over, "over"),
            factor=self.compress,
        )


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
