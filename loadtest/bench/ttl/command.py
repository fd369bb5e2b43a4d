"""`stagecue bench ttl`: how even refreshes come through a night, with fixed lifetimes and with those the DGS draws."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from dgs.settings import DgsSettings
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.report import Reporter
from loadtest.bench.running import run_benchmark
from loadtest.bench.ttl.chart import draw_chart
from loadtest.bench.ttl.simulation import (
    Lifetimes,
    Night,
    Refreshes,
    fixed_refreshes,
    hours_with_traffic,
    jittered_refreshes,
    joins_ms,
    peak_to_mean,
)

__all__ = ["DEFAULT_CHART", "LIMITS", "TtlFigures", "TtlLimits", "TtlOptions", "run_ttl", "simulate"]

DEFAULT_CHART: Final = Path("reports") / "bench-ttl.html"


class TtlLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What is promised."""

    peak_to_mean_max: float = 3.0
    """Of jittered lifetimes, the busiest second of the night, chance included."""


LIMITS: Final = TtlLimits()


class TtlOptions(msgspec.Struct, frozen=True, kw_only=True):
    devices: int = 1_000_000
    seed: int = 1
    chart: Path = DEFAULT_CHART


class TtlFigures(msgspec.Struct, frozen=True, kw_only=True):
    night: Night
    peak_to_mean_fixed: float
    peak_to_mean_jittered: float
    refreshes_fixed: int
    refreshes_jittered: int
    near_stage_fixed: int
    near_stage_jittered: int
    """Refreshes nearer to a stage than the guard."""
    mean_ttl_s: float
    mean_per_s: float
    chart: Path

    def shortfalls(self, limits: TtlLimits = LIMITS) -> list[str]:
        """What the promise is missed by; empty: it holds."""
        found = []
        if self.peak_to_mean_jittered > limits.peak_to_mean_max:
            found.append(
                f"the busiest second has {self.peak_to_mean_jittered:.2f} times the mean with jittered lifetimes, "
                f"promised <= {limits.peak_to_mean_max:.1f}"
            )
        if self.near_stage_jittered:
            found.append(f"{self.near_stage_jittered} maps expired near a stage, promised none")
        return found

    def invalid_because(self) -> list[str]:
        """A simulation depends on nothing but its seed."""
        return []

    def keys(self) -> dict[str, Any]:
        """The benchmark's keys for JSON."""
        return {
            "peak_to_mean_fixed": round(self.peak_to_mean_fixed, 3),
            "peak_to_mean_jittered": round(self.peak_to_mean_jittered, 3),
            "chart": str(self.chart),
            "devices": self.night.devices,
            "mean_ttl_s": round(self.mean_ttl_s, 1),
            "mean_per_s": round(self.mean_per_s, 2),
            "refreshes_fixed": self.refreshes_fixed,
            "refreshes_jittered": self.refreshes_jittered,
            "near_stage_fixed": self.near_stage_fixed,
            "near_stage_jittered": self.near_stage_jittered,
        }

    def tabulate(self, reporter: Reporter) -> None:
        reporter.table(
            f"Refreshes of {self.night.devices:,} devices through {self.night.hours} hours, mean lifetime "
            f"{self.mean_ttl_s / 3600:.2f} h",
            ("lifetimes", "refreshes", "peak / mean", "near a stage"),
            [
                ("fixed", f"{self.refreshes_fixed:,}", self.peak_to_mean_fixed, f"{self.near_stage_fixed:,}"),
                ("jittered", f"{self.refreshes_jittered:,}", self.peak_to_mean_jittered, self.near_stage_jittered),
            ],
            caption=f"bins of a second, over the hours with traffic; the night as a picture: {self.chart}",
        )


def simulate(
    options: TtlOptions, night: Night, progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[TtlFigures, Refreshes, Refreshes]:
    """Figures, fixed and jittered refreshes; the same for the same seed. Some 6 us per map handed out."""
    defaults = DgsSettings.model_construct()
    # A second more, as the service guards: its answers count in whole seconds.
    guard_s = defaults.ttl_stage_guard_s
    lifetimes = Lifetimes(
        mean_ms=defaults.ttl_mean_s * 1000, spread=defaults.ttl_spread, guard_ms=guard_s * 1000 + 1000
    )
    joins = joins_ms(night, options.seed)
    jittered = jittered_refreshes(night, lifetimes, joins, options.seed, progress)
    fixed = fixed_refreshes(night, jittered.mean_ttl_s, joins)
    seconds, stages_s = hours_with_traffic(fixed, jittered), [at for _, at in night.stages_s]
    if not seconds.any():
        raise CouldNotRun("no device refreshes within the night")
    figures = TtlFigures(
        night=night,
        peak_to_mean_fixed=peak_to_mean(fixed, seconds),
        peak_to_mean_jittered=peak_to_mean(jittered, seconds),
        refreshes_fixed=int(fixed.per_s.sum()),
        refreshes_jittered=int(jittered.per_s.sum()),
        near_stage_fixed=fixed.near(stages_s, guard_s),
        near_stage_jittered=jittered.near(stages_s, guard_s),
        mean_ttl_s=jittered.mean_ttl_s,
        mean_per_s=float(jittered.per_s[seconds].mean()),
        chart=options.chart,
    )
    return figures, fixed, jittered


async def _measure(options: TtlOptions, reporter: Reporter) -> TtlFigures:
    night = Night(devices=options.devices)
    with reporter.progress("maps handed out, round by round", 1) as progress:
        figures, fixed, jittered = await asyncio.to_thread(simulate, options, night, progress)
    page = draw_chart(
        night,
        fixed=fixed,
        jittered=jittered,
        peaks=(figures.peak_to_mean_fixed, figures.peak_to_mean_jittered),
        mean=figures.mean_per_s,
        guard_s=DgsSettings.model_construct().ttl_stage_guard_s,
    )
    try:
        options.chart.parent.mkdir(parents=True, exist_ok=True)
        options.chart.write_text(page)
    except OSError as exc:
        raise CouldNotRun(f"--chart: {options.chart} cannot be written: {exc.strerror}") from exc
    return figures


def run_ttl(options: TtlOptions, *, as_json: bool = False) -> int:
    """Simulate, draw, print, and return the exit code."""
    return run_benchmark(lambda reporter: _measure(options, reporter), seed=options.seed, as_json=as_json)
