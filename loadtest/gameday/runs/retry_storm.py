"""Retry storm: the DGS refuses or hangs for some seconds; clients ask again at once, or within a budget."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from device_sim.client import now_ms
from loadtest.bench.histogram import LatencyHistogram
from loadtest.bench.overload.arena import NOTHING_KEPT, RankingService
from loadtest.bench.prefetch.asking import FORMS, Secret
from loadtest.bench.prefetch.dgs_setup import DgsSetup
from loadtest.bench.prefetch.night import schedule_of
from loadtest.bench.prefetch.subject import DgsSubject
from loadtest.gameday import bins
from loadtest.gameday.clients.asker import Asker
from loadtest.gameday.clients.asker_child import DEGRADED, AskerPlan
from loadtest.gameday.clients.records import Step, Table, moments
from loadtest.gameday.parameters import RetryStorm
from loadtest.gameday.stage import Stage
from loadtest.gameday.wants import Wants, amplification, recovery_s, wants_of
from loadtest.gameday.words import recovered

__all__ = ["run"]

_RELOAD_S: Final = 0.1
"""How often the DGS looks at its rules here: the trouble begins and ends on time."""
_WHAT: Final = {"refuse": "the DGS refused everybody", "hang": "the DGS hung", "ranking": "the ranking service hung"}
_WARM_S: Final = 2.0
_TOLERATED_LAG_MS: Final = 50.0
_NOBODY: Final = """
[[rules]]
name = "nobody"
share = 0.0
"""
"""Behind the rules that ship: every request is refused, whatever its class."""


class _Dgs(NamedTuple):
    subject: DgsSubject
    ranking: RankingService
    rules: Path


class _Half(msgspec.Struct, frozen=True, kw_only=True):
    rows: Any
    wants: Wants
    trouble_s: float
    over_s: float
    until_s: float
    recovery_s: float
    watched_s: float
    """How long after the trouble recovery was looked for."""

    @property
    def asked(self) -> Any:
        return moments(self.rows, Step.ASKED)

    @property
    def peak(self) -> int:
        return bins.peak(self.asked, self.trouble_s, self.until_s)

    @property
    def amplification(self) -> float | None:
        return amplification(self.rows, self.trouble_s, self.over_s)

    @property
    def caught_up_s(self) -> float | None:
        """None: not before the end."""
        mine = self.wants.answered_s[(self.wants.wanted_s >= self.trouble_s) & (self.wants.wanted_s < self.over_s)]
        return None if not len(mine) or np.isnan(mine).any() else max(0.0, float(mine.max()) - self.over_s)


async def run(stage: Stage, parameters: RetryStorm) -> str:
    naive = await _half(stage, parameters, "without budgets", budget=False)
    stage.measure(
        amplification_naive=naive.amplification,
        peak_naive=naive.peak,
        recovery_s_naive=naive.recovery_s,
        caught_up_s_naive=naive.caught_up_s,
        answered_share_naive=naive.wants.answered_share,
    )
    budget = await _half(stage, parameters, "with budgets", budget=True)
    answered = budget.rows[budget.rows["kind"] == Step.ANSWERED]
    stage.measure(
        amplification_budget=budget.amplification,
        amplification_ratio=(naive.amplification or 0.0) / budget.amplification if budget.amplification else None,
        peak_budget=budget.peak,
        recovery_s_budget=budget.recovery_s,
        caught_up_s_budget=budget.caught_up_s,
        answered_share_budget=budget.wants.answered_share,
        degraded_share_budget=float((answered["status"] == DEGRADED).mean()) if len(answered) else None,
    )
    stage.note(
        "The clients of the first half ask again the moment they are refused or time out. One process carries them all "
        "and is the limit of that storm: on machines of their own they would ask more."
    )
    stage.note("A ranking service of so many slots stands behind the DGS, and nothing is cached: capacity is known.")
    sent, sent_budget = naive.amplification or 0.0, budget.amplification or 0.0
    return (
        f"While {_WHAT[parameters.trouble]} for {parameters.trouble_s:g} s, clients without budgets sent {sent:.1f} "
        f"requests per map wanted then, {naive.peak:,} in the worst 100 ms; with budgets {sent_budget:.1f} and "
        f"{budget.peak:,}. New ones were served in time again {recovered(naive.recovery_s, naive.watched_s)} without "
        f"budgets, with them {recovered(budget.recovery_s, budget.watched_s)}."
    )


async def _half(stage: Stage, parameters: RetryStorm, name: str, *, budget: bool) -> _Half:
    capacity = parameters.slots * 1000 / parameters.slot_ms
    rate = parameters.load * capacity
    lasts_s = parameters.before_s + parameters.trouble_s + parameters.after_s
    directory = stage.directory / name.replace(" ", "-")
    async with _dgs(stage, parameters, directory) as dgs:
        subject = dgs.subject
        plan = AskerPlan(
            port=subject.port, form=next(name for name, form in FORMS.items() if form is subject.form),
            rows=str(directory / "rows.bin"), budget=budget, profiles=parameters.profiles, seed=stage.seed,
            timeout_s=parameters.timeout_s, tries=parameters.tries, refetch_window_s=parameters.refetch_window_s,
        )  # fmt: skip
        asker = Asker("asker", directory, plan, core=stage.cores.load)
        async with asker, stage.watched("load", asker.pid):
            with stage.reporter.progress(f"{name}: seconds", round(_WARM_S + lasts_s)) as progress, stage.judged():
                # Limits learn and connections open before anything is counted.
                await asker.begin(rate=rate, lasts_s=_WARM_S + lasts_s)
                await asyncio.sleep(_WARM_S + parameters.before_s)
                trouble_s = time.monotonic()
                stage.mark(f"{name}: trouble", trouble_s)
                await _trouble(parameters, dgs)
                over_s = time.monotonic()
                stage.mark(f"{name}: over", over_s)
                while (left_s := over_s + parameters.after_s - time.monotonic()) > 0:
                    progress(round(_WARM_S + lasts_s - left_s), round(_WARM_S + lasts_s))
                    await asyncio.sleep(min(0.5, left_s))
            until_s = time.monotonic()
            held_back = (await asker.stand()).held_back
            rows, lag_ms = await asker.finish()
    _told(stage, name, lag_ms=lag_ms, held_back=held_back, budget=budget)
    wants = wants_of(rows)
    # The last ones of a run have not had their time.
    judged_until_s = until_s - 2 * parameters.timeout_s
    found = _Half(
        rows=rows, wants=wants, trouble_s=trouble_s, over_s=over_s, until_s=until_s,
        recovery_s=recovery_s(wants, over_s, judged_until_s, timeout_s=parameters.timeout_s),
        watched_s=judged_until_s - over_s,
    )  # fmt: skip
    _draw(stage, name, found)
    return found


def _told(stage: Stage, name: str, *, lag_ms: float, held_back: int, budget: bool) -> None:
    stage.fact("load generators", f"{name}, loop lag p99 ms", lag_ms)
    if held_back:
        stage.fact("load generators", f"{name}, requests that waited for a free file", held_back)
    if budget and lag_ms > _TOLERATED_LAG_MS:
        stage.invalid(f"the clients with budgets lagged {lag_ms:.0f} ms at p99 (at most {_TOLERATED_LAG_MS:.0f} ms)")


async def _trouble(parameters: RetryStorm, dgs: _Dgs) -> None:
    """Begins when called and is over when it returns."""
    if parameters.trouble == "refuse":
        usual = await asyncio.to_thread(dgs.rules.read_text)
        await asyncio.to_thread(dgs.rules.write_text, usual + _NOBODY)
        await asyncio.sleep(parameters.trouble_s)
        await asyncio.to_thread(dgs.rules.write_text, usual)
        return
    frozen = dgs.subject if parameters.trouble == "hang" else dgs.ranking
    frozen.freeze()
    try:
        await asyncio.sleep(parameters.trouble_s)
    finally:
        frozen.thaw()


@asynccontextmanager
async def _dgs(stage: Stage, parameters: RetryStorm, directory: Path) -> AsyncIterator[_Dgs]:
    """A DGS on the server's core, its ranking service and its rules."""
    async with AsyncExitStack() as stack:
        service = RankingService(directory, core=stage.cores.load, slots=parameters.slots, slot_ms=parameters.slot_ms)
        stack.push_async_callback(service.stop)
        await service.start()
        rules = directory / "rules.toml"
        shipped = files("dgs.priority") / "default.toml"
        await asyncio.to_thread(lambda: rules.write_text(shipped.read_text()))
        environment = {
            **NOTHING_KEPT,
            "DGS_RECOMMENDATIONS": "http",
            "DGS_RANKING_URL": f"http://127.0.0.1:{service.port}/rank",
            "DGS_RULESET_PATH": str(rules),
            "DGS_RULESET_RELOAD_S": str(_RELOAD_S),
        }
        subject = DgsSubject(
            "dgs",
            directory,
            core=stage.cores.server,
            setup=DgsSetup(schedule_of(now_ms()), Secret("k1", secrets.token_bytes(32))),
            environment=environment,
            takes_tokens=False,
        )
        stack.push_async_callback(subject.stop)
        await subject.start()
        await stack.enter_async_context(stage.watched("ranking service", service.pid))
        page = f"http://127.0.0.1:{subject.port}/metrics"
        await stack.enter_async_context(stage.watched("system", subject.pid, [page]))
        yield _Dgs(subject, service, rules)


def _draw(stage: Stage, name: str, found: _Half) -> None:
    rows: Table = found.rows
    begin_s, end_s = found.trouble_s - 2.0, found.until_s
    curves = {
        "asked": moments(rows, Step.ASKED),
        "wanted": found.wants.wanted_s,
        "answered": moments(rows, Step.ANSWERED),
    }
    stage.counted(
        f"Requests, wants and answers, {name}",
        curves,
        begin_s,
        end_s,
        explains="What lies between asked and wanted is retries.",
        since=("the trouble began", found.trouble_s),
    )
    taken = LatencyHistogram()
    done = ~np.isnan(found.wants.answered_s)
    taken.record_all_ms(((found.wants.answered_s - found.wants.wanted_s)[done] * 1000).tolist())
    stage.histogram(f"want to answer, {name}", taken)
