"""The night in a terminal: steps, progress and what the devices show, live; plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections import Counter
from types import TracebackType
from typing import Final, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stagecue.demo.plan import STAGES
from stagecue.demo.report import NightReport

__all__ = ["TerminalScreen", "reach_table"]

_COLOURS: Final = {
    "": "grey50",
    "default": "grey50",
    "upcoming": "blue",
    "starting_soon": "yellow",
    "live": "red",
    "ended": "green",
}
_BAR_WIDTH: Final = 40


class TerminalScreen:
    """Writes to standard error, so that `--json` has standard output to itself."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self._steps: list[tuple[float, str]] = []
        self._progress: tuple[str, int, int] | None = None
        self._showing: Counter[str] = Counter()
        self._online = self._total = 0
        self._live: Live | None = None

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=12)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._progress = None
            self._live.__exit__(kind, error, trace)

    def step(self, text: str) -> None:
        self._steps.append((time.monotonic() - self._started, text))
        self._progress = None
        if self._live is None:
            at_s, _ = self._steps[-1]
            self._console.print(f"{at_s:5.1f} s  {text}", highlight=False, soft_wrap=True)

    def progress(self, what: str, done: int, total: int) -> None:
        self._progress = (what, done, total)

    def devices(self, showing: Counter[str], online: int, total: int) -> None:
        if self._live is None and showing.keys() != self._showing.keys():
            shown = ", ".join(f"{count} show {key or 'nothing yet'}" for key, count in showing.most_common())
            self._console.print(f"         {online} of {total} online; {shown}", highlight=False)
        self._showing, self._online, self._total = showing, online, total

    def _render(self) -> Group:
        steps = Table.grid(padding=(0, 1))
        for index, (at_s, text) in enumerate(self._steps):
            last = index == len(self._steps) - 1
            steps.add_row(Text(f"{at_s:5.1f} s", "grey50"), Text(text, "bold" if last else ""))
        parts: list[Table | Text] = [steps]
        if self._progress is not None:
            parts.append(self._progress_row(*self._progress))
        if self._total:
            parts += [Text(), self._device_bars()]
        return Group(*parts)

    def _progress_row(self, what: str, done: int, total: int) -> Table:
        row = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=total, completed=done, width=_BAR_WIDTH)
        row.add_row(Text(f"{what:>14}"), bar, Text(f"{done} of {total}"))
        return row

    def _device_bars(self) -> Table:
        bars = Table.grid(padding=(0, 1))
        colour = "green" if self._online == self._total else "yellow"
        online = ProgressBar(
            total=self._total, completed=self._online, width=_BAR_WIDTH, complete_style=colour, finished_style=colour
        )
        bars.add_row(Text(f"{'online':>14}"), online, Text(f"{self._online}"))
        for key in (*STAGES, *sorted(self._showing.keys() - {*STAGES, ""})):
            count = self._showing.get(key, 0)
            style = _COLOURS.get(key, "magenta")
            bar = ProgressBar(
                total=self._total, completed=count, width=_BAR_WIDTH, complete_style=style, finished_style=style
            )
            bars.add_row(Text(f"{key:>14}", style if count else "grey50"), bar, Text(f"{count}" if count else "-"))
        return bars


def reach_table(report: NightReport) -> Group:
    """Who got what, stage by stage, and the verdict."""
    table = Table(
        title=f"{report.event}: who got what",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),  # nine columns have to fit a terminal nobody has widened
    )
    table.add_column("stage", no_wrap=True)
    for name in ("devices", "live", "replayed", "missed", "50 %", "99 %", "100 %", "origin"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in report.stages:
        times = [f"{value:.0f}" if value is not None else "-" for value in (stage.p50_ms, stage.p99_ms, stage.last_ms)]
        table.add_row(
            Text(stage.state_key, _COLOURS.get(stage.state_key, "")),
            f"{stage.devices}",
            f"{stage.delivered_live}",
            f"{stage.replayed}",
            Text(f"{stage.missed}", "bold red" if stage.missed else ""),
            *times,
            "?" if stage.origin_requests is None else f"{stage.origin_requests}",
        )
    notes = Text(
        "50, 99 and 100 % of the live deliveries reached a device's socket so many ms after the stage was due; "
        "origin counts requests to the server from a second before until the last screen had changed. "
        f"{report.distinct_maps:.0%} of the profiles hold a map unlike any other's; "
        f"the server was killed {report.server_kills} time{'s' if report.server_kills != 1 else ''}; "
        f"{report.provisional_renders} devices switched by their own clock while offline.",
        "grey50",
    )
    complaints = report.complaints()
    verdict = (
        Text("Nobody missed a stage, and everybody saw their own prefetched row.", "bold green")
        if not complaints
        else Text("The night failed: " + "; ".join(complaints) + ".", "bold red")
    )
    return Group(Text(), table, notes, Text(), verdict)
