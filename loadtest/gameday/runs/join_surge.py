"""Join surge: ten times the arrivals within half a minute, prefetches at the DGS and connections at the push node."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from contract.names import topic_of
from device_sim.client import ConnectionStep
from loadtest.bench.fleet_plan import FleetPlan, source_addresses
from loadtest.bench.fleet_process import FleetProcess
from loadtest.bench.histogram import LatencyHistogram
from loadtest.bench.overload.judge import served_between
from loadtest.bench.overload.plan import CRITICAL, Stretch
from loadtest.gameday.events import AN_HOUR_S, event_request
from loadtest.gameday.open_load import (
    EVENT_ID,
    OpenLoad,
    OpenRun,
    draw_answers,
    judge_load,
    latencies_ms,
    operations_file,
)
from loadtest.gameday.parameters import JoinSurge
from loadtest.gameday.stage import Stage, System
from loadtest.gameday.words import in_ms, share
from loadtest.installation_keys import device_ring

__all__ = ["connects_ms", "run"]

_TOPIC: Final = topic_of(EVENT_ID)
_OFFSETS_S: Final = {"starting_soon": -1_800.0, "live": 0.0, "ended": 3_600.0}
_SETTLE_S: Final = 1.0


async def run(stage: Stage, parameters: JoinSurge) -> str:
    environment = {"DGS_OPERATIONS_PATH": str(operations_file(stage.directory))}
    async with stage.system("system", environment=environment) as system:
        starts_at_ms = int((time.time() + AN_HOUR_S) * 1000)
        await system.api.create_event(event_request(EVENT_ID, starts_at_ms=starts_at_ms, offsets_s=_OFFSETS_S))
        plan = FleetPlan(
            devices=parameters.devices, push_urls=(system.push_url,), topics=(_TOPIC,), seed=stage.seed,
            sources=source_addresses(200, block=73),
        )  # fmt: skip
        fleet = FleetProcess(stage.directory / "fleet", plan, device_ring=device_ring(system.server.data_dir))
        async with fleet, stage.watched("devices", fleet.pid):
            found, connected, refused = await _surge(stage, parameters, system, fleet)
            record = await fleet.finish()
    stage.devices = parameters.devices
    stage.generator("connecting devices", record.generator)
    judge_load(stage, "prefetches", found.run)
    draw_answers(stage, "Prefetches", found)
    prefetches = latencies_ms(found.records, tag=CRITICAL)
    stage.histogram("first prefetches, from when they were due", prefetches)
    connects = connects_ms(record.connections)
    stage.histogram("opening to welcome", connects)
    welcomed = record.connections[record.connections["step"] == ConnectionStep.WELCOMED]["at_s"]
    end_s = found.began_s + parameters.before_s + parameters.surge_s + parameters.after_s
    stage.counted("Connects", {"welcomed": welcomed}, found.began_s, end_s, width_s=0.5)
    over_s = parameters.before_s + parameters.surge_s
    during = served_between(found.records, parameters.before_s, over_s, tag=CRITICAL)
    stage.measure(
        critical_success=during.success if during.asked else None,
        prefetch_p50_ms=during.p50_ms,
        prefetch_p99_ms=during.p99_ms,
        connect_p99_ms=connects.percentile_ms(99),
        connected_share=connected / parameters.devices,
        handshakes_refused=refused,
        surge_per_s=during.asked / parameters.surge_s,
    )
    return (
        f"Arrivals rose from {parameters.prefetches_per_s:,.0f} to {during.asked / parameters.surge_s:,.0f} first "
        f"prefetches a second for {parameters.surge_s:g} s while {parameters.devices:,} devices connected. "
        f"{share(during.success)} got their own map, p99 {in_ms(during.p99_ms)}; {connected:,} were connected in "
        f"the end, p99 {in_ms(connects.percentile_ms(99))} from opening to welcome."
    )


async def _surge(stage: Stage, parameters: JoinSurge, system: System, fleet: FleetProcess) -> tuple[OpenRun, int, int]:
    """The load's records, devices connected at the end, and handshakes refused or failed."""
    usual, surge = parameters.prefetches_per_s, parameters.factor * parameters.prefetches_per_s
    stretches = [
        Stretch(parameters.before_s, usual, 0.0),
        Stretch(parameters.surge_s, surge, 0.0),
        Stretch(parameters.after_s, usual, 0.0),
    ]
    lasts_s = sum(each.lasts_s for each in stretches)
    load = OpenLoad(
        stage, stage.directory, port=system.dgs_port, profiles=parameters.profiles, timeout_s=parameters.timeout_s
    )
    async with load:
        with stage.reporter.progress("seconds of the surge", round(lasts_s)) as progress, stage.judged():
            await fleet.watch()
            began_s = time.monotonic()
            running = asyncio.create_task(load.run(stretches), name="gameday.prefetches")
            try:
                await asyncio.sleep(parameters.before_s)
                stage.mark(f"{parameters.factor:g} times the arrivals")
                await fleet.connect(over_s=parameters.surge_s)
                while not running.done():
                    progress(round(time.monotonic() - began_s), round(lasts_s))
                    if time.monotonic() - began_s >= parameters.before_s + parameters.surge_s:
                        stage.mark("the surge is over")
                        break
                    await asyncio.sleep(0.25)
                found = await running
            finally:
                running.cancel()
                await asyncio.wait({running})
            await asyncio.sleep(_SETTLE_S)
            stood = await fleet.snapshot()
    return found, stood.connected, stood.refused + stood.failed


def connects_ms(connections: npt.NDArray[np.void]) -> LatencyHistogram:
    """From each opening to its welcome."""
    found = LatencyHistogram()
    opened: Any = connections[connections["step"] == ConnectionStep.OPENING]
    welcomed: Any = connections[connections["step"] == ConnectionStep.WELCOMED]
    began = {(int(row["device"]), int(row["conn"])): float(row["at_s"]) for row in opened}
    for row in welcomed:
        key = (int(row["device"]), int(row["conn"]))
        if key in began:
            found.record_ms((float(row["at_s"]) - began[key]) * 1000)
    return found
