"""The stages of a herd's night: due in even steps, so that one is due soon whenever the devices are ready. Pure.

A stage is only ever broadcast by the producer's schedule. When all devices will be connected is not known beforehand,
and moving the event would itself be a broadcast to all of them: so the event has more stages than are looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

__all__ = ["Ladder", "Rung", "ladder_for"]

_RUNGS: Final = 12
_PROFILES_PER_S: Final = 600.0
_CONNECTS_PER_S: Final = 4_500.0
"""Slower than both are expected here: a stage due before all are connected costs a broadcast meanwhile."""


class Rung(msgspec.Struct, frozen=True):
    state_key: str
    due_ms: int


class Ladder(msgspec.Struct, frozen=True, kw_only=True):
    event_id: str
    rungs: Sequence[Rung]

    @property
    def period_s(self) -> float:
        return (self.rungs[1].due_ms - self.rungs[0].due_ms) / 1000

    def next_after(self, at_ms: float) -> Rung | None:
        """The first stage due at that moment or later; None: there is none left."""
        return next((rung for rung in self.rungs if rung.due_ms >= at_ms), None)

    def request(self) -> Mapping[str, Any]:
        """Body of `POST /v1/events`."""
        return {
            "id": self.event_id,
            "title": "A herd's night",
            "starts_at": _rfc3339(self.rungs[0].due_ms),
            "stages": [
                {"key": rung.state_key, "anchor": "absolute", "at": _rfc3339(rung.due_ms)} for rung in self.rungs
            ],
            "broadcast_budget_per_hour": 3600,
        }


def ladder_for(
    event_id: str, *, now_ms: int, devices: int, profiles: int, window_s: float, rungs: int = _RUNGS
) -> Ladder:
    """Stages from when all devices ought to be connected, each so far from the last that churn and judging fit in."""
    first_s = 3.0 + profiles / _PROFILES_PER_S + devices / _CONNECTS_PER_S
    period_s = 2.0 + 1.5 * window_s + 60e-6 * devices
    first_ms = now_ms + int(first_s * 1000)
    return Ladder(
        event_id=event_id,
        rungs=[Rung(f"stage_{number}", first_ms + int(number * period_s * 1000)) for number in range(1, rungs + 1)],
    )


def _rfc3339(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
