"""`stagecue bench node-kill`: a push node dies with all devices on it; when are they back, and does a herd follow?

Several nodes share one port, as behind a balancer, and the devices are a real fleet, which returns as R21 says. All of
them connect while only the first node listens; it is killed once the others do. Broadcasts flow throughout. Then the
fleet is watched for one longest lifetime, which is compressed on the surviving nodes in proportion: had the return left
a herd, it would show when lives end together.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from contract.broadcast import Broadcast
from contract.errors import NodeUnreachable
from device_sim.audit import OutboxBroadcast, audit_fleet
from device_sim.client import now_ms
from loadtest.bench.cpu import others_cpu_s
from loadtest.bench.fleet_plan import FleetPlan, source_addresses
from loadtest.bench.fleet_process import FleetProcess
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.push.arena import make_room_for
from loadtest.bench.push.chain import TOPICS, Chain
from loadtest.bench.push.cores import choose_cores, kept_on
from loadtest.bench.push.defaults import live_ack, production
from loadtest.bench.push.node import PushNodeSubject
from loadtest.bench.push.node_kill_figures import NodeKillFigures, Published, node_kill_figures
from loadtest.bench.push.rings import new_rings
from loadtest.bench.report import Reporter
from loadtest.bench.running import run_benchmark
from loadtest.bench.validity import GeneratorLimits, GeneratorReport, others_invalid
from loadtest.cluster.ports import reserve_ports

__all__ = ["NodeKillOptions", "measure_node_kill", "run_node_kill"]

_CONNECTED_PER_S: Final = 200.0
"""Slower than this, and it is given up."""
_RETURN_WITHIN_S: Final = 180.0
"""Longer than the longest window a node tells, grown twice."""
_MOST: Final = 0.5
_RETURNING_EVERY_S: Final = 1.0
_WATCHING_EVERY_S: Final = 5.0
_LAG_P99_MS_MAX: Final = 300.0
_SETTLE_S: Final = 1.0
_ADDRESSES: Final = 250
_BLOCK: Final = 61


class NodeKillOptions(msgspec.Struct, frozen=True, kw_only=True):
    devices: int = 15_000
    nodes: int = 3
    lifetime_s: float = 240.0
    """The longest on the surviving nodes; the shortest in proportion to production's."""
    seed: int = 1

    def check(self) -> None:
        """Raises CouldNotRun naming the option and the rule."""
        make_room_for(self.devices)
        if not 2 <= self.nodes <= 16:
            raise CouldNotRun("--nodes: 2 to 16, one is killed")
        if self.lifetime_s < 5:
            raise CouldNotRun("--lifetime: at least 5 s")

    @property
    def quiet_s(self) -> float:
        """Longer than a device is away: twice the window it is told, and time to connect."""
        told = production()
        paced_s = self.devices / (told.handshakes_per_s * told.accept_share)
        return 2 * max(told.reconnect_window_ms / 1000, paced_s) + 4.0

    @property
    def compressed(self) -> dict[str, str]:
        """Settings of the surviving nodes."""
        shortest_s = self.lifetime_s * production().lifetime_min_s / production().lifetime_max_s
        return {"PUSH_LIFETIME_MIN_S": f"{shortest_s:.3f}", "PUSH_LIFETIME_MAX_S": f"{self.lifetime_s:.3f}"}


class _Broadcasting:
    """Broadcasts to every node that lives, `every_s`; keeps what it published, and when."""

    def __init__(self, chain: Chain, nodes: Sequence[PushNodeSubject]) -> None:
        self._chain = chain
        self._nodes = nodes
        self.every_s = _RETURNING_EVERY_S
        self.paused = False
        self.published: list[tuple[Broadcast, Published]] = []

    async def run(self) -> None:
        while not self.paused:
            broadcast = self._chain.next()
            self.published.append((broadcast, Published(broadcast.timestamp, time.monotonic())))
            for node in self._nodes:
                if node.feed is not None and node.feed.alive:
                    with contextlib.suppress(NodeUnreachable):  # it was killed this very moment
                        await node.feed.deliver((broadcast,))
            await asyncio.sleep(self.every_s)


class _Nodes:
    """The first node, and those that survive it, on one port."""

    def __init__(self, options: NodeKillOptions, directory: Path, stack: AsyncExitStack, core: int) -> None:
        self.rings = new_rings()
        self.chain = Chain(now_ms, ack=live_ack())
        self._stack = stack
        port = stack.enter_context(reserve_ports(1))[0]
        self.url = f"ws://127.0.0.1:{port}/v1/stream"
        self.all = [
            PushNodeSubject(
                directory, core=core, rings=self.rings, chain=self.chain, name=f"node-{number}", shared_port=port,
                environment={"PUSH_NODE_ID": f"node-{number}", **(options.compressed if number > 1 else {})},
            )
            for number in range(1, options.nodes + 1)
        ]  # fmt: skip

    async def start(self, nodes: Sequence[PushNodeSubject]) -> None:
        for node in nodes:
            self._stack.push_async_callback(node.stop)
            await node.start()


async def measure_node_kill(options: NodeKillOptions, reporter: Reporter) -> NodeKillFigures:
    """Run it once. Raises CouldNotRun; nothing is left running."""
    options.check()
    cores = choose_cores()
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stagecue-bench-")))
        stack.enter_context(kept_on(cores.load))
        nodes = _Nodes(options, directory, stack, cores.server)
        await nodes.start(nodes.all[:1])
        plan = FleetPlan(
            devices=options.devices,
            push_urls=(nodes.url,),
            topics=TOPICS,
            seed=options.seed,
            sources=source_addresses(min(options.devices, _ADDRESSES), block=_BLOCK),
        )
        fleet = FleetProcess(directory / "fleet", plan, device_ring=nodes.rings.device_ring())
        return await _measure(options, reporter, nodes, await stack.enter_async_context(fleet))


async def _measure(options: NodeKillOptions, reporter: Reporter, nodes: _Nodes, fleet: FleetProcess) -> NodeKillFigures:
    with reporter.progress("devices connected", options.devices) as progress:
        await fleet.connect(over_s=options.devices / 5_000)
        await fleet.subscribed(20.0 + options.devices / _CONNECTED_PER_S, progress=progress)
    await nodes.start(nodes.all[1:])
    broadcasting = _Broadcasting(nodes.chain, nodes.all)
    async with _in_background(broadcasting):
        await asyncio.sleep(_SETTLE_S)
        await fleet.watch()
        before, others_s = await fleet.snapshot(), others_cpu_s()
        killed_at_s = time.monotonic()
        nodes.all[0].kill()
        await nodes.all[0].wait()
        with reporter.progress("devices back", options.devices) as progress:
            deadline_s = killed_at_s + _RETURN_WITHIN_S
            while time.monotonic() < deadline_s:
                found = await fleet.snapshot()
                returned = found.handshakes - before.handshakes
                progress(min(returned, found.connected), options.devices)
                # Lives end meanwhile, some are always on their way. The record says when each was back.
                if returned >= options.devices and found.connected >= _MOST * options.devices:
                    break
                await asyncio.sleep(0.2)
        broadcasting.every_s = _WATCHING_EVERY_S
        watched_s = max(options.lifetime_s, options.quiet_s)
        with reporter.progress("seconds watched", int(watched_s)) as progress:
            await _count_down(watched_s - options.quiet_s, progress, watched_s)
            # Whoever is away now has heard everything once it is back, and is back before the record is closed.
            broadcasting.paused = True
            await _count_down(options.quiet_s, progress, watched_s, since_s=watched_s - options.quiet_s)
    until_s = time.monotonic()
    others_cores = max(0.0, others_cpu_s() - others_s) / (until_s - killed_at_s)
    record = await fleet.finish()
    outbox = [
        OutboxBroadcast(topic=each.topic, state_key=each.state_key, timestamp=each.timestamp, prev=each.prev)
        for each in (*nodes.chain.history, *(broadcast for broadcast, _ in broadcasting.published))
    ]
    figures = await asyncio.to_thread(
        lambda: node_kill_figures(
            record,
            audit_fleet(outbox, record.logs),
            [published for _, published in broadcasting.published],
            killed_at_s=killed_at_s,
            until_s=until_s,
            nodes=options.nodes,
            lifetime_s=options.lifetime_s,
        )
    )
    assert record.generator is not None, "it was watched"
    invalid = (*_generator_invalid(record.generator), *others_invalid(others_cores))
    return msgspec.structs.replace(figures, invalid=invalid)


def _generator_invalid(found: GeneratorReport) -> list[str]:
    """A broadcast to all devices keeps their process busy for a fifth of a second: what is told here is in seconds."""
    because = []
    if found.cores > GeneratorLimits().cores_max:
        because.append(f"the fleet used {found.cores:.2f} cores of its one (at most {GeneratorLimits().cores_max})")
    if found.lag_p99_ms > _LAG_P99_MS_MAX:
        because.append(f"the fleet's loop lagged {found.lag_p99_ms:.0f} ms at p99 (at most {_LAG_P99_MS_MAX:.0f} ms)")
    return because


async def _count_down(
    seconds: float, progress: Callable[[int, int], None], whole_s: float, *, since_s: float = 0.0
) -> None:
    """Sleep, and show how much of the whole is over."""
    until_s = time.monotonic() + seconds
    while (left_s := until_s - time.monotonic()) > 0:
        progress(int(since_s + seconds - left_s), int(whole_s))
        await asyncio.sleep(min(1.0, left_s))


@asynccontextmanager
async def _in_background(broadcasting: _Broadcasting) -> AsyncIterator[None]:
    task = asyncio.create_task(broadcasting.run(), name="bench.broadcasting")
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.wait({task})


def run_node_kill(options: NodeKillOptions, *, as_json: bool = False) -> int:
    """Measure, print, and return the exit code."""
    return run_benchmark(lambda reporter: measure_node_kill(options, reporter), seed=options.seed, as_json=as_json)
