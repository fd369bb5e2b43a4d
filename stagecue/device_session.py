"""One device on a running system, from prefetch to goodbye, and everything that happens to it told as it happens.

    session = DeviceSession(plan, tell)
    await session.run(stop)

It is the fleet's device with one more listener: what a device team has to write is what `run` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from contract.close_codes import may_reconnect
from contract.errors import BroadcastSystemError
from contract.frames import BroadcastFrame, ContinuityFrame
from device_sim.client import ConnectionStep, DeviceClient, now_ms
from device_sim.device import Device
from device_sim.fleet import Fleet, FleetOptions
from device_sim.prefetch import Prefetched, Refused
from device_sim.stage_map import StageMap
from device_sim.topic import Render, TopicState
from stagecue.device_screen_changes import (
    Change,
    Seen,
    changes_between,
    close_reason,
    length,
    of_broadcast,
    of_continuity,
    of_render,
    see,
    token_expiry_ms,
)

__all__ = ["CannotBegin", "DevicePlan", "DeviceSession", "entry_of"]

_LOOK_EVERY_S: Final = 0.1


class CannotBegin(Exception):
    """The device has nothing to show; `str()` says why, and what to do."""


class DevicePlan(msgspec.Struct, frozen=True, kw_only=True):
    """Which device, and what becomes of it."""

    event_id: str
    dgs_url: str
    profile_id: str = "p-1"
    device_id: str = "terminal-1"
    context: Mapping[str, object]
    """`DeviceContext` of the schema."""
    push_urls: tuple[str, ...] = ()
    """Instead of where the channel says."""
    profile_token: str = ""
    offline_after_s: float | None = None
    offline_for_s: float = 20.0
    seed: int | None = None


class DeviceSession:
    """Owns one device and its connection. `tell` is called on the loop, in order, and must be quick."""

    def __init__(self, plan: DevicePlan, tell: Callable[[Change], None]) -> None:
        self.plan = plan
        self.client: DeviceClient | None = None
        """None until it holds a map."""
        self.topic = ""
        self.network_up = True
        self.renders = 0
        self.shown: Render | None = None
        self._tell = tell
        self._seen: Seen | None = None
        self._connected_to = ""

    @property
    def device(self) -> Device:
        assert self.client is not None, "it has not prefetched yet"
        return self.client.device

    @property
    def state(self) -> TopicState:
        return self.device.topics[self.topic]

    async def run(self, stop: asyncio.Event) -> int | None:
        """Until `stop`, or until the node says not to come back: then returns the close code.

        Raises CannotBegin when there is no map to begin with.
        """
        plan = self.plan
        options = FleetOptions(
            devices=1,
            dgs_url=plan.dgs_url,
            event_ids=(plan.event_id,),
            record_arrivals=False,
            token_of=(lambda _: plan.profile_token) if plan.profile_token else None,
            seed=secrets.randbits(32) if plan.seed is None else plan.seed,
        )
        async with Fleet(options, recorder=self) as fleet:
            prefetched = await self._prefetch_until(stop, fleet)
            if prefetched is None:
                return None
            self._begin(fleet, prefetched)
            async with asyncio.TaskGroup() as tasks:
                network = tasks.create_task(self._lose_the_network(), name="device.network")
                code = await self._watch(stop)
                network.cancel()
            self._look()
        return code

    async def _prefetch_until(self, stop: asyncio.Event, fleet: Fleet) -> Prefetched | None:
        """None: it is to leave before the DGS has answered, which may take its time with the tries it is given."""
        asking, leaving = asyncio.create_task(self._prefetch(fleet)), asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((asking, leaving), return_when=asyncio.FIRST_COMPLETED)
            return asking.result() if asking.done() else None
        finally:
            for task in (asking, leaving):
                task.cancel()
            await asyncio.gather(asking, leaving, return_exceptions=True)

    async def _prefetch(self, fleet: Fleet) -> Prefetched:
        assert fleet.prefetcher is not None
        plan = self.plan
        try:
            return await fleet.prefetcher.prefetch(
                plan.profile_id, plan.device_id, (plan.event_id,), device=plan.context
            )
        except BroadcastSystemError as exc:
            raise CannotBegin(_why(plan, exc)) from exc

    def _begin(self, fleet: Fleet, prefetched: Prefetched) -> None:
        plan = self.plan
        (topic,) = prefetched.topics
        self.topic = topic.topic
        urls = plan.push_urls or (prefetched.url,)
        self.client = client = fleet.add(
            plan.device_id,
            urls=urls,
            token=prefetched.token,
            topics=(self.topic,),
            profile_id=plan.profile_id,
            device_context=plan.context,
        )
        stage_map = prefetched.maps[self.topic]
        now = now_ms()
        # Pictures first: what is shown needs no request (R19).
        client.device.artwork_fetched(prefetched.artwork)
        shown = client.device.map_fetched(now, self.topic, stage_map, fleet.context.random.random())
        self._tell(_of_first_map(now, self.topic, stage_map, self.state.refetch_at, len(prefetched.artwork)))
        until = token_expiry_ms(prefetched.token)
        good = "" if until is None else f", with a token good for {length(until - now)}"
        facts = {"urls": urls, "token_expires_at_ms": until, "connect_window_ms": prefetched.connect_window_ms}
        self._tell(Change(now, "connection", f"to be made to {urls[0]}{good}", {"step": "planned", **facts}))
        self._seen = see(client.device, self.topic)
        client.carry_out(shown)
        # A fleet spreads this over the channel's connect window; one device in front of a person does not wait.
        client.start()

    async def _watch(self, stop: asyncio.Event) -> int | None:
        while not stop.is_set():
            self._look()
            ended_by = self.device.ended_by
            if ended_by is not None and not may_reconnect(ended_by):
                return ended_by
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await stop.wait()
        return None

    def _look(self) -> None:
        assert self._seen is not None
        before, self._seen = self._seen, see(self.device, self.topic)
        for change in changes_between(before, self._seen, now_ms()):
            self._tell(change)

    async def _lose_the_network(self) -> None:
        plan = self.plan
        if plan.offline_after_s is None:
            return
        await asyncio.sleep(plan.offline_after_s)
        assert self.client is not None
        self.network_up = False
        text = f"lost for {length(plan.offline_for_s * 1000)}, as asked"
        self._tell(Change(now_ms(), "network", text, {"up": False, "for_s": plan.offline_for_s}))
        self.client.offline(plan.offline_for_s)
        await asyncio.sleep(plan.offline_for_s)
        self.network_up = True
        self._tell(Change(now_ms(), "network", "back", {"up": True}))

    # Recorder
    def arrival(
        self, client: DeviceClient, at_ms: float, payload: bytes, frame: BroadcastFrame | ContinuityFrame
    ) -> None:
        cursor = self.state.cursor
        if isinstance(frame, BroadcastFrame):
            due = (self.state.times or {}).get(frame.state_key)
            due_here = None if due is None else due - client.device.clock_offset_ms
            self._tell(of_broadcast(int(at_ms), frame, cursor=cursor, due_at_ms=due_here))
        else:
            self._tell(of_continuity(int(at_ms), frame, cursor=cursor))

    def render(self, client: DeviceClient, render: Render) -> None:
        entry = entry_of(client.device.topics[self.topic].stage_map, render.state_key)
        self.renders += 1
        self.shown = render
        self._tell(of_render(render, headline=entry.get("headline") or "", rows=entry.get("rows") or ()))

    def connection(self, client: DeviceClient, conn: int, step: ConnectionStep, code: int = 0) -> None:
        channel = client.channel_of(conn)
        where = f"{channel.host}:{channel.port}"
        if step is ConnectionStep.OPENING:
            text, name = f"{conn} opens to {where}", "opening"
        elif step is ConnectionStep.WELCOMED:
            text, name = f"{conn} is welcome at {where}", "welcomed"
        elif step is ConnectionStep.LEFT:
            text, name = f"{conn} left ({close_reason(code)})", "left"
        else:
            if not client.awaits(conn):
                return  # the end of one it left is no news
            text, name = f"{conn} ended ({close_reason(code)})", "ended"
        facts = {"step": name, "connection": conn, "address": where} | ({"code": code} if code else {})
        self._tell(Change(now_ms(), "connection", text, facts))


def entry_of(stage_map: StageMap | None, state_key: str | None) -> dict[str, Any]:
    """What the map shows for a state key: the DGS's entry; empty without a map."""
    if stage_map is None:
        return {}
    entry, _ = stage_map.lookup(state_key)
    found = msgspec.json.decode(entry.content) if entry.content else {}
    return found if isinstance(found, dict) else {}


def _of_first_map(now: int, topic: str, stage_map: StageMap, refetch_at: int | None, pictures: int) -> Change:
    kept_ms = 0 if refetch_at is None else refetch_at - now
    text = (
        f"version {stage_map.version} of {stage_map.event_id}: {len(stage_map.entries)} states, {pictures} pictures; "
        f"kept for {length(kept_ms)} of the server's {length(stage_map.ttl_s * 1000)}"
    )
    facts = {
        "event": stage_map.event_id,
        "topic": topic,
        "version": stage_map.version,
        "revision": stage_map.revision,
        "ttl_s": stage_map.ttl_s,
        "keep_until_ms": refetch_at,
        "times": stage_map.times,
        "pictures": pictures,
    }
    return Change(now, "map", text, facts)


def _why(plan: DevicePlan, exc: BroadcastSystemError) -> str:
    if isinstance(exc, Refused):
        return f"the DGS at {plan.dgs_url} refused: {'; '.join(exc.messages) or exc.message}"
    return f"no DGS at {plan.dgs_url}: {exc.message}\nStart one with `stagecue up`, or name another with --dgs."
