"""What an event says of itself: due times, patches, shifts, and which changes make stage maps stale. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from contract.names import topic_of
from message_producer.model import Anchor, Audience, EventDraft, EventPatch, Stage

__all__ = [
    "PlannedOccurrence",
    "apply_patch",
    "audience_topic",
    "content_of",
    "differences",
    "draft_of",
    "due_at",
    "planned",
    "shifted",
]

_DRAFT_FIELDS = EventDraft.__struct_fields__


class PlannedOccurrence(msgspec.Struct, frozen=True):
    """One stage on one topic, as the draft wants it."""

    topic: str
    stage_key: str
    order: int
    due_at: int | None


def draft_of(event: EventDraft) -> EventDraft:
    """The draft inside a stored event."""
    return EventDraft(**{name: getattr(event, name) for name in _DRAFT_FIELDS})


def audience_topic(draft: EventDraft, audience: str) -> str:
    """The topic of one of the event's audiences."""
    return topic_of(draft.event_id, audience, shadow=draft.shadow_of is not None)


def apply_patch(draft: EventDraft, patch: EventPatch) -> EventDraft:
    """`draft` with every field that `patch` sets."""
    given = {name: getattr(patch, name) for name in patch.__struct_fields__}
    return msgspec.structs.replace(draft, **{k: v for k, v in given.items() if v is not msgspec.UNSET})


def shifted(draft: EventDraft, by_ms: int) -> EventDraft:
    """`draft` with start and end moved by `by_ms`; absolute stages stay where they are."""
    ends_at = None if draft.ends_at is None else draft.ends_at + by_ms
    return msgspec.structs.replace(draft, starts_at=draft.starts_at + by_ms, ends_at=ends_at)


def due_at(draft: EventDraft, audience: Audience, stage: Stage) -> int | None:
    """When `stage` is due for `audience`, ms; None for manual stages and for ends nobody knows."""
    if stage.anchor is Anchor.MANUAL:
        return None
    base = {Anchor.START: draft.starts_at, Anchor.END: draft.ends_at, Anchor.ABSOLUTE: stage.at}[stage.anchor]
    return None if base is None else base + audience.offsets_ms.get(stage.key, stage.offset_ms)


def planned(draft: EventDraft) -> Iterator[PlannedOccurrence]:
    """Every stage of every audience, by topic and order."""
    for audience in draft.audiences:
        topic = audience_topic(draft, audience.name)
        for order, stage in enumerate(draft.stages):
            if audience.stages is None or stage.key in audience.stages:
                yield PlannedOccurrence(topic, stage.key, order, due_at(draft, audience, stage))


def content_of(draft: EventDraft) -> object:
    """What a stage map is made of: when this changes, the version rises (R5). Times are not part of it."""
    return (
        draft.title,
        tuple((stage.key, stage.headline) for stage in draft.stages),
        tuple((audience.name, audience.stages) for audience in draft.audiences),
    )


def differences(before: EventDraft, after: EventDraft) -> tuple[dict[str, object], dict[str, object]]:
    """The fields that differ, as JSON-like values, before and after: what the audit trail keeps."""
    names = [name for name in _DRAFT_FIELDS if getattr(before, name) != getattr(after, name)]
    return _builtins(before, names), _builtins(after, names)


def _builtins(draft: EventDraft, names: list[str]) -> dict[str, object]:
    return {name: msgspec.to_builtins(getattr(draft, name)) for name in names}
