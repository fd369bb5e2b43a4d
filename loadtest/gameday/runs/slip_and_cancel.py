"""Slip and cancel at the last minute: one event moves and another is called off just before their stage is due."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from contract.names import topic_of
from device_sim.audit import BroadcastAudit, outbox_from_json
from loadtest.bench.histogram import LatencyHistogram
from loadtest.gameday.clients.audience import Audience
from loadtest.gameday.clients.audience_child import AudiencePlan, AudienceResult, Shown
from loadtest.gameday.events import AN_HOUR_S, event_request
from loadtest.gameday.parameters import SlipAndCancel
from loadtest.gameday.stage import Stage, System
from loadtest.gameday.words import in_ms

__all__ = ["run"]

_SLIPS: Final = "slips"
_CANCELLED: Final = "cancelled"
_OFFSETS_S: Final = {"starting_soon": -1_800.0, "live": 0.0}
"""The first is true at once, and stays true: what a slip takes back was not announced yet."""
_ON_SCREEN_WITHIN_S: Final = 30.0
_HELD_WITHIN_S: Final = 10.0
_SETTLE_S: Final = 3.0
_STEP_MS: Final = 50
"""Of the curves of what screens show."""


async def run(stage: Stage, parameters: SlipAndCancel) -> str:
    async with stage.system("system") as system:
        for event_id in (_SLIPS, _CANCELLED):
            starts_at_ms = int((time.time() + AN_HOUR_S) * 1000)
            await system.api.create_event(event_request(event_id, starts_at_ms=starts_at_ms, offsets_s=_OFFSETS_S))
        plan = AudiencePlan(
            devices=parameters.devices, dgs_url=system.dgs_url, event_ids=(_SLIPS, _CANCELLED), seed=stage.seed
        )
        audience = Audience(stage.directory / "audience", plan, core=stage.cores.load)
        async with audience, stage.watched("devices", audience.pid):
            await _get_ready(stage, audience, parameters)
            with stage.judged():
                await audience.watch()
                new_due_ms = await _night(stage, system, audience, parameters)
            watched_until_ms = int(time.time() * 1000)
            outbox = [each for event_id in (_SLIPS, _CANCELLED) for each in await system.api.broadcasts(event_id)]
            result = await audience.judge(outbox)
    stage.reached(result.audit, devices=parameters.devices, outbox=outbox_from_json(outbox))
    stage.generator("devices", result.generator)
    stage.histogram("due (or dispatch) to socket, all broadcasts", LatencyHistogram.decode(dict(result.live_hdr)))
    _draw(stage, result.renders, watched_until_ms)
    return _judge(stage, parameters, result, new_due_ms)


async def _get_ready(stage: Stage, audience: Audience, parameters: SlipAndCancel) -> None:
    stage.mark("maps are prefetched")
    with stage.reporter.progress("maps prefetched", 1) as progress:
        await audience.prefetch()
        progress(1, 1)
    with stage.reporter.progress("devices connected", parameters.devices) as progress:
        await audience.connect(over_s=parameters.devices / 1_000)
        await audience.subscribed(timeout_s=60.0, progress=progress)


async def _night(stage: Stage, system: System, audience: Audience, parameters: SlipAndCancel) -> int:
    """Play it; the moved stage's new due time, wall clock ms."""
    api = system.api
    for event_id in (_SLIPS, _CANCELLED):
        due_ms = await api.move(event_id, starts_in_s=parameters.lead_s)
    stage.mark("both are about to start")
    asked_from_ms = int(time.time() * 1000)
    await audience.until(
        lambda found: found.showing.get("starting_soon", 0) == found.devices,
        "starting soon on every screen",
        timeout_s=_ON_SCREEN_WITHIN_S,
    )
    first_ms = min([int((await api.event(each))["starts_at_ms"]) for each in (_SLIPS, _CANCELLED)])
    await asyncio.sleep(max(0.0, first_ms / 1000 - parameters.slips_before_s - time.time()))
    moved_at_s = time.monotonic()
    event = await api.shift(_SLIPS, parameters.slip_s)
    stage.mark(f"one slips by {parameters.slip_s} s", moved_at_s)
    cancelled_at_s = time.monotonic()
    await api.cancel(_CANCELLED)
    stage.mark("the other is cancelled", cancelled_at_s)
    revision = int(event["revision"])
    while await audience.holding(topic_of(_SLIPS), revision) < parameters.devices:
        if time.monotonic() > moved_at_s + _HELD_WITHIN_S:
            stage.measure(schedule_last_ms=None)
            break
        await asyncio.sleep(0.005)
    else:
        stage.measure(schedule_last_ms=(time.monotonic() - moved_at_s) * 1000)
    new_due_ms = int(event["starts_at_ms"])
    stage.mark("was due", due_ms / 1000 - time.time() + time.monotonic())
    await asyncio.sleep(max(0.0, new_due_ms / 1000 - time.time()))
    stage.mark("is due now")
    await asyncio.sleep(_SETTLE_S)
    stage.measure(origin_requests=await api.origin_requests(asked_from_ms, int(time.time() * 1000)))
    return new_due_ms


def _draw(stage: Stage, renders: Sequence[Shown], until_ms: int) -> None:
    """Screens by what they show, of each event."""
    to_run_s = time.monotonic() - time.time() - stage.zero_s
    for event_id, name in ((_SLIPS, "the event that slips"), (_CANCELLED, "the event that is cancelled")):
        curves = showing(renders, topic_of(event_id), until_ms)
        stage.chart(
            f"Screens of {name}",
            "devices",
            {
                state_key or "nothing": [(round(at_ms / 1000 + to_run_s, 3), float(count)) for at_ms, count in points]
                for state_key, points in curves.items()
            },
            explains="How many devices show which state.",
        )


def _judge(stage: Stage, parameters: SlipAndCancel, result: AudienceResult, new_due_ms: int) -> str:
    early = early_renders(result.renders, new_due_ms=new_due_ms)
    wrong = wrong_ends(result.renders, parameters.devices)
    live = _of(result.audit.broadcasts, _SLIPS, "live")
    cancelled = _of(result.audit.broadcasts, _CANCELLED, "cancelled")
    stage.measure(
        early_renders=early,
        wrong_ends=wrong,
        missed=result.audit.missed,
        wrong_renders=result.audit.wrong_renders,
        live_p99_ms=live.p99_ms if live else None,
        live_last_ms=live.last_ms if live else None,
        cancelled_p99_ms=cancelled.p99_ms if cancelled else None,
        cancelled_last_ms=cancelled.last_ms if cancelled else None,
    )
    held_ms = stage.measured.get("schedule_last_ms")
    held = "not all" if held_ms is None else f"all {parameters.devices:,}"
    within = f"{_HELD_WITHIN_S:g} s" if held_ms is None else in_ms(held_ms)
    return (
        f"{parameters.slips_before_s:g} s before its stage was due one event moved by {parameters.slip_s} s and "
        f"another was called off. {early or 'No'} screen showed either too soon, {wrong or 'none'} ended in a wrong "
        f"state; {held} held the new times {within} after the operator asked, and the last heard of the cancellation "
        f"{in_ms(stage.measured['cancelled_last_ms'])} after its dispatch."
    )


def showing(renders: Sequence[Shown], topic: str, until_ms: int) -> dict[str, list[tuple[int, int]]]:
    """State key -> (wall clock ms, devices that show it), in steps of 50 ms from the first render on; what is shown in
    the end stands until `until_ms`."""
    mine = sorted((each for each in renders if each.topic == topic), key=lambda each: each.at_ms)
    now: dict[int, str] = {}
    counts = dict.fromkeys(dict.fromkeys(each.state_key for each in mine), 0)
    found: dict[str, list[tuple[int, int]]] = {state_key: [] for state_key in counts}
    for number, each in enumerate(mine):
        before = now.get(each.device)
        if before is not None:
            counts[before] -= 1
        now[each.device] = each.state_key
        counts[each.state_key] += 1
        step = each.at_ms // _STEP_MS
        if number + 1 == len(mine) or mine[number + 1].at_ms // _STEP_MS != step:
            following = mine[number + 1].at_ms // _STEP_MS if number + 1 < len(mine) else step + 1
            # What stands until the next change is drawn as standing.
            for moment in {(step + 1) * _STEP_MS, following * _STEP_MS}:
                for state_key, count in counts.items():
                    found[state_key].append((moment, count))
    return {
        state_key: [*sorted(points), (max(until_ms, points[-1][0]), counts[state_key])]
        for state_key, points in found.items()
    }


def early_renders(renders: Sequence[Shown], *, new_due_ms: int) -> int:
    """Screens that showed the moved stage before its new time, or the cancelled event's at any."""
    return sum(
        each.state_key == "live" and (each.topic == topic_of(_CANCELLED) or each.at_ms < new_due_ms) for each in renders
    )


def wrong_ends(renders: Sequence[Shown], devices: int) -> int:
    """Devices and events whose last screen is not the right one."""
    last = {(each.device, each.topic): each.state_key for each in sorted(renders, key=lambda each: each.at_ms)}
    right = {topic_of(_SLIPS): "live", topic_of(_CANCELLED): "cancelled"}
    return sum(last.get((number, topic)) != state for number in range(devices) for topic, state in right.items())


def _of(found: Sequence[BroadcastAudit], event_id: str, state_key: str) -> BroadcastAudit | None:
    return next((each for each in found if (each.topic, each.state_key) == (topic_of(event_id), state_key)), None)
