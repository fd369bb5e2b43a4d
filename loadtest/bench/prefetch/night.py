"""The one event everybody prefetches, and the operation they ask with. Pure."""

from __future__ import annotations

import hashlib
from typing import Final

from contract.names import topic_of
from contract.schedule import PlannedStage, TopicSchedule

__all__ = ["EVENT_ID", "OPERATION", "OPERATION_HASH", "STARTS_IN_MS", "profile_id", "schedule_of"]

EVENT_ID: Final = "tyson-paul"
STARTS_IN_MS: Final = 6 * 3_600_000
OPERATION: Final = (
    "query Prefetch($eventId: ID!, $profileId: ID!, $device: DeviceContext) "
    "{ prefetchEvent(eventId: $eventId, profileId: $profileId, device: $device) "
    "{ event { id topic } version revision ttlSeconds serverTime "
    "stages { key startsAt headline rows { heading titles { id name } } } } }"
)
OPERATION_HASH: Final = hashlib.sha256(OPERATION.encode()).hexdigest()
_MINUTE_MS: Final = 60_000
# Minutes from the event's start. With `cancelled` six rows of four titles: an answer of some 2 KB.
_STAGES: Final = (("upcoming", -24 * 60), ("live", 0), ("ended", 180))


def schedule_of(now_ms: int) -> TopicSchedule:
    """The event tonight: it starts six hours after `now_ms`, so that lifetimes have stages to keep clear of."""
    starts_at = now_ms + STARTS_IN_MS
    return TopicSchedule(
        topic=topic_of(EVENT_ID, "all"),
        event_id=EVENT_ID,
        title="Tyson vs. Paul",
        revision=12,
        version=7,
        starts_at=starts_at,
        ends_at=starts_at + 180 * _MINUTE_MS,
        stages=tuple(
            PlannedStage(key=key, order=order, due_at=starts_at + minutes * _MINUTE_MS)
            for order, (key, minutes) in enumerate(_STAGES)
        ),
    )


def profile_id(number: int) -> str:
    """Of profile `number`."""
    return f"p-{number}"
