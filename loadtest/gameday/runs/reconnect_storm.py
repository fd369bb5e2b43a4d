"""Reconnect storm: all connections break at once; devices return naively, or over the window the server announced."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from contract.names import topic_of
from contract.tokens import DeviceClaims, KeyRing
from device_sim.audit import audit_fleet, outbox_from_json
from device_sim.client import ConnectionStep
from device_sim.fleet import Fleet, FleetOptions
from loadtest.bench.fleet_plan import FleetPlan, source_addresses
from loadtest.bench.fleet_process import FleetProcess
from loadtest.bench.fleet_record import FleetRecord
from loadtest.bench.histogram import LatencyHistogram
from loadtest.gameday import bins
from loadtest.gameday.clients.naive import NaiveDevices
from loadtest.gameday.clients.records import Step, moments
from loadtest.gameday.events import AN_HOUR_S, event_request
from loadtest.gameday.parameters import ReconnectStorm
from loadtest.gameday.stage import Stage, System
from loadtest.installation_keys import device_ring

__all__ = ["run"]

_EVENT: Final = "storm"
_TOPIC: Final = topic_of(_EVENT)
_LATE_SLACK_S: Final = 0.5
"""For the handshake itself, behind the moment the window gave."""
_REST_S: Final = 2.0
"""Before the break: the node's allowance of handshakes is whole again."""
_LOOK_EVERY_S: Final = 0.1
_Moments = npt.NDArray[np.float64]


class _Return(msgspec.Struct, frozen=True, kw_only=True):
    """How the devices of one half came back."""

    broken_s: float
    attempts: Any
    """Moments of all handshake attempts from the break on, refused ones included."""
    back: Any
    """Moments of each device's first welcome after the break."""
    refused: int

    @property
    def last_back_s(self) -> float:
        return float(self.back.max()) - self.broken_s if len(self.back) else 0.0

    @property
    def peak(self) -> int:
        return bins.peak(self.attempts, self.broken_s, self.broken_s + max(self.last_back_s, 1.0) + bins.BIN_S)


async def run(stage: Stage, parameters: ReconnectStorm) -> str:
    """Both halves, each on a fresh system with the same settings."""
    stage.devices = devices = parameters.devices
    naive = await _without(stage, parameters)
    stage.measure(
        attempts_peak_naive=naive.peak,
        attempts_per_device_naive=len(naive.attempts) / devices,
        refused_naive=naive.refused,
        last_back_s_naive=naive.last_back_s,
    )
    window, announced_s = await _with(stage, parameters)
    missing = 2 * devices - len(naive.back) - len(window.back)
    stage.measure(
        attempts_ratio=naive.peak / window.peak if window.peak else None,
        attempts_peak_window=window.peak,
        attempts_per_device_window=len(window.attempts) / devices,
        refused_window=window.refused,
        announced_s=announced_s,
        last_back_s_window=window.last_back_s,
        late_devices=int((window.back > window.broken_s + announced_s + _LATE_SLACK_S).sum()),
        missing_devices=missing,
    )
    stage.note(
        "Without the window devices are small programs that open a connection the moment one breaks or is refused. "
        "One process carries them all and is busy with it: on machines of their own they would ask faster still."
    )
    return (
        f"Without the window {devices:,} devices made {naive.peak:,} handshake attempts in their worst 100 ms and "
        f"{len(naive.attempts):,} in all; following the window {window.peak:,} and {len(window.attempts):,}. They were "
        f"told {announced_s:.1f} s, and the last was back after {window.last_back_s:.1f} s, its handshake included."
        + (f" {missing:,} were not back when they were no longer waited for." if missing else "")
    )


def _environment(parameters: ReconnectStorm) -> dict[str, str]:
    return {
        "PUSH_HANDSHAKES_PER_S": str(parameters.handshakes_per_s),
        "PUSH_HANDSHAKE_BURST": str(parameters.handshake_burst),
        "PUSH_RECONNECT_WINDOW_MAX_MS": "120000",
    }


async def _prepared(system: System) -> None:
    request = event_request(
        _EVENT, starts_at_ms=int((time.time() + AN_HOUR_S) * 1000), offsets_s={"starting_soon": None, "live": None}
    )
    await system.api.create_event(request)
    await system.api.cue(_EVENT, "starting_soon")


async def _without(stage: Stage, parameters: ReconnectStorm) -> _Return:
    async with stage.system("naive-system", environment=_environment(parameters)) as system:
        await _prepared(system)
        naive = NaiveDevices(
            stage.directory / "naive", core=stage.cores.load, devices=parameters.devices, push_url=system.push_url,
            topic=_TOPIC, event_id=_EVENT, ring=device_ring(system.server.data_dir), seed=stage.seed,
        )  # fmt: skip
        async with naive, stage.watched("devices", naive.pid):
            stage.mark("naive devices connect")
            with stage.reporter.progress("naive devices connected", parameters.devices) as progress:
                await naive.connect(over_s=parameters.connect_s)
                await naive.connected(parameters.connect_s + 30.0, progress=progress)
            await asyncio.sleep(_REST_S)
            with stage.judged():
                before = await naive.stand()
                broken_s = time.monotonic()
                stage.mark("all break, no window", broken_s)
                await naive.break_all()
                deadline_s = broken_s + parameters.gives_up_after_s
                with stage.reporter.progress("naive devices back", parameters.devices) as progress:
                    while (found := await naive.stand()).connected < parameters.devices:
                        progress(found.connected, parameters.devices)
                        if time.monotonic() >= deadline_s:
                            break
                        await asyncio.sleep(_LOOK_EVERY_S)
            refused = (await naive.stand()).refused - before.refused
            rows, lag_ms = await naive.finish()
    stage.fact("load generators", "naive devices, loop lag p99 ms", lag_ms)
    attempts = moments(rows, Step.OPENING)
    welcomed = rows[(rows["kind"] == Step.WELCOMED) & (rows["at_s"] >= broken_s)]
    returned = _Return(
        broken_s=broken_s, attempts=attempts[attempts >= broken_s], back=_first_by_device(welcomed), refused=refused
    )
    _draw(stage, "without the window", returned)
    return returned


async def _with(stage: Stage, parameters: ReconnectStorm) -> tuple[_Return, float]:
    async with stage.system("window-system", environment=_environment(parameters)) as system:
        await _prepared(system)
        ring = device_ring(system.server.data_dir)
        plan = FleetPlan(
            devices=parameters.devices,
            push_urls=(system.push_url,),
            topics=(_TOPIC,),
            seed=stage.seed,
            sources=source_addresses(200, block=72),
        )
        async with (
            Fleet(FleetOptions(devices=1)) as probe,
            FleetProcess(stage.directory / "window", plan, device_ring=ring) as fleet,
            stage.watched("devices", fleet.pid),
        ):
            listener = probe.add("probe", urls=[system.push_url], token=_token(ring), topics=[_TOPIC])
            await probe.connect_all()
            stage.mark("devices that follow the window connect")
            with stage.reporter.progress("devices connected", parameters.devices) as progress:
                await fleet.connect(over_s=parameters.connect_s)
                await fleet.subscribed(parameters.connect_s + 30.0, progress=progress)
            await asyncio.sleep(_REST_S)
            with stage.judged():
                await fleet.watch()
                before = await fleet.snapshot()
                announced_s = listener.device.connection.window_ms / 1000
                broken_s = time.monotonic()
                stage.mark(f"all break, window {announced_s:.1f} s", broken_s)
                await fleet.drop()
                await _until_back(stage, system, fleet, parameters, broken_s, announced_s)
                refused = (await fleet.snapshot()).refused - before.refused
            await asyncio.sleep(_REST_S)
            record = await fleet.finish()
        outbox = outbox_from_json(await system.api.broadcasts(_EVENT))
    audit = await asyncio.to_thread(lambda: audit_fleet(outbox, record.logs))
    stage.reached(audit, devices=parameters.devices, outbox=outbox)
    stage.measure(missed=audit.missed)
    stage.generator("devices that follow the window", record.generator)
    found = _return_of(record, broken_s, refused)
    _draw(stage, "with the window", found)
    return found, announced_s


async def _until_back(
    stage: Stage, system: System, fleet: FleetProcess, parameters: ReconnectStorm, broken_s: float, announced_s: float
) -> None:
    """Wait for all, and cue a stage when about half of them are."""
    cued = False
    with stage.reporter.progress("devices back", parameters.devices) as progress:
        while True:
            found = await fleet.snapshot()
            progress(found.connected, parameters.devices)
            if not cued and time.monotonic() >= broken_s + announced_s / 2:
                cued = True
                await system.api.cue(_EVENT, "live")
                stage.mark("live, in the middle of the return")
            if cued and found.connected >= parameters.devices:
                return
            if time.monotonic() >= broken_s + parameters.gives_up_after_s:
                return
            await asyncio.sleep(_LOOK_EVERY_S)


def _return_of(record: FleetRecord, broken_s: float, refused: int) -> _Return:
    steps = record.connections[record.connections["at_s"] >= broken_s]
    return _Return(
        broken_s=broken_s,
        attempts=np.ascontiguousarray(steps["at_s"][steps["step"] == ConnectionStep.OPENING]),
        back=_first_by_device(steps[steps["step"] == ConnectionStep.WELCOMED]),
        refused=refused,
    )


def _first_by_device(rows: Any) -> _Moments:
    """The first moment of each device; rows are in order of time."""
    _, first = np.unique(rows["device"], return_index=True)
    return np.ascontiguousarray(rows["at_s"][first])


def _draw(stage: Stage, name: str, found: _Return) -> None:
    until_s, since = found.broken_s + max(found.last_back_s, 1.0) + 1.0, ("all broke", found.broken_s)
    stage.counted(
        "Handshake attempts",
        {name: found.attempts},
        found.broken_s - 1.0,
        until_s,
        explains="Every opening of a connection, refused ones included. A wall is a storm, a plain is a window.",
        since=since,
    )
    taken = LatencyHistogram()
    taken.record_all_ms((found.back - found.broken_s) * 1000)
    stage.histogram(f"break to welcome, {name}", taken)
    stage.counted(
        "Devices back", {name: found.back}, found.broken_s - 1.0, until_s, explains="First welcomes.", since=since
    )


def _token(ring: KeyRing) -> str:
    return ring.sign(DeviceClaims(sub="probe", dev="probe", exp=int(time.time()) + AN_HOUR_S))
