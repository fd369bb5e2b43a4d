"""The producer's domain: live events, their stages, audiences and occurrences, as values."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from contract.broadcast import Broadcast, Cause
from contract.names import DEFAULT_AUDIENCE

__all__ = [
    "Anchor",
    "Audience",
    "AuditEntry",
    "BroadcastReach",
    "EventDraft",
    "EventPatch",
    "EventState",
    "LiveEvent",
    "Occurrence",
    "OccurrenceState",
    "OutboxEntry",
    "Page",
    "PreviewEntry",
    "Stage",
    "TopicState",
    "WriteContext",
]


class Anchor(StrEnum):
    """What a stage's time hangs on."""

    START = "start"
    END = "end"
    ABSOLUTE = "absolute"
    MANUAL = "manual"


class Stage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One stage of an event. Its due time is anchor + offset, `at`, or nothing for a manual stage."""

    key: str
    anchor: Anchor = Anchor.START
    offset_ms: int = 0
    at: int | None = None
    """Absolute due time in ms since the epoch; only with Anchor.ABSOLUTE."""
    headline: str = ""


class Audience(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Devices with the same rights and times: one topic (R6)."""

    name: str = DEFAULT_AUDIENCE
    regions: tuple[str, ...] = ()
    """ISO 3166-1 alpha-2; empty: everyone no other audience of the event claims."""
    offsets_ms: dict[str, int] = {}
    """Stage key -> offset that replaces the event's for this audience."""
    stages: tuple[str, ...] | None = None
    """Stage keys this audience sees, in the event's order; None: all."""


class EventDraft(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an operator or a feed says of an event."""

    event_id: str
    title: str
    starts_at: int
    ends_at: int | None = None
    time_zone: str = "UTC"
    """IANA name, for people; every time here is already in ms since the epoch."""
    stages: tuple[Stage, ...]
    audiences: tuple[Audience, ...] = (Audience(),)
    coverage_threshold: float = 0.0
    """Share of devices (0-1) that must hold the current map before a stage added late may be cued (R7)."""
    announce_late: bool = True
    """False opts out of R4: a stage that was missed stays missed."""
    broadcast_budget_per_hour: int = 60
    """Distinct broadcasts per topic and hour above which cues are refused (R7)."""
    source: str = "api"
    """Who owns it: `api`, or the name of the feed it came from."""
    source_uid: str | None = None
    """The feed's own identity of it, so that a change moves it and never duplicates it."""
    shadow_of: str | None = None
    """The event this one rehearses: its topics are shadow topics, and no list of events has it."""


class EventPatch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A change; UNSET leaves a field as it is, None clears one that may be empty."""

    title: str | msgspec.UnsetType = msgspec.UNSET
    starts_at: int | msgspec.UnsetType = msgspec.UNSET
    ends_at: int | msgspec.UnsetType | None = msgspec.UNSET
    time_zone: str | msgspec.UnsetType = msgspec.UNSET
    stages: tuple[Stage, ...] | msgspec.UnsetType = msgspec.UNSET
    audiences: tuple[Audience, ...] | msgspec.UnsetType = msgspec.UNSET
    coverage_threshold: float | msgspec.UnsetType = msgspec.UNSET
    announce_late: bool | msgspec.UnsetType = msgspec.UNSET
    broadcast_budget_per_hour: int | msgspec.UnsetType = msgspec.UNSET


class OccurrenceState(StrEnum):
    PLANNED = "planned"
    """No due time yet: manual, or anchored to an end nobody knows."""
    ARMED = "armed"
    DISPATCHED = "dispatched"
    SUPERSEDED = "superseded"
    """Overdue when a later stage was already true, or overtaken by a cue (R4)."""
    CANCELLED = "cancelled"


class Occurrence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A stage of one topic under one arming; dispatched at most once (R2)."""

    topic: str
    stage_key: str
    arming: int
    state: OccurrenceState
    order: int
    due_at: int | None = None
    timestamp: int | None = None
    """Cursor of the broadcast it became, if it did."""
    cued_at: int | None = None
    """Cursor of the cue that announced it: its effective time, until a moved due time arms it anew."""
    passed_over_at: int | None = None
    """Cursor of the cue that overtook it, or when an event that opts out of R4 missed it: it is not true any more."""


class LiveEvent(EventDraft, frozen=True, kw_only=True, omit_defaults=True):
    """A stored event: the draft, how often it changed, and where each stage stands."""

    revision: int
    """Rises with every published change; the ETag of the REST API."""
    version: int
    """Rises when content changed and maps must be fetched anew (R5)."""
    cancelled: bool = False
    created_at: int = 0
    updated_at: int = 0
    last_timestamp: int = 0
    """Newest cursor given out for this event, 0 before the first (R1)."""
    occurrences: tuple[Occurrence, ...] = ()
    """The current arming of every stage of every topic, by topic and order."""


class TopicState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where one topic stands: the end of its chain, and what its devices were last told."""

    topic: str
    audience: str = DEFAULT_AUDIENCE
    last_timestamp: int = 0
    announced: str | None = None
    """State key of the topic's newest broadcast; None before the first."""
    removed: bool = False
    """The event no longer has this audience; its chain is kept in case it comes back."""


class EventState(msgspec.Struct, frozen=True, kw_only=True):
    """An event as the timeline decides upon it: with what the world outside does not see."""

    event: LiveEvent
    topics: tuple[TopicState, ...]
    occurrences: tuple[Occurrence, ...]
    """Newest arming of everything that ever was announced or planned: stages, removed stages, reserved states."""
    added_at_version: dict[str, int]
    """Stage key -> the version that brought it; 1: there from the start (R7)."""


class WriteContext(msgspec.Struct, frozen=True, kw_only=True):
    """Who writes, and under which idempotency key."""

    actor: str
    idempotency_key: str | None = None
    fingerprint: str = ""
    """Hash of the request; the same key with another fingerprint is a Conflict."""


class PreviewEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What would go out, when, to which topic."""

    topic: str
    audience: str
    state_key: str
    due_at: int | None
    """None: only when cued."""
    state: OccurrenceState
    headline: str = ""


class OutboxEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A dispatched broadcast and whether the log has it."""

    position: int | None
    """Its place in the embedded log, set when published."""
    broadcast: Broadcast
    published_at: int | None = None


class BroadcastReach(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who got one broadcast: counts summed over nodes and incarnations."""

    topic: str
    state_key: str
    timestamp: int
    cause: Cause
    due_at: int | None = None
    dispatched_at: int | None = None
    published_at: int | None = None
    routed_at: int | None = None
    """When the first node received it from a router, by that node's clock; None: none did, or reported it yet."""
    nodes: int = 0
    subscribers: int = 0
    written: int = 0
    replayed: int = 0
    coalesced: int = 0
    acked: int = 0
    told: int = 0
    """Gaps and holes: devices that know they missed it."""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who changed what, from what, to what."""

    sequence: int
    at: int
    actor: str
    action: str
    event_id: str
    before: dict[str, object] | None = None
    after: dict[str, object] | None = None


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One page of events and where the next begins (None: no more)."""

    items: tuple[LiveEvent, ...]
    next_after: str | None = None
