"""A topic's schedule as published to `stage.schedule`: state, not an event; the higher revision wins (R5)."""

from __future__ import annotations

import msgspec

from contract.names import DEFAULT_AUDIENCE

__all__ = ["PlannedStage", "TopicSchedule", "decode_schedule", "encode_schedule"]


class PlannedStage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One stage of a topic, in the event's order."""

    key: str
    order: int
    due_at: int | None = None
    """Due time in ms; None for a manual stage, or one anchored to an end nobody knows yet."""
    headline: str = ""


class TopicSchedule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything push nodes and the DGS may know of a topic's plan.

    `revision` rises with every published change, `version` only when content changed and maps must be
    fetched anew (R5).
    """

    topic: str
    event_id: str
    title: str
    revision: int
    version: int
    starts_at: int
    ends_at: int | None = None
    audience: str = DEFAULT_AUDIENCE
    regions: tuple[str, ...] = ()
    """ISO 3166 regions this audience serves; empty: everyone no other audience of the event claims (R6)."""
    cancelled: bool = False
    shadow_of: str | None = None
    """The event this one rehearses. Who asks for its id finds it; no list of events has it."""
    stages: tuple[PlannedStage, ...] = ()

    def times(self) -> dict[str, int | None]:
        """Stage key -> due time in ms, the `times` of a device's schedule frame."""
        return {stage.key: stage.due_at for stage in self.stages}


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(TopicSchedule)


def encode_schedule(schedule: TopicSchedule) -> bytes:
    return _encoder.encode(schedule)


def decode_schedule(data: bytes) -> TopicSchedule:
    return _decoder.decode(data)
