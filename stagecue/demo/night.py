"""One compressed night: server, devices, operator, faults, judge."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol

import aiohttp

from device_sim.audit import audit_fleet, distinct_map_share, outbox_from_json
from device_sim.device import DeviceOptions
from device_sim.fleet import Fleet, FleetOptions
from loadtest.bench.operator_api import OperatorApi
from loadtest.bench.system import EmbeddedSystem
from stagecue.demo.calendar import move_calendar
from stagecue.demo.plan import NIGHT, NightPlan, stage_template_toml
from stagecue.demo.report import NightReport, report_of

__all__ = ["FIGHT_UID", "Night", "NightScreen"]

_CAUGHT_UP_WITHIN_S: Final = 20.0
"""A device that met the dead server twice waits longer before its third attempt (R21)."""
FIGHT_UID: Final = "paul-tyson-2024@live.stagecue.example"
_LEAD_S: Final = 3600
"""At first the calendar has the event an hour away: time to prefetch. Then the feed moves it to now."""
_WATCH_EVERY_S: Final = 0.1
_REST_TIMEOUT_S: Final = 10.0


class NightScreen(Protocol):
    """Where the night is shown while it happens."""

    def step(self, text: str) -> None:
        """Something happened; the one before is done."""
        ...

    def progress(self, what: str, done: int, total: int) -> None: ...

    def devices(self, showing: Counter[str], online: int, total: int) -> None:
        """How many devices show which state right now."""
        ...


class Night:
    """Runs the script once. The server keeps running afterwards until `close` of the stack it was opened on."""

    def __init__(
        self,
        *,
        devices: int,
        directory: Path,
        calendar: str,
        screen: NightScreen,
        catalog: Path | None = None,
        seed: int = 1,
        plan: NightPlan = NIGHT,
    ) -> None:
        self._devices = devices
        self._directory = directory
        self._calendar = calendar
        self._screen = screen
        self._catalog = catalog
        self._seed = seed
        self._plan = plan
        self.server: EmbeddedSystem | None = None

    async def run(self, stack: AsyncExitStack) -> NightReport:
        """Play and judge it. Raises CouldNotRun, Unavailable: it could not be played."""
        server = await self._start_server(stack)
        timeout = aiohttp.ClientTimeout(total=_REST_TIMEOUT_S)
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout, trust_env=False))
        operator = OperatorApi(session, server.addresses)
        event = await self._plan_the_evening(operator)
        fleet_options = FleetOptions(
            devices=self._devices,
            dgs_url=server.addresses.dgs,
            event_ids=(event["id"],),
            seed=self._seed,
            device=DeviceOptions(reconnect_window_ms=self._plan.reconnect_window_ms),
        )
        async with Fleet(fleet_options) as fleet:
            await self._get_ready(fleet)
            watching = asyncio.create_task(self._watch(fleet), name="demo.watch")
            try:
                origin = await self._play(server, operator, fleet, event)
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
            self._screen.step("Judging: outbox against every device's socket and screen")
            return await self._judge(operator, fleet, event, origin, server.kills)

    # before
    async def _start_server(self, stack: AsyncExitStack) -> EmbeddedSystem:
        self._screen.step("Starting the whole system in one process: SQLite and memory, no server needed")
        template = self._directory / "stages.toml"
        template.write_text(stage_template_toml())
        options = ["--stage-template", str(template)]
        if self._catalog is not None:
            options += ["--catalog", str(self._catalog)]
        server = EmbeddedSystem(
            self._directory,
            options=options,
            environment={
                "PUSH_RECONNECT_WINDOW_MS": str(self._plan.reconnect_window_ms),
                "PUSH_DRAIN_GUARD_S": "0",  # the night is so short that a stage is always near
                "DGS_CONNECT_WINDOW_MS": "0",
            },
        )
        stack.push_async_callback(server.stop)
        self.server = server
        await server.start()
        return server

    async def _plan_the_evening(self, operator: OperatorApi) -> dict[str, Any]:
        self._screen.step("Importing the calendar: real events, each in its own time zone")
        start = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=_LEAD_S)
        report = await operator.import_calendar(self._moved(start))
        created = next(entry for entry in report["created"] if entry["uid"] == FIGHT_UID)
        return await operator.event(created["id"])

    async def _get_ready(self, fleet: Fleet) -> None:
        total = self._devices
        self._screen.step(f"Prefetching: {total} profiles, each its own stage map and artwork, over GraphQL")
        await fleet.prefetch_all(lambda done, all_: self._screen.progress("stage maps", done, all_))
        self._screen.step("Connecting over WebSocket")
        await fleet.connect_all(over_s=1.0, progress=lambda done, all_: self._screen.progress("connected", done, all_))
        await fleet.wait_subscribed(timeout_s=10.0)

    # the night
    async def _play(
        self, server: EmbeddedSystem, operator: OperatorApi, fleet: Fleet, event: dict[str, Any]
    ) -> dict[str, int]:
        plan, screen = self._plan, self._screen
        # Calendars know whole seconds: the night's zero is the next one.
        zero = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1)
        start = zero + timedelta(seconds=plan.starts_s)
        report = await operator.import_calendar(self._moved(start))
        if [entry["uid"] for entry in report["created"]] or FIGHT_UID not in [one["uid"] for one in report["moved"]]:
            raise AssertionError("a changed feed must move its events, not add them")
        screen.step(f"The feed moved {event['title']} to tonight")

        async def at(seconds: float) -> None:
            await asyncio.sleep(max(0.0, zero.timestamp() + seconds - time.time()))

        await at(plan.slips_at_s)
        await operator.shift(event["id"], plan.slip_s)
        screen.step(f"The start slips: the operator shifts it by {plan.slip_s} s")
        await at(plan.offline_at_s)
        gone = fleet.take_offline(plan.offline_share, plan.offline_for_s)
        screen.step(f"{len(gone)} devices lose the network for {plan.offline_for_s:.0f} s, across the start")
        await at(plan.killed_at_s)
        origin = await self._origin_requests(operator, fleet, event["id"])
        screen.step("kill -9 of the server")
        server.kill()
        await server.wait()
        killed_at = time.time()
        await server.start()
        screen.step(f"Restarted on the same data: serving again {time.time() - killed_at:.1f} s after its death")
        await at(plan.ended_s + plan.over_after_end_s)
        newest = {entry["topic"]: entry["timestamp"] for entry in await operator.broadcasts(event["id"])}
        await fleet.wait_caught_up(newest, timeout_s=_CAUGHT_UP_WITHIN_S)
        for timestamp, count in (await self._origin_requests(operator, fleet, event["id"])).items():
            origin.setdefault(timestamp, count)
        return origin

    async def _origin_requests(self, operator: OperatorApi, fleet: Fleet, event_id: str) -> dict[str, int]:
        """Per broadcast so far: requests from 1 s before it was due to the last render it caused.

        Asked in the life of the server that broadcast it, since the count is kept in its memory.
        """
        counts: dict[str, int] = {}
        started_ms = int(self.server.started_at_s * 1000) if self.server else 0
        for entry in await operator.broadcasts(event_id):
            if entry["published_at_ms"] is None or entry["published_at_ms"] < started_ms:
                continue
            renders = [
                render.at_ms
                for client in fleet.clients
                for render in client.device.renders or ()
                if render.timestamp == entry["timestamp"]
            ]
            until_ms = max(renders, default=entry["dispatched_at_ms"]) + 1
            since_ms = (entry["due_at_ms"] or entry["dispatched_at_ms"]) - 1000
            counts[str(entry["timestamp"])] = await operator.origin_requests(since_ms, until_ms)
        return counts

    async def _watch(self, fleet: Fleet) -> None:
        while True:
            showing: Counter[str] = Counter()
            for client in fleet.clients:
                renders = client.device.renders
                showing[renders[-1].state_key if renders else ""] += 1
            self._screen.devices(showing, fleet.online, len(fleet.clients))
            await asyncio.sleep(_WATCH_EVERY_S)

    # after
    async def _judge(
        self, operator: OperatorApi, fleet: Fleet, event: dict[str, Any], origin: dict[str, int], kills: int
    ) -> NightReport:
        outbox = outbox_from_json(await operator.broadcasts(event["id"]))
        audit = audit_fleet(outbox, fleet.logs(), fleet.recorded)
        await asyncio.sleep(1.2)  # reach is reported once a second
        written = {row["timestamp"]: row["written"] + row["replayed"] for row in await operator.reach(event["id"])}
        return report_of(
            audit, origin, written, kills=kills, title=event["title"], distinct=distinct_map_share(fleet.recorded)
        )

    def _moved(self, start: datetime) -> str:
        return move_calendar(self._calendar, uid=FIGHT_UID, start=start, length=timedelta(seconds=self._plan.length_s))
