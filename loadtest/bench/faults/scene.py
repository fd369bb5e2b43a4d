"""A running cluster and its fleet as faults see them: harm done, and progress read from what the services say."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import aiohttp
import msgspec

from contract.runtime.system_clock import write_clock_offset
from loadtest.bench.faults.recovery import Phase
from loadtest.bench.outcome import CouldNotRun
from loadtest.cluster.cluster import LocalCluster
from loadtest.cluster.link_proxy import LinkProxy
from loadtest.cluster.service import ServiceMember

__all__ = ["ClusterScene", "ConnectedFleet", "Step"]

_ANSWER_WITHIN_S: Final = 1.0
_LOOK_EVERY_S: Final = 0.1
_IN_CHARGE_WITHIN_S: Final = 20.0
_SETTLED_WITHIN_S: Final = 30.0


class ConnectedFleet(Protocol):
    """What the scene asks of the fleet."""

    async def connected(self) -> tuple[int, int]:
        """(devices with a welcomed connection, devices)."""
        ...


class Step(msgspec.Struct, frozen=True):
    name: str
    at_ms: float
    bound_s: float | None


class ClusterScene:
    """A `Scene`. One per run of a fault; the cluster, the proxy and the session outlive it."""

    def __init__(
        self,
        cluster: LocalCluster,
        session: aiohttp.ClientSession,
        fleet: ConnectedFleet,
        *,
        proxy: LinkProxy,
        clock_file: Path,
        hold_s: float,
        note: Callable[[str], None],
    ) -> None:
        self._cluster = cluster
        self._session = session
        self._fleet = fleet
        self._proxy = proxy
        self._clock_file = clock_file
        self._hold_s = hold_s
        self._note = note
        self._partitions = 0
        self.steps: list[Step] = []
        self.remarks: list[str] = []

    # what was done, when
    def step(self, name: str, *, bound_s: float | None = None) -> None:
        self.steps.append(Step(name, time.time() * 1000, bound_s))
        self._note(f"  {name}")

    def phases(self, until_ms: float) -> list[Phase]:
        """Each step until the next one, the last until `until_ms`."""
        ends = [step.at_ms for step in self.steps[1:]] + [until_ms]
        return [
            Phase(name=step.name, at_ms=step.at_ms, until_ms=end, bound_s=step.bound_s)
            for step, end in zip(self.steps, ends, strict=True)
        ]

    def note(self, line: str) -> None:
        self.remarks.append(line)
        self._note(f"  {line}")

    async def hold(self, seconds: float | None = None) -> None:
        await asyncio.sleep(self._hold_s if seconds is None else seconds)

    # who is who
    async def leader(self) -> str:
        return (await self._cluster.leader()).name

    async def busiest_router(self) -> str:
        found = await self._ask(self._cluster.routers)
        if not found:
            raise CouldNotRun("no router answers")
        return max(sorted(found), key=lambda name: len(found[name].get("partitions", {})))

    def a_node(self) -> str:
        return self._cluster.nodes[0].name

    def everything_of_ours(self) -> list[str]:
        return [service.name for service in self._cluster.services]

    # harm
    async def kill(self, name: str) -> None:
        member = self._cluster.member(name)
        member.kill()
        await member.wait()

    async def start(self, name: str) -> None:
        await self._cluster.member(name).start()

    async def stop(self, name: str) -> None:
        code = await self._cluster.member(name).stop()
        if code != 0:
            raise CouldNotRun(f"{name} ended with code {code} when asked to stop{self._cluster.member(name).log_end()}")

    def freeze(self, name: str) -> None:
        self._cluster.member(name).freeze()

    def thaw(self, name: str) -> None:
        self._cluster.member(name).thaw()

    async def lose_redis(self, *, seconds: float | None) -> None:
        if seconds is None:
            await self._cluster.redis.lose_everything()
        else:
            await self._cluster.redis.lose_last(seconds)

    async def take_lease_away(self) -> None:
        await asyncio.to_thread(_end_lease, self._cluster.postgres.url)

    def rival_leaders_seen(self) -> int:
        return sum(_refused(member.log_path) for member in self._cluster.producers)

    def step_clocks(self, by_ms: int) -> None:
        write_clock_offset(self._clock_file, by_ms)

    def link_pass(self) -> None:
        self._proxy.resume()

    def link_drop(self) -> None:
        self._proxy.reset()

    def link_delay(self, seconds: float) -> None:
        self._proxy.delay(seconds * 1000)

    def link_half(self) -> None:
        self._proxy.half("to_target")

    # progress
    async def until_leader_is_not(self, name: str) -> None:
        async def another_leads() -> str | None:
            found = await self._ask(self._cluster.producers, without=name)
            return None if any(each.get("leads") for each in found.values()) else "no other producer leads"

        await self._until(another_leads, _IN_CHARGE_WITHIN_S)

    async def until_routers_without(self, name: str) -> None:
        async def others_have_all() -> str | None:
            found = await self._ask(self._cluster.routers, without=name)
            owned = {number for each in found.values() for number in each.get("partitions", {})}
            return None if len(owned) >= self._partitions else f"{len(owned)} of {self._partitions} partitions taken"

        await self._until(others_have_all, _IN_CHARGE_WITHIN_S)

    async def until_devices_left(self, name: str) -> None:
        _, devices = await self._fleet.connected()

        async def others_have_them() -> str | None:
            found = await self._ask(self._cluster.nodes, without=name)
            connections = sum(each.get("connections", 0) for each in found.values())
            return None if connections >= devices else f"{connections} of {devices} devices on other nodes"

        await self._until(others_have_them, _IN_CHARGE_WITHIN_S)

    async def until_settled(self) -> None:
        await self._until(self._unsettled, _SETTLED_WITHIN_S)

    async def _unsettled(self) -> str | None:
        producers, routers, nodes, (connected, devices) = await asyncio.gather(
            self._ask(self._cluster.producers),
            self._ask(self._cluster.routers),
            self._ask(self._cluster.nodes),
            self._fleet.connected(),
        )
        for role, answers, members in (
            ("producer", producers, self._cluster.producers),
            ("router", routers, self._cluster.routers),
            ("node", nodes, self._cluster.nodes),
        ):
            if len(answers) < len(members):
                return f"{len(answers)} of {len(members)} {role}s answer"
        leaders = sum(bool(each.get("leads")) for each in producers.values())
        owned = sorted(number for each in routers.values() for number in each.get("partitions", {}))
        self._partitions = max(self._partitions, len(set(owned)))
        behind = sorted({name for each in routers.values() for name in each.get("behind", ())})
        links = min(each.get("links", 0) for each in routers.values())
        linked = min(each.get("routers", 0) for each in nodes.values())
        return next(
            (
                why
                for holds, why in (
                    (leaders == 1, f"{leaders} producers lead"),
                    (owned, "no router has a partition"),
                    (len(owned) == len(set(owned)) == self._partitions, f"routers have partitions {owned}"),
                    (links == len(nodes), f"a router is linked to {links} of {len(nodes)} nodes"),
                    (linked == len(routers), f"a node is linked to {linked} of {len(routers)} routers"),
                    (not behind, f"{', '.join(behind)} behind"),
                    (connected == devices, f"{connected} of {devices} devices connected"),
                )
                if not holds
            ),
            None,
        )

    async def _until(self, unmet: Callable[[], Awaitable[str | None]], within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while (why := await unmet()) is not None:
            if time.monotonic() >= deadline:
                raise CouldNotRun(f"after {within_s:.0f} s: {why}")
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _ask(self, members: Iterable[ServiceMember], *, without: str = "") -> Mapping[str, Mapping[str, Any]]:
        """Status by name, of those that run, are not frozen and answer."""
        asked = [each for each in members if each.running and not each.frozen and each.name != without]
        answers = await asyncio.gather(*(self._status(each) for each in asked))
        return {each.name: answer for each, answer in zip(asked, answers, strict=True) if answer is not None}

    async def _status(self, member: ServiceMember) -> dict[str, Any] | None:
        try:
            async with (
                asyncio.timeout(_ANSWER_WITHIN_S),
                self._session.get(f"{member.url}/status") as answer,
            ):
                found = await answer.json(content_type=None)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return None
        return found if answer.status == 200 and isinstance(found, dict) else None


def _end_lease(url: str) -> None:
    import psycopg

    with psycopg.connect(url.replace("+psycopg", "", 1), connect_timeout=3) as connection:
        connection.execute("SET lock_timeout = '5s'")  # its holder may have been frozen while it held the row
        connection.execute("UPDATE lease SET expires_at = 0")


def _refused(log: Path) -> int:
    """Transactions of a producer that believed it led, refused by the lease's epoch, as its log has them."""
    if not log.exists():
        return 0
    return sum(
        json.loads(line).get("event") == "fenced" for line in log.read_bytes().splitlines() if b'"fenced"' in line
    )
