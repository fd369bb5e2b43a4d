"""The maps of a fleet of load devices: one per profile from a real DGS, shared by the profile's devices."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from contract.errors import BroadcastSystemError
from device_sim.client import DeviceClient, now_ms
from device_sim.fleet import Fleet
from device_sim.prefetch import Prefetched, Prefetcher
from device_sim.stage_map import StageMap
from loadtest.bench.fleet_commands import PrefetchAnswer
from loadtest.bench.fleet_plan import PrefetchPlan

__all__ = ["FleetMaps"]

_TV: Final = {"kind": "TV", "screen": "LARGE"}
_BATCH: Final = 256
"""Devices given their maps between two looks at the loop's other work."""
_Came = tuple[Prefetched, int]
"""And when, by this host's clock in milliseconds."""


class FleetMaps:
    """Fetches in a task of its own. One loop, one owner, who closes it."""

    def __init__(self, plan: PrefetchPlan, fleet: Fleet, seed: int) -> None:
        self._plan = plan
        self._fleet = fleet
        self._seed = seed
        self._started_s = 0.0
        self._took_s: float | None = None
        self._done = 0
        self._distinct = 0
        self._operations = self._retries = 0
        self._failed = ""
        self._task: asyncio.Task[None] | None = None

    def fetch(self) -> PrefetchAnswer:
        """Start, the first time; how it goes, at any time."""
        if self._task is None:
            self._started_s = time.monotonic()
            self._task = asyncio.get_running_loop().create_task(self._run(), name="fleet-maps")
        return PrefetchAnswer(
            profiles=self._plan.profiles,
            done=self._done,
            seconds=round(time.monotonic() - self._started_s if self._took_s is None else self._took_s, 3),
            over=self._took_s is not None,
            failed=self._failed,
            distinct_maps=self._distinct,
            operations=self._operations,
            retries=self._retries,
        )

    async def close(self) -> None:
        """Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            maps = await self._ask_all()
        except* BroadcastSystemError as failed:
            self._failed = str(failed.exceptions[0])
        else:
            self._distinct = len({tuple(_shown(each) for each in one.maps.values()) for one, _ in maps})
            await self._share(maps)
            self._took_s = time.monotonic() - self._started_s

    async def _ask_all(self) -> list[_Came]:
        plan = self._plan
        found: dict[int, _Came] = {}
        waiting = iter(range(plan.profiles))
        async with Prefetcher(
            plan.dgs_url, concurrency=plan.concurrency, artwork=plan.artwork, timeout_s=plan.timeout_s,
            keep_content=plan.keep_content, seed=self._seed, records=False,
        ) as prefetcher:  # fmt: skip

            async def worker() -> None:
                for index in waiting:
                    profile = f"p-{plan.first_profile + index}"
                    came = await prefetcher.prefetch(profile, f"d-{profile}", plan.event_ids, device=_TV)
                    found[index] = came, now_ms()
                    self._done += 1

            try:
                async with asyncio.TaskGroup() as workers:
                    for number in range(min(plan.concurrency, plan.profiles)):
                        workers.create_task(worker(), name=f"maps-{number}")
            finally:
                self._operations, self._retries = prefetcher.counts.operations, prefetcher.counts.retries
        return [found[index] for index in range(plan.profiles)]

    async def _share(self, maps: list[_Came]) -> None:
        for number, client in enumerate(self._fleet.clients):
            _give(client, *maps[number % len(maps)], self._fleet.draw())
            if number % _BATCH == 0:
                await asyncio.sleep(0)


def _give(client: DeviceClient, prefetched: Prefetched, came_ms: int, draw: float) -> None:
    """Its lifetime, and the server's clock, count from when it came."""
    device = client.device
    device.artwork = prefetched.artwork
    for topic, stage_map in prefetched.maps.items():
        client.carry_out(device.map_fetched(came_ms, topic, stage_map, draw))


def _shown(stage_map: StageMap) -> tuple[str, ...]:
    return (stage_map.default.fingerprint, *(entry.fingerprint for _, entry in sorted(stage_map.entries.items())))
