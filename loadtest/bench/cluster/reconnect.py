"""Redis commands per device that comes back: storms of all devices, less what the cluster asks anyway.

What it asks anyway is jittered: a node's round more or less is a dozen commands. Several storms make that small beside
the thousands of reads it would be if a single one were asked per device.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec
from redis.asyncio import Redis

from device_sim.client import now_ms
from loadtest.bench.cluster.options import ClusterOptions
from loadtest.bench.cluster.scene import Scene
from loadtest.bench.event_plan import EventPlan
from loadtest.bench.fleet_plan import FleetPlan
from loadtest.bench.fleet_process import FleetProcess
from loadtest.bench.outcome import CouldNotRun

__all__ = ["COMMANDS_MAX", "ReconnectFigures", "measure_reconnect"]

COMMANDS_MAX: Final = 0.01
_EVENTS: Final = 4
_QUIET_S: Final = 3.0
_ASKING: Final = frozenset({"info", "client|setinfo", "hello", "ping"})
"""What this benchmark itself sends."""


class ReconnectFigures(msgspec.Struct, frozen=True):
    returned: int
    """Handshakes of devices that came back, over all storms."""
    baseline_commands: int
    storm_commands: int

    @property
    def commands_per_reconnect(self) -> float:
        return (self.storm_commands - self.baseline_commands) / self.returned


async def measure_reconnect(scene: Scene) -> ReconnectFigures:
    """Break every connection at once, several times; all are back each time. Raises CouldNotRun."""
    options = scene.options
    plan = _standing_events(options, next(scene.numbers))
    # Due tomorrow: nothing is broadcast meanwhile.
    await scene.store(plan.evenly(first_due_ms=now_ms() + 24 * 3600 * 1000))
    fleet_plan = FleetPlan(devices=options.devices, push_urls=scene.stream_urls, topics=plan.topics, seed=options.seed)
    async with (
        FleetProcess(scene.directory / plan.prefix, fleet_plan, device_ring=scene.ring) as fleet,
        Redis.from_url(scene.cluster.redis.url) as redis,
    ):
        await fleet.connect(over_s=2.0)
        before = await fleet.subscribed(30.0)
        await asyncio.sleep(_QUIET_S)
        first = await _commands(redis)
        await asyncio.sleep(options.storms * options.storm_s)
        second = await _commands(redis)
        with scene.reporter.progress("storms", options.storms) as progress:
            for number in range(1, options.storms + 1):
                await fleet.drop()
                await asyncio.sleep(options.storm_s)
                progress(number, options.storms)
        third = await _commands(redis)
        after = await fleet.snapshot()
    returned = after.handshakes - before.handshakes
    if after.connected < options.devices or returned < options.devices * options.storms:
        raise CouldNotRun(
            f"{returned} of {options.storms} x {options.devices} returns came within {options.storm_s:.0f} s each"
        )
    return ReconnectFigures(returned, second - first, third - second)


def _standing_events(options: ClusterOptions, number: int) -> EventPlan:
    return EventPlan(events=_EVENTS, stages=_EVENTS, span_s=60.0, seed=options.seed, prefix=f"reconnect-{number}")


async def _commands(redis: Any) -> int:
    """Commands executed since the server's start, inside scripts as well, without this benchmark's own."""
    stats = await redis.info("commandstats")
    return sum(int(found["calls"]) for name, found in stats.items() if name.removeprefix("cmdstat_") not in _ASKING)
