"""The events game days are about, as the producer's REST API takes them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from contract.durations import format_duration

__all__ = ["AN_HOUR_S", "event_request"]

AN_HOUR_S: Final = 3_600
"""Events are stored to start so much later: time to prefetch and to connect. Then they are moved to now."""


def event_request(event_id: str, *, starts_at_ms: int, offsets_s: Mapping[str, float | None]) -> dict[str, Any]:
    """Body of `POST /v1/events`: stages by key, each so many seconds from the start; None: cued by hand."""
    stages = [
        {"key": key, "anchor": "manual"} if offset is None else {"key": key, "offset": _duration(offset)}
        for key, offset in offsets_s.items()
    ]
    return {
        "id": event_id,
        "title": f"Game day of {event_id}",
        "starts_at": datetime.fromtimestamp(starts_at_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        "stages": stages,
        "broadcast_budget_per_hour": 3_600,
    }


def _duration(seconds: float) -> str:
    sign = "-" if seconds < 0 else ""
    return sign + format_duration(abs(round(seconds * 1000)))
