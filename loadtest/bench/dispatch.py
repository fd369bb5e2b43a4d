"""`stagecue bench dispatch`: how long from due time to the devices, hop by hop, on the embedded system.

Stages of several events fall due at random instants while devices that follow all of them are connected. Hops are
counted from the due time: dispatched and published by the producer's own record, routed when the push node had it from
the router (by the node's report), first and last device at the devices' sockets. Recorded times are whole milliseconds,
so those hops read up to 1 ms low; devices' have microseconds. One clock: everything runs on one machine.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from contract.errors import BroadcastSystemError
from contract.frames import BroadcastFrame
from device_sim.audit import FleetAudit, audit_fleet, outbox_from_json
from device_sim.client import now_ms
from device_sim.device import DeviceOptions
from device_sim.fleet import Fleet, FleetOptions
from loadtest.bench.cpu import CpuMeter, Usage
from loadtest.bench.envelope import Envelope
from loadtest.bench.histogram import LatencyHistogram
from loadtest.bench.operator_api import OperatorApi
from loadtest.bench.outcome import CouldNotRun, ExitCode
from loadtest.bench.report import Reporter, shown
from loadtest.bench.system import EmbeddedSystem
from loadtest.bench.validity import GeneratorReport, GeneratorWatch

__all__ = [
    "HOPS",
    "DispatchOptions",
    "DispatchResult",
    "DispatchRow",
    "measure_dispatch",
    "plan_events",
    "run_dispatch",
]

HOPS: Final = ("dispatched", "published", "routed", "first_device", "last_device")
FIRST_P99_MS_MAX: Final = 20.0
LAST_P99_MS_MAX: Final = 60.0
_SPACING_MS: Final = 500
"""Between stages of one event: closer ones may rightly supersede each other, and would then not be dispatched."""
_SETTLE_S: Final = 5.0
_REPORTED_WITHIN_S: Final = 3.0
"""Nodes report reach once a second, and routers pass it on a little later."""


class DispatchOptions(msgspec.Struct, frozen=True, kw_only=True):
    devices: int = 1_000
    stages: int = 200
    events: int = 10
    span_s: float = 60.0
    """Stages fall due at random instants of this."""
    lead_s: float | None = None
    """From storing the events to the first possible due time, at least 2 s; None: long enough to connect."""
    seed: int = 1
    port_base: int | None = None
    environment: Mapping[str, str] = {}
    """Settings of the system under test, on top of this process's environment."""

    def resolved_lead_s(self) -> float:
        return self.lead_s if self.lead_s is not None else 6.0 + self.devices / 250

    def check(self) -> None:
        """Raises CouldNotRun naming the option and the rule."""
        if self.devices < 1 or self.events < 1 or self.stages < self.events:
            raise CouldNotRun("--devices and --events are at least 1, --stages at least one per event")
        if self.events > 20:
            raise CouldNotRun("--events: at most 20, each device follows all of them")
        if self.resolved_lead_s() < 2.0:
            raise CouldNotRun("--lead: at least 2 s, stages are stored well before they are due")
        per_event = -(-self.stages // self.events)
        if per_event * _SPACING_MS >= self.span_s * 1000 * 0.8:
            raise CouldNotRun(f"--span: {per_event} stages of an event need more room, {_SPACING_MS} ms each")


class DispatchRow(msgspec.Struct, frozen=True):
    """One broadcast: ms from due to each hop; None where a hop was not recorded or never happened."""

    topic: str
    state_key: str
    timestamp: int
    hops: Mapping[str, float | None]


class DispatchResult(msgspec.Struct, frozen=True):
    rows: Sequence[DispatchRow]
    planned: int
    devices: int
    early: int
    audit: FleetAudit
    server: Usage
    generator: GeneratorReport

    def histogram(self, hop: str) -> LatencyHistogram:
        found = LatencyHistogram()
        found.record_all_ms(value for row in self.rows if (value := row.hops[hop]) is not None)
        return found

    def shortfalls(self) -> list[str]:
        """What the promise of this benchmark is missed by; empty: it holds."""
        found = []
        for hop, limit in (("first_device", FIRST_P99_MS_MAX), ("last_device", LAST_P99_MS_MAX)):
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


def plan_events(options: DispatchOptions, *, first_due_ms: int) -> list[dict[str, Any]]:
    """Bodies of `POST /v1/events`: random due times, seeded, ordered and spaced within each event. Pure."""
    chance = random.Random(options.seed)
    events = []
    for number in range(options.events):
        count = options.stages // options.events + (number < options.stages % options.events)
        # Random points of a span shortened by the spacing, then pulled apart: uniform, ordered, never too close.
        room = int(options.span_s * 1000) - count * _SPACING_MS
        points = sorted(chance.randrange(room) for _ in range(count))
        due = [first_due_ms + point + index * _SPACING_MS for index, point in enumerate(points)]
        events.append(
            {
                "id": f"bench-{number}",
                "title": f"Benchmark event {number}",
                "starts_at": _rfc3339(first_due_ms),
                "stages": [
                    {"key": f"stage_{index}", "anchor": "absolute", "at": _rfc3339(at)} for index, at in enumerate(due)
                ],
                "broadcast_budget_per_hour": 3600,
            }
        )
    return events


def _rfc3339(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")


async def measure_dispatch(options: DispatchOptions, reporter: Reporter) -> DispatchResult:
    """Run it once. Raises CouldNotRun; everything it started is stopped when it returns or is cancelled."""
    options.check()
    with tempfile.TemporaryDirectory(prefix="stagecue-bench-") as directory:
        system = EmbeddedSystem(Path(directory), port_base=options.port_base, environment=options.environment)
        timeout = aiohttp.ClientTimeout(total=20)
        async with system, aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
            try:
                return await _measure(options, reporter, system, OperatorApi(session, system.addresses))
            except BroadcastSystemError as exc:
                raise CouldNotRun(f"{exc}{system.log_end()}") from exc


async def _measure(
    options: DispatchOptions, reporter: Reporter, system: EmbeddedSystem, api: OperatorApi
) -> DispatchResult:
    first_due_ms = now_ms() + int(options.resolved_lead_s() * 1000)
    plan = plan_events(options, first_due_ms=first_due_ms)
    event_ids = [event["id"] for event in plan]
    for event in plan:
        await api.create_event(event)
    fleet_options = FleetOptions(
        devices=options.devices,
        dgs_url=system.addresses.dgs,
        event_ids=tuple(event_ids),
        seed=options.seed,
        device=DeviceOptions(fetches_maps=False),
    )
    async with Fleet(fleet_options) as fleet:
        with reporter.progress("devices subscribed", options.devices) as progress:
            await fleet.channel_all()
            await fleet.connect_all(over_s=1.0)
            await fleet.wait_subscribed(timeout_s=30.0, progress=progress)
        if now_ms() > first_due_ms - 1000:
            raise CouldNotRun("connecting took longer than the lead; give more with --lead")
        await asyncio.sleep(max(0.0, (first_due_ms - 500 - now_ms()) / 1000))
        server = CpuMeter(system.pid)
        async with GeneratorWatch() as watch:
            with reporter.progress("stages due", options.stages) as progress:
                await _wait_for_stages(fleet, options, first_due_ms, progress)
            generator = watch.report()
        used = server.usage()
        items = [item for event_id in event_ids for item in await api.broadcasts(event_id)]
        routed = await _routed(api, event_ids, options.stages)
        logs = fleet.logs()
    rows, early = _rows(items, routed, fleet)
    audit = audit_fleet(outbox_from_json(items), logs)
    return DispatchResult(rows, options.stages, options.devices, early, audit, used, generator)


async def _wait_for_stages(fleet: Fleet, options: DispatchOptions, first_due_ms: int, progress: Any) -> None:
    """Until every device has every stage, at most `_SETTLE_S` after the last can be due."""
    expected = options.stages * options.devices
    until_ms = first_due_ms + int((options.span_s + _SETTLE_S) * 1000)
    while now_ms() < until_ms and fleet.context.stats.broadcasts < expected:
        progress(fleet.context.stats.broadcasts // options.devices, options.stages)
        await asyncio.sleep(0.1)
    progress(fleet.context.stats.broadcasts // options.devices, options.stages)


async def _routed(api: OperatorApi, event_ids: Sequence[str], expected: int) -> dict[tuple[str, int], int]:
    """(topic, timestamp) -> when the first node had it, of every broadcast whose report came within the bound."""
    until_ms = now_ms() + int(_REPORTED_WITHIN_S * 1000)
    while True:
        reached = [item for event_id in event_ids for item in await api.reach(event_id)]
        found = {
            (item["topic"], item["timestamp"]): int(item["routed_at_ms"])
            for item in reached
            if item["routed_at_ms"] is not None and item["due_at_ms"] is not None
        }
        if len(found) >= expected or now_ms() >= until_ms:
            return found
        await asyncio.sleep(0.25)


def _rows(
    items: Sequence[Mapping[str, Any]], routed: Mapping[tuple[str, int], int], fleet: Fleet
) -> tuple[list[DispatchRow], int]:
    first: dict[tuple[str, int], float] = {}
    last: dict[tuple[str, int], float] = {}
    for client in fleet.clients:
        for arrival in client.arrivals or ():
            if isinstance(arrival.frame, BroadcastFrame):
                key = (arrival.frame.topic, arrival.frame.timestamp)
                first[key] = min(first.get(key, arrival.at_ms), arrival.at_ms)
                last[key] = max(last.get(key, arrival.at_ms), arrival.at_ms)
    rows, early = [], 0
    for item in items:
        due = item["due_at_ms"]
        if due is None:
            continue
        key = (item["topic"], item["timestamp"])
        at = {
            "dispatched": item.get("dispatched_at_ms"),
            "published": item.get("published_at_ms"),
            "routed": routed.get(key),
            "first_device": first.get(key),
            "last_device": last.get(key),
        }
        hops = {hop: None if moment is None else float(moment - due) for hop, moment in at.items()}
        early += any(since is not None and since < 0 for since in hops.values())
        rows.append(DispatchRow(key[0], item["state_key"], key[1], hops))
    return rows, early


def run_dispatch(options: DispatchOptions, *, as_json: bool = False) -> int:
    """Measure, print, and return the exit code."""
    import uvloop

    reporter = Reporter(as_json=as_json)
    envelope = Envelope(seed=options.seed)
    try:
        result = uvloop.run(measure_dispatch(options, reporter))
    except CouldNotRun as exc:
        reporter.note(f"could not run: {exc}")
        return ExitCode.COULD_NOT_RUN
    for because in result.generator.invalid_because:
        envelope.invalid(because)
    histograms = {hop: result.histogram(hop) for hop in HOPS}
    shortfalls = result.shortfalls()
    reporter.table(
        f"Due time to device: {len(result.rows)} stages, {result.devices} devices",
        ("hop, ms from due", "p50", "p99", "max"),
        [(hop.replace("_", " "), *histograms[hop].summary().values()) for hop in HOPS],
        caption=(
            f"early {result.early}, missed {result.audit.missed}; server {result.server.cores:.2f} cores, generator "
            f"{result.generator.cores:.2f} cores with a loop lag of {result.generator.lag_p99_ms:.1f} ms at p99; "
            "recorded hops are whole milliseconds"
        ),
    )
    for line in shortfalls:
        reporter.note(f"falls short: {line}")
    for line in result.generator.invalid_because:
        reporter.note(f"not valid: {line}")
    reporter.emit(
        envelope.seal(
            {
                "stages": len(result.rows),
                "devices": result.devices,
                "early": result.early,
                "missed": result.audit.missed,
                **{hop: histograms[hop].summary() for hop in HOPS},
                "falls_short": shortfalls,
                "server_cpu_s": round(result.server.cpu_s, 3),
                "server_rss_bytes": result.server.rss_bytes,
                "generator": msgspec.to_builtins(result.generator),
            }
        )
    )
    return ExitCode.HELD if not shortfalls and envelope.valid else ExitCode.FELL_SHORT
