"""Naive against prefetching: the same event and as many devices, and what the DGS is asked when a stage begins."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from contract.names import topic_of
from device_sim.audit import outbox_from_json
from loadtest.bench.histogram import LatencyHistogram
from loadtest.gameday.clients.audience import Audience
from loadtest.gameday.clients.audience_child import AudiencePlan, AudienceResult
from loadtest.gameday.clients.naive import NaiveDevices
from loadtest.gameday.clients.records import Step, Table
from loadtest.gameday.events import AN_HOUR_S, event_request
from loadtest.gameday.operator import Operator
from loadtest.gameday.parameters import NaiveVsPrefetch
from loadtest.gameday.stage import Stage, System
from loadtest.gameday.words import in_ms
from loadtest.installation_keys import device_ring

__all__ = ["run"]

_EVENT: Final = "night"
_TOPIC: Final = topic_of(_EVENT)
_LEAD_S: Final = 4.0
"""From the move of the event to its first stage."""
_BEFORE_MS: Final = 1_000
"""The count begins so long before a stage is due."""
_CONNECTED_WITHIN_S: Final = 60.0
_BIN_MS: Final = 100
_SETTLE_S: Final = 3.0
_DESCRIBED: Final = (
    "Counted by the DGS itself, artwork included. What stands out while nothing is due is prefetching, spread out."
)


class _Half(msgspec.Struct, frozen=True, kw_only=True):
    due_ms: list[int]
    """Of each stage, wall clock."""
    requests: list[int]
    """Of each stage: from 1 s before due to the last render, or the last answer."""
    peak: int
    """Most in 100 ms from 1 s before the first stage."""


async def run(stage: Stage, parameters: NaiveVsPrefetch) -> str:
    stage.devices, wanted = parameters.devices, parameters.devices * parameters.stages
    naive, rows = await _naive(stage, parameters)
    naive_ms = _asked_ms(rows, naive.due_ms)
    stage.histogram("naive: due to answer", naive_ms)
    stage.measure(
        origin_requests_naive=sum(naive.requests),
        requests_per_device=sum(naive.requests) / wanted,
        herd_peak=naive.peak,
        shown_p99_ms_naive=naive_ms.percentile_ms(99),
        first_refused_share=_refused_first(rows, naive.due_ms) / wanted,
    )
    unanswered = wanted - naive_ms.count
    stage.fact("naive devices", "stages never shown, of those wanted", f"{unanswered:,} of {wanted:,}")
    prefetch, result = await _prefetching(stage, parameters)
    shown_ms = LatencyHistogram.decode(dict(result.shown_hdr))
    stage.histogram("prefetching: due to render", shown_ms)
    stage.measure(
        origin_requests_prefetch=sum(prefetch.requests),
        prefetch_peak=prefetch.peak,
        shown_p99_ms_prefetch=shown_ms.percentile_ms(99),
        missed=result.audit.missed,
        wrong_renders=result.audit.wrong_renders,
    )
    stage.fact("prefetching devices", "part of the profiles with a map of their own", result.distinct_map_share)
    stage.note(
        "Pictures are prefetched through a cache the devices share, as a CDN's edge; the DGS counts what it got."
    )
    stage.note("The 100 ms bins are the DGS's own count of requests, asked for after the run.")
    return (
        f"At a stage {parameters.devices:,} naive devices asked the DGS {sum(naive.requests) / parameters.stages:,.0f} "
        f"times, {naive.peak:,} in the worst 100 ms, and 99 of 100 had their answer after "
        f"{in_ms(naive_ms.percentile_ms(99))}. With prefetched maps it was asked {sum(prefetch.requests):,} times, and "
        f"99 of 100 had the stage on the screen after {in_ms(shown_ms.percentile_ms(99))}."
    )


async def _naive(stage: Stage, parameters: NaiveVsPrefetch) -> tuple[_Half, Table]:
    async with stage.system("naive-system") as system:
        await _plan_the_night(system.api, parameters)
        naive = NaiveDevices(
            stage.directory / "naive", core=stage.cores.load, devices=parameters.devices, push_url=system.push_url,
            topic=_TOPIC, event_id=_EVENT, ring=device_ring(system.server.data_dir), dgs_url=system.dgs_url,
            ask_timeout_s=parameters.ask_timeout_s, seed=stage.seed,
        )  # fmt: skip
        async with naive, stage.watched("devices", naive.pid):
            stage.mark("naive devices connect")
            with stage.reporter.progress("naive devices connected", parameters.devices) as progress:
                await naive.connect(over_s=parameters.devices / 1_000)
                await naive.connected(_CONNECTED_WITHIN_S, progress=progress)
            with stage.judged():
                due_ms = await _play(stage, system, parameters, "naive")
                # What is still asked for at the end of the last stage's time is left to it for as long again.
                await naive.answered(parameters.spacing_s)
            rows, lag_ms = await naive.finish()
        answered_ms = _wall_ms(rows["at_s"][rows["kind"] == Step.ANSWERED])
        stage.fact("load generators", "naive devices, loop lag p99 ms", lag_ms)
        return await _counted(stage, system.api, "naive", due_ms, answered_ms), rows


async def _prefetching(stage: Stage, parameters: NaiveVsPrefetch) -> tuple[_Half, AudienceResult]:
    async with stage.system("prefetch-system", environment={"DGS_CONNECT_WINDOW_MS": "0"}) as system:
        await _plan_the_night(system.api, parameters)
        plan = AudiencePlan(devices=parameters.devices, dgs_url=system.dgs_url, event_ids=(_EVENT,), seed=stage.seed)
        audience = Audience(stage.directory / "audience", plan, core=stage.cores.load)
        async with audience, stage.watched("devices", audience.pid):
            stage.mark("maps are prefetched")
            with stage.reporter.progress("maps prefetched", 1) as progress:
                await audience.prefetch()
                progress(1, 1)
            with stage.reporter.progress("devices connected", parameters.devices) as progress:
                await audience.connect(over_s=parameters.devices / 1_000)
                await audience.subscribed(timeout_s=_CONNECTED_WITHIN_S, progress=progress)
            with stage.judged():
                await audience.watch()
                due_ms = await _play(stage, system, parameters, "prefetched")
                await asyncio.sleep(_SETTLE_S)
            outbox = await system.api.broadcasts(_EVENT)
            result = await audience.judge(outbox)
        stage.reached(result.audit, devices=parameters.devices, outbox=outbox_from_json(outbox))
        stage.generator("prefetching devices", result.generator)
        rendered_ms = np.array([each.at_ms for each in result.renders if each.timestamp], np.float64)
        return await _counted(stage, system.api, "prefetched", due_ms, rendered_ms), result


async def _plan_the_night(api: Operator, parameters: NaiveVsPrefetch) -> None:
    offsets = {f"stage_{number}": number * parameters.spacing_s for number in range(parameters.stages)}
    starts_at_ms = int((time.time() + AN_HOUR_S) * 1000)
    await api.create_event(event_request(_EVENT, starts_at_ms=starts_at_ms, offsets_s=offsets))


async def _play(stage: Stage, system: System, parameters: NaiveVsPrefetch, name: str) -> list[int]:
    """Move the event to now and wait its stages out; when each was due, wall clock ms."""
    starts_at_ms = await system.api.move(_EVENT, starts_in_s=_LEAD_S)
    due_ms = [starts_at_ms + round(number * parameters.spacing_s * 1000) for number in range(parameters.stages)]
    with stage.reporter.progress(f"stages, {name}", parameters.stages) as progress:
        for number, due in enumerate(due_ms):
            await asyncio.sleep(max(0.0, due / 1000 - time.time()))
            stage.mark(f"{name}: stage {number + 1} due")
            progress(number + 1, parameters.stages)
    await asyncio.sleep(parameters.spacing_s)
    return due_ms


async def _counted(stage: Stage, api: Operator, name: str, due_ms: list[int], shown_ms: Any) -> _Half:
    """By the DGS: per stage until the last device showed it, and all of it in bins for the chart."""
    requests = []
    for number, due in enumerate(due_ms):
        following = due_ms[number + 1] - _BEFORE_MS if number + 1 < len(due_ms) else int(time.time() * 1000)
        mine = shown_ms[(shown_ms >= due) & (shown_ms < following)]
        last_ms = int(mine.max()) + 1 if len(mine) else following
        requests.append(await api.origin_requests(due - _BEFORE_MS, last_ms))
    begin_ms = due_ms[0] - _BEFORE_MS
    found = await api.requests_by_bin(begin_ms, int(time.time() * 1000), width_ms=_BIN_MS)
    since_s = begin_ms / 1000 - (time.time() - time.monotonic()) - stage.zero_s
    points = [(round(since_s + (number + 0.5) * _BIN_MS / 1000, 3), float(each)) for number, each in enumerate(found)]
    stage.chart("Requests at the DGS around the stages", f"in {_BIN_MS} ms", {name: points}, explains=_DESCRIBED)
    return _Half(due_ms=due_ms, requests=requests, peak=int(found.max()))


def _asked_ms(rows: Table, due_ms: list[int]) -> LatencyHistogram:
    """Due time to the answer of every device and stage that got one; `status` counts the stages from 1."""
    found = LatencyHistogram()
    answered = rows[rows["kind"] == Step.ANSWERED]
    for number, due in enumerate(due_ms, start=1):
        found.record_all_ms((_wall_ms(answered["at_s"][answered["status"] == number]) - due).tolist())
    return found


def _refused_first(rows: Table, due_ms: list[int]) -> int:
    """Devices and stages of which at least one ask was refused or not answered in time."""
    denied = rows[rows["kind"] == Step.DENIED]
    at_ms = _wall_ms(denied["at_s"])
    number = np.searchsorted(np.array(due_ms), at_ms, side="right")
    return len(np.unique(denied["device"].astype(np.int64) * (len(due_ms) + 1) + number))


def _wall_ms(at_s: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """CLOCK_MONOTONIC seconds as this host's wall clock, ms; clocks of one machine, so the step is the same."""
    return (at_s + (time.time() - time.monotonic())) * 1000
