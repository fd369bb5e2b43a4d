"""One herd's night, from the first process to the last stage. What was measured stays when it is interrupted."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from device_sim.client import now_ms
from loadtest.bench.herd.bars import live_bar
from loadtest.bench.herd.crowd import Crowd, CrowdReach
from loadtest.bench.herd.findings import AFTER_CHURN, AFTER_KILL, CONNECTED, HerdFindings, StageFound, missed_of
from loadtest.bench.herd.interruption import Interruption
from loadtest.bench.herd.ladder import Ladder, Rung, ladder_for
from loadtest.bench.herd.options import HerdOptions
from loadtest.bench.herd.scene import EVENT_ID, Scene, open_scene
from loadtest.bench.herd.spent import CLIENTS, SERVERS, spent
from loadtest.bench.herd.watching import Watching
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.report import Reporter
from loadtest.machine.facts import tcp_memory_pages

__all__ = ["spend_night"]

_PREFETCH_WITHIN_S: Final = 900.0
_CONNECT_PER_S: Final = 2_000.0
"""Slower than this, and it is given up."""
_BACK_SHARE: Final = 0.998
"""Of all devices: lives end all the time, so that some are always on their way."""
_LEAD_MS: Final = 1_500
"""A stage is stored long before; this is how long everything is at rest before it is due."""
_IDLE_MOST_S: Final = 3.0
"""Looked at before a stage; less of few devices, who come to rest sooner."""
_STAGE_MARGIN_S: Final = 20.0
_ASK_AGAIN_S: Final = 2.0
_BEGIN_EVERY_S: Final = 0.25


async def spend_night(
    options: HerdOptions,
    found: HerdFindings,
    reporter: Reporter,
    directory: Path,
    interruption: Interruption,
    watching: Watching,
) -> None:
    """Fill `found`. Raises CouldNotRun only for what keeps it from measuring anything; nothing is left running."""
    try:
        with interruption.watching():
            async with open_scene(directory, found.layout) as scene:
                reporter.note(f"  cluster of {len(scene.cluster.members)} processes ready")
                async with watching.over(scene):
                    await _Night(options, found, scene, watching, reporter).run()
    except (asyncio.CancelledError, CouldNotRun) as exc:
        measured = found.connect_s is not None or interruption.because is not None
        if not measured or (isinstance(exc, asyncio.CancelledError) and interruption.because is None):
            raise
        if interruption.because is not None and (task := asyncio.current_task()) is not None:
            task.uncancel()
        found.interrupted = interruption.because or str(exc)


class _Night:
    def __init__(
        self, options: HerdOptions, found: HerdFindings, scene: Scene, watching: Watching, reporter: Reporter
    ) -> None:
        self._options = options
        self._found = found
        self._scene = scene
        self._watching = watching
        self._reporter = reporter
        self._random = random.Random(options.seed)
        self._poll_s = min(1.0, max(0.1, found.devices / 500_000))
        self._return_within_s = 60.0 + 4 * found.layout.window_s
        """Windows grow with each failure; whoever is not back then is not coming."""
        self._idle_s = min(_IDLE_MOST_S, 0.5 + found.devices / 20_000)

    async def run(self) -> None:
        began_s = time.monotonic()
        scene, found = self._scene, self._found
        with live_bar("push nodes started", found.layout.nodes) as tell:
            await scene.start_nodes(tell)
        nodes_alone = await scene.footprint()
        with live_bar("client processes started", len(found.layout.fleets)) as tell:
            await scene.start_fleets(self._options.seed, tell)
        found.alone_bytes = {
            SERVERS: nodes_alone.own_bytes[SERVERS],
            CLIENTS: scene.fleet_alone_bytes * len(scene.fleets),
        }
        found.started = await scene.footprint()
        found.started_s = time.monotonic() - began_s
        self._crowd = self._watching.crowd = Crowd(scene.fleets)
        self._ladder = await self._store()
        await self._prefetch()
        await self._connect()
        await self._stage(CONNECTED)
        await self._churn()
        await self._stage(AFTER_CHURN)
        await self._kill()
        await self._stage(AFTER_KILL)
        await self._judge_all()

    async def _store(self) -> Ladder:
        """The operator stores the event, stages due from when everybody ought to be connected."""
        layout = self._found.layout
        ladder = ladder_for(
            EVENT_ID,
            now_ms=now_ms(),
            devices=layout.devices,
            profiles=sum(layout.profiles),
            window_s=layout.window_s,
        )
        await self._scene.api.create_event(ladder.request())
        await self._scene.until_known()
        return ladder

    async def _prefetch(self) -> None:
        found, began_s = self._found, time.monotonic()
        self._watching.mark("prefetch")
        with live_bar("maps prefetched", sum(found.layout.profiles)) as tell:
            found.prefetched = await self._crowd.prefetch(tell, timeout_s=_PREFETCH_WITHIN_S)
        found.prefetch_s = time.monotonic() - began_s
        found.filled = await self._scene.footprint()

    async def _connect(self) -> None:
        found = self._found
        self._watching.mark("connect")
        cpu, began_s = self._scene.cpu(), time.monotonic()
        deadline_s = began_s + 60.0 + found.devices / _CONNECT_PER_S
        waiting, busy, look_s = list(range(len(found.layout.fleets))), set[int](), began_s
        with live_bar("devices subscribed", found.devices) as tell:
            while True:
                await self._begin_some(waiting, busy)
                if time.monotonic() >= look_s:
                    look_s = time.monotonic() + self._poll_s
                    now = await self._crowd.snapshot()
                    tell(now.subscribed, found.devices)
                    if now.subscribed == found.devices:
                        break
                    if time.monotonic() > deadline_s:
                        found.connect_s = time.monotonic() - began_s
                        raise CouldNotRun(
                            f"{now.subscribed} of {found.devices} devices subscribed after {found.connect_s:.0f} s "
                            f"({now.connected} connected, {now.failed} connections failed, {now.refused} refused)"
                        )
                await asyncio.sleep(min(self._poll_s, _BEGIN_EVERY_S))
        found.connect_s = time.monotonic() - began_s
        found.connecting = spent(cpu, self._scene.cpu())
        self._watching.mark("all connected")

    async def _begin_some(self, waiting: list[int], busy: set[int]) -> None:
        """Fleets connect a few at a time: the next one begins as soon as one is nearly through."""
        busy -= await self._crowd.through(busy)
        while waiting and len(busy) < self._found.layout.fleets_connecting:
            busy.add(waiting[0])
            await self._crowd.begin(waiting.pop(0))

    async def _stage(self, when: str) -> None:
        """The next stage that falls due by its schedule: wait for it, and until everybody has it."""
        found, scene = self._found, self._scene
        await self._until_connected()
        if found.settled is None:
            found.settled = await scene.footprint()
        quiet, quiet_s = scene.cpu(), time.monotonic()
        rung = self._next_rung()
        self._reporter.note(f"  {rung.state_key} is due in {(rung.due_ms - now_ms()) / 1000:.1f} s ({when})")
        await _until(rung.due_ms - 700)
        before = await self._crowd.snapshot()
        await _until(rung.due_ms - 200)
        stage = StageFound(
            when=when, state_key=rung.state_key, due_ms=rung.due_ms, away=found.devices - before.connected
        )
        found.stages.append(stage)
        busy = scene.cpu()
        stage.idle = spent(quiet, busy) if time.monotonic() - quiet_s >= 0.5 else None
        self._watching.mark(f"{rung.state_key} due", in_s=(rung.due_ms - now_ms()) / 1000)
        await self._until_delivered(stage, before.broadcasts)
        stage.busy = spent(busy, scene.cpu())
        await self._judge(stage)

    def _next_rung(self) -> Rung:
        rung = self._ladder.next_after(now_ms() + _LEAD_MS + self._idle_s * 1000)
        if rung is None:
            raise CouldNotRun("no stage is left: connecting or returning took longer than the night was planned for")
        return rung

    async def _until_delivered(self, stage: StageFound, before: int) -> None:
        """Until as many broadcasts came as there are devices, or nobody can be waited for any longer."""
        devices = self._found.devices
        most_s = 3 * self._found.limits.last_s_of(devices) + _STAGE_MARGIN_S
        with live_bar(f"{stage.state_key} delivered", devices) as tell:
            while now_ms() < stage.due_ms + most_s * 1000:
                now = await self._crowd.snapshot()
                stage.tcp_bytes_max = max(stage.tcp_bytes_max, tcp_memory_pages() * 4096)
                tell(min(devices, now.broadcasts - before), devices)
                if now.broadcasts - before >= devices:
                    return
                await asyncio.sleep(self._poll_s / 2)

    async def _judge(self, stage: StageFound) -> None:
        """Who got it; devices on their way back are given the time that returning may take."""
        until_s = time.monotonic() + self._return_within_s
        while True:
            await self._look(stage)
            if stage.missed == 0 or time.monotonic() >= until_s:
                break
            await asyncio.sleep(_ASK_AGAIN_S)
        last = f"last after {stage.last_s:.2f} s" if stage.last_s is not None else "nobody got it"
        self._reporter.note(f"  {stage.state_key}: {last}, {stage.missed} missed")

    async def _look(self, stage: StageFound) -> None:
        item = next((each for each in await self._outbox() if each["state_key"] == stage.state_key), None)
        if item is None:
            raise CouldNotRun(f"{stage.state_key} was not dispatched: the producer's outbox does not have it")
        stage.timestamp, stage.dispatched_ms = int(item["timestamp"]), item.get("dispatched_at_ms")
        reach = await self._reach()
        stage.reach = reach.broadcasts.get(stage.timestamp)
        stage.missed = missed_of(
            stage.reach,
            asked=self._found.devices,
            of_fleets=reach.devices.get(stage.timestamp, 0),
            everybody=True,
        )
        self._found.unsubscribed = reach.unsubscribed

    async def _reach(self) -> CrowdReach:
        due = {(each["topic"], int(each["timestamp"])): float(each["due_at_ms"]) for each in await self._outbox()}
        return await self._crowd.reach(due)

    async def _outbox(self) -> list[dict[str, Any]]:
        items = await self._scene.api.broadcasts(EVENT_ID)
        return [each for each in items if each.get("due_at_ms") is not None]

    async def _churn(self) -> None:
        found, window_s = self._found, self._found.layout.window_s
        self._watching.mark("churn")
        found.churned = await self._crowd.churn(self._options.churn_share, over_s=min(5.0, window_s), away_s=1.0)
        self._reporter.note(f"  churn: {found.churned[0]} devices leave and return, {found.churned[1]} are replaced")
        await asyncio.sleep(min(5.0, window_s) + 1.0)

    async def _kill(self) -> None:
        found, scene = self._found, self._scene
        node = self._random.choice(scene.nodes)
        before = await self._crowd.snapshot()
        self._watching.mark(f"{node.name} killed")
        began_s = time.monotonic()
        node.kill()
        await node.wait()
        # Its devices notice within milliseconds, and count as connected no more.
        lowest = before.connected
        while True:
            now = await self._crowd.snapshot()
            lowest = min(lowest, now.connected)
            returned = now.handshakes - before.handshakes
            if time.monotonic() - began_s > 2.0 and returned >= 0.9 * (before.connected - lowest):
                break
            if time.monotonic() - began_s > 60.0 + 4 * found.layout.window_s:
                break
            await asyncio.sleep(self._poll_s / 2)
        found.killed_devices = before.connected - lowest
        await self._until_connected()
        found.back_s = time.monotonic() - began_s
        self._reporter.note(
            f"  {node.name} killed: {found.killed_devices} devices lost it, back after {found.back_s:.1f} s"
        )

    async def _until_connected(self) -> None:
        found = self._found
        deadline_s = time.monotonic() + self._return_within_s
        while True:
            now = found.crowd = await self._crowd.snapshot()
            if now.connected >= _BACK_SHARE * found.devices:
                return
            if time.monotonic() > deadline_s:
                raise CouldNotRun(f"{now.connected} of {found.devices} devices are connected, no more come back")
            await asyncio.sleep(self._poll_s)

    async def _judge_all(self) -> None:
        """Stages due in between as well, and what came to the DGS while the first one was delivered."""
        found = self._found
        looked_at = {stage.timestamp for stage in found.stages}
        first = found.stages[0]
        reach, outbox = await self._reach(), await self._outbox()
        missed = 0
        for item in outbox:
            timestamp = int(item["timestamp"])
            due_ms = int(item["due_at_ms"])
            # One due a moment ago is on its way.
            if timestamp in looked_at or due_ms > now_ms() - 1000 * self._ladder.period_s / 2:
                continue
            missed += missed_of(
                reach.broadcasts.get(timestamp),
                asked=found.devices,
                of_fleets=reach.devices.get(timestamp, 0),
                everybody=due_ms > first.due_ms,
            )
        found.other_missed = missed
        found.crowd = await self._crowd.snapshot()
        if first.reach is not None and first.reach.last_ms is not None:
            with suppress(CouldNotRun):
                found.origin_requests = await self._scene.api.origin_requests(
                    first.due_ms - 1000, int(first.reach.last_ms)
                )


async def _until(at_ms: float) -> None:
    await asyncio.sleep(max(0.0, (at_ms - now_ms()) / 1000))
