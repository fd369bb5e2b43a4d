"""When an event is hot, and who is in its dedicated cluster meanwhile. Pure.

Each profile has a place in [0, 1) for each event, by hash. A share of the audience is moved: those whose place lies
below it. So as the share rises profiles only move in, as it falls they only move out, whoever came first leaves last,
and every process agrees on who is where without asking anybody.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

__all__ = ["HotWindow", "hot_window", "moved", "place", "share"]


class HotWindow(NamedTuple):
    """Four moments in ms since the epoch, none before the one ahead of it."""

    opens_ms: int
    """The first profiles move in."""
    full_ms: int
    """All have: the event is hot."""
    ebbs_ms: int
    """The first move out."""
    over_ms: int
    """All have."""


def hot_window(
    starts_ms: int, ends_ms: int, *, before_ms: int, after_ms: int, ramp_in_ms: int, ramp_out_ms: int
) -> HotWindow:
    """Hot from `before_ms` ahead of the start until `after_ms` behind the end, with a ramp ahead of and behind that."""
    full_ms = starts_ms - before_ms
    ebbs_ms = max(full_ms, ends_ms + after_ms)
    return HotWindow(full_ms - ramp_in_ms, full_ms, ebbs_ms, ebbs_ms + ramp_out_ms)


def share(now_ms: float, window: HotWindow) -> float:
    """Which part of the audience is in the dedicated cluster, 0 to 1: up, level, down, each in a straight line."""
    if now_ms < window.opens_ms or now_ms >= window.over_ms:
        return 0.0
    if now_ms < window.full_ms:
        return (now_ms - window.opens_ms) / (window.full_ms - window.opens_ms)
    if now_ms < window.ebbs_ms:
        return 1.0
    return (window.over_ms - now_ms) / (window.over_ms - window.ebbs_ms)


def place(profile_id: str, event_id: str) -> float:
    """Where a profile stands in an event's line: uniform over [0, 1), and another for every event."""
    digest = blake2b(f"{event_id}\x00{profile_id}".encode("utf-8", "surrogatepass"), digest_size=6, person=b"ramp")
    return int.from_bytes(digest.digest()) / 2**48


def moved(profile_id: str, event_id: str, moved_share: float) -> bool:
    """Whether a profile is in the dedicated cluster while `moved_share` of the audience is."""
    return moved_share > 0 and (moved_share >= 1 or place(profile_id, event_id) < moved_share)
