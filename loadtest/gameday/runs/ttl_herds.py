"""Fixed against jittered lifetimes: a night of refreshes simulated over the service's own code, and one played in a
minute against real ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np

from loadtest.bench.ttl.command import TtlFigures, TtlOptions, simulate
from loadtest.bench.ttl.simulation import Night, Refreshes
from loadtest.gameday.clients.audience import Audience
from loadtest.gameday.clients.audience_child import AudiencePlan
from loadtest.gameday.events import AN_HOUR_S, event_request
from loadtest.gameday.parameters import TtlHerds
from loadtest.gameday.stage import Stage

__all__ = ["run"]

_EVENT: Final = "evening"
_OFFSETS_S: Final = {"starting_soon": -900.0, "live": 0.0}
_PRODUCTION_TTL_S: Final = 6 * 3_600
_DRAWN_POINTS: Final = 288
"""Of the simulated night's curves: the busiest second of each five minutes."""


class _Half(msgspec.Struct, frozen=True, kw_only=True):
    per_s: list[int]
    """Requests at the DGS, second by second, from when all had their first map."""
    failures: int

    @property
    def peak_to_mean(self) -> float | None:
        found = np.array(self.per_s)
        return float(found.max() / found.mean()) if found.any() else None


async def run(stage: Stage, parameters: TtlHerds) -> str:
    with stage.judged():
        fixed, jittered = await asyncio.gather(
            _played(stage, parameters, "fixed", {"DGS_TTL_SPREAD": "0"}, ttl_spread=0.0),
            _played(stage, parameters, "jittered", {}, ttl_spread=0.5),
        )
    real_fixed, real_jittered = fixed.peak_to_mean, jittered.peak_to_mean
    stage.devices = parameters.devices
    stage.measure(
        real_peak_to_mean_fixed=real_fixed,
        real_peak_to_mean_jittered=real_jittered,
        real_ratio=real_fixed / real_jittered if real_fixed and real_jittered else None,
        real_failures=fixed.failures + jittered.failures,
    )
    figures = await _simulated(stage, parameters)
    ratio = figures.peak_to_mean_fixed / figures.peak_to_mean_jittered
    stage.measure(
        ratio=ratio,
        peak_to_mean_fixed=figures.peak_to_mean_fixed,
        peak_to_mean_jittered=figures.peak_to_mean_jittered,
        near_stage_jittered=figures.near_stage_jittered,
    )
    faster = _PRODUCTION_TTL_S / parameters.ttl_s
    stage.note(
        f"In the compressed run six hours pass in {parameters.ttl_s} s: a second of it is {faster / 60:,.0f} min."
    )
    stage.note(
        f"The simulated night has {parameters.simulated_devices:,} devices; lifetimes are drawn by the service's own "
        "code, what devices draw on top is left out. Its curves show the busiest second of each five minutes."
    )
    near = figures.near_stage_jittered
    expires = f"{near} maps expire" if near else "no map expires"
    return (
        f"With fixed lifetimes the busiest second of the night has {figures.peak_to_mean_fixed:.1f} times the mean, "
        f"with jittered ones {figures.peak_to_mean_jittered:.2f}: {ratio:.1f} times less, and {expires} near a stage. "
        f"Played in {parameters.lasts_s:g} s with {parameters.devices:,} real devices each: "
        f"{real_fixed or 0:.1f} and {real_jittered or 0:.1f}."
    )


async def _played(
    stage: Stage, parameters: TtlHerds, name: str, environment: Mapping[str, str], *, ttl_spread: float
) -> _Half:
    settings = {"DGS_TTL_MEAN_S": str(parameters.ttl_s), **environment}
    async with stage.system(f"{name}-system", environment=settings) as system:
        starts_at_ms = int((time.time() + AN_HOUR_S) * 1000)
        await system.api.create_event(event_request(_EVENT, starts_at_ms=starts_at_ms, offsets_s=_OFFSETS_S))
        plan = AudiencePlan(
            devices=parameters.devices, dgs_url=system.dgs_url, event_ids=(_EVENT,), seed=stage.seed, artwork=False,
            prefetch_window_s=parameters.join_s, ttl_spread=ttl_spread,
        )  # fmt: skip
        audience = Audience(stage.directory / name, plan, core=stage.cores.load, name=name)
        async with audience, stage.watched("devices", audience.pid):
            stage.mark(f"{name}: everybody joins")
            await audience.watch()
            await audience.prefetch()
            # Those who come first may be due again while the last ones join: nobody is earlier than half a lifetime.
            began_s = time.time() + 1.0
            with stage.reporter.progress(f"{name}: seconds", round(parameters.lasts_s)) as progress:
                while (left_s := began_s + parameters.lasts_s - time.time()) > 0:
                    progress(round(parameters.lasts_s - left_s), round(parameters.lasts_s))
                    await asyncio.sleep(min(0.5, left_s))
            found = await system.api.requests_by_bin(
                int(began_s * 1000), int((began_s + parameters.lasts_s) * 1000), width_ms=1_000
            )
            failures = (await audience.stand()).failures
            stage.generator(f"devices, {name}", (await audience.judge([])).generator)
    zero_s = began_s - (time.time() - time.monotonic()) - stage.zero_s
    points = [(round(zero_s + number + 0.5, 2), float(each)) for number, each in enumerate(found)]
    stage.chart(
        "Refetches at the DGS, compressed", "in 1 s", {name: points}, explains="A comb is a herd that comes again."
    )
    return _Half(per_s=found.tolist(), failures=failures)


async def _simulated(stage: Stage, parameters: TtlHerds) -> TtlFigures:
    stage.mark("the night is simulated")
    options = TtlOptions(devices=parameters.simulated_devices, seed=stage.seed)
    night = Night(devices=parameters.simulated_devices)
    with stage.reporter.progress("maps handed out, round by round", 1) as progress:
        figures, fixed, jittered = await asyncio.to_thread(simulate, options, night, progress)
    stage.chart(
        "Refreshes of the simulated night",
        "in 1 s",
        {name: _curve(each) for name, each in (("fixed", fixed), ("jittered", jittered))},
        explains=f"{parameters.simulated_devices:,} devices; the busiest second of each five minutes.",
        since="the night began",
    )
    return figures


def _curve(found: Refreshes) -> list[tuple[float, float]]:
    stretches = found.per_s.reshape(_DRAWN_POINTS, -1)
    step_s = stretches.shape[1]
    return [((number + 0.5) * step_s, float(each)) for number, each in enumerate(stretches.max(axis=1))]
