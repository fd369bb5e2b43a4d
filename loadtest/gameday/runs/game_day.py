"""Game day: everything at once, in proportion to a projection of the night's high watermark."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from contract.names import topic_of
from device_sim.audit import FleetAudit, audit_fleet, outbox_from_json
from device_sim.client import ConnectionStep
from loadtest.bench.fleet_plan import FleetPlan, source_addresses
from loadtest.bench.fleet_process import FleetProcess
from loadtest.bench.fleet_record import FleetRecord
from loadtest.bench.histogram import LatencyHistogram
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.overload.judge import served_between
from loadtest.bench.overload.plan import CRITICAL, OTHER, Stretch
from loadtest.gameday.events import AN_HOUR_S, event_request
from loadtest.gameday.library import read_text
from loadtest.gameday.open_load import (
    EVENT_ID,
    OpenLoad,
    OpenRun,
    draw_answers,
    judge_load,
    latencies_ms,
    operations_file,
)  # fmt: skip
from loadtest.gameday.parameters import REQUESTS_MAX, GameDay
from loadtest.gameday.projection import Projection, read_projection
from loadtest.gameday.scenario import ScenarioError
from loadtest.gameday.stage import Stage, System
from loadtest.gameday.words import in_ms, share
from loadtest.installation_keys import device_ring
from loadtest.users.plan import Crowd, UsersPlan
from loadtest.users.result import UsersResult
from loadtest.users.run import LocustRun

__all__ = ["run"]

_TOPIC: Final = topic_of(EVENT_ID)
_ENDED_AFTER_S: Final = 12.0
_OFFSETS_S: Final = {"starting_soon": -1_800.0, "live": 0.0, "ended": _ENDED_AFTER_S}
_LEAD_S: Final = 10.0
"""From the move of the event into tonight to its first due time, which will not be kept."""
_SLIPS_BEFORE_S: Final = 2.0
_OUTAGE_BEFORE_S: Final = 1.5
_LATE_S: Final = 20.0
"""Devices join for so long, into the moment the stage goes live."""
_SETTLE_S: Final = 3.0
_BACK_WITHIN_S: Final = 60.0
_PROFILES: Final = 20_000
_COMPRESSED: Final = 8.0
"""Browsing users think so many times faster: each stands for so many."""
_ASKS_PER_S: Final = 0.6
"""Of one browsing user at that speed, about."""


class _Night(msgspec.Struct, frozen=True, kw_only=True):
    """The projection, on this machine."""

    devices: int
    late: int
    """Of them: those that join while the night is on."""
    critical_per_s: float
    refreshes_per_s: float
    browsers: int
    factor: float

    @property
    def initial(self) -> int:
        return self.devices - self.late


class _Evening(msgspec.Struct, frozen=True, kw_only=True):
    """What others than the devices met."""

    load: OpenRun
    users: UsersResult | None
    outage_over_s: float | None
    """CLOCK_MONOTONIC."""


async def run(stage: Stage, parameters: GameDay) -> str:
    projection = await asyncio.to_thread(_projection, stage.beside / parameters.projection)
    night = _scaled(projection, parameters)
    _tell(stage, projection, night)
    environment = {"DGS_OPERATIONS_PATH": str(operations_file(stage.directory))}
    async with stage.system("system", environment=environment) as system:
        starts_at_ms = int((time.time() + AN_HOUR_S) * 1000)
        await system.api.create_event(event_request(EVENT_ID, starts_at_ms=starts_at_ms, offsets_s=_OFFSETS_S))
        async with _fleets(stage, system, night) as fleets:
            with stage.judged():
                evening = await _evening(stage, parameters, system, night, fleets)
            records = [await fleet.finish() for fleet in fleets]
        outbox = outbox_from_json(await system.api.broadcasts(EVENT_ID))
    logs = itertools.chain.from_iterable(record.logs for record in records)
    audit = await asyncio.to_thread(lambda: audit_fleet(outbox, logs))
    stage.reached(audit, devices=night.devices, outbox=outbox)
    return _judge(stage, night, audit, records, evening)


def _projection(path: Path) -> Projection:
    try:
        return read_projection(read_text(path), str(path))
    except ScenarioError as exc:
        raise CouldNotRun(str(exc)) from exc


def _scaled(projection: Projection, parameters: GameDay) -> _Night:
    factor = parameters.scale if parameters.scale is not None else parameters.devices / projection.devices
    found = projection.scaled(factor)
    devices = round(found.devices)
    if not 10 <= devices <= 18_000:
        raise CouldNotRun(f"parameters.scale: {factor:g} of the projection are {devices} devices, 10 to 18000 fit here")
    rates = found.requests_per_s
    lasts_s = _LEAD_S + parameters.slip_s + _ENDED_AFTER_S
    requests = (rates.critical + rates.best_effort) * lasts_s
    if requests > REQUESTS_MAX:
        raise CouldNotRun(
            f"requests_per_s: {factor:g} of the projection are {requests:,.0f} requests in {lasts_s:g} s, at most "
            f"{REQUESTS_MAX:,} fit here"
        )
    return _Night(
        devices=devices,
        late=min(devices // 2, round(found.joins_per_s * _LATE_S)),
        critical_per_s=rates.critical,
        refreshes_per_s=rates.best_effort,
        browsers=min(parameters.browsers_max, round(rates.degraded / _ASKS_PER_S)),
        factor=factor,
    )


def _tell(stage: Stage, projection: Projection, night: _Night) -> None:
    heading, rates = "projection, and what runs here", projection.requests_per_s
    stage.measure(scale=night.factor)
    for label, expected, here in (
        ("devices", projection.devices, night.devices),
        ("joins a second", projection.joins_per_s, night.late / _LATE_S),
        ("first prefetches a second", rates.critical, night.critical_per_s),
        ("refreshes a second", rates.best_effort, night.refreshes_per_s),
    ):
        stage.fact(heading, label, f"{expected:,.0f}: {here:,.1f}")
    stage.fact(heading, "browsing users", f"{night.browsers:,}, {_COMPRESSED:g} times as fast as people")


@asynccontextmanager
async def _fleets(stage: Stage, system: System, night: _Night) -> AsyncIterator[list[FleetProcess]]:
    """Those who are there before, and those who join."""
    async with AsyncExitStack() as stack:
        fleets: list[FleetProcess] = []
        for name, devices, first in (("initial", night.initial, 0), ("late", night.late, night.initial)):
            if not devices:
                continue
            plan = FleetPlan(
                devices=devices, push_urls=(system.push_url,), topics=(_TOPIC,), seed=stage.seed + first, first=first,
                sources=source_addresses(200, block=75 + len(fleets)),
            )  # fmt: skip
            ring = device_ring(system.server.data_dir)
            fleet = await stack.enter_async_context(FleetProcess(stage.directory / name, plan, device_ring=ring))
            await stack.enter_async_context(stage.watched("devices", fleet.pid))
            fleets.append(fleet)
        yield fleets


async def _evening(
    stage: Stage, parameters: GameDay, system: System, night: _Night, fleets: Sequence[FleetProcess]
) -> _Evening:
    """Connect those who are there, and play the night with everybody else coming."""
    initial, late = fleets[0], fleets[1:]
    with stage.reporter.progress("devices connected", night.initial) as progress:
        await initial.connect(over_s=night.initial / 1_500)
        await initial.subscribed(30.0 + night.initial / 200, progress=progress)
    for fleet in fleets:
        await fleet.watch()
    lasts_s = _LEAD_S + parameters.slip_s + _ENDED_AFTER_S
    async with AsyncExitStack() as stack:
        load = OpenLoad(stage, stage.directory, port=system.dgs_port, profiles=_PROFILES)
        await stack.enter_async_context(load)
        users = await _browsers(stage, system, night, stack)
        stretch = Stretch(lasts_s, night.critical_per_s, night.refreshes_per_s)
        asking = asyncio.create_task(load.run([stretch]), name="gameday.requests")
        try:
            for fleet in late:
                await fleet.connect(over_s=_LATE_S)
            outage_over_s = await _play(stage, parameters, system, initial)
            found = await asking
        finally:
            asking.cancel()
            await asyncio.wait({asking})
        await _until_back(stage, night, fleets)
        browsed = await users.finish() if users is not None else None
        return _Evening(load=found, users=browsed, outage_over_s=outage_over_s)


async def _browsers(stage: Stage, system: System, night: _Night, stack: AsyncExitStack) -> LocustRun | None:
    if not night.browsers:
        return None
    plan = UsersPlan(
        crowds=(Crowd(name="browsers", kind="browse", users=night.browsers),),
        dgs_url=system.dgs_url,
        event_ids=(EVENT_ID,),
        seed=stage.seed,
        time_compression=_COMPRESSED,
    )
    users = await stack.enter_async_context(LocustRun(plan, stage.directory / "users"))
    await users.started()
    return users


async def _play(stage: Stage, parameters: GameDay, system: System, initial: FleetProcess) -> float | None:
    """The operator's and the network's part of the night; when the outage was over, None without one."""
    api, outage_over_s = system.api, None

    async def at(moment_ms: float) -> None:
        await asyncio.sleep(max(0.0, moment_ms / 1000 - time.time()))

    due_ms = await api.move(EVENT_ID, starts_in_s=_LEAD_S)
    stage.mark("the night begins")
    await at(due_ms - _SLIPS_BEFORE_S * 1000)
    live_ms = int((await api.shift(EVENT_ID, parameters.slip_s))["starts_at_ms"])
    stage.mark(f"slips by {parameters.slip_s} s")
    if parameters.outage_share:
        await at(live_ms - _OUTAGE_BEFORE_S * 1000)
        await initial.offline(share=parameters.outage_share, seconds=parameters.outage_s)
        stage.mark(f"{parameters.outage_share:.0%} lose the network")
        outage_over_s = time.monotonic() + parameters.outage_s
    await at(live_ms)
    stage.mark("live")
    await at(live_ms + _ENDED_AFTER_S * 1000)
    stage.mark("ended")
    await asyncio.sleep(_SETTLE_S)
    return outage_over_s


async def _until_back(stage: Stage, night: _Night, fleets: Sequence[FleetProcess]) -> None:
    deadline_s = time.monotonic() + _BACK_WITHIN_S
    while True:
        connected = sum([(await fleet.snapshot()).connected for fleet in fleets])
        stage.measure(connected_share=connected / night.devices)
        if connected >= night.devices or time.monotonic() >= deadline_s:
            return
        await asyncio.sleep(0.2)


def _judge(stage: Stage, night: _Night, audit: FleetAudit, records: Sequence[FleetRecord], evening: _Evening) -> str:
    load = evening.load
    for number, record in enumerate(records):
        stage.generator(f"fleet {number + 1}", record.generator)
    judge_load(stage, "requests", load.run)
    draw_answers(stage, "Answers by class", load)
    for tag, name in ((CRITICAL, "first prefetches"), (OTHER, "refreshes")):
        stage.histogram(name, latencies_ms(load.records, tag=tag))
    _browsed(stage, evening.users)
    stages = [each for each in audit.broadcasts if each.state_key in ("live", "ended") and each.p99_ms is not None]
    whole_s = float(load.records["due_us"].max()) / 1e6 + 1.0 if len(load.records) else 1.0
    critical = served_between(load.records, 0.0, whole_s, tag=CRITICAL)
    refreshes = served_between(load.records, 0.0, whole_s, tag=OTHER)
    stage.measure(
        missed=audit.missed,
        out_of_order=audit.out_of_order,
        stage_p99_ms=max((each.p99_ms or 0.0 for each in stages), default=None),
        stage_last_ms=max((each.last_ms or 0.0 for each in stages), default=None),
        critical_success=critical.success if critical.asked else None,
        critical_p99_ms=critical.p99_ms,
        refresh_success=refreshes.success if refreshes.asked else None,
        back_s=_back_s(evening.outage_over_s, records),
    )
    outage = "" if evening.outage_over_s is None else ", an outage"
    return (
        f"At 1 : {1 / night.factor:,.0f} of the projection {night.devices:,} devices went through a slip{outage} "
        f"and two stages and missed {audit.missed:,} broadcasts; 99 of 100 connected ones had a stage within "
        f"{in_ms(stage.measured['stage_p99_ms'])}. Meanwhile {share(critical.success)} of first prefetches and "
        f"{share(refreshes.success)} of refreshes were served."
    )


def _back_s(over_s: float | None, records: Sequence[FleetRecord]) -> float | None:
    """From the end of the outage to the last welcome after it of a device that was there before; None: no outage."""
    if over_s is None:
        return None
    steps = records[0].connections
    back = steps["at_s"][(steps["step"] == ConnectionStep.WELCOMED) & (steps["at_s"] >= over_s)]
    return float(back.max()) - over_s if len(back) else 0.0


def _browsed(stage: Stage, users: UsersResult | None) -> None:
    if users is None:
        return
    sent = sum(each.sent for each in users.requests)
    failed = sum(each.failed for each in users.requests)
    stage.measure(browse_failures_share=failed / sent if sent else None)
    for each in users.requests:
        if each.time.count:
            taken: LatencyHistogram = each.time.histogram()
            stage.histogram(f"{each.crowd}: {each.request}", taken)
    stage.invalid(*(f"browsing users: {because}" for because in users.invalid_because))
