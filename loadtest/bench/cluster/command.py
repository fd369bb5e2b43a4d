"""`stagecue bench cluster`: all parts, or some, printed and judged."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec

from loadtest.bench.cluster.night import Night, measure_night
from loadtest.bench.cluster.options import ClusterOptions
from loadtest.bench.cluster.reconnect import COMMANDS_MAX, ReconnectFigures, measure_reconnect
from loadtest.bench.cluster.routing import (
    RATIO_LIMITS,
    DevicesFigures,
    NodesFigures,
    measure_devices,
    measure_nodes,
)
from loadtest.bench.cluster.scene import Scene, open_scene
from loadtest.bench.envelope import Envelope
from loadtest.bench.outcome import CouldNotRun, ExitCode
from loadtest.bench.report import Reporter
from loadtest.bench.validity import others_invalid

__all__ = ["ClusterFigures", "measure_cluster", "run_cluster"]


class ClusterFigures(msgspec.Struct, kw_only=True):
    """What was measured; None for parts left out."""

    latency: Night | None = None
    burst: Night | None = None
    reconnect: ReconnectFigures | None = None
    devices: DevicesFigures | None = None
    nodes: NodesFigures | None = None

    def shortfalls(self) -> list[str]:
        """What the promise is missed by; empty: it holds."""
        found = []
        for name, night in (("", self.latency), ("burst: ", self.burst)):
            if night is not None:
                found += [name + line for line in night.figures.shortfalls()]
        if self.reconnect is not None and self.reconnect.commands_per_reconnect >= COMMANDS_MAX:
            found.append(
                f"{self.reconnect.commands_per_reconnect:.4f} Redis commands per reconnect, promised < {COMMANDS_MAX}"
            )
        if self.devices is not None and not RATIO_LIMITS[0] <= self.devices.ratio.median <= RATIO_LIMITS[1]:
            found.append(
                f"the router's CPU per broadcast with many devices is {self.devices.ratio.median:.2f} times that with "
                f"few, promised within {RATIO_LIMITS[0]}..{RATIO_LIMITS[1]}"
            )
        return found

    def invalid_because(self) -> list[str]:
        """Why what was measured does not count; empty: it does."""
        nights = [night for night in (self.latency, self.burst) if night is not None]
        parts = [part for part in (self.devices, self.nodes) if part is not None]
        return [
            *(because for night in nights for because in night.invalid_because()),
            *(because for part in parts for because in others_invalid(part.others_cores)),
        ]

    def keys(self) -> dict[str, Any]:
        """The benchmark's keys for JSON; those of parts left out are missing."""
        found: dict[str, Any] = {}
        if self.latency is not None:
            found.update(self.latency.figures.keys())
            found["generator"] = msgspec.to_builtins(self.latency.figures.generator)
            found["cores"], found["idle_cores"] = self.latency.cores, self.latency.idle_cores
        if self.burst is not None:
            found["burst"] = {
                **self.burst.figures.keys(),
                "generator": msgspec.to_builtins(self.burst.figures.generator),
                "cores": self.burst.cores,
                "idle_cores": self.burst.idle_cores,
            }
        if self.nodes is not None:
            found["router_cpu_us_per_broadcast"] = {
                "a": round(self.nodes.line.a, 1),
                "b": round(self.nodes.line.b, 2),
                "by_nodes": {str(count): round(us, 1) for count, us in self.nodes.us_by_nodes.items()},
            }
        if self.devices is not None:
            found["router_cpu_ratio_20k_to_2k_devices"] = round(self.devices.ratio.median, 3)
            found["router_cpu_ratio"] = {
                **msgspec.to_builtins(self.devices.ratio),
                "us_few": [round(us, 1) for us in self.devices.us_few],
                "us_many": [round(us, 1) for us in self.devices.us_many],
            }
        if self.reconnect is not None:
            found["redis_commands_per_reconnect"] = round(self.reconnect.commands_per_reconnect, 5)
            found["redis_commands"] = msgspec.to_builtins(self.reconnect)
        return found


async def measure_cluster(options: ClusterOptions, reporter: Reporter) -> ClusterFigures:
    """The options' parts on one cluster. Raises CouldNotRun; nothing is left running."""
    options.check()
    with tempfile.TemporaryDirectory(prefix="stagecue-bench-") as temporary:
        async with open_scene(options.keep or Path(temporary), options, reporter) as scene:
            return await _measure(scene)


async def _measure(scene: Scene) -> ClusterFigures:
    options, found = scene.options, ClusterFigures()
    if "latency" in options.parts:
        scene.reporter.note("latency: events that every device follows")
        found.latency = await measure_night(scene, "latency", options.night, topics_per_device=None)
    if "burst" in options.parts:
        scene.reporter.note("burst: many events within a minute, each followed by a few devices")
        found.burst = await measure_night(scene, "burst", options.burst, topics_per_device=options.burst_topics)
    if "reconnect" in options.parts:
        scene.reporter.note("reconnect: all devices at once")
        found.reconnect = await measure_reconnect(scene)
    if "devices" in options.parts:
        scene.reporter.note("devices: the router's CPU with few and with many")
        found.devices = await measure_devices(scene)
    if "nodes" in options.parts:
        scene.reporter.note("nodes: the router's CPU over the number of nodes")
        found.nodes = await measure_nodes(scene)
    return found


def run_cluster(options: ClusterOptions, *, as_json: bool = False) -> int:
    """Measure, print, and return the exit code."""
    import uvloop

    reporter = Reporter(as_json=as_json)
    envelope = Envelope(seed=options.seed)
    try:
        figures = uvloop.run(measure_cluster(options, reporter))
    except CouldNotRun as exc:
        reporter.note(f"could not run: {exc}")
        return ExitCode.COULD_NOT_RUN
    for because in figures.invalid_because():
        envelope.invalid(because)
        reporter.note(f"not valid: {because}")
    _tabulate(figures, reporter)
    shortfalls = figures.shortfalls()
    for line in shortfalls:
        reporter.note(f"falls short: {line}")
    reporter.emit(envelope.seal({**figures.keys(), "falls_short": shortfalls}))
    return ExitCode.HELD if not shortfalls and envelope.valid else ExitCode.FELL_SHORT


def _tabulate(figures: ClusterFigures, reporter: Reporter) -> None:
    for title, night in (("Due time to device", figures.latency), ("Burst", figures.burst)):
        if night is not None:
            night.figures.tabulate(reporter, title)
            rows = [(role, night.idle_cores.get(role), cores) for role, cores in night.cores.items()]
            rows.append(("all", sum(night.idle_cores.values()), sum(night.cores.values())))
            reporter.table(f"{title}: cores kept busy", ("role", "idle", "stages due"), rows)
    if figures.nodes is not None:
        line = figures.nodes.line
        reporter.table(
            "The router's CPU per broadcast, us",
            ("nodes", "measured", "a + b x nodes"),
            [(count, us, line.at(count)) for count, us in figures.nodes.us_by_nodes.items()],
            caption=f"a = {line.a:.0f}, b = {line.b:.1f}",
        )
    if figures.devices is not None:
        ratio = figures.devices.ratio
        reporter.table(
            "The router's CPU per broadcast, us: few and many devices on the same nodes",
            ("round", "few", "many"),
            list(zip(range(1, ratio.rounds + 1), figures.devices.us_few, figures.devices.us_many, strict=True)),
            caption=f"ratio {ratio.median:.2f}, quartiles {ratio.q1:.2f} to {ratio.q3:.2f}",
        )
    if figures.reconnect is not None:
        storm = figures.reconnect
        reporter.table(
            "Redis commands",
            ("devices back", "baseline", "storm", "per device"),
            [(storm.returned, storm.baseline_commands, storm.storm_commands, storm.commands_per_reconnect)],
        )
