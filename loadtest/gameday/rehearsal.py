"""The rehearsal of a real event on a running system: its schedule, compressed, to simulated devices on a shadow topic.

    make a shadow event -> devices prefetch, connect -> shift the shadow to now -> its stages go out -> judge -> end it

Nothing is started but the devices. Whatever becomes of this process, the shadow plays itself out and is over.
"""

from __future__ import annotations

import asyncio
import resource
import statistics
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from contract.errors import BroadcastSystemError
from contract.frames import BroadcastFrame
from device_sim.audit import OutboxBroadcast, audit_fleet, outbox_from_json
from device_sim.client import DeviceClient
from device_sim.fleet import Fleet, FleetOptions
from device_sim.prefetch import ProfileToken
from device_sim.topic import Render
from loadtest.bench.envelope import Envelope
from loadtest.bench.histogram import LatencyHistogram
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.report import Reporter
from loadtest.bench.validity import GeneratorLimits, GeneratorReport, GeneratorWatch
from loadtest.gameday.bars import judged, verdict_of
from loadtest.gameday.rehearsal_judgement import (
    MEASURES,
    RealEvent,
    bars,
    expected_stages,
    map_gaps,
    measures,
    reach_of,
    real_changes,
)
from loadtest.gameday.rehearsal_target import RehearsalTarget
from loadtest.machine.here import is_here
from loadtest.report.histograms import keep_histogram
from loadtest.report.record import Fact, HistogramFile, RunRecord, StageReach
from loadtest.report.sampling import Sampler

__all__ = ["Rehearsal", "RehearsalPlan"]

_BEGINS_IN_MS: Final = 600_000
"""Time to prefetch; then the shadow is shifted to now."""
_KNOWN_WITHIN_S: Final = 10.0
"""A new event is on its way to the DGS for a moment."""
_AFTER_LAST_S: Final = 1.0
_CAUGHT_UP_WITHIN_S: Final = 20.0
_REACH_WITHIN_S: Final = 1.5
"""Nodes report reach once a second."""
_MAPS_LOOKED_AT: Final = 10
_CLOCKS_APART_MS: Final = 250
"""Below it, what a welcome says of the server's clock is its way here."""
_SPARE_FILES: Final = 200


class RehearsalPlan(msgspec.Struct, frozen=True, kw_only=True):
    event_id: str
    producer_url: str
    operator_token: str
    dgs_url: str
    devices: int = 200
    over_ms: int | None = None
    """From the first stage to the last; None without `compress`: the producer's default, a minute."""
    compress: float | None = None
    connect_over_s: float = 2.0
    last_within_s: float = 5.0
    lead_ms: int = 3_000
    """From the shift of the shadow to now until its first stage is due."""
    seed: int = 1
    remote: bool = False
    """Targets outside this machine are wanted."""
    token_of: ProfileToken | None = None
    """Signs profiles' prefetches, where the DGS demands it."""


class Rehearsal:
    """`run` once; `record` at any time gives what was measured so far."""

    def __init__(self, plan: RehearsalPlan, *, output: Path, reporter: Reporter) -> None:
        self.plan = plan
        self.shadow: dict[str, Any] = {}
        self._output = output
        self._reporter = reporter
        self._envelope = Envelope(seed=plan.seed)
        self._sampler = Sampler(every_s=0.25)
        self._title = plan.event_id
        self._showing: Counter[str] = Counter()
        self._shown: dict[int, str] = {}
        self._measured: dict[str, float | None] = {}
        self._reach: list[StageReach] = []
        self._histograms: list[HistogramFile] = []
        self._facts: dict[str, list[Fact]] = {}
        self._notes: list[str] = []
        self._generator: GeneratorReport | None = None

    async def run(self) -> None:
        """Raises CouldNotRun; when cancelled, the shadow event is ended all the same."""
        plan = self.plan
        _check_files(plan.devices)
        for url in (plan.producer_url, plan.dgs_url):
            await self._check_here(url)
        async with RehearsalTarget(plan.producer_url, plan.operator_token) as target:
            before = await self._real_event(target)
            await self._look_at_real_maps()
            self.shadow = await target.rehearse(
                plan.event_id, over_ms=plan.over_ms, compress=plan.compress, begins_in_ms=_BEGINS_IN_MS
            )
            self._note(f"shadow event {self.shadow['id']}: real devices neither see nor hear it")
            try:
                async with self._sampler:
                    await self._play(target)
                after = await self._real_event(target)
                self._measured["real_changes"] = real_changes(before, after)
                if after.audited > before.audited:
                    self._notes.append("Operators changed the real event meanwhile: its revision says nothing here.")
            finally:
                await asyncio.shield(self._end(target))

    # before
    async def _real_event(self, target: RehearsalTarget) -> RealEvent:
        event = await target.event(self.plan.event_id)
        self._title = event["title"]
        now_ms = time.time() * 1000
        return RealEvent(
            revision=event["revision"],
            version=event["version"],
            broadcasts=len(await target.broadcasts(self.plan.event_id)),
            audited=len(await target.changes(self.plan.event_id)),
            due=sum(1 for one in event["occurrences"] if one["due_at_ms"] is not None and one["due_at_ms"] <= now_ms),
        )

    async def _get_ready(self, fleet: Fleet) -> None:
        plan, reporter = self.plan, self._reporter
        await self._known(fleet)
        started = time.monotonic()
        with reporter.progress("prefetched", plan.devices) as progress:
            await fleet.prefetch_all(progress)
        self._fact("preparation", "prefetch", f"{time.monotonic() - started:.1f} s")
        for client in fleet.clients:
            for channel in dict.fromkeys(client.channels):
                await self._check_here(f"ws://{channel.host}:{channel.port}")
        started = time.monotonic()
        with reporter.progress("connected", plan.devices) as progress:
            await fleet.connect_all(over_s=plan.connect_over_s, progress=progress)
            await fleet.wait_subscribed(timeout_s=30.0)
        self._fact("preparation", "connecting", f"{time.monotonic() - started:.1f} s")
        self._sampler.mark("connected")

    async def _known(self, fleet: Fleet) -> None:
        """Until the DGS serves the shadow event, which the log brings it."""
        assert fleet.prefetcher is not None
        deadline = time.monotonic() + _KNOWN_WITHIN_S
        while True:
            try:
                await fleet.prefetcher.channel("p-0", "d-0", (self.shadow["id"],), device={"kind": "TV"})
            except BroadcastSystemError as exc:
                if time.monotonic() > deadline:
                    raise CouldNotRun(f"the DGS at {self.plan.dgs_url} does not serve the shadow event: {exc}") from exc
            else:
                return
            await asyncio.sleep(0.2)

    async def _look_at_real_maps(self) -> None:
        """What profiles are sent for the real event, now: does it have every stage?"""
        plan, gaps = self.plan, set[str]()
        looked_at = min(_MAPS_LOOKED_AT, plan.devices)
        options = FleetOptions(
            devices=looked_at, dgs_url=plan.dgs_url, event_ids=(plan.event_id,), artwork="none", token_of=plan.token_of
        )
        async with Fleet(options) as real:  # they never connect
            try:
                await real.prefetch_all()
            except BroadcastSystemError as exc:
                raise CouldNotRun(f"the DGS at {plan.dgs_url} serves no maps: {exc}") from exc
            for client in real.clients:
                for state in client.device.topics.values():
                    if state.stage_map is not None:
                        entries = {
                            key: msgspec.json.decode(entry.content) for key, entry in state.stage_map.entries.items()
                        }
                        gaps.update(map_gaps(list(state.stage_map.times), entries))
        self._measured["real_map_gaps"] = len(gaps)
        self._fact("the real event", "maps looked at", str(looked_at))
        self._fact("the real event", "stages without rows in them", ", ".join(sorted(gaps)) or "none")

    # the night
    async def _play(self, target: RehearsalTarget) -> None:
        plan = self.plan
        options = FleetOptions(
            devices=plan.devices,
            dgs_url=plan.dgs_url,
            event_ids=(self.shadow["id"],),
            seed=plan.seed,
            artwork="edge",
            token_of=plan.token_of,
        )
        try:
            async with Fleet(options, on_render=self._rendered) as fleet:
                self._watch(fleet)
                await self._get_ready(fleet)
                # Late by a twentieth of what is promised, it still tells a promise kept from one broken.
                limits = GeneratorLimits(lag_p99_ms_max=plan.last_within_s * 1000 / 20)
                async with GeneratorWatch(limits) as generator:
                    try:
                        await self._stages(target, fleet)
                    finally:
                        self._generator = generator.report()
        except BroadcastSystemError as exc:
            raise CouldNotRun(str(exc)) from exc

    async def _stages(self, target: RehearsalTarget, fleet: Fleet) -> None:
        ahead_ms = round(statistics.median(client.device.clock_offset_ms for client in fleet.clients))
        if abs(ahead_ms) < _CLOCKS_APART_MS:
            ahead_ms = 0
        else:
            self._notes.append(f"The server's clock is {ahead_ms} ms ahead of ours; times are corrected by that.")
        first_ms = min(due for due in _due_times(self.shadow))
        self.shadow = await target.shift(
            self.shadow["id"], round(time.time() * 1000) + ahead_ms + self.plan.lead_ms - first_ms
        )
        self._sampler.mark("shifted to now")
        asked_before = fleet.context.stats.map_fetches
        try:
            await self._until_over(fleet, ahead_ms)
            await self._settle(target, fleet)
        finally:
            # Also of a run cut short: what went out until then, to whom.
            asked = fleet.context.stats.map_fetches - asked_before
            await asyncio.shield(self._judge(target, fleet, ahead_ms, asked))

    async def _until_over(self, fleet: Fleet, ahead_ms: int) -> None:
        """Wait for the last stage, telling of each as it is on the screens."""
        stages = {item["stage"]: item["due_at_ms"] for item in self.shadow["occurrences"] if item["due_at_ms"]}
        waiting = sorted(stages, key=lambda key: stages[key])
        over_s = max(_due_times(self.shadow)) / 1000 - ahead_ms / 1000 + _AFTER_LAST_S
        self._note(f"{len(waiting)} stages in {over_s - _AFTER_LAST_S - time.time():.0f} s")
        while time.time() < over_s:
            for key in waiting:
                if self._showing[key] == len(fleet.clients):
                    waiting.remove(key)
                    self._sampler.mark(key)
                    self._note(f"  {key:<20} on all {len(fleet.clients)} screens")
                    break
            await asyncio.sleep(0.05)

    async def _settle(self, target: RehearsalTarget, fleet: Fleet) -> None:
        newest: dict[str, int] = {}
        for entry in await target.broadcasts(self.shadow["id"]):
            newest[entry["topic"]] = max(newest.get(entry["topic"], 0), entry["timestamp"])
        try:
            await fleet.wait_caught_up(newest, timeout_s=_CAUGHT_UP_WITHIN_S)
        except BroadcastSystemError as exc:
            self._notes.append(f"Not every device ended in the newest state: {exc}.")
        await asyncio.sleep(_REACH_WITHIN_S)

    # after
    async def _judge(self, target: RehearsalTarget, fleet: Fleet, ahead_ms: int, asked: int) -> None:
        outbox = [_by_our_clock(one, ahead_ms) for one in outbox_from_json(await target.broadcasts(self.shadow["id"]))]
        audit = audit_fleet(outbox, fleet.logs(), fleet.recorded)
        followers = Counter(topic for client in fleet.clients for topic in client.device.topics)
        expected = expected_stages(self.shadow)
        self._measured.update(measures(expected, audit, followers, asked=asked))
        self._reach = reach_of(audit)
        self._fact("the shadow", "stages broadcast", f"{len(outbox)} of {len(expected)}")
        self._fact("the shadow", "topics", ", ".join(f"{topic}: {count}" for topic, count in followers.items()))
        self._fact("the shadow", "deliveries", f"{fleet.context.stats.broadcasts:,}")
        written = sum(item["written"] + item["replayed"] for item in await target.reach(self.shadow["id"]))
        self._fact("the shadow", "deliveries as push nodes report them", f"{written:,}")
        self._keep_latencies(fleet, outbox)

    def _keep_latencies(self, fleet: Fleet, outbox: list[OutboxBroadcast]) -> None:
        due = {(one.topic, one.timestamp): one.due_at for one in outbox}
        found = LatencyHistogram()
        for client in fleet.clients:
            for arrival in client.arrivals or ():
                frame = arrival.frame
                if isinstance(frame, BroadcastFrame) and not frame.replayed:
                    due_at = due.get((frame.topic, frame.timestamp))
                    if due_at is not None:
                        found.record_ms(arrival.at_ms - due_at)
        if found.count:
            self._histograms.append(keep_histogram(self._output, "due to device", found))

    async def _end(self, target: RehearsalTarget) -> None:
        why = await target.end(self.shadow["id"])
        if why:
            self._notes.append(f"The shadow event could not be cancelled ({why}); it is over after its last stage.")
        else:
            self._notes.append("The shadow event was cancelled at the end: it is over.")
        self._note(self._notes[-1])

    # watching
    def _watch(self, fleet: Fleet) -> None:
        stages = [stage["key"] for stage in self.shadow["stages"]]
        self._sampler.watch(
            "What the devices show",
            "devices",
            {key: lambda key=key: self._showing[key] for key in stages},  # type: ignore[misc]
            stacked=True,
            explains="Every step should be as steep as a cliff and as high as there are devices.",
        )
        stats = fleet.context.stats
        self._sampler.watch("Connected", "devices", {"connected": lambda: stats.open})
        self._sampler.watch(
            "Deliveries", "per s", {"broadcasts received": lambda: stats.broadcasts}, kind="rate",
            explains="One peak per stage.",
        )  # fmt: skip
        self._sampler.watch(
            "Maps asked for", "per s", {"refetches": lambda: stats.map_fetches}, kind="rate",
            explains="None: a broadcast is shown from what was prefetched.",
        )  # fmt: skip

    def _rendered(self, client: DeviceClient, render: Render) -> None:
        self._showing[self._shown.get(client.number, "")] -= 1
        self._shown[client.number] = render.state_key
        self._showing[render.state_key] += 1

    async def _check_here(self, url: str) -> None:
        if not self.plan.remote and not await asyncio.to_thread(is_here, url):
            raise CouldNotRun(f"{url} is outside this machine: --remote says that it is meant")

    def _note(self, line: str) -> None:
        self._reporter.note(line)

    def _fact(self, heading: str, label: str, value: str) -> None:
        self._facts.setdefault(heading, []).append(Fact(label, value))

    def record(self, *, partial: bool) -> RunRecord:
        """All that was found; seals the envelope, so once."""
        plan, generator = self.plan, self._generator
        invalid = generator.invalid_because if generator is not None else ()
        for because in invalid:
            self._envelope.invalid(because)
        if generator is not None:
            self._fact("load generator", "CPU", f"{generator.cores:.2f} cores")
            self._fact("load generator", "loop lag p99", f"{generator.lag_p99_ms:.1f} ms")
        judgement = judged(bars(last_within_s=plan.last_within_s), MEASURES, self._measured)
        return RunRecord(
            scenario="rehearsal",
            title=f"Rehearsal of {self._title}",
            question=f"Would every stage of {plan.event_id} reach every device, through the system as it runs now?",
            answer=self._answer(partial),
            verdict=verdict_of(judgement, invalid=invalid, partial=partial),
            bars=judgement,
            charts=self._sampler.charts(),
            marks=self._sampler.marks,
            reach=self._reach,
            histograms=self._histograms,
            facts={**self._facts, "sampling": list(self._sampler.facts())},
            devices=plan.devices,
            notes=[
                "Devices are simulated and share one process; the rest of the way is the running system's own.",
                "Pictures are fetched once for all devices, as through a CDN.",
                *self._notes,
            ],
            envelope=self._envelope.seal({}),
        )

    def _answer(self, partial: bool) -> str:
        if partial:
            return "The rehearsal was interrupted; below is what was measured until then."
        found: Mapping[str, float | None] = self._measured
        last_s = found.get("last_s")
        late = "none was delivered live" if last_s is None else f"the slowest delivery took {last_s * 1000:.0f} ms"
        return (
            f"{len(self._reach)} stages went to {self.plan.devices} devices: {found.get('missed') or 0:.0f} missed, "
            f"{found.get('wrong') or 0:.0f} wrong screens; {late}."
        )


def _due_times(shadow: Mapping[str, Any]) -> list[int]:
    return [item["due_at_ms"] for item in shadow["occurrences"] if item["due_at_ms"] is not None]


def _by_our_clock(one: OutboxBroadcast, ahead_ms: int) -> OutboxBroadcast:
    return msgspec.structs.replace(
        one,
        due_at=None if one.due_at is None else one.due_at - ahead_ms,
        dispatched_at=None if one.dispatched_at is None else one.dispatched_at - ahead_ms,
    )


def _check_files(devices: int) -> None:
    """Raise this process's limit as far as it may go. Raises CouldNotRun saying how many devices would fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = devices + _SPARE_FILES
    if needed > hard != resource.RLIM_INFINITY:
        raise CouldNotRun(f"{devices} devices need {needed} open files; at most {hard - _SPARE_FILES} devices fit here")
    if needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
