"""What people see of a local cluster: progress while it starts, what runs where, how everything is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from contract.names import KAFKA_BROADCASTS
from contract.records import kafka_partition
from loadtest.cluster.cluster import LocalCluster
from loadtest.cluster.member import Member
from loadtest.cluster.status import ClusterStatus, MemberStatus, shown

__all__ = ["StartScreen", "status_view", "what_runs_where"]

_MARKS: Final = {"waiting": ("·", "grey50"), "starting": ("…", "yellow"), "ready": ("✓", "green")}
_LISTED: Final = 4
"""Members behind, or holes, named one by one; more are counted."""


class StartScreen:
    """`with StartScreen(console, names) as screen`: members as they become ready; plain lines without a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began_s = time.monotonic()
        self._states: dict[str, tuple[str, float]] = {}
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=10, transient=True)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """The rest is printed below. Idempotent."""
        if self._live is not None:
            live, self._live = self._live, None
            live.__exit__(None, None, None)

    def expect(self, cluster: LocalCluster) -> None:
        """List the members before they start."""
        self._states = dict.fromkeys(cluster.members, ("waiting", 0.0))

    def changed(self, member: Member, what: str) -> None:
        """See LocalCluster.on_change."""
        elapsed_s = time.monotonic() - self._began_s
        self._states[member.name] = (what, elapsed_s)
        if self._live is None and what == "ready":
            self._console.print(f"{elapsed_s:5.1f} s  {member.name} is ready", highlight=False)

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)

    def _render(self) -> RenderableType:
        elapsed_s = time.monotonic() - self._began_s
        ready = sum(state == "ready" for state, _ in self._states.values())
        lines = [Text(f"starting a cluster: {ready} of {len(self._states)} ready, {elapsed_s:.1f} s")]
        table = Table.grid(padding=(0, 2))
        cells = []
        for name, (state, since_s) in self._states.items():
            mark, colour = _MARKS[state]
            cells.append(Text(f"{mark} {name}" + (f"  {since_s:.1f} s" if state == "ready" else ""), style=colour))
        for row in range(0, len(cells), 3):
            table.add_row(*cells[row : row + 3])
        return Group(*lines, table)


def what_runs_where(cluster: LocalCluster) -> RenderableType:
    """Who listens where, and what to type next."""
    table = Table(box=SIMPLE_HEAD)
    for column in ("member", "process", "address"):
        table.add_column(column, no_wrap=True)
    for one in cluster.addresses():
        url = one.url.replace("http://", "ws://") + "/v1/stream" if one.role == "push" else shown(one.url)
        table.add_row(one.name, str(one.pid or "-"), url)
    commands = [f"stagecue cluster status --directory {cluster.directory} --watch"]
    if cluster.producers:
        commands += [
            f"stagecue event list --url {cluster.producer_urls[0]} --data-dir {cluster.data_dir}",
            f"open {cluster.producer_urls[0]}/docs",
        ]
    lines = [
        Text(f"logs            {cluster.directory}/<member>/<member>.log"),
        Text(f"operator token  {cluster.data_dir}/operator.token"),
        Text(""),
        *(Text(f"  {command}") for command in commands),
        Text(""),
        Text("The cluster is up. Ctrl-C stops it."),
    ]
    return Group(table, *lines)


def status_view(status: ClusterStatus) -> RenderableType:
    """Tables by role, then a line for each problem."""
    parts: list[RenderableType] = [_services(status), _servers(status)]
    if status.problems:
        parts += [Text(problem, style="red") for problem in status.problems]
    else:
        parts.append(Text("all is well", style="green"))
    return Group(*parts)


def _services(status: ClusterStatus) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for column in ("service", "state", "says", "address"):
        table.add_column(column, overflow="fold")
    for role in ("producer", "router", "push", "dgs"):
        for member in status.of(role):
            table.add_row(member.name, _state(member), ", ".join(_says(member)) or "-", _place(member))
    return table


def _servers(status: ClusterStatus) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for column in ("server", "state", "says", "address"):
        table.add_column(column, overflow="fold")
    for role in ("kafka", "redis", "postgres"):
        for member in status.of(role):
            table.add_row(member.name, _state(member), ", ".join(_says(member)) or "-", _place(member))
    return table


def _state(member: MemberStatus) -> Text:
    if not member.answers:
        return Text("silent", style="red")
    return Text("ready", style="green") if member.ready else Text("not ready", style="yellow")


def _says(member: MemberStatus) -> Iterator[str]:
    """The few facts of a service's /status that tell how it is."""
    said = member.detail
    if member.role == "producer" and said:
        yield f"leads, epoch {said.get('epoch')}" if said.get("leads") else "stands by"
        if waiting := said.get("unpublished"):
            yield f"{waiting} wait for the log"
    elif member.role == "router" and said:
        partitions: Mapping[str, Mapping[str, Any]] = said.get("partitions", {})
        owned = sorted(int(number) for number in partitions if kafka_partition(int(number))[0] == KAFKA_BROADCASTS)
        yield f"partitions {_ranges(owned) or 'none'}"
        yield f"lag {said.get('lag', 0)}"
        yield f"{said.get('links', 0)} links"
        yield f"{said.get('interest', {}).get('topics', 0)} topics wanted"
        if behind := said.get("behind"):
            yield f"behind: {_few(behind)}"
    elif member.role == "push" and said:
        yield f"{said.get('connections', 0)} connections"
        yield f"{said.get('topics', 0)} topics"
        yield f"{said.get('routers', 0)} routers"
        if holes := said.get("open_holes"):
            yield f"{holes} open holes"
    elif member.role == "dgs" and said:
        yield f"sends devices to {len(said.get('sends_devices_to', ()))} nodes"
    elif member.role == "kafka" and said:
        yield f"{said.get('brokers')} broker, {len(said.get('topics', ()))} Kafka topics"
    elif member.role == "redis" and said:
        yield f"{said.get('redis_version')}, {said.get('keys')} keys, {said.get('used_memory_human')}"
        yield f"{said.get('connected_clients')} clients"
        yield "AOF on" if said.get("aof_enabled") else "AOF off"
    elif member.role == "postgres" and said:
        yield f"{str(said.get('version')).partition(' ')[0]}, {said.get('connections')} connections"


def _few(names: list[str]) -> str:
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _ranges(numbers: list[int]) -> str:
    """0-2,5 for [0, 1, 2, 5]."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in parts)


def _place(member: MemberStatus) -> str:
    return member.url.partition("://")[2]
