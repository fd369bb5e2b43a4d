"""How long from due time to the devices, hop by hop: what `bench dispatch` and `bench cluster` measure alike.

Hops are counted from the due time: dispatched and published by the producer's own record, routed when the first push
node had it from its router (by the nodes' reports), first and last device at the devices' sockets. Recorded times are
whole milliseconds, so those hops read up to 1 ms low; devices' have microseconds. One clock: everything runs on one
machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from device_sim.audit import FleetAudit, audit_fleet, outbox_from_json
from device_sim.client import now_ms
from loadtest.bench.fleet_record import FleetRecord
from loadtest.bench.histogram import LatencyHistogram
from loadtest.bench.operator_api import OperatorApi
from loadtest.bench.report import Reporter, shown
from loadtest.bench.validity import GeneratorReport

__all__ = ["HOPS", "Arrived", "HopFigures", "HopLimits", "HopRow", "collect", "first_and_last"]

HOPS: Final = ("dispatched", "published", "routed", "first_device", "last_device")
_REPORTED_WITHIN_S: Final = 3.0
"""Nodes report reach once a second, and routers pass it on a little later."""
_ASKED_AT_ONCE: Final = 8

Arrived = Mapping[tuple[str, int], tuple[float, float]]
"""(topic, timestamp) -> wall-clock ms at the first and at the last device that got it."""


class HopLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a benchmark promises at the 99th percentile."""

    first_p99_ms: float
    last_p99_ms: float


class HopRow(msgspec.Struct, frozen=True):
    """One broadcast: ms from due to each hop; None where a hop was not recorded or never happened."""

    topic: str
    state_key: str
    timestamp: int
    hops: Mapping[str, float | None]


class HopFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One measured night."""

    rows: Sequence[HopRow]
    planned: int
    devices: int
    audit: FleetAudit
    generator: GeneratorReport
    limits: HopLimits

    @property
    def early(self) -> int:
        """Broadcasts with a hop before their due time."""
        return sum(any(since is not None and since < 0 for since in row.hops.values()) for row in self.rows)

    def histogram(self, hop: str) -> LatencyHistogram:
        found = LatencyHistogram()
        found.record_all_ms(value for row in self.rows if (value := row.hops[hop]) is not None)
        return found

    def summaries(self) -> dict[str, dict[str, float | None]]:
        """Hop -> `p50_ms p99_ms max_ms`."""
        return {hop: self.histogram(hop).summary() for hop in HOPS}

    def shortfalls(self) -> list[str]:
        """What the promise is missed by; empty: it holds."""
        found = []
        for hop, limit in (("first_device", self.limits.first_p99_ms), ("last_device", self.limits.last_p99_ms)):
            p99 = self.histogram(hop).percentile_ms(99)
            if p99 is None or p99 > limit:
                found.append(f"{hop} p99 is {shown(p99)} ms, promised <= {limit:.0f} ms")
        if self.early:
            found.append(f"{self.early} stages came before their due time")
        if self.audit.missed:
            found.append(f"{self.audit.missed} broadcasts missed by devices")
        if len(self.rows) != self.planned:
            found.append(f"{len(self.rows)} of {self.planned} stages were broadcast")
        for count, what in (
            (self.audit.out_of_order, "shown out of order"),
            (self.audit.unknown_frames, "frames the outbox does not know"),
            (self.audit.not_newest, "devices and topics not at the newest state"),
            (self.audit.unsubscribed, "devices and topics never subscribed"),
        ):
            if count:
                found.append(f"{count} {what}")
        unrecorded = [hop for hop in HOPS if self.rows and all(row.hops[hop] is None for row in self.rows)]
        if unrecorded:
            found.append(f"hops without a record: {', '.join(unrecorded)}")
        return found

    def keys(self) -> dict[str, Any]:
        """The benchmark's keys for JSON."""
        return {
            "stages": len(self.rows),
            "devices": self.devices,
            "early": self.early,
            "missed": self.audit.missed,
            **self.summaries(),
        }

    def tabulate(self, reporter: Reporter, title: str, caption: str = "") -> None:
        generator = self.generator
        lines = [
            f"early {self.early}, missed {self.audit.missed}; generator {generator.cores:.2f} cores with a loop lag of "
            f"{generator.lag_p99_ms:.1f} ms at p99; recorded hops are whole milliseconds",
            *([caption] if caption else []),
        ]
        reporter.table(
            f"{title}: {len(self.rows)} stages, {self.devices} devices",
            ("hop, ms from due", "p50", "p99", "max"),
            [(hop.replace("_", " "), *summary.values()) for hop, summary in self.summaries().items()],
            caption="\n".join(lines),
        )


def first_and_last(record: FleetRecord) -> Arrived:
    """When each broadcast came to its first and last device, live or replayed."""
    arrivals = record.arrivals
    if not len(arrivals):
        return {}
    keys = arrivals[["topic", "timestamp"]]
    distinct, group = np.unique(keys, return_inverse=True)
    first = np.full(len(distinct), np.inf)
    last = np.full(len(distinct), -np.inf)
    np.minimum.at(first, group, arrivals["at_ms"])
    np.maximum.at(last, group, arrivals["at_ms"])
    topics = record.plan.topics
    return {
        (topics[key["topic"]], int(key["timestamp"])): (float(earliest), float(latest))
        for key, earliest, latest in zip(distinct, first, last, strict=True)
    }


async def collect(
    api: OperatorApi,
    event_ids: Sequence[str],
    *,
    planned: int,
    record: FleetRecord,
    generator: GeneratorReport,
    limits: HopLimits,
) -> HopFigures:
    """Join the producer's record, the nodes' reports and the fleet's. Raises CouldNotRun when the API does not answer.

    Waits a bounded time for the last reports; a hop not reported by then is None.
    """
    routed = await _routed(api, event_ids, planned)
    items = await _of_all(api.broadcasts, event_ids)
    # The judge walks millions of arrivals: not in this loop.
    audit = await asyncio.to_thread(lambda: audit_fleet(outbox_from_json(items), record.logs))
    return HopFigures(
        rows=_rows(items, routed, first_and_last(record)),
        planned=planned,
        devices=record.plan.devices,
        audit=audit,
        generator=generator,
        limits=limits,
    )


async def _routed(api: OperatorApi, event_ids: Sequence[str], planned: int) -> dict[tuple[str, int], int]:
    """(topic, timestamp) -> when the first node had it, of every broadcast whose report came within the bound."""
    until_ms = now_ms() + int(_REPORTED_WITHIN_S * 1000)
    while True:
        found = {
            (item["topic"], item["timestamp"]): int(item["routed_at_ms"])
            for item in await _of_all(api.reach, event_ids)
            if item["routed_at_ms"] is not None and item["due_at_ms"] is not None
        }
        if len(found) >= planned or now_ms() >= until_ms:
            return found
        await asyncio.sleep(0.25)


async def _of_all(ask: Any, event_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Answers about all events, a few asked at once."""
    waiting = iter(event_ids)
    found: list[dict[str, Any]] = []

    async def some() -> None:
        for event_id in waiting:
            found.extend(await ask(event_id))

    async with asyncio.TaskGroup() as group:
        for number in range(min(_ASKED_AT_ONCE, len(event_ids))):
            group.create_task(some(), name=f"ask-{number}")
    return found


def _rows(items: Sequence[Mapping[str, Any]], routed: Mapping[tuple[str, int], int], arrived: Arrived) -> list[HopRow]:
    rows = []
    for item in items:
        due = item["due_at_ms"]
        if due is None:
            continue
        key = (item["topic"], item["timestamp"])
        first, last = arrived.get(key, (None, None))
        at = {
            "dispatched": item.get("dispatched_at_ms"),
            "published": item.get("published_at_ms"),
            "routed": routed.get(key),
            "first_device": first,
            "last_device": last,
        }
        hops = {hop: None if moment is None else float(moment - due) for hop, moment in at.items()}
        rows.append(HopRow(key[0], item["state_key"], key[1], hops))
    return rows
