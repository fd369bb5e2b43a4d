"""Due time to every device, hop by hop, through the whole cluster."""

from __future__ import annotations

import time
from typing import Final

import msgspec

from device_sim.client import now_ms
from loadtest.bench.cluster.scene import OTHERS, Scene, cores_by_role, until
from loadtest.bench.event_plan import EventPlan
from loadtest.bench.fleet_plan import FleetPlan
from loadtest.bench.fleet_process import FleetProcess
from loadtest.bench.hops import HopFigures, HopLimits, collect
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.validity import others_invalid

__all__ = ["LIMITS", "Night", "measure_night"]

LIMITS: Final = HopLimits(first_p99_ms=35.0, last_p99_ms=120.0)
_SETTLE_S: Final = 5.0
_STORED_PER_S: Final = 40
"""Events a producer stores, cautiously."""
_QUIET_S: Final = 3.0
"""After the last device subscribed, before the first stage: start-up is not what is measured."""


class Night(msgspec.Struct, frozen=True):
    figures: HopFigures
    idle_cores: dict[str, float]
    """By role, while nothing happens; all devices connected."""
    cores: dict[str, float]
    """By role, while stages fall due."""

    def invalid_because(self) -> list[str]:
        """Why this measurement says more about the machine than about the cluster; empty: it does not."""
        return [*self.figures.generator.invalid_because, *others_invalid(self.cores[OTHERS])]


async def measure_night(scene: Scene, name: str, plan: EventPlan, *, topics_per_device: int | None) -> Night:
    """Store the plan's events, connect a fleet, wait until everything was due, and collect. Raises CouldNotRun."""
    devices = scene.options.devices
    storing_s = plan.events / _STORED_PER_S
    connecting_s = 4.0 + devices / 400
    first_due_ms = now_ms() + int((storing_s + connecting_s + _QUIET_S) * 1000)
    await scene.store(plan.requests(first_due_ms=first_due_ms))
    fleet_plan = FleetPlan(
        devices=devices,
        push_urls=scene.stream_urls,
        topics=plan.topics,
        topics_per_device=topics_per_device,
        seed=scene.options.seed,
    )
    async with FleetProcess(scene.directory / name, fleet_plan, device_ring=scene.ring) as fleet:
        await fleet.connect(over_s=2.0)
        with scene.reporter.progress("devices subscribed", devices) as progress:
            await fleet.subscribed(30.0, progress=progress)
        if now_ms() > first_due_ms - 1000:
            raise CouldNotRun("storing and connecting took longer than planned: this machine is busy with other things")
        idle_from_s, idle_before = time.monotonic(), scene.cpu(fleet_pid=fleet.pid)
        await until(first_due_ms - 300)
        started_s, before = time.monotonic(), scene.cpu(fleet_pid=fleet.pid)
        await fleet.watch()
        followers = devices * fleet_plan.resolved_topics_per_device / plan.events
        with scene.reporter.progress("stages due", plan.stages) as progress:
            bound_s = (first_due_ms - now_ms()) / 1000 + plan.span_s + _SETTLE_S
            await fleet.received(plan.stages, followers, timeout_s=bound_s, progress=progress)
        after, ended_s = scene.cpu(fleet_pid=fleet.pid), time.monotonic()
        record = await fleet.finish()
    assert record.generator is not None, "it was watched"
    figures = await collect(
        scene.api, plan.event_ids, planned=plan.stages, record=record, generator=record.generator, limits=LIMITS
    )
    # Beside the fleet's record, for whoever keeps both: which broadcasts were slow, and at which hop.
    (scene.directory / name / "hops.json").write_bytes(msgspec.json.encode(figures.rows))
    return Night(
        figures,
        cores_by_role(idle_before, before, started_s - idle_from_s),
        cores_by_role(before, after, ended_s - started_s),
    )
