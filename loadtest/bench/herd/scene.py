"""What runs for a herd: the cluster, its push nodes started a few at a time, and the fleets."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import aiohttp
import psutil

from contract.names import topic_of
from contract.tokens import KeyRing
from loadtest.bench.fleet_plan import FleetPlan
from loadtest.bench.fleet_process import FleetProcess
from loadtest.bench.herd.footprint import Footprint, read_footprint
from loadtest.bench.herd.layout import HerdLayout, fleet_plans
from loadtest.bench.herd.spent import CLIENTS, PIPELINE, SERVERS, CpuReading, read_cpu
from loadtest.bench.herd.turns import take_long_turns
from loadtest.bench.operator_api import OperatorApi
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.system import Addresses
from loadtest.cluster.cluster import LocalCluster
from loadtest.cluster.ports import reserve_ports
from loadtest.cluster.service import PushMember
from loadtest.installation_keys import device_ring
from loadtest.open_files import raise_file_limit

__all__ = ["EVENT_ID", "Scene", "open_scene"]

EVENT_ID: Final = "herd-night"
_AT_ONCE: Final = 4
"""Processes starting at the same time: more would only wait for the cores, and for longer than a start may take."""
_STREAM_PATH: Final = "/v1/stream"
_TOPIC_WITHIN_S: Final = 20.0
_END_WITHIN_S: Final = 120.0
Tell = Callable[[int, int], None]


class Scene:
    """Everything started. Processes come and go through `nodes` and `fleets` alone."""

    def __init__(
        self,
        cluster: LocalCluster,
        nodes: Sequence[PushMember],
        api: OperatorApi,
        ring: KeyRing,
        directory: Path,
        layout: HerdLayout,
    ) -> None:
        self.cluster = cluster
        self.nodes = nodes
        self.api = api
        self.layout = layout
        self.fleets: list[FleetProcess] = []
        self.topic = topic_of(EVENT_ID)
        self.turns_taken = True
        """False: this system does not let processes choose how long they keep a core."""
        self.fleet_alone_bytes = 0
        """What the process of a fleet allocates for itself, without devices."""
        self._ring = ring
        self._directory = directory

    def pids(self) -> Mapping[str, list[int]]:
        """Of what runs, by role."""
        return {
            SERVERS: [node.pid for node in self.nodes if node.running],
            CLIENTS: [fleet.pid for fleet in self.fleets],
            PIPELINE: [member.pid for member in self.cluster.members.values() if member.running],
        }

    def cpu(self) -> CpuReading:
        found = self.pids()
        return read_cpu(servers=found[SERVERS], clients=found[CLIENTS], pipeline=found[PIPELINE])

    async def footprint(self) -> Footprint:
        found = self.pids()
        return await asyncio.to_thread(read_footprint, found)

    async def start_nodes(self, tell: Tell) -> None:
        """A few at a time. Raises CouldNotRun."""
        await _a_few_at_once([node.start for node in self.nodes], tell)
        self._long_turns(node.pid for node in self.nodes)

    async def start_fleets(self, seed: int, tell: Tell) -> None:
        """Build all devices; none connects. Raises CouldNotRun."""
        plans = fleet_plans(
            self.layout,
            push_urls=[node.stream_url + _STREAM_PATH for node in self.nodes],
            dgs_url=self.cluster.dgs_urls[0],
            event_id=EVENT_ID,
            topic=self.topic,
            seed=seed,
        )
        self.fleet_alone_bytes = await self._weigh(plans[0])

        async def start(number: int, plan: FleetPlan) -> None:
            fleet = FleetProcess(self._directory / f"fleet-{number}", plan, device_ring=self._ring)
            await fleet.start()
            self.fleets.append(fleet)

        await _a_few_at_once([lambda n=n, p=p: start(n, p) for n, p in enumerate(plans)], tell)  # type: ignore[misc]
        self.fleets.sort(key=lambda fleet: fleet.plan.first)
        self._long_turns(fleet.pid for fleet in self.fleets)

    def _long_turns(self, pids: Iterable[int]) -> None:
        if self.layout.turn_ms:
            taken = [take_long_turns(pid, self.layout.turn_ms) for pid in pids]
            self.turns_taken = self.turns_taken and all(taken)

    async def until_known(self) -> None:
        """Until the schedule has reached the store that push nodes and the DGS read. Raises CouldNotRun."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5), trust_env=False) as session:
            with suppress(TimeoutError):
                async with asyncio.timeout(_TOPIC_WITHIN_S):
                    while not await self._dgs_knows(session):  # noqa: ASYNC110
                        await asyncio.sleep(0.2)
                    return
        raise CouldNotRun(f"the DGS does not know the event {_TOPIC_WITHIN_S:.0f} s after it was stored")

    async def _dgs_knows(self, session: aiohttp.ClientSession) -> bool:
        query = '{ broadcastChannel(eventIds: ["%s"], profileId: "p-0", device: {kind: TV}) { url } }' % EVENT_ID  # noqa: UP031
        with suppress(aiohttp.ClientError, TimeoutError, ValueError):
            async with session.post(self.cluster.dgs_urls[0] + "/graphql", json={"query": query}) as answer:
                found = await answer.json()
                return bool((found.get("data") or {}).get("broadcastChannel"))
        return False

    async def _weigh(self, plan: FleetPlan) -> int:
        """Memory of a fleet's process with a single device, which is next to none."""
        alone = FleetPlan(
            devices=1, push_urls=plan.push_urls, topics=plan.topics, record="light", prefetch=plan.prefetch
        )
        async with FleetProcess(self._directory / "fleet-alone", alone, device_ring=self._ring) as fleet:
            found = await asyncio.to_thread(read_footprint, {CLIENTS: [fleet.pid]})
        return found.own_bytes[CLIENTS]

    async def end(self) -> None:
        """All fleets and nodes at once and for good: nobody is left to say goodbye to. Idempotent.

        The kernel closes what they had open before it lets them go: half a minute for a million devices. Raises
        CouldNotRun naming those that are still there after two.
        """
        ending = [fleet.pid for fleet in self.fleets]
        for pid in ending:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        ending += [node.pid for node in self.nodes if node.running]
        for node in self.nodes:
            node.kill()
        deadline_s = time.monotonic() + _END_WITHIN_S
        while (left := [pid for pid in ending if psutil.pid_exists(pid)]) and time.monotonic() < deadline_s:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        if left:
            raise CouldNotRun(f"processes that do not end: {', '.join(map(str, left))}")
        await asyncio.gather(*(fleet.stop() for fleet in self.fleets), *(node.wait() for node in self.nodes))
        self.fleets.clear()


@asynccontextmanager
async def open_scene(directory: Path, layout: HerdLayout) -> AsyncIterator[Scene]:
    """The cluster runs, nodes and fleets do not yet; all of it is gone afterwards. Raises CouldNotRun."""
    # What nodes may open they inherit: a limit raised by every one for itself would be its own.
    raise_file_limit()
    async with AsyncExitStack() as stack:
        ports = stack.enter_context(reserve_ports(layout.nodes))
        cluster = LocalCluster(
            directory / "cluster", producers=1, routers=1, nodes=0, dgs=1, environment=layout.environment,
            log_level="WARNING",
        )  # fmt: skip
        nodes = [
            PushMember(
                f"push-{number}", cluster.directory / f"push-{number}", data_dir=cluster.data_dir,
                port_base=ports[number], log_level="WARNING",
            )
            for number in range(layout.nodes)
        ]  # fmt: skip
        await stack.enter_async_context(cluster)
        await cluster.leader()
        for node in nodes:
            node.environment = cluster.service_environment(node)
        timeout = aiohttp.ClientTimeout(total=30)
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout, trust_env=False))
        addresses = Addresses(
            producer=cluster.producer_urls[0],
            dgs=cluster.dgs_urls[0],
            push=nodes[0].stream_url,
            docs="",
            data_dir=str(cluster.data_dir),
            operator_token=cluster.operator_token,
        )
        scene = Scene(cluster, nodes, OperatorApi(session, addresses), device_ring(cluster.data_dir), directory, layout)
        stack.push_async_callback(scene.end)
        yield scene


async def _a_few_at_once(starts: Sequence[Callable[[], Awaitable[None]]], tell: Tell) -> None:
    """Raises the first CouldNotRun, cancelling the rest."""
    waiting = iter(starts)
    done = 0

    async def some() -> None:
        nonlocal done
        for start in waiting:
            await start()
            done += 1
            tell(done, len(starts))

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(min(_AT_ONCE, len(starts))):
                group.create_task(some(), name=f"start-{number}")
    except* CouldNotRun as failed:
        raise failed.exceptions[0] from None
