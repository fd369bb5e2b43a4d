"""`stagecue cluster`: Kafka, Redis, PostgreSQL and every service as processes on this machine."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from loadtest.cluster.cluster import LocalCluster
    from loadtest.cluster.status import ClusterStatus

__all__ = ["cluster"]

_PORT_BASE: Final = 8400
_WATCH_EVERY_S: Final = 2.0
_directory_option = click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("stagecue-cluster"),
    show_default=True,
    help="Data, logs, keys and cluster.json.",
)


@click.group(
    epilog="\b\nExamples:\n"
    "  stagecue cluster up\n"
    "  stagecue cluster up --nodes 8 --directory /tmp/night --port-base 9000\n"
    "  stagecue cluster status --watch\n"
    "  stagecue cluster status --json | jq .leader\n"
)
def cluster() -> None:
    """Kafka, Redis, PostgreSQL and every service as processes on this machine, for development and tests."""


@cluster.command(
    epilog="\b\nExamples:\n"
    "  stagecue cluster up\n"
    "  stagecue cluster up --nodes 8 --directory /tmp/night\n"
    "  stagecue cluster up --no-restart             a member you kill stays dead\n"
    "  stagecue cluster up --ready-json | jq .push_urls\n"
    "  PUSH_PING_S=10 stagecue cluster up           settings reach every service\n"
    "\b\nPorts: ten for each member from --port-base on, in the order producers, DGS, routers, Kafka,\n"
    "Redis, PostgreSQL, push nodes; the table says which.\n"
)
@_directory_option
@click.option("--nodes", type=click.IntRange(0, 200), default=4, show_default=True, help="Push nodes.")
@click.option("--producers", type=click.IntRange(1, 9), default=2, show_default=True, help="Producers; one leads.")
@click.option("--routers", type=click.IntRange(0, 9), default=2, show_default=True, help="Routers.")
@click.option("--dgs", type=click.IntRange(0, 9), default=2, show_default=True, help="Prefetch services.")
@click.option("--port-base", type=click.IntRange(1, 60_000), default=_PORT_BASE, show_default=True, help="First port.")
@click.option("--log-level", type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]), default="INFO", help="[INFO]")
@click.option("--no-restart", is_flag=True, help="Leave a member that dies dead; it is said either way.")
@click.option("--ready-json", is_flag=True, help="Print one JSON line with the addresses once ready.")
def up(
    directory: Path,
    nodes: int,
    producers: int,
    routers: int,
    dgs: int,
    port_base: int,
    log_level: str,
    no_restart: bool,
    ready_json: bool,
) -> None:
    """Start a Kafka broker, Redis, PostgreSQL and all services, a process each, and watch over them.

    Needs java, mvn (the first time), redis-server and PostgreSQL on this machine; says what is missing. A member that
    dies is started again. Ctrl-C stops everything in order; what is stored in --directory is there the next time.
    """
    from rich.console import Console

    from contract.runtime.runner import run_process
    from loadtest.bench.outcome import CouldNotRun
    from loadtest.cluster.cluster import LocalCluster
    from loadtest.cluster.requirements import require
    from stagecue.cluster.screen import StartScreen, what_runs_where
    from stagecue.cluster.state import claim
    from stagecue.cluster.supervisor import Supervisor

    console = Console(stderr=True)

    async def main(stop: asyncio.Event) -> None:
        with StartScreen(console) as screen:
            await require()
            if ended := claim(directory):
                screen.say(f"ended {ended} processes that a killed cluster left in {directory}")
            local = LocalCluster(
                directory,
                producers=producers,
                routers=routers,
                nodes=nodes,
                dgs=dgs,
                port_base=port_base,
                log_level=log_level,
                on_change=screen.changed,
            )
            screen.expect(local)

            def ready(local: LocalCluster) -> None:
                screen.close()
                if ready_json:
                    click.echo(json.dumps(_addresses(local)))
                    sys.stdout.flush()
                else:
                    console.print(what_runs_where(local), highlight=False, soft_wrap=True)

            await Supervisor(local, screen.say, restart=not no_restart).run(stop, ready)

    try:
        code = run_process(main)
    except (CouldNotRun, OSError) as exc:
        click.echo(f"stagecue: {exc}", err=True)
        raise SystemExit(2) from exc
    raise SystemExit(code)


def _addresses(local: LocalCluster) -> dict[str, Any]:
    return {
        "ready": True,
        "directory": str(local.directory),
        "data_dir": str(local.data_dir),
        "operator_token": local.operator_token,
        "producer_urls": local.producer_urls,
        "dgs_urls": local.dgs_urls,
        "push_urls": local.push_urls,
        "members": {one.name: {"role": one.role, "pid": one.pid, "log": one.log} for one in local.addresses()},
    }


@cluster.command(
    epilog="\b\nExamples:\n"
    "  stagecue cluster status\n"
    "  stagecue cluster status --directory /tmp/night --watch\n"
    "  stagecue cluster status --json | jq '.members[] | select(.role == \"router\") | .detail.lag'\n"
    "\b\nExit codes: 0 all is well, 1 something is not, 2 no cluster was started there.\n"
)
@_directory_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output; with --watch one a line.")
@click.option("--watch", is_flag=True, help="Again every two seconds, until Ctrl-C.")
def status(directory: Path, as_json: bool, watch: bool) -> None:
    """Ask every member how it is: who leads, routers' partitions and lag, nodes, interest, the servers' health."""
    import asyncio
    import logging

    from loadtest.bench.outcome import CouldNotRun, ExitCode
    from loadtest.cluster.status import ask_members
    from stagecue.cluster.state import read_state

    logging.getLogger("aiokafka").addHandler(logging.NullHandler())  # a silent broker is said in the table

    def look() -> ClusterStatus:
        return asyncio.run(ask_members(read_state(directory).members))

    try:
        found = look()
        if watch:
            found = _watched(found, look, as_json=as_json)
        else:
            _show(found, as_json=as_json)
    except CouldNotRun as exc:
        click.echo(f"stagecue: {exc}", err=True)
        raise SystemExit(ExitCode.COULD_NOT_RUN) from exc
    raise SystemExit(ExitCode.HELD if found.healthy else ExitCode.FELL_SHORT)


def _watched(found: ClusterStatus, look: Callable[[], ClusterStatus], *, as_json: bool) -> ClusterStatus:
    """Show it again and again until Ctrl-C; returns the last."""
    from rich.live import Live

    from stagecue.cluster.screen import status_view

    try:
        if as_json:
            while True:
                _show(found, as_json=True)
                time.sleep(_WATCH_EVERY_S)
                found = look()
        with Live(status_view(found), auto_refresh=False) as live:
            while True:
                time.sleep(_WATCH_EVERY_S)
                found = look()
                live.update(status_view(found), refresh=True)
    except KeyboardInterrupt:
        return found


def _show(found: ClusterStatus, *, as_json: bool) -> None:
    if as_json:
        import msgspec

        members = [msgspec.to_builtins(member) for member in found.members]
        leader = found.leaders[0] if len(found.leaders) == 1 else None
        summary = {"healthy": found.healthy, "problems": found.problems, "leader": leader, "members": members}
        click.echo(json.dumps(summary))
        sys.stdout.flush()
        return
    from rich.console import Console

    from stagecue.cluster.screen import status_view

    Console().print(status_view(found), highlight=False, soft_wrap=True)
