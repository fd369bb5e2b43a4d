"""What an operator does next to the events it made itself. No I/O, no clock, no chance of its own.

An event's life: created, moved and cued in turn, cancelled after a few acts; then the next one. They start in a day, so
none of their scheduled stages is due within a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec

from loadtest.users.asking import HttpRequest

__all__ = ["Act", "OperatorLife"]

_STARTS_IN_MS: Final = 86_400_000
_ACTS_PER_EVENT: Final = 6

ActName = Literal["create", "shift", "cue", "cancel"]


class Act(msgspec.Struct, frozen=True):
    name: ActName
    request: HttpRequest


class OperatorLife:
    """One operator. `next_act`, then `done` with whether it succeeded."""

    def __init__(self, name: str, *, headers: Mapping[str, str]) -> None:
        """`name` begins the ids of its events, and its idempotency keys."""
        self._name = name
        self._headers = {"Content-Type": "application/json", "Accept": "application/json", **headers}
        self._events = 0
        self._acts = 0
        self._sent = 0

    @property
    def event_id(self) -> str | None:
        """The event it is working on; None: none yet, or the last was cancelled."""
        return f"{self._name}-{self._events}" if self._acts else None

    def next_act(self, now_ms: int, draw: float) -> Act:
        """What to send now; `draw` in [0, 1) chooses between moving and cueing."""
        self._sent += 1
        event_id = self.event_id
        if event_id is None:
            starts_at = datetime.fromtimestamp((now_ms + _STARTS_IN_MS) / 1000, UTC).isoformat(timespec="seconds")
            stages = [{"key": "live"}, {"key": "encore", "anchor": "manual"}]
            new_id = f"{self._name}-{self._events}"
            event = {"id": new_id, "title": "Load test", "starts_at": starts_at, "stages": stages}
            return Act("create", self._post("/v1/events", event))
        path = f"/v1/events/{event_id}"
        if self._acts >= _ACTS_PER_EVENT:
            return Act("cancel", self._post(f"{path}/cancel", {}))
        if draw < 0.5:
            return Act("shift", self._post(f"{path}/shift", {"by": "PT1M"}))
        return Act("cue", self._post(f"{path}/cue", {"stage": "encore", "override_coverage": True}))

    def done(self, act: Act, succeeded: bool) -> None:
        """An event that could not be made, or is cancelled, is followed by the next one."""
        if act.name == "cancel" or (act.name == "create" and not succeeded):
            self._events, self._acts = self._events + 1, 0
        else:
            self._acts += 1

    def _post(self, path: str, body: Mapping[str, object]) -> HttpRequest:
        headers = {**self._headers, "Idempotency-Key": f"{self._name}/{self._sent}"}
        return HttpRequest("POST", path, msgspec.json.encode(body), headers)
