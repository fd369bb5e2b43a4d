"""What a person sees: progress on standard error, tables on standard output; with JSON, one object there instead."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

__all__ = ["Reporter", "shown"]


class Reporter:
    """One per benchmark run. With `as_json` nothing but `emit` writes to standard output.

    Texts are shown as they are: names in brackets are no markup.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._notes = Console(stderr=True)
        self._tables = Console(stderr=as_json)

    def note(self, line: str) -> None:
        # Wrapped for a person; whole in a file, where a command it names is to be found.
        self._notes.print(line, highlight=False, markup=False, soft_wrap=not self._notes.is_terminal)

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[int, int], None]]:
        """A bar on standard error; yields a callback (done, total)."""
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._notes, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        self.note(f"  {what}: done")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "") -> None:
        below = Text(caption, style="table.caption") if caption else None
        table = Table(
            title=Text(title, style="table.title"), caption=below, title_justify="left", caption_justify="left"
        )
        for index, column in enumerate(columns):
            table.add_column(column, justify="left" if index == 0 else "right")
        for row in rows:
            table.add_row(*(Text(shown(value)) for value in row))
        self._tables.print(table)

    def say(self, line: str, *, indent: int = 0, heading: bool = False) -> None:
        """A line of text where tables go."""
        style = "bold" if heading else ""
        if self._tables.is_terminal:
            self._tables.print(Padding(Text(line, style), (0, 0, 0, indent)))
        else:
            self._tables.print(Text(" " * indent + line, style), soft_wrap=True)

    def emit(self, result: dict[str, Any]) -> None:
        """The result object, if JSON was asked for."""
        if self.as_json:
            sys.stdout.write(json.dumps(result) + "\n")
            sys.stdout.flush()


def shown(value: object) -> str:
    """A table cell: two decimals for floats, a dash for what there is none of."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}"
    return str(value)
