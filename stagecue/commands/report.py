"""`stagecue report`: what runs left behind, in the terminal and two side by side as a page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from rich.console import Console

    from loadtest.report.record import RunRecord

__all__ = ["report"]

_COMPARISON: Final = "comparison.html"
_COLOURS: Final = {"held": "green", "failed": "red", "invalid": "magenta", "partial": "yellow"}
_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

_run = click.Path(path_type=Path)


@click.group(
    epilog="\b\nExamples:\n"
    "  stagecue report show reports/herd\n"
    "  stagecue report compare reports/before reports/after\n"
)
def report() -> None:
    """Show what a run left behind, or set two runs side by side.

    A run is a directory with a report, its `run.json`, or its `report.html`.
    """


@report.command(epilog="\b\nExamples:\n  stagecue report show reports/herd\n  stagecue report show report.html\n")
@click.argument("run", type=_run)
def show(run: Path) -> None:
    """Print question, verdict and promises of a RUN as tables.

    Exit code 0: its promises hold; 1: one does not, or the run does not count; 2: there is no report.
    """
    from loadtest.report.verdicts import standing

    record = _read(run)
    _print_run(_console(), record)
    raise SystemExit(0 if standing(record) == "held" else 1)


@report.command(
    epilog="\b\nExamples:\n"
    "  stagecue report compare reports/before reports/after\n"
    "  stagecue report compare monday.html tuesday.html --output both.html\n"
)
@click.argument("a", type=_run)
@click.argument("b", type=_run)
@click.option("--output", type=_run, default=_COMPARISON, show_default=True, help="The page to write.")
def compare(a: Path, b: Path, output: Path) -> None:
    """Write a page with runs A and B side by side, and print how their promises differ.

    Runs on other machines, with other numbers of devices, or that do not count are set side by side too: page and
    exit code say that they do not compare. Exit code 0: comparable; 1: written, but not comparable; 2: not written.
    """
    from loadtest.report.differences import incomparable_because
    from loadtest.report.files import write_comparison

    records = _read(a), _read(b)
    if output.exists() and not output.is_file():
        raise click.UsageError(f"--output: {output} is no file")
    try:
        write_comparison(*records, output)
    except OSError as exc:
        raise click.UsageError(f"--output: {output} cannot be written: {exc.strerror}") from exc
    console = _console()
    _print_differences(console, *records)
    reasons = incomparable_because(*records)
    for reason in reasons:
        console.print("not comparable:", _plain(reason), style="bold magenta", markup=False, highlight=False)
    console.print(f"side by side: {output}", markup=False, highlight=False, soft_wrap=True)
    raise SystemExit(1 if reasons else 0)


def _read(path: Path) -> RunRecord:
    from loadtest.report.files import UnreadableReport, read_record

    try:
        return read_record(path)
    except UnreadableReport as exc:
        raise click.UsageError(str(exc)) from exc


def _console() -> Console:
    from rich.console import Console

    return Console()


def _print_run(console: Console, record: RunRecord) -> None:
    from rich.table import Column, Table
    from rich.text import Text

    from loadtest.report.scales import amount_with_unit
    from loadtest.report.verdicts import WORDS, answer_of, reservations, standing

    verdict = standing(record)
    word = WORDS[verdict]
    console.print(Text(_plain(record.title), style="bold"), Text(_plain(record.scenario), style="dim"))
    console.print(Text(_plain(record.question)))
    console.print(Text(f"{word.sign} {word.word}: {word.means}", style=f"bold {_COLOURS[verdict]}"))
    for reason in reservations(record):
        console.print(Text(f"  {_plain(reason)}", style=_COLOURS[verdict]))
    console.print(Text(_plain(answer_of(record))))
    table = Table(Column("what", overflow="fold"), "promised", "measured", "held")
    for bar in record.bars:
        told = Text("not measured", "red") if bar.measured is None else Text("no", "red")
        table.add_row(
            Text(_plain(bar.name)),
            Text(_plain(bar.bar)),
            Text(_plain(amount_with_unit(bar.measured, bar.unit))),
            Text("yes", "green") if bar.held else told,
        )
    if record.bars:
        console.print(table)
    for note in record.notes:
        console.print(Text(f"note: {_plain(note)}", style="dim"))


def _print_differences(console: Console, a: RunRecord, b: RunRecord) -> None:
    from rich.table import Column, Table
    from rich.text import Text

    from loadtest.report.differences import bar_differences
    from loadtest.report.record import Bar
    from loadtest.report.scales import amount_with_unit
    from loadtest.report.verdicts import WORDS

    def measured(bar: Bar | None) -> Text:
        if bar is None:
            return Text("-")
        told = "not measured" if bar.measured is None else amount_with_unit(bar.measured, bar.unit)
        return Text(
            f"{_plain(told)} {WORDS['held' if bar.held else 'failed'].sign}", style="green" if bar.held else "red"
        )

    colours = {"better": "green", "worse": "red"}
    table = Table(Column("what", overflow="fold"), "A", "B", "difference", "")
    for each in bar_differences(a, b):
        told = "" if each.turn == "unknown" else each.turn
        table.add_row(
            Text(_plain(each.name)),
            measured(each.a),
            measured(each.b),
            Text(_plain(each.told) or "-"),
            Text(told, style=colours.get(each.turn, "")),
        )
    console.print(table)


def _plain(text: str) -> str:
    """Without what a terminal would obey: names come from files."""
    return _CONTROLS.sub("\ufffd", text)
