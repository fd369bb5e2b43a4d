"""`stagecue bench faults`: run them all, or some, and say what became of the promise."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from loadtest.bench.envelope import Envelope
from loadtest.bench.faults.injections import FAULTS, Fault, fault_named
from loadtest.bench.faults.run import FaultCluster, RunOptions, open_fault_cluster, run_fault
from loadtest.bench.faults.table import COLUMNS, FaultResult, cells, markdown, with_table
from loadtest.bench.faults.verdict import RunVerdict, unjudged
from loadtest.bench.outcome import CouldNotRun, ExitCode
from loadtest.bench.report import Reporter

__all__ = ["DOCUMENT", "FaultsOptions", "list_faults", "run_faults"]

_ATTEMPTS: Final = 3
DOCUMENT: Final = Path(__file__).parents[3] / "docs" / "reliability.md"


class FaultsOptions(msgspec.Struct, frozen=True, kw_only=True):
    faults: Sequence[str] = ()
    """Names; empty: all."""
    runs: int = 1
    devices: int = 2_000
    channels_per_device: int = 2
    seed: int = 1
    update_docs: bool = False
    keep: Path | None = None
    """Keep logs and records here."""

    def chosen(self) -> list[Fault]:
        """Raises CouldNotRun naming the faults there are."""
        try:
            found = [fault_named(name) for name in self.faults] or list(FAULTS)
        except KeyError as exc:
            raise CouldNotRun(f"--fault {exc.args[0]}: one of {', '.join(each.name for each in FAULTS)}") from None
        if self.update_docs and len(found) < len(FAULTS):
            raise CouldNotRun("--update-docs: the document has all faults, so run all of them")
        return found


async def measure_faults(options: FaultsOptions, reporter: Reporter) -> list[FaultResult]:
    """Every chosen fault `runs` times, one cluster for all. Raises CouldNotRun; nothing is left running."""
    chosen = options.chosen()
    found: dict[str, list[RunVerdict]] = {fault.name: [] for fault in chosen}
    run_options = RunOptions(
        devices=options.devices, channels_per_device=options.channels_per_device, seed=options.seed
    )
    with tempfile.TemporaryDirectory(prefix="stagecue-faults-") as temporary:
        directory = options.keep or Path(temporary)
        await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
        async with open_fault_cluster(directory, reporter) as shared:
            for _ in range(options.runs):
                for fault in chosen:
                    async for run in _until_quiet(fault, shared, run_options, reporter):
                        found[fault.name].append(run)
                        for line in run.broken():
                            reporter.note(f"  falls short: {line}")
    return [FaultResult(fault, found[fault.name]) for fault in chosen]


async def _until_quiet(
    fault: Fault, shared: FaultCluster, options: RunOptions, reporter: Reporter
) -> AsyncIterator[RunVerdict]:
    """Runs until one had the machine to itself, at most `_ATTEMPTS`; all of them are judged for what they missed."""
    for _ in range(_ATTEMPTS):
        try:
            run = await run_fault(fault, shared, options, reporter)
        except CouldNotRun as exc:
            # What was to come about did not: the promise is broken, and the other faults are to be tried all the same.
            run = unjudged(str(exc))
            await _all_running(shared)
        yield run
        if run.quiet:
            return
        reporter.note("  the machine was too busy for recovery to mean anything: once more")


async def _all_running(shared: FaultCluster) -> None:
    """Start again what a fault left dead. Raises CouldNotRun."""
    for member in shared.cluster.members.values():
        if not member.running:
            await member.start()


def list_faults() -> int:
    """Print the faults' names and what they do."""
    reporter = Reporter(as_json=False)
    rows = [(each.name, each.what, "promised" if each.promised else "the benchmark's own") for each in FAULTS]
    reporter.table("Faults", ("name", "what is done", "bound"), rows)
    return ExitCode.HELD


def run_faults(options: FaultsOptions, *, as_json: bool = False) -> int:
    """Measure, print, and return the exit code."""
    reporter = Reporter(as_json=as_json)
    envelope = Envelope(seed=options.seed)
    try:
        results = asyncio.run(measure_faults(options, reporter))
    except CouldNotRun as exc:
        reporter.note(f"could not run: {exc}")
        return ExitCode.COULD_NOT_RUN
    for result in results:
        if len(result.quiet) < options.runs:
            envelope.invalid(f"{result.fault.name}: {len(result.quiet)} of {options.runs} runs on a quiet machine")
    broken = [line for result in results for line in result.broken]
    missed = sum(result.total("missed") for result in results)
    reporter.table(
        f"Faults: {options.devices} devices, a broadcast every 0.3 s on each of 20 topics",
        COLUMNS,
        [cells(result) for result in results],
        caption="recovery counts from each step until all topics reach all devices live again",
    )
    for line in broken:
        reporter.note(f"falls short: {line}")
    if not envelope.valid:
        reporter.note("not valid: the machine was too busy with other things, see `invalid_because`")
    sealed = envelope.seal(
        {
            "devices": options.devices,
            "faults": [result.as_json() for result in results],
            "missed": missed,
            "falls_short": broken,
        }
    )
    if options.update_docs:
        table = markdown(results, sealed, devices=options.devices)
        DOCUMENT.write_text(with_table(DOCUMENT.read_text(), table))
        reporter.note(f"written to {DOCUMENT}")
    reporter.emit(sealed)
    return ExitCode.HELD if not broken and envelope.valid else ExitCode.FELL_SHORT
