"""`stagecue bench overload`: several times the load the DGS sustains, and what becomes of what matters.

Requests come at random instants whether others were answered or not, and their time counts from when they were due.
Critical ones are first prefetches within an event's window, the others refreshes of maps devices hold: the rules that
ship tell them apart. In the first run the limit is a ranking service, so that the DGS has CPU left for refusing; in the
second it is the DGS's own core, which ranks for everybody, and refusing takes from serving.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec

from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.overload.arena import Arena, open_arena
from loadtest.bench.overload.figures import CpuBound, OverloadFigures, RankingBound
from loadtest.bench.overload.judge import recovery_s, served_between
from loadtest.bench.overload.plan import CRITICAL, OTHER, Stretch
from loadtest.bench.peers.http_load import LoadRun
from loadtest.bench.push.contender import OthersMeter
from loadtest.bench.push.cores import Cores, choose_cores, kept_on
from loadtest.bench.report import Reporter
from loadtest.bench.running import run_benchmark
from loadtest.bench.validity import others_invalid

__all__ = ["SHED_EVERYTHING", "OverloadOptions", "measure_overload", "run_overload"]

SHED_EVERYTHING: Final = """
default = "best_effort"
[classes.critical]
sheds = [0.0, 0.15]
[classes.degraded]
sheds = [0.15, 0.5]
[classes.best_effort]
sheds = [0.5, 0.8]
[classes.bulk]
sheds = [0.8, 1.0]
[[rules]]
name = "nobody"
share = 0.0
"""
"""A ruleset under which every request is refused: what one refusal costs."""
_GOOD_SHARE: Final = 0.99
_HALVINGS: Final = 5
_FEW: Final = 16
"""Connections that keep one core busy and let nobody wait for long."""
_MANY: Final = 64


class OverloadOptions(msgspec.Struct, frozen=True, kw_only=True):
    load_factor: float = 6.0
    slots: int = 20
    slot_ms: float = 5.0
    lasts_s: float = 20.0
    critical_share: float = 0.05
    """Of the sustained load, beside the others."""
    profiles: int = 50_000
    """Of each kind of request; they come again once all have come."""
    seed: int = 1
    environment: Mapping[str, str] = {}
    """Settings of our DGS, on top of its defaults."""

    @property
    def step_s(self) -> float:
        """How long a load is tried for."""
        return min(4.0, self.lasts_s / 5)


async def measure_overload(options: OverloadOptions, reporter: Reporter) -> OverloadFigures:
    """Run it once. Raises CouldNotRun; nothing is left running."""
    cores = choose_cores()
    with kept_on(cores.load):
        others: list[float] = []
        ranking = await _ranking_bound(options, reporter, cores, others)
        cpu = await _cpu_bound(options, reporter, cores, others)
    return OverloadFigures(
        load_factor=options.load_factor,
        ranking=ranking,
        cpu=cpu,
        others_cores_invalid=others_invalid(max(others)),
        cores_shared=cores.shared,
    )


async def _ranking_bound(
    options: OverloadOptions, reporter: Reporter, cores: Cores, others: list[float]
) -> RankingBound:
    """Appends to `others` what others used of the machine: told while all that was started still runs."""
    async with open_arena(
        cores,
        environment=options.environment,
        profiles=options.profiles,
        seed=options.seed,
        ranking=(options.slots, options.slot_ms),
    ) as arena:
        assert arena.ranking is not None
        meter = OthersMeter()
        with reporter.progress("ranking service: how much it sustains", 1) as progress:
            sustained, peak = await _sustained(arena, options)
            progress(1, 1)
        critical = options.critical_share * sustained
        reporter.note(f"  {sustained:,.0f} requests a second sustained, {peak:,.0f} at the peak")
        await arena.rest()
        before_s, after_s = options.step_s, options.lasts_s / 4
        alone = await arena.run_open([Stretch(after_s, critical, 0.0)])
        await arena.rest()
        stretches = [
            Stretch(before_s, critical, sustained / 2),
            Stretch(options.lasts_s, critical, options.load_factor * sustained),
            Stretch(after_s, critical, sustained / 2),
        ]
        asked = (await arena.ranking.ask("stats"))["profiles"]
        with reporter.progress(f"ranking service: {options.load_factor:g} times that", 1) as progress:
            found = await arena.run_open(stretches)
            progress(1, 1)
        asked_per_s = ((await arena.ranking.ask("stats"))["profiles"] - asked) / found.run.wall_s
        over_s = before_s + options.lasts_s
        others.append(meter.cores())
        return RankingBound(
            slots=options.slots,
            slot_ms=options.slot_ms,
            sustained_per_s=sustained,
            peak_per_s=peak,
            unloaded=served_between(alone.records, 0.0, after_s, tag=CRITICAL),
            critical=served_between(found.records, before_s, over_s, tag=CRITICAL),
            other=served_between(found.records, before_s, over_s, tag=OTHER),
            recovery_s=recovery_s(found.records, over_s, over_s + after_s),
            profiles_asked_per_s=asked_per_s,
            log_bytes=found.log_bytes,
            load_core_share=found.load_core_share,
            late_p99_ms=found.run.late.percentile_ms(99) or 0.0,
        )


async def _sustained(arena: Arena, options: OverloadOptions) -> tuple[float, float]:
    """Most others a second of which nearly all are good, and the most good answers a second seen on the way.

    Between nothing and all that the slots could do, halved until it is known to a thirtieth of that.
    """
    most = options.slots * 1000 / options.slot_ms
    sustained, too_much, peak = 0.0, most, 0.0
    await arena.run_open([Stretch(options.step_s, 0.0, most / 2)])  # limits learn, caches fill
    await arena.rest(0.5)
    for _ in range(_HALVINGS):
        tried = (sustained + too_much) / 2
        found = await arena.run_open([Stretch(options.step_s, 0.0, tried)])
        served = served_between(found.records, 0.0, options.step_s)
        peak = max(peak, served.good_per_s)
        if served.success >= _GOOD_SHARE:
            sustained = tried
        else:
            too_much = tried
        error = found.run.error
        await arena.rest(0.5)
    if not sustained:
        raise CouldNotRun(f"the DGS does not sustain {tried:,.0f} requests a second; {error}{arena.subject.log_end()}")
    return sustained, peak


async def _cpu_bound(options: OverloadOptions, reporter: Reporter, cores: Cores, others: list[float]) -> CpuBound:
    with reporter.progress("CPU: what serving and refusing cost", 2) as progress:
        shed_us = await _cost_of_refusing(options, cores)
        progress(1, 2)
        async with open_arena(
            cores, environment=options.environment, profiles=options.profiles, seed=options.seed
        ) as arena:
            meter = OthersMeter()
            await arena.run_closed(_FEW, 1.0)
            run, cpu_s = await arena.run_closed(_FEW, options.step_s)
            if not run.good_count:
                raise CouldNotRun(f"none of {run.sent} requests was served without any load; {run.error}")
            progress(2, 2)
            # What was refused all the same, at little cost, is no part of what serving costs.
            served_us = (cpu_s * 1e6 - _refused(run) * shed_us) / run.good_count
            peak = run.good_count / run.wall_s
            await arena.rest()
            # Everything is of one class here: what refusing costs is the question, not whom it meets.
            found = await arena.run_open([Stretch(options.lasts_s / 2, 0.0, options.load_factor * peak)])
            settled_s = min(1.0, options.lasts_s / 8)
            others.append(meter.cores())
            return CpuBound(
                served_us=served_us,
                shed_us=shed_us,
                peak_per_s=peak,
                during=served_between(found.records, settled_s, options.lasts_s / 2),
                load_core_share=found.load_core_share,
            )


async def _cost_of_refusing(options: OverloadOptions, cores: Cores) -> float:
    """CPU microseconds of one refusal, nothing else being done."""
    with TemporaryDirectory(prefix="stagecue-bench-") as directory:
        path = Path(directory) / "rules.toml"
        path.write_text(SHED_EVERYTHING)
        environment = {**options.environment, "DGS_RULESET_PATH": str(path)}
        async with open_arena(
            cores, environment=environment, profiles=options.profiles, seed=options.seed, refuses=True
        ) as arena:
            await arena.run_closed(_MANY, 0.5)
            run, cpu_s = await arena.run_closed(_MANY, options.step_s)
            refused = _refused(run)
            if not refused or refused < _GOOD_SHARE * run.sent:
                raise CouldNotRun(f"under rules that refuse everybody {refused} of {run.sent} requests were refused")
            return cpu_s / refused * 1e6


def _refused(run: LoadRun) -> int:
    return sum(tally.statuses.get(503, 0) + tally.statuses.get(429, 0) for tally in run.tags.values())


def run_overload(options: OverloadOptions, *, as_json: bool = False) -> int:
    """Measure, print, and return the exit code."""
    return run_benchmark(lambda reporter: measure_overload(options, reporter), seed=options.seed, as_json=as_json)
