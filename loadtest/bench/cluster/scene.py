"""The running cluster as the parts of the benchmark use it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

from contract.tokens import KeyRing
from device_sim.client import now_ms
from loadtest.bench.cluster.options import ClusterOptions
from loadtest.bench.cpu import others_cpu_s, process_cpu_s, tree_cpu_s
from loadtest.bench.operator_api import OperatorApi
from loadtest.bench.report import Reporter
from loadtest.bench.system import Addresses
from loadtest.cluster.cluster import LocalCluster
from loadtest.installation_keys import device_ring

__all__ = [
    "OTHERS",
    "CpuReading",
    "Scene",
    "cores_by_role",
    "open_scene",
    "until",
]

_STORED_AT_ONCE: Final = 6
_STREAM_PATH: Final = "/v1/stream"

CpuReading = Mapping[str, float]
"""Member -> CPU seconds since its start."""
OTHERS: Final = "others"
"""In a CpuReading: what is no part of this benchmark."""


class Scene:
    """One cluster for all parts. `names` number what a part calls its own, so that repeats do not meet."""

    def __init__(
        self, cluster: LocalCluster, api: OperatorApi, options: ClusterOptions, reporter: Reporter, directory: Path
    ) -> None:
        self.cluster = cluster
        self.api = api
        self.options = options
        self.reporter = reporter
        self.directory = directory
        self.ring: KeyRing = device_ring(cluster.data_dir)
        self.numbers = itertools.count(1)

    @property
    def stream_urls(self) -> tuple[str, ...]:
        return tuple(url + _STREAM_PATH for url in self.cluster.push_urls)

    async def store(self, requests: Sequence[Mapping[str, Any]]) -> None:
        """Store events, a few at once. Raises CouldNotRun."""
        waiting = iter(requests)

        async def some() -> None:
            for request in waiting:
                await self.api.create_event(request)

        with self.reporter.progress("events stored", len(requests)) as progress:
            async with asyncio.TaskGroup() as group:
                for number in range(min(_STORED_AT_ONCE, len(requests))):
                    group.create_task(some(), name=f"store-{number}")
            progress(len(requests), len(requests))

    def cpu(self, *, fleet_pid: int) -> CpuReading:
        """What every member of the cluster, the fleet, and everything else on this machine used so far."""
        ours = {name: tree_cpu_s(member.pid) for name, member in self.cluster.members.items() if member.running}
        ours["fleet"] = process_cpu_s(fleet_pid)
        ours["benchmark"] = time.process_time()
        return {**ours, OTHERS: others_cpu_s()}

    async def links(self) -> list[int]:
        """Links of each router that says so."""
        found = (await self.cluster.status()).of("router")
        return [int(router.detail["links"]) for router in found if "links" in router.detail]

    def router_cpu_s(self) -> float:
        """What the routers used so far, together."""
        return sum(process_cpu_s(router.pid) for router in self.cluster.routers)


def cores_by_role(before: CpuReading, after: CpuReading, wall_s: float) -> dict[str, float]:
    """Mean cores kept busy between two readings, by role, all processes of a role together."""
    found: dict[str, float] = {}
    for name, used in after.items():
        role = name.rpartition("-")[0] or name
        found[role] = found.get(role, 0.0) + (used - before.get(name, 0.0)) / wall_s
    return {role: round(cores, 3) for role, cores in found.items()}


async def until(at_ms: float) -> None:
    """Sleep until a wall-clock moment; past ones at once."""
    await asyncio.sleep(max(0.0, (at_ms - now_ms()) / 1000))


def environment() -> dict[str, str]:
    """Settings of the services under test that differ from their defaults, and why."""
    return {
        # So that a storm is over within the time it is measured: 2,000 devices may return that fast.
        "PUSH_RECONNECT_WINDOW_MS": "3000",
    }


@asynccontextmanager
async def open_scene(directory: Path, options: ClusterOptions, reporter: Reporter) -> AsyncIterator[Scene]:
    """Start the cluster, and stop it again. Raises CouldNotRun."""
    cluster = LocalCluster(directory / "cluster", nodes=options.nodes, environment=environment(), log_level="WARNING")
    timeout = aiohttp.ClientTimeout(total=30)
    async with cluster, aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
        await cluster.leader()
        reporter.note(f"  cluster of {len(cluster.members)} processes ready")
        addresses = Addresses(
            producer=cluster.producer_urls[0],
            dgs=cluster.dgs_urls[0],
            push=cluster.push_urls[0],
            docs="",
            data_dir=str(cluster.data_dir),
            operator_token=cluster.operator_token,
        )
        yield Scene(cluster, OperatorApi(session, addresses), options, reporter, directory)
