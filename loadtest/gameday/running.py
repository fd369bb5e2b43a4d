"""A game day from the scenario to the report: set up, run, judge, tear down; interrupted, what was measured is kept."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from contract.errors import BroadcastSystemError
from loadtest.bench.envelope import Envelope
from loadtest.bench.outcome import CouldNotRun, ExitCode
from loadtest.bench.push.cores import Cores, choose_cores, kept_on
from loadtest.bench.report import Reporter
from loadtest.gameday.bars import judged, verdict_of
from loadtest.gameday.library import load_scenario, shipped_scenarios
from loadtest.gameday.runs import Runner, runner_of
from loadtest.gameday.scenario import Scenario, ScenarioError
from loadtest.gameday.stage import Stage
from loadtest.machine import MachineFacts, Shape, fit, read_machine
from loadtest.report.files import write_report
from loadtest.report.record import Bar, RunRecord
from loadtest.report.scales import amount_with_unit
from loadtest.report.verdicts import answer_of

__all__ = [
    "DEFAULT_OUTPUT",
    "GamedayOptions",
    "check_machine",
    "list_scenarios",
    "promises_of",
    "reserved",
    "run_gameday",
    "run_scenario",
    "show",
]

DEFAULT_OUTPUT: Final = Path("reports") / "gameday"
_NOT_ANSWERED: Final = "The run was interrupted; below is what was measured until then."


class GamedayOptions(msgspec.Struct, frozen=True, kw_only=True):
    scenario: str
    """Name of a shipped one, or path of a file."""
    output: Path | None = None
    """Of the report; None: `reports/gameday/NAME-TIME`."""
    seed: int = 1
    devices: int | None = None
    """Instead of the scenario's."""


class _Interrupted:
    """Inside, SIGINT and SIGTERM cancel the run; the second one ends the process as it would without us."""

    def __init__(self, task: asyncio.Task[str]) -> None:
        self._task = task
        self.told = False

    def __enter__(self) -> _Interrupted:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._interrupt)
        return self

    def __exit__(self, *exc: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().remove_signal_handler(number)

    def _interrupt(self) -> None:
        if self.told:
            self.__exit__()
            signal.raise_signal(signal.SIGINT)
        self.told = True
        self._task.cancel()


async def run_scenario(
    scenario: Scenario, *, output: Path, seed: int, reporter: Reporter, runner: Runner | None = None
) -> RunRecord:
    """Run it once and write its report below `output`. Raises CouldNotRun; everything it started is gone.

    At SIGINT or SIGTERM it ends what it started and returns a record that says `partial`.
    """
    check_machine(scenario, read_machine())
    run = runner or runner_of(scenario.runs)
    envelope, cores = Envelope(seed=seed), choose_cores()
    with reserved(output):
        return await _run(scenario, run, output=output, seed=seed, reporter=reporter, envelope=envelope, cores=cores)


async def _run(
    scenario: Scenario, run: Runner, *, output: Path, seed: int, reporter: Reporter, envelope: Envelope, cores: Cores
) -> RunRecord:
    with tempfile.TemporaryDirectory(prefix="stagecue-gameday-") as directory, kept_on(cores.load):
        stage = Stage(
            directory=Path(directory), output=output, beside=Path(scenario.file).parent, reporter=reporter, seed=seed,
            cores=cores,
        )  # fmt: skip
        async with stage:
            answer, partial = await _answered(run, stage, scenario)
        if cores.shared:
            stage.invalid("there is one core only: load and system share it")
        for because in stage.invalid_because:
            envelope.invalid(because)
        record = _record(scenario, stage, answer=answer, partial=partial, envelope=envelope.seal({}))
        try:
            await asyncio.to_thread(write_report, record, output)
        except OSError as exc:
            raise CouldNotRun(f"--output: {output} cannot be written: {exc.strerror}") from exc
    return record


async def _answered(run: Runner, stage: Stage, scenario: Scenario) -> tuple[str, bool]:
    """The answer, and whether the run was cut short."""
    task: asyncio.Task[str] = asyncio.create_task(run(stage, scenario.parameters), name=f"gameday.{scenario.name}")
    with _Interrupted(task) as interrupted:
        try:
            return await task, False
        except asyncio.CancelledError:
            if not interrupted.told and not task.cancelled():
                task.cancel()
                await asyncio.wait({task})
                raise
            stage.mark("interrupted")
            return _NOT_ANSWERED, True
        except Exception as exc:
            # Children share our terminal: what they die of first is the same signal, and what follows may be anything.
            if interrupted.told:
                stage.mark("interrupted")
                return _NOT_ANSWERED, True
            if isinstance(exc, BroadcastSystemError):
                raise CouldNotRun(str(exc)) from exc
            raise


def _record(scenario: Scenario, stage: Stage, *, answer: str, partial: bool, envelope: dict[str, Any]) -> RunRecord:
    bars = judged(scenario.bars, scenario.runs.measures, stage.measured)
    for name, value in stage.measured.items():
        if value is not None and name not in {bar.name for bar in bars}:
            measure = scenario.runs.measures[name]
            stage.fact("measured without a bar", name, amount_with_unit(value, measure.unit))
    for name, value in msgspec.to_builtins(scenario.parameters).items():
        if value is not None:
            stage.fact("parameters", name, value)
    return RunRecord(
        scenario=scenario.name,
        title=scenario.title,
        question=scenario.question,
        answer=answer,
        verdict=verdict_of(bars, invalid=stage.invalid_because, partial=partial),
        bars=bars,
        charts=stage.charts,
        marks=stage.sampler.marks,
        reach=stage.reach,
        histograms=stage.histograms,
        facts=stage.facts,
        devices=stage.devices,
        notes=stage.notes,
        envelope=envelope,
    )


def check_machine(scenario: Scenario, machine: MachineFacts) -> None:
    """Raises CouldNotRun saying how many devices would fit when the asked number does not."""
    devices, shape = scenario.devices or 1, Shape(spare_nodes=0, other_processes=8, listening_ports=None)
    files = machine.files_per_process
    most = min(shape.per_node(files), shape.per_fleet(files))
    if devices > most:
        raise CouldNotRun(
            f"{devices} devices on one push node and in one process, which may open {files} files here: {most} would "
            f"fit; raise the hard limit: ulimit -Hn {devices + devices // 10 + 2 * shape.reserved_files}"
        )
    found = fit(machine, devices, shape)
    if not found.held:
        raise CouldNotRun("\n".join(found.lines()))


@contextmanager
def reserved(output: Path) -> Iterator[None]:
    """Make the report's directory, or find out before a run that it cannot be written: raises CouldNotRun. A run that
    fails leaves no empty one, nor those above it that were made for it."""
    made = [directory for directory in (output, *output.parents) if not directory.exists()]
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as exc:
        raise CouldNotRun(f"--output: {output} cannot be written: {exc.strerror}") from exc
    try:
        yield
    finally:
        with suppress(OSError):
            for directory in made:
                directory.rmdir()


def run_gameday(options: GamedayOptions, *, as_json: bool) -> int:
    """Run, print, and return the exit code: 0 held, 1 not, 2 it could not run."""
    import uvloop

    reporter = Reporter(as_json=as_json)
    try:
        scenario = load_scenario(options.scenario)
        if options.devices is not None:
            scenario = scenario.with_devices(options.devices)
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        output = options.output or DEFAULT_OUTPUT / f"{scenario.name}-{stamp}"
        reporter.note(f"{scenario.title}: {scenario.question}")
        record = uvloop.run(run_scenario(scenario, output=output, seed=options.seed, reporter=reporter))
    except (ScenarioError, CouldNotRun) as exc:
        reporter.note(f"could not run: {exc}")
        return ExitCode.COULD_NOT_RUN
    show(record, output, reporter)
    return ExitCode.HELD if record.verdict == "held" else ExitCode.FELL_SHORT


def show(record: RunRecord, output: Path, reporter: Reporter) -> None:
    """The verdict for a person, and the result object."""
    report = output / "report.html"
    for because in record.envelope.get("invalid_because", "").split("; "):
        if because:
            reporter.note(f"not valid: {because}")
    reporter.table(
        f"{record.title}: {record.verdict}",
        ("bar", "promised", "measured", "held"),
        [(bar.name, bar.bar, amount_with_unit(bar.measured, bar.unit), _held(bar)) for bar in record.bars],
    )
    reporter.say(answer_of(record))
    reporter.say(str(report))
    bars = [{"name": b.name, "bar": b.bar, "measured": b.measured, "held": b.held} for b in record.bars]
    reporter.emit(
        {
            "scenario": record.scenario,
            "verdict": record.verdict,
            "bars": bars,
            "report": str(report),
            "answer": record.answer,
            **record.envelope,
        }
    )


def _held(bar: Bar) -> str:
    return "yes" if bar.held else "not measured" if bar.measured is None else "NO"


def promises_of(scenario: Scenario) -> str:
    """Its bars in a line."""
    return "Holds if " + ", ".join(f"{bar.name} {bar.op} {bar.value:g}" for bar in scenario.bars)


def list_scenarios(*, as_json: bool, note: Callable[[str], None] | None = None) -> int:
    """What ships: name and question."""
    reporter = Reporter(as_json=as_json)
    try:
        found = shipped_scenarios()
    except ScenarioError as exc:
        (note or reporter.note)(str(exc))
        return ExitCode.COULD_NOT_RUN
    if as_json:
        reporter.emit({"scenarios": [{"name": e.name, "title": e.title, "question": e.question} for e in found]})
        return ExitCode.HELD
    for each in found:
        reporter.say(each.name, heading=True)
        reporter.say(each.question, indent=2)
        reporter.say(promises_of(each), indent=2)
    return ExitCode.HELD
