"""What `bench overload` found, what was promised, and whether it counts. Pure but for printing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from loadtest.bench.overload.judge import Served
from loadtest.bench.report import Reporter

__all__ = ["LIMITS", "CpuBound", "OverloadFigures", "OverloadLimits", "RankingBound", "goodput_bound"]


class OverloadLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What is promised."""

    critical_success_min: float = 0.995
    critical_p99_ratio_max: float = 2.0
    goodput_ratio_min: float = 0.9
    recovery_s_max: float = 2.0
    share_of_bound_min: float = 0.8
    load_core_share_max: float = 0.9
    late_p99_ms_max: float = 5.0
    """How late the load client sends for which a connection is free."""


LIMITS: Final = OverloadLimits()


def goodput_bound(load_factor: float, s: float) -> float:
    """Most that can be served, over the capacity, at `load_factor` times it if refusing costs `s` of serving.

    It is the x of x + s (f - x) = 1.
    """
    return max(0.0, (1 - load_factor * s) / (1 - s)) if s < 1 else 0.0


class RankingBound(msgspec.Struct, frozen=True, kw_only=True):
    """The run whose limit is the ranking service."""

    slots: int
    slot_ms: float
    sustained_per_s: float
    peak_per_s: float
    """Most good answers a second seen while nothing was overloaded."""
    unloaded: Served
    """Critical requests alone."""
    critical: Served
    other: Served
    """Both while it was overloaded."""
    recovery_s: float
    profiles_asked_per_s: float
    """Of the ranking service, while it was overloaded and shortly before and after."""
    log_bytes: int
    load_core_share: float
    late_p99_ms: float

    @property
    def critical_p99_ratio(self) -> float:
        if self.critical.p99_ms is None or not self.unloaded.p99_ms:
            return float("inf")
        return self.critical.p99_ms / self.unloaded.p99_ms

    @property
    def goodput_ratio(self) -> float:
        return (self.critical.good_per_s + self.other.good_per_s) / self.peak_per_s

    @property
    def asked(self) -> int:
        return self.critical.asked + self.other.asked


class CpuBound(msgspec.Struct, frozen=True, kw_only=True):
    """The run whose limit is the DGS's own core: every profile is ranked."""

    served_us: float
    """CPU of one good answer."""
    shed_us: float
    """CPU of one refusal."""
    peak_per_s: float
    during: Served
    """Everything while it was overloaded."""
    load_core_share: float

    @property
    def shed_cost_ratio(self) -> float:
        return self.shed_us / self.served_us

    @property
    def goodput_ratio(self) -> float:
        return self.during.good_per_s / self.peak_per_s


class OverloadFigures(msgspec.Struct, frozen=True, kw_only=True):
    load_factor: float
    ranking: RankingBound
    cpu: CpuBound
    others_cores_invalid: Sequence[str]
    cores_shared: bool

    @property
    def cpu_goodput_bound(self) -> float:
        return goodput_bound(self.load_factor, self.cpu.shed_cost_ratio)

    def shortfalls(self, limits: OverloadLimits = LIMITS) -> list[str]:
        """What the promise is missed by; empty: it holds."""
        ranking, found = self.ranking, []
        if ranking.critical.success < limits.critical_success_min:
            found.append(
                f"{ranking.critical.success:.2%} of critical requests were served, promised >= "
                f"{limits.critical_success_min:.1%}"
            )
        if ranking.critical_p99_ratio > limits.critical_p99_ratio_max:
            found.append(
                f"their p99 is {ranking.critical_p99_ratio:.2f} times that without load, promised <= "
                f"{limits.critical_p99_ratio_max:.0f}"
            )
        if ranking.goodput_ratio < limits.goodput_ratio_min:
            found.append(
                f"goodput is {ranking.goodput_ratio:.0%} of the peak, promised >= {limits.goodput_ratio_min:.0%}"
            )
        if ranking.recovery_s > limits.recovery_s_max:
            found.append(f"recovery took {ranking.recovery_s:.2f} s, promised <= {limits.recovery_s_max:.0f}")
        least = limits.share_of_bound_min * self.cpu_goodput_bound
        if self.cpu.goodput_ratio < least:
            found.append(
                f"CPU-bound goodput is {self.cpu.goodput_ratio:.0%} of the peak, promised >= {least:.0%}: "
                f"{limits.share_of_bound_min:.0%} of the bound"
            )
        return found

    def invalid_because(self, limits: OverloadLimits = LIMITS) -> list[str]:
        """Why the measurement does not count; empty: it does."""
        found = list(self.others_cores_invalid)
        share = max(self.ranking.load_core_share, self.cpu.load_core_share)
        if share > limits.load_core_share_max:
            found.append(
                f"load and ranking service used {share:.2f} of their core (at most {limits.load_core_share_max})"
            )
        if self.ranking.late_p99_ms > limits.late_p99_ms_max:
            found.append(
                f"the load client sent {self.ranking.late_p99_ms:.1f} ms late at p99 (at most "
                f"{limits.late_p99_ms_max:.0f} ms)"
            )
        if self.cores_shared:
            found.append("server and load shared one core")
        return found

    def keys(self) -> dict[str, Any]:
        """The benchmark's keys for JSON."""
        ranking, cpu = self.ranking, self.cpu
        return {
            "load_factor": self.load_factor,
            "critical_success": round(ranking.critical.success, 5),
            "critical_p99_ratio": _finite(ranking.critical_p99_ratio),
            "goodput_ratio": round(ranking.goodput_ratio, 4),
            "recovery_s": round(ranking.recovery_s, 2),
            "shed_cost_ratio": round(cpu.shed_cost_ratio, 4),
            "cpu_goodput_ratio": round(cpu.goodput_ratio, 4),
            "cpu_goodput_bound": round(self.cpu_goodput_bound, 4),
            "log_bytes_per_request": round(ranking.log_bytes / max(1, ranking.asked), 4),
            "sustained_per_s": round(ranking.sustained_per_s),
            "peak_per_s": round(ranking.peak_per_s),
            "critical_p99_ms": _rounded(ranking.critical.p99_ms),
            "unloaded_p99_ms": _rounded(ranking.unloaded.p99_ms),
            "profiles_asked_per_s": round(ranking.profiles_asked_per_s),
            "served_us": round(cpu.served_us, 1),
            "shed_us": round(cpu.shed_us, 1),
            "cpu_peak_per_s": round(cpu.peak_per_s),
        }

    def tabulate(self, reporter: Reporter) -> None:
        ranking, cpu = self.ranking, self.cpu
        reporter.table(
            f"Ranking service of {ranking.slots} slots x {ranking.slot_ms:g} ms, {self.load_factor:g} times the load "
            "it sustains",
            ("requests", "asked", "good", "refused", "degraded", "failed", "p50, ms", "p99, ms"),
            [
                _row("critical alone", ranking.unloaded),
                _row("critical", ranking.critical),
                _row("others", ranking.other),
            ],
            caption=(
                f"sustained {ranking.sustained_per_s:,.0f} a second, peak {ranking.peak_per_s:,.0f}; goodput "
                f"{ranking.goodput_ratio:.0%} of the peak\nrecovered {ranking.recovery_s:.2f} s after the load ended; "
                f"the service was asked for {ranking.profiles_asked_per_s:,.0f} profiles a second of "
                f"{ranking.slots * 1000 / ranking.slot_ms:,.0f} it can rank; "
                f"{ranking.log_bytes / max(1, ranking.asked):.3f} bytes logged per request"
            ),
        )
        reporter.table(
            f"CPU-bound: every profile ranked, {self.load_factor:g} times the capacity",
            ("requests", "asked", "good", "refused", "degraded", "failed", "p50, ms", "p99, ms"),
            [_row("all", cpu.during)],
            caption=(
                f"serving costs {cpu.served_us:.0f} us, refusing {cpu.shed_us:.1f} us: s = {cpu.shed_cost_ratio:.3f}\n"
                f"goodput {cpu.goodput_ratio:.0%} of {cpu.peak_per_s:,.0f} a second, at most "
                f"{self.cpu_goodput_bound:.0%} is possible"
            ),
        )


def _row(name: str, served: Served) -> tuple[object, ...]:
    counts = (served.asked, served.good, served.refused, served.marked, served.failed)
    return (name, *(f"{count:,}" for count in counts), served.p50_ms, served.p99_ms)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _finite(value: float) -> float | None:
    """JSON has no infinity: None where no critical request was served at all."""
    return None if value == float("inf") else round(value, 3)
