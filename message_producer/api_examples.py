"""Answers as examples of the OpenAPI document, built by the code that builds real answers, so they cannot drift."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel

from contract.broadcast import Broadcast, Cause
from contract.names import topic_of
from message_producer.api_views import (
    AuditPage,
    AuditView,
    BroadcastList,
    BroadcastView,
    CoverageView,
    CueResult,
    EventPage,
    EventView,
    PreviewList,
    PreviewView,
    ReachList,
    ReachView,
)
from message_producer.coverage import EventCoverage, StageCoverage, TopicHoldings, TopicStanding
from message_producer.model import (
    Anchor,
    AuditEntry,
    BroadcastReach,
    LiveEvent,
    Occurrence,
    OccurrenceState,
    OutboxEntry,
    PreviewEntry,
    Stage,
)

__all__ = ["ANSWERS"]

_ID: Final = "tyson-paul"
_TOPIC: Final = topic_of(_ID)
_ZONE: Final = "America/New_York"
_START: Final = 1_731_718_800_000
_EVENT: Final = LiveEvent(
    event_id=_ID,
    title="Jake Paul vs. Mike Tyson",
    starts_at=_START,
    ends_at=_START + 18_000_000,
    time_zone=_ZONE,
    stages=(Stage(key="live", headline="Live now"), Stage(key="ended", anchor=Anchor.END)),
    revision=3,
    version=1,
    created_at=_START - 864_000_000,
    updated_at=_START - 3_600_000,
    occurrences=(
        Occurrence(topic=_TOPIC, stage_key="live", arming=1, state=OccurrenceState.ARMED, order=0, due_at=_START),
    ),
)
_SHADOW: Final = LiveEvent(
    event_id="shadow-5d1c0f3a9be2",
    title=_EVENT.title,
    starts_at=_START - 7_080_000,
    time_zone=_ZONE,
    stages=(Stage(key="live", headline="Live now"), Stage(key="ended", offset_ms=60_000)),
    source="shadow",
    shadow_of=_ID,
    revision=1,
    version=1,
    created_at=_START - 7_200_000,
    updated_at=_START - 7_200_000,
    occurrences=(
        Occurrence(
            topic=topic_of("shadow-5d1c0f3a9be2", shadow=True),
            stage_key="live",
            arming=1,
            state=OccurrenceState.ARMED,
            order=0,
            due_at=_START - 7_080_000,
        ),
    ),
)
_BROADCAST: Final = Broadcast(
    topic=_TOPIC,
    state_key="live",
    timestamp=_START + 4,
    prev=_START - 900_000,
    event_id=_ID,
    due_at=_START,
    dispatched_at=_START + 4,
)
_SENT: Final = OutboxEntry(position=17, broadcast=_BROADCAST, published_at=_START + 9)
_REACH: Final = BroadcastReach(
    topic=_TOPIC,
    state_key="live",
    timestamp=_START + 4,
    cause=Cause.SCHEDULED,
    due_at=_START,
    dispatched_at=_START + 4,
    published_at=_START + 9,
    routed_at=_START + 11,
    nodes=2,
    subscribers=100_000,
    written=99_970,
    replayed=28,
    acked=1_003,
    told=2,
)
_COVERAGE: Final = EventCoverage(
    version=2,
    threshold=0.8,
    topics=(
        TopicStanding(
            audience="all",
            holdings=TopicHoldings(topic=_TOPIC, nodes=2, held={2: 61_000, 1: 38_500, 0: 500}),
            current=0.61,
            stages=(StageCoverage(stage_key="overtime", version=2, holders=61_000, share=0.61, enough=False),),
        ),
    ),
)
_AUDIT: Final = AuditEntry(
    sequence=3,
    at=_START - 3_600_000,
    actor="ann",
    action="shift",
    event_id=_ID,
    before={"starts_at": _START - 600_000},
    after={"starts_at": _START},
)
_PREVIEW: Final = PreviewEntry(
    topic=_TOPIC, audience="all", state_key="live", due_at=_START, state=OccurrenceState.ARMED, headline="Live now"
)


def _answer(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json", by_alias=True)


ANSWERS: Final[dict[str, dict[str, Any]]] = {
    "event": _answer(EventView.of(_EVENT)),
    "rehearsal": _answer(EventView.of(_SHADOW)),
    "events": _answer(EventPage(items=[EventView.of(_EVENT)], next="/v1/events?limit=1&after=tyson-paul")),
    "broadcasts": _answer(BroadcastList(items=[BroadcastView.of(_BROADCAST, _ZONE, _SENT)])),
    "cue": _answer(CueResult(broadcasts=[BroadcastView.of(_BROADCAST, _ZONE)])),
    "preview": _answer(PreviewList(items=[PreviewView.of(_PREVIEW, _ZONE)])),
    "reach": _answer(ReachList(items=[ReachView.of(_REACH, _ZONE)])),
    "coverage": _answer(CoverageView.of(_COVERAGE)),
    "audit": _answer(AuditPage(items=[AuditView.of(_AUDIT)], next=None)),
    "import": {
        "source": "import",
        "dry_run": True,
        "from": "2024-11-07T12:20:00+00:00",
        "until": "2025-12-12T12:20:00+00:00",
        "created": [
            {
                "id": "jake-paul-vs-mike-tyson-0f9d2c11",
                "uid": "tyson-paul@example.org",
                "line": 4,
                "title": "Jake Paul vs. Mike Tyson",
                "starts_at": "2024-11-15T20:00:00-05:00",
                "starts_at_ms": _START,
                "before": {},
                "after": {},
            }
        ],
        "moved": [],
        "changed": [],
        "cancelled": [],
        "unchanged": 0,
        "outside_horizon": 0,
        "missing": [],
        "rejected": [
            {
                "line": 14,
                "uid": "b",
                "field": "DTSTART",
                "message": "a time without a zone",
                "rule": "UTC (…Z), or TZID with a known time zone",
            }
        ],
        "rejected_unlisted": 0,
    },
}
