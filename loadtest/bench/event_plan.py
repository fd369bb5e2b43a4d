"""Events with stages at random instants, for benchmarks of dispatch. Pure but for its seeded randomness."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from contract.names import topic_of

__all__ = ["SPACING_MS", "EventPlan"]

SPACING_MS: Final = 500
"""Between stages of one event: closer ones may rightly supersede each other, and would then not be dispatched."""


class EventPlan(msgspec.Struct, frozen=True, kw_only=True):
    """`stages` stages, shared out over `events` events, due at instants drawn uniformly from `span_s`."""

    events: int
    stages: int
    span_s: float
    seed: int
    prefix: str = "bench"
    """Event ids are `<prefix>-<number>`."""

    @property
    def is_spacious(self) -> bool:
        """Whether the stages of one event fit into the span with room to be random."""
        return -(-self.stages // self.events) * SPACING_MS < self.span_s * 1000 * 0.8

    @property
    def event_ids(self) -> list[str]:
        return [f"{self.prefix}-{number}" for number in range(self.events)]

    @property
    def topics(self) -> tuple[str, ...]:
        """In the order of `event_ids`; every event has one audience."""
        return tuple(topic_of(event_id) for event_id in self.event_ids)

    def requests(self, *, first_due_ms: int) -> list[dict[str, Any]]:
        """Bodies of `POST /v1/events`; the same for the same plan."""
        assert self.is_spacious, "stages of one event would fall on each other"
        chance = random.Random(self.seed)
        found = []
        for number, event_id in enumerate(self.event_ids):
            count = self.stages // self.events + (number < self.stages % self.events)
            # Random points of a span shortened by the spacing, then pulled apart: uniform, ordered, never too close.
            room = int(self.span_s * 1000) - count * SPACING_MS
            points = sorted(chance.randrange(room) for _ in range(count))
            due = [first_due_ms + point + index * SPACING_MS for index, point in enumerate(points)]
            found.append(self._request(event_id, first_due_ms, due))
        return found

    def evenly(self, *, first_due_ms: int) -> list[dict[str, Any]]:
        """The same number of stages in even steps over the span, event after event: nothing to batch."""
        assert self.is_spacious, "stages of one event would fall on each other"
        step_ms = self.span_s * 1000 / self.stages
        due: dict[str, list[int]] = {event_id: [] for event_id in self.event_ids}
        for number in range(self.stages):
            due[self.event_ids[number % self.events]].append(first_due_ms + int(number * step_ms))
        return [self._request(event_id, first_due_ms, at) for event_id, at in due.items()]

    @staticmethod
    def _request(event_id: str, starts_at_ms: int, due: list[int]) -> dict[str, Any]:
        stages: list[Mapping[str, str]] = [
            {"key": f"stage_{index}", "anchor": "absolute", "at": _rfc3339(at)} for index, at in enumerate(due)
        ]
        return {
            "id": event_id,
            "title": f"Benchmark event {event_id}",
            "starts_at": _rfc3339(starts_at_ms),
            "stages": stages,
            "broadcast_budget_per_hour": 3600,
        }


def _rfc3339(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
