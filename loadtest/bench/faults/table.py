"""Results of fault runs, per fault: for the screen, for JSON, for docs/reliability.md. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from device_sim.audit import percentile
from loadtest.bench.faults.injections import Fault
from loadtest.bench.faults.verdict import RunVerdict

__all__ = ["BEGIN", "COLUMNS", "END", "FaultResult", "cells", "markdown", "with_table"]

BEGIN: Final = "<!-- written by `stagecue bench faults --update-docs`: begin -->"
END: Final = "<!-- end -->"
COLUMNS: Final = (
    "fault",
    "runs",
    "missed",
    "out of order",
    "two timestamps",
    "gaps",
    "holes",
    "repeats",
    "recovery, s (bound)",
)


class FaultResult(msgspec.Struct, frozen=True):
    """All runs of one fault. What is missed counts in each; recovery only in those the machine was not too busy for."""

    fault: Fault
    runs: Sequence[RunVerdict]

    @property
    def quiet(self) -> list[RunVerdict]:
        return [run for run in self.runs if run.quiet and run.failed is None]

    @property
    def measured(self) -> list[RunVerdict]:
        """The runs recovery is told of: if the machine was too busy in all of them, all of them."""
        return self.quiet or [run for run in self.runs if run.failed is None]

    def total(self, what: str) -> int:
        return sum(int(getattr(run, what)) for run in self.runs)

    @property
    def broken(self) -> list[str]:
        many = len(self.runs) > 1
        return [
            f"{self.fault.name}{f', run {number}' * many}: {line}"
            for number, run in enumerate(self.runs, 1)
            for line in run.broken()
        ]

    def phases(self) -> list[dict[str, Any]]:
        """Per step of the fault: what recovery took, over all runs, and its bound."""
        names: dict[str, float | None] = {}
        for run in self.runs:
            names.update({recovery.phase: recovery.bound_s for recovery in run.recoveries})
        busy = not self.quiet
        return [
            {"phase": name, "bound_s": bound_s, "busy": busy, **self._took([name])} for name, bound_s in names.items()
        ]

    def as_json(self) -> dict[str, Any]:
        """An element of the key `faults`; recovery of the phases that have a bound, the slowest of each run."""
        bounded = [phase["phase"] for phase in self.phases() if phase["bound_s"] is not None]
        summed = (
            "missed", "out_of_order", "double_timestamps", "gaps", "holes", "duplicates", "unknown_frames",
            "unknown_records", "early", "not_newest", "not_connected", "stages_lost", "broadcasts", "superseded",
            "cues",
        )  # fmt: skip
        return {
            "name": self.fault.name,
            "runs": len(self.quiet),
            "busy_runs": len(self.runs) - len(self.quiet),
            **{name: self.total(name) for name in summed},
            **self._took(bounded),
            "phases": self.phases(),
            "held": not self.broken,
            "remarks": [remark for run in self.runs for remark in run.remarks],
        }

    def _took(self, phases: Sequence[str]) -> dict[str, float | None]:
        """Of each run the slowest of `phases`; None where one of them did not recover."""
        found: list[float] = []
        for run in self.measured:
            took = [recovery.seconds for recovery in run.recoveries if recovery.phase in phases]
            if not took or any(seconds is None for seconds in took):
                return {"recover_s_p50": None, "recover_s_max": None}
            found.append(max(seconds for seconds in took if seconds is not None))
        if not found:
            return {"recover_s_p50": None, "recover_s_max": None}
        found.sort()
        return {"recover_s_p50": _rounded(percentile(found, 0.5)), "recover_s_max": _rounded(percentile(found, 1.0))}


def cells(result: FaultResult) -> list[str]:
    """A row under COLUMNS."""
    judged = [run for run in result.runs if run.failed is None]
    counts = ("missed", "out_of_order", "double_timestamps", "gaps", "holes", "duplicates")
    return [
        result.fault.name,
        str(len(result.quiet)),
        *(f"{result.total(name):,}" if judged else "-" for name in counts),
        "; ".join(_phase(phase) for phase in result.phases()) or "-",
    ]


def markdown(results: Iterable[FaultResult], envelope: Mapping[str, Any], *, devices: int) -> str:
    """What stands between the markers of docs/reliability.md."""
    machine = envelope["machine"]
    lines = [
        f"{devices:,} devices on 4 push nodes; {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB, "
        f"Linux {machine['kernel']}; commit `{str(envelope['commit'])[:12]}`, {envelope['started_at'][:10]}.",
        "",
        "| fault | what is done | runs | missed | out of order | two timestamps | gaps | holes | exact repeats "
        "| recovery, s (bound) |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for result in results:
        name, *rest = cells(result)
        mark = "" if not result.broken else " (**falls short**)"
        lines.append(f"| `{name}`{mark} | {result.fault.what} | " + " | ".join(rest) + " |")
    return "\n".join(lines)


def with_table(document: str, table: str) -> str:
    """`document` with the table between its markers. Raises ValueError when it has none."""
    head, begin, rest = document.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no place for the table: {BEGIN!r} and {END!r}")
    return f"{head}{BEGIN}\n{table}\n{END}{tail}"


def _phase(phase: Mapping[str, Any]) -> str:
    took = "did not recover" if phase["recover_s_max"] is None else f"{phase['recover_s_max']:.2f}"
    if phase["bound_s"] is None:
        took = "-" if phase["recover_s_max"] is None else took
        return f"{phase['phase']} {took}"
    return f"{phase['phase']} {took} ({phase['bound_s']:g}){', on a busy machine' * phase['busy']}"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
