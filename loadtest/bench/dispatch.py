"""`stagecue bench dispatch`: how long from due time to every device, hop by hop, on the embedded system.

Stages of several events fall due at random instants while devices that follow all of them are connected (`hops`).
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from contract.errors import BroadcastSystemError
from device_sim.client import now_ms
from loadtest.bench.cpu import CpuMeter, Usage, others_cpu_s
from loadtest.bench.envelope import Envelope
from loadtest.bench.event_plan import SPACING_MS, EventPlan
from loadtest.bench.fleet_plan import FleetPlan
from loadtest.bench.fleet_process import FleetProcess
from loadtest.bench.hops import HopFigures, HopLimits, collect
from loadtest.bench.operator_api import OperatorApi
from loadtest.bench.outcome import CouldNotRun, ExitCode
from loadtest.bench.report import Reporter
from loadtest.bench.system import EmbeddedSystem
from loadtest.bench.validity import others_invalid
from loadtest.installation_keys import device_ring

__all__ = ["LIMITS", "DispatchFigures", "DispatchOptions", "measure_dispatch", "run_dispatch"]

LIMITS: Final = HopLimits(first_p99_ms=20.0, last_p99_ms=60.0)
_SETTLE_S: Final = 5.0


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

    @property
    def plan(self) -> EventPlan:
        return EventPlan(events=self.events, stages=self.stages, span_s=self.span_s, seed=self.seed)

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
        if not self.plan.is_spacious:
            per_event = -(-self.stages // self.events)
            raise CouldNotRun(f"--span: {per_event} stages of an event need more room, {SPACING_MS} ms each")


class DispatchFigures(msgspec.Struct, frozen=True):
    hops: HopFigures
    server: Usage
    others_cores: float
    """Cores that other processes of this machine used meanwhile."""

    def invalid_because(self) -> list[str]:
        return [*self.hops.generator.invalid_because, *others_invalid(self.others_cores)]


async def measure_dispatch(options: DispatchOptions, reporter: Reporter) -> DispatchFigures:
    """Run it once. Raises CouldNotRun.

    Everything it started is stopped when it returns or is cancelled.
    """
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
) -> DispatchFigures:
    first_due_ms = now_ms() + int(options.resolved_lead_s() * 1000)
    plan = options.plan
    for request in plan.requests(first_due_ms=first_due_ms):
        await api.create_event(request)
    fleet_plan = FleetPlan(
        devices=options.devices,
        push_urls=(system.addresses.push + "/v1/stream",),
        topics=plan.topics,
        seed=options.seed,
    )
    ring = device_ring(system.data_dir)
    async with FleetProcess(system.directory / "fleet", fleet_plan, device_ring=ring) as fleet:
        await fleet.connect(over_s=1.0)
        with reporter.progress("devices subscribed", options.devices) as progress:
            await fleet.subscribed(30.0, progress=progress)
        if now_ms() > first_due_ms - 1000:
            raise CouldNotRun("connecting took longer than the lead; give more with --lead")
        await asyncio.sleep(max(0.0, (first_due_ms - 500 - now_ms()) / 1000))
        server, others_s = CpuMeter(system.pid), others_cpu_s()
        await fleet.watch()
        with reporter.progress("stages due", options.stages) as progress:
            until_s = (first_due_ms - now_ms()) / 1000 + options.span_s + _SETTLE_S
            await fleet.received(options.stages, options.devices, timeout_s=until_s, progress=progress)
        used, others_s = server.usage(), others_cpu_s() - others_s
        record = await fleet.finish()
    assert record.generator is not None, "it was watched"
    figures = await collect(
        api, plan.event_ids, planned=options.stages, record=record, generator=record.generator, limits=LIMITS
    )
    return DispatchFigures(figures, used, others_s / used.wall_s)


def run_dispatch(options: DispatchOptions, *, as_json: bool = False) -> int:
    """Measure, print, and return the exit code."""
    import uvloop

    reporter = Reporter(as_json=as_json)
    envelope = Envelope(seed=options.seed)
    try:
        measured = uvloop.run(measure_dispatch(options, reporter))
    except CouldNotRun as exc:
        reporter.note(f"could not run: {exc}")
        return ExitCode.COULD_NOT_RUN
    figures, server = measured.hops, measured.server
    for because in measured.invalid_because():
        envelope.invalid(because)
        reporter.note(f"not valid: {because}")
    shortfalls = figures.shortfalls()
    figures.tabulate(reporter, "Due time to device", f"server {server.cores:.2f} cores")
    for line in shortfalls:
        reporter.note(f"falls short: {line}")
    reporter.emit(
        envelope.seal(
            {
                **figures.keys(),
                "falls_short": shortfalls,
                "server_cpu_s": round(server.cpu_s, 3),
                "server_rss_bytes": server.rss_bytes,
                "generator": msgspec.to_builtins(figures.generator),
            }
        )
    )
    return ExitCode.HELD if not shortfalls and envelope.valid else ExitCode.FELL_SHORT
