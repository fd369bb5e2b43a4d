"""From when a broadcast's way to devices is counted. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from device_sim.audit import OutboxBroadcast

__all__ = ["counted_from_ms", "late_ms"]

_LATE_MS: Final = 60_000
"""Dispatched so long after its due time, it was due before it was known: the truth told late (R4). A system that is
slow stays below, and is counted from the due time."""


def counted_from_ms(broadcast: OutboxBroadcast) -> int:
    """Its due time; its dispatch for a cue, a rewind, and what was overdue when it became known. Wall clock."""
    dispatched, due = broadcast.dispatched_at or 0, broadcast.due_at
    return dispatched if due is None or dispatched - due > _LATE_MS else due


def late_ms(outbox: Iterable[OutboxBroadcast]) -> Mapping[tuple[str, int], int]:
    """(topic, timestamp) -> how long after its due time its way is counted from; only what is late."""
    found = {(each.topic, each.timestamp): counted_from_ms(each) - (each.due_at or 0) for each in outbox if each.due_at}
    return {key: late for key, late in found.items() if late}
