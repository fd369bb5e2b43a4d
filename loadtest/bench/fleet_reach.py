"""Whom each broadcast reached, as fleets that record lightly say it; and how several fleets' answers add up. Pure.

A device and a broadcast end in exactly one of four ways: it *arrived live*, it was *replayed*, the device was *told*
(a frame listed it as skipped, a continuity moved on to it or beyond it, a gap or hole was noted), or it was *missed*.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from loadtest.bench.histogram import LatencyHistogram

__all__ = ["BroadcastReach", "merged_reach"]


class BroadcastReach(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one broadcast: `devices == live + replayed + told + missed`."""

    topic: str
    timestamp: int
    state_key: str
    devices: int
    """That should have got it: it lies above the `latest` of their first continuity."""
    live: int
    replayed: int
    told: int
    """Know of it without having received it."""
    missed: int
    behind: int
    """Devices whose cursor lies below it: they show something older. Says the device, as the rest says the socket."""
    repeats: int
    """Arrivals beyond a device's first."""
    origin_ms: float
    """What the histogram counts from; wall clock, milliseconds."""
    first_ms: float | None
    """Wall clock of the first live arrival; None: there was none."""
    last_ms: float | None
    latency: dict[str, object]
    """Live arrivals after `origin_ms`: a `LatencyHistogram`, encoded (its `hdr`: base64, microseconds)."""

    @property
    def histogram(self) -> LatencyHistogram:
        return LatencyHistogram.decode(self.latency)


def merged_reach(answers: Iterable[Iterable[BroadcastReach]]) -> list[BroadcastReach]:
    """One line per broadcast over several fleets, by timestamp. Origins must be the same everywhere."""
    found: dict[tuple[str, int], BroadcastReach] = {}
    for answer in answers:
        for each in answer:
            key = (each.topic, each.timestamp)
            earlier = found.get(key)
            found[key] = each if earlier is None else _sum(earlier, each)
    return sorted(found.values(), key=lambda each: (each.timestamp, each.topic))


def _sum(one: BroadcastReach, other: BroadcastReach) -> BroadcastReach:
    assert one.origin_ms == other.origin_ms, "counted from different moments"
    latency = one.histogram
    latency.merge(other.histogram)
    firsts = [each for each in (one.first_ms, other.first_ms) if each is not None]
    lasts = [each for each in (one.last_ms, other.last_ms) if each is not None]
    return BroadcastReach(
        topic=one.topic,
        timestamp=one.timestamp,
        state_key=one.state_key,
        devices=one.devices + other.devices,
        live=one.live + other.live,
        replayed=one.replayed + other.replayed,
        told=one.told + other.told,
        missed=one.missed + other.missed,
        behind=one.behind + other.behind,
        repeats=one.repeats + other.repeats,
        origin_ms=one.origin_ms,
        first_ms=min(firsts, default=None),
        last_ms=max(lasts, default=None),
        latency=latency.encode(),
    )
