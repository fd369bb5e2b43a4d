"""Non-critical flood: refreshes far beyond capacity beside first prefetches, with and without priorities."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from importlib.resources import files
from typing import Final

from loadtest.bench.overload.arena import open_arena
from loadtest.bench.overload.judge import Served, recovery_s, served_between
from loadtest.bench.overload.plan import CRITICAL, OTHER, Stretch
from loadtest.gameday.open_load import OpenRun, draw_answers, judge_load, latencies_ms
from loadtest.gameday.parameters import Flood
from loadtest.gameday.stage import Stage
from loadtest.gameday.words import in_ms, share

__all__ = ["run"]

_USUAL: Final = 0.4
"""Refreshes before and after the flood, of what the ranking service can do."""
_WARM_S: Final = 2.0
_SETTLED_S: Final = 0.5
"""Of the flood: how long the shedding may take to learn of it before critical requests are judged."""


async def run(stage: Stage, parameters: Flood) -> str:
    critical, other, recovered_s = await _half(stage, parameters, "priorities", {})
    stage.measure(
        critical_success=critical.success if critical.asked else None,
        critical_p99_ms=critical.p99_ms,
        other_success=other.success if other.asked else None,
        other_shed_share=(other.refused + other.marked) / other.asked if other.asked else None,
        goodput_per_s=critical.good_per_s + other.good_per_s,
        recovery_s=recovered_s,
    )
    rules = stage.directory / "one-class.toml"
    rules.write_text(one_class(files("dgs.priority").joinpath("default.toml").read_text()))
    flat, flat_other, _ = await _half(stage, parameters, "one class", {"DGS_RULESET_PATH": str(rules)})
    stage.measure(
        critical_success_flat=flat.success if flat.asked else None,
        critical_p99_ms_flat=flat.p99_ms,
    )
    stage.note(
        "The ranking service behind the DGS is the limit; nothing is cached, so that thousands stand for millions."
    )
    capacity = parameters.slots * 1000 / parameters.slot_ms
    return (
        f"Refreshes came at {parameters.flood:g} times what the ranking service can do ({capacity:,.0f}/s). "
        f"{share(critical.success)} of first prefetches got their own map (p99 {in_ms(critical.p99_ms)}) while "
        f"{share(other.success)} of refreshes were served; with one class for all {share(flat.success)} and "
        f"{share(flat_other.success)}."
    )


def one_class(rules: str) -> str:
    """The same classes and phases, and everything of the most important class: no rule is left."""
    head, _, _ = rules.partition("[[rules]]")
    # A comment that belonged to the first rule may stay behind; it says nothing to the DGS.
    return re.sub(r"^default = .*$", 'default = "critical"', head, flags=re.MULTILINE)


async def _half(
    stage: Stage, parameters: Flood, name: str, environment: Mapping[str, str]
) -> tuple[Served, Served, float]:
    """Critical and other requests of the flood, and how long after it nearly everything was served again."""
    capacity = parameters.slots * 1000 / parameters.slot_ms
    critical = parameters.critical_load * capacity
    begins_s, over_s = parameters.before_s, parameters.before_s + parameters.flood_s
    async with open_arena(
        stage.cores,
        environment=environment,
        profiles=parameters.profiles,
        seed=stage.seed,
        ranking=(parameters.slots, parameters.slot_ms),
    ) as arena:
        assert arena.ranking is not None
        page = f"http://127.0.0.1:{arena.subject.port}/metrics"
        async with (
            stage.watched("system", arena.subject.pid, [page]),
            stage.watched("ranking service", arena.ranking.pid),
        ):
            with stage.reporter.progress(f"flood, {name}", 1) as progress, stage.judged():
                await arena.run_open([Stretch(_WARM_S, critical, _USUAL * capacity)])
                await arena.rest(_SETTLED_S)
                began_s = time.monotonic()
                stage.mark(f"{name}: flood", began_s + begins_s)
                stage.mark(f"{name}: over", began_s + over_s)
                found = await arena.run_open(
                    [
                        Stretch(parameters.before_s, critical, _USUAL * capacity),
                        Stretch(parameters.flood_s, critical, parameters.flood * capacity),
                        Stretch(parameters.after_s, critical, _USUAL * capacity),
                    ]
                )
                progress(1, 1)
    judge_load(stage, f"requests, {name}", found.run)
    stage.fact("load generators", f"{name}, part of their core with the ranking service", found.load_core_share)
    answers = OpenRun(began_s, found.records, found.run)
    draw_answers(stage, f"Answers by class, {name}", answers, since=("the flood began", began_s + begins_s))
    stage.histogram(f"first prefetches, {name}", latencies_ms(found.records, tag=CRITICAL))
    return (
        served_between(found.records, begins_s + _SETTLED_S, over_s, tag=CRITICAL),
        served_between(found.records, begins_s + _SETTLED_S, over_s, tag=OTHER),
        recovery_s(found.records, over_s, over_s + parameters.after_s),
    )
