"""One run of one fault: a schedule in the store, a fleet that follows it, harm, and the evidence brought together."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from contract.runtime.system_clock import CLOCK_OFFSET_VARIABLE, write_clock_offset
from device_sim.device import DeviceOptions
from loadtest.bench.faults.evidence import (
    broadcast_log_ends,
    broadcasts_in_kafka,
    outbox_rows,
    receipts_of,
    until_published,
)
from loadtest.bench.faults.injections import PING_S, PONG_DEADLINE_S, Fault
from loadtest.bench.faults.operators import Operators
from loadtest.bench.faults.plan import FaultPlan
from loadtest.bench.faults.recovery import Phase, arrival_counts, recovery_of, was_live
from loadtest.bench.faults.scene import ClusterScene
from loadtest.bench.faults.verdict import KafkaBroadcast, OutboxRow, RunVerdict, announced, verdict
from loadtest.bench.fleet_plan import FleetPlan
from loadtest.bench.fleet_process import FleetProcess
from loadtest.bench.fleet_record import FleetRecord
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.report import Reporter
from loadtest.bench.validity import GeneratorReport, GeneratorWatch
from loadtest.cluster.cluster import LocalCluster
from loadtest.cluster.link_proxy import LinkProxy
from loadtest.installation_keys import device_ring

__all__ = ["FaultCluster", "RunOptions", "cluster_environment", "open_fault_cluster", "run_fault"]

_PUBLISHED_WITHIN_S: Final = 15.0
_ARRIVED_WITHIN_S: Final = 15.0
_QUIET_S: Final = 1.5
"""Longer than nodes take to compare their logs with the stored ones."""
_STALL_MS: Final = 500.0
_FLEET_STALL_MS: Final = 1_000.0
_CUE_EVERY_S: Final = 1.0


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    devices: int = 2_000
    channels: int = 20
    channels_per_device: int = 2
    interval_ms: int = 300
    lead_s: float = 8.0
    """For storing the schedule, starting the fleet and settling; more is given where that did not do."""
    warm_s: float = 2.5
    """Of the schedule, before the fault: everything is seen to be live first."""
    hold_s: float = 2.5
    """How long everything is left alone after a step has taken effect, before the next one, and at the end."""
    seed: int = 1


class FaultCluster(msgspec.Struct, frozen=True):
    """What runs of faults share."""

    cluster: LocalCluster
    proxy: LinkProxy
    clock_file: Path
    directory: Path
    session: aiohttp.ClientSession
    numbers: itertools.count[int]


def cluster_environment(clock_file: Path) -> dict[str, str]:
    """Settings of the services under test that differ from their defaults, and why."""
    return {
        # Half a minute is right for a phone's radio; here it would make each frozen node last that long.
        "PUSH_PING_S": str(PING_S),
        "PUSH_PONG_DEADLINE_S": str(PONG_DEADLINE_S),
        # 2,000 devices may return within a second; a hundred million take the window operators give them.
        "PUSH_RECONNECT_WINDOW_MS": "1000",
        "PUSH_DRAIN_S": "1.0",
        # The window of a rebuild: these runs broadcast in a minute what a night does in a day.
        "ROUTER_REPLAY_WINDOW_S": "180",
        CLOCK_OFFSET_VARIABLE: str(clock_file),
    }


@asynccontextmanager
async def open_fault_cluster(directory: Path, reporter: Reporter) -> AsyncIterator[FaultCluster]:
    """A cluster with a proxy in front of one node's link and a wall clock that can be stepped; `directory` exists.

    Raises CouldNotRun.
    """
    clock_file = directory / "clock-offset"
    write_clock_offset(clock_file, 0)
    link_port = _free_port()
    cluster = LocalCluster(
        directory / "cluster",
        environment=cluster_environment(clock_file),
        member_environment={"push-0": {"STAGECUE_LINK_TOLD": f"127.0.0.1:{link_port}"}},
    )
    timeout = aiohttp.ClientTimeout(total=10)
    async with (
        LinkProxy("127.0.0.1", cluster.nodes[0].link_port, port=link_port) as proxy,
        cluster,
        aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
    ):
        reporter.note(f"  cluster of {len(cluster.members)} processes ready in {directory}")
        yield FaultCluster(cluster, proxy, clock_file, directory, session, itertools.count(1))


async def run_fault(fault: Fault, shared: FaultCluster, options: RunOptions, reporter: Reporter) -> RunVerdict:
    """Do it once and judge it. Raises CouldNotRun when something did not come about that the fault needs."""
    reporter.note(f"{fault.name}: {fault.what}")
    for patience in (1, 2, 4):
        try:
            return await _run_once(fault, shared, options, reporter, patience=patience)
        except _TooSlow:
            reporter.note(
                "  this machine took longer to connect than the schedule allowed for: once more, with more time"
            )
    raise CouldNotRun("storing the schedule and connecting took several times what they should")


class _TooSlow(Exception):
    """The first stage was due before everybody was there."""


async def _run_once(
    fault: Fault, shared: FaultCluster, options: RunOptions, reporter: Reporter, *, patience: int
) -> RunVerdict:
    cluster, number = shared.cluster, next(shared.numbers)
    operators = Operators(shared.session, cluster)
    connecting_s = 1.0 + options.devices / 500
    plan = FaultPlan(
        name=f"{fault.name}-{number}",
        first_due_ms=int((time.time() + (connecting_s + options.lead_s) * patience) * 1000),
        lasts_s=options.warm_s + fault.lasts_s,
        channels=options.channels,
        channels_per_device=options.channels_per_device,
        interval_ms=options.interval_ms,
    )
    fleet_plan = _fleet_plan(plan, cluster, options)
    begins_after = await broadcast_log_ends(cluster.kafka.bootstrap_servers)
    await operators.create(plan.events())
    async with FleetProcess(
        shared.directory / f"fleet-{number}", fleet_plan, device_ring=device_ring(cluster.data_dir)
    ) as fleet:
        await fleet.connect(over_s=connecting_s)
        await fleet.subscribed(timeout_s=connecting_s + 30.0)
        scene = ClusterScene(
            cluster,
            shared.session,
            _Connected(fleet),
            proxy=shared.proxy,
            clock_file=shared.clock_file,
            hold_s=options.hold_s,
            note=reporter.note,
        )
        await scene.until_settled()
        if time.time() * 1000 > plan.first_due_ms:
            await operators.cancel(plan)
            raise _TooSlow
        await asyncio.sleep(max(0.0, plan.first_due_ms / 1000 + options.warm_s - time.time()))
        await fleet.watch()
        async with operators.cueing(plan, every_s=_CUE_EVERY_S), GeneratorWatch() as watch:
            try:
                await fault.inject(scene)
            finally:
                await _heal(scene, shared)
            await asyncio.sleep(options.hold_s)
            ours, theirs = watch.report(), await fleet.watched()
        until_ms = int(time.time() * 1000)
        if until_ms > plan.last_due_ms:
            raise CouldNotRun(f"{fault.name} took longer than its schedule of {fault.lasts_s:.0f} s")
        await operators.cancel(plan)
        waiting = await until_published(cluster.postgres.url, within_s=_PUBLISHED_WITHIN_S)
        await _arrived(fleet)
        record = await fleet.finish()
    outbox = await outbox_rows(cluster.postgres.url, plan.topics())
    kafka = await broadcasts_in_kafka(cluster.kafka.bootstrap_servers, begins_after)
    found = await asyncio.to_thread(_judged, plan, record, outbox, kafka, scene.phases(until_ms), until_ms)
    found.remarks = [*scene.remarks, *([f"{waiting} broadcasts never published"] if waiting else [])]
    if busy := _too_busy(ours, theirs):
        found.quiet = False
        found.remarks.append(busy)
    evidence = {"plan": plan, "steps": scene.steps, "until_ms": until_ms, "outbox": outbox, "verdict": found}
    evidence |= {"own_loop": ours, "fleet_loop": theirs}
    await asyncio.to_thread((shared.directory / f"run-{number}.json").write_bytes, msgspec.json.encode(evidence))
    return found


def _too_busy(ours: GeneratorReport, fleets: GeneratorReport | None) -> str | None:
    """Why recovery would say more about the machine than about the system; None when it would not."""
    if ours.lag_max_ms > _STALL_MS:
        # This process does next to nothing: when it is not run for so long, nor is anybody else.
        return f"the machine ran nothing of ours for {ours.lag_max_ms / 1000:.1f} s"
    if fleets is not None and fleets.lag_max_ms > _FLEET_STALL_MS:
        # A device that reads this late sees live frames late, and is given up by its node.
        return f"the devices' process did not run for {fleets.lag_max_ms / 1000:.1f} s"
    return None


def _fleet_plan(plan: FaultPlan, cluster: LocalCluster, options: RunOptions) -> FleetPlan:
    return FleetPlan(
        devices=options.devices,
        push_urls=tuple(f"{url}/v1/stream" for url in cluster.push_urls),
        topics=plan.topics(),
        topics_per_device=plan.topics_per_device,
        seed=options.seed,
        device=DeviceOptions(fetches_maps=False, keeps_renders=False, told_max=4096),
    )


def _judged(
    plan: FaultPlan,
    record: FleetRecord,
    outbox: Sequence[OutboxRow],
    kafka: Iterable[KafkaBroadcast],
    phases: Sequence[Phase],
    until_ms: int,
) -> RunVerdict:
    topics, devices = frozenset(plan.topics()), record.plan.devices
    online = {end.device for end in record.devices if end.online}
    found = verdict(
        plan,
        outbox,
        [each for each in kafka if each.topic in topics],
        (log for number, log in enumerate(record.logs) if number in online),
        not_connected=devices - len(online),
        until_ms=until_ms - 1000,
    )
    said = announced(plan, outbox)
    counts = arrival_counts(said, receipts_of(record))
    followers = plan.followers(record.plan.topics_of(device) for device in range(devices))
    found.recoveries = [recovery_of(phase, said, counts, followers) for phase in phases]
    before = Phase(name="before", at_ms=plan.first_due_ms, until_ms=phases[0].at_ms)
    found.quiet = was_live(before, said, counts, followers)
    return found


async def _heal(scene: ClusterScene, shared: FaultCluster) -> None:
    """Whatever became of the fault: nothing stays frozen, stepped or cut."""
    scene.step_clocks(0)
    scene.link_pass()
    for member in shared.cluster.members.values():
        if member.frozen:
            member.thaw()


async def _arrived(fleet: FleetProcess) -> None:
    """Until no more frames come: what is on its way arrives, and the last comparison of logs has been made."""
    deadline = time.monotonic() + _ARRIVED_WITHIN_S
    before = -1
    while time.monotonic() < deadline:
        now = (await fleet.snapshot()).broadcasts
        if now == before:
            return
        before = now
        await asyncio.sleep(_QUIET_S)


class _Connected:
    def __init__(self, fleet: FleetProcess) -> None:
        self._fleet = fleet

    async def connected(self) -> tuple[int, int]:
        found = await self._fleet.snapshot()
        return found.connected, found.devices


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
