"""The router's CPU per broadcast: as a + b x nodes, and whether the number of devices matters (it should not)."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final

import msgspec

from device_sim.client import now_ms
from loadtest.bench.cluster.fit import Line, fitted_line
from loadtest.bench.cluster.nodes import MoreNodes
from loadtest.bench.cluster.scene import Scene, until
from loadtest.bench.cpu import others_cpu_s
from loadtest.bench.event_plan import EventPlan
from loadtest.bench.fleet_plan import FleetPlan, source_addresses
from loadtest.bench.fleet_process import FleetProcess
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.rounds import Ratio, Round, alternate, ratio_of_rounds

__all__ = ["RATIO_LIMITS", "DevicesFigures", "NodesFigures", "RoutingRound", "measure_devices", "measure_nodes"]

_TAIL_S: Final = 2.5
"""Nodes report reach a second later, and the router stores it: part of what a broadcast costs."""
_FLEET_MAX: Final = 10_000
"""Devices in one process: files are limited, and so is a loop."""
_NODES_EVENTS: Final = 20
_DEVICES_EVENTS: Final = 50
RATIO_LIMITS: Final = (0.9, 1.1)


class RoutingRound(msgspec.Struct, frozen=True):
    us: float
    """The routers' CPU per broadcast, all together."""
    others_cores: float


class NodesFigures(msgspec.Struct, frozen=True):
    line: Line
    us_by_nodes: dict[int, float]
    """Median of rounds."""
    others_cores: float = 0.0
    """Cores other processes of this machine used, in the worst round."""


class DevicesFigures(msgspec.Struct, frozen=True):
    ratio: Ratio
    us_few: list[float]
    us_many: list[float]
    others_cores: float = 0.0


async def measure_nodes(scene: Scene) -> NodesFigures:
    """With as many nodes as each of the options' counts, rising; every topic is followed on every node."""
    options = scene.options
    found: dict[int, float] = {}
    others = 0.0
    async with AsyncExitStack() as stack:
        urls = list(scene.stream_urls)
        for count in sorted(set(options.node_counts)):
            if count > len(urls):
                more = MoreNodes(scene, count - len(urls))
                urls += await stack.enter_async_context(more)
            await _linked(scene, count)
            measured = [
                await _cpu_us_per_broadcast(scene, f"nodes-{count}", urls, devices=count, events=_NODES_EVENTS)
                for _ in range(options.rounds)
            ]
            found[count] = statistics.median(each.us for each in measured)
            others = max(others, *(each.others_cores for each in measured))
            scene.reporter.note(f"  {count} nodes: {found[count]:.0f} us of the routers' CPU per broadcast")
    return NodesFigures(fitted_line([(float(count), us) for count, us in found.items()]), found, others)


async def measure_devices(scene: Scene) -> DevicesFigures:
    """The same nodes, with few devices and with many, alternating: every broadcast goes to every node either way."""
    options = scene.options
    few, many = options.devices_few, options.devices_many

    async def round_of(devices: int) -> RoutingRound:
        found = await _cpu_us_per_broadcast(
            scene, f"devices-{devices}", scene.stream_urls, devices=devices, events=_DEVICES_EVENTS, each=1
        )
        scene.reporter.note(f"  {devices} devices: {found.us:.0f} us of the routers' CPU per broadcast")
        return found

    pairs = await alternate(lambda _: round_of(many), lambda _: round_of(few), rounds=options.rounds)
    ratio = ratio_of_rounds([Round(at_many.us, at_few.us) for at_many, at_few in pairs])
    others = max(each.others_cores for pair in pairs for each in pair)
    return DevicesFigures(ratio, [at_few.us for _, at_few in pairs], [at_many.us for at_many, _ in pairs], others)


async def _cpu_us_per_broadcast(
    scene: Scene, name: str, urls: Sequence[str], *, devices: int, events: int, each: int | None = None
) -> RoutingRound:
    """One round: the routers' CPU while broadcasts come evenly, less what they use while none does, per broadcast."""
    name = f"{name}-{next(scene.numbers)}"
    plan, idle_s = scene.options.round(name, events=events), scene.options.idle_s
    connecting_s = 3.0 + devices / 800
    first_due_ms = now_ms() + int((connecting_s + events / 20 + 2.0 + idle_s) * 1000)
    await scene.store(plan.evenly(first_due_ms=first_due_ms))
    async with AsyncExitStack() as stack:
        fleets = [
            await stack.enter_async_context(FleetProcess(scene.directory / f"{name}-{n}", part, device_ring=scene.ring))
            for n, part in enumerate(_fleets(plan, urls, devices, each))
        ]
        for fleet in fleets:
            await fleet.connect(over_s=devices / 2_500)
        for fleet in fleets:
            await fleet.subscribed(60.0)
        idle_from_ms = first_due_ms - (idle_s + 0.2) * 1000
        if now_ms() > idle_from_ms:
            raise CouldNotRun("storing and connecting took longer than planned: this machine is busy with other things")
        await until(idle_from_ms)
        quiet_s, quiet_cpu_s = time.monotonic(), scene.router_cpu_s()
        await until(first_due_ms - 200)
        busy_s, busy_cpu_s, others_s = time.monotonic(), scene.router_cpu_s(), others_cpu_s()
        await until(first_due_ms + (plan.span_s + _TAIL_S) * 1000)
        end_s, end_cpu_s = time.monotonic(), scene.router_cpu_s()
        others_cores = (others_cpu_s() - others_s) / (end_s - busy_s)
        snapshots = [await fleet.snapshot() for fleet in fleets]
    expected = plan.stages * devices * (plan.events if each is None else each) // plan.events
    got = sum(snapshot.broadcasts for snapshot in snapshots)
    if got < expected * 0.99:
        raise CouldNotRun(f"{got} of {expected} deliveries came within the round: what was measured is something else")
    idle_cores = (busy_cpu_s - quiet_cpu_s) / (busy_s - quiet_s)
    used_s = end_cpu_s - busy_cpu_s - idle_cores * (end_s - busy_s)
    return RoutingRound(used_s / plan.stages * 1e6, others_cores)


def _fleets(plan: EventPlan, urls: Sequence[str], devices: int, each: int | None) -> list[FleetPlan]:
    """Fleets of equal size, none larger than one process bears."""
    count = -(-devices // _FLEET_MAX)
    sizes = [devices // count + (number < devices % count) for number in range(count)]
    return [
        FleetPlan(
            devices=size,
            first=sum(sizes[:number]),
            push_urls=tuple(urls),
            topics=plan.topics,
            topics_per_device=each,
            sources=source_addresses(2, block=number + 1) if devices > _FLEET_MAX else (),
            seed=plan.seed + number,
        )
        for number, size in enumerate(sizes)
    ]


async def _linked(scene: Scene, nodes: int) -> None:
    """Until every router is linked to that many nodes."""
    deadline = time.monotonic() + 15.0
    links: list[int] = []
    while time.monotonic() < deadline:
        links = await scene.links()
        if links and min(links) >= nodes:
            return
        await asyncio.sleep(0.2)
    raise CouldNotRun(f"routers are linked to {links} nodes instead of {nodes} after 15 s")
