"""When everything was live again, from what devices recorded. Pure.

A run is cut into *phases*: from the fault, and from each later step (a part is back, a frozen one goes on), to
the next. A broadcast is *live at a device* when it arrived there unreplayed within `LIVE_WITHIN_MS` of its due time (of
its dispatch, for a cue). A channel has recovered from a phase's beginning with the first broadcast due after it from
which on every one due in the phase was live at every device that follows it; its recovery ends when the last device had
that one. The phase's recovery is that of its slowest channel. One broadcast comes every 0.3 s, so a channel nothing
happened to shows up to 0.3 s.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import msgspec

__all__ = ["LIVE_WITHIN_MS", "Announced", "Phase", "Receipt", "Recovery", "arrival_counts", "recovery_of", "was_live"]

LIVE_WITHIN_MS: Final = 1_000.0
_GUARD_MS: Final = 300.0
"""What is due within this before the next step may be hit by it, and tells nothing about this phase."""


class Announced(msgspec.Struct, frozen=True):
    """One broadcast of the outbox."""

    channel: int
    topic: str
    timestamp: int
    since_ms: int
    """Its due time; of a cue its dispatch."""


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """One broadcast frame at one device."""

    device: int
    topic: str
    timestamp: int
    at_ms: float
    live: bool


class LiveCount(msgspec.Struct):
    """How one broadcast came: the devices it was live at, and when the last of them had it."""

    devices: int = 0
    last_ms: float = 0.0


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    at_ms: float
    until_ms: float
    bound_s: float | None = None
    """None: nothing is promised of this phase alone; it is measured all the same."""


class Recovery(msgspec.Struct, frozen=True, kw_only=True):
    phase: str
    bound_s: float | None
    seconds: float | None
    """None: not within the phase."""
    slowest: int | None = None
    """The channel that took longest, or one that did not recover."""

    @property
    def held(self) -> bool:
        return self.bound_s is None or (self.seconds is not None and self.seconds <= self.bound_s)


def arrival_counts(announced: Iterable[Announced], receipts: Iterable[Receipt]) -> Mapping[tuple[str, int], LiveCount]:
    """(topic, timestamp) -> how it came. A device counts by its first receipt of a broadcast alone."""
    since = {(each.topic, each.timestamp): each.since_ms for each in announced}
    counts: dict[tuple[str, int], LiveCount] = {key: LiveCount() for key in since}
    heard: set[tuple[int, str, int]] = set()
    for receipt in receipts:
        key = (receipt.topic, receipt.timestamp)
        count = counts.get(key)
        mark = (receipt.device, *key)
        if count is None or mark in heard:
            continue
        heard.add(mark)
        if receipt.live and receipt.at_ms - since[key] <= LIVE_WITHIN_MS:
            count.devices += 1
            count.last_ms = max(count.last_ms, receipt.at_ms)
    return counts


def was_live(
    phase: Phase,
    announced: Iterable[Announced],
    counts: Mapping[tuple[str, int], LiveCount],
    followers: Mapping[int, Collection[int]],
) -> bool:
    """Whether everything due in the phase was live at every device; before the fault it must be, to tell anything."""
    return all(
        counts[each.topic, each.timestamp].devices >= len(followers[each.channel])
        for each in announced
        if phase.at_ms <= each.since_ms < phase.until_ms - _GUARD_MS
    )


def recovery_of(
    phase: Phase,
    announced: Sequence[Announced],
    counts: Mapping[tuple[str, int], LiveCount],
    followers: Mapping[int, Collection[int]],
) -> Recovery:
    """Of every channel in `followers`; a channel in which nothing live came has not recovered."""
    slowest: int | None = None
    seconds = 0.0
    by_channel: dict[int, list[Announced]] = {channel: [] for channel in followers}
    for each in announced:
        if phase.at_ms <= each.since_ms < phase.until_ms - _GUARD_MS:
            by_channel[each.channel].append(each)
    for channel, rows in by_channel.items():
        back_ms = _live_from(rows, counts, len(followers[channel]))
        if back_ms is None:
            return Recovery(phase=phase.name, bound_s=phase.bound_s, seconds=None, slowest=channel)
        took = (back_ms - phase.at_ms) / 1000
        if took >= seconds:
            seconds, slowest = took, channel
    return Recovery(phase=phase.name, bound_s=phase.bound_s, seconds=seconds, slowest=slowest)


def _live_from(rows: Iterable[Announced], counts: Mapping[tuple[str, int], LiveCount], devices: int) -> float | None:
    """When the last device had the first broadcast from which on all were live at all; None if there is none."""
    back_ms: float | None = None
    for each in sorted(rows, key=lambda row: (row.since_ms, row.timestamp), reverse=True):
        count = counts[each.topic, each.timestamp]
        if count.devices < devices:
            break
        back_ms = count.last_ms
    return back_ms
