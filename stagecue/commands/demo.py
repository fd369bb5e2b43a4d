"""`stagecue demo`: the night, end to end, judged."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from loadtest.bench.envelope import Envelope
    from loadtest.bench.system import Addresses
    from stagecue.demo.report import NightReport
    from stagecue.demo.screen import TerminalScreen

__all__ = ["demo"]

_SCHEDULE = Path(__file__).parents[2] / "examples" / "schedules" / "live-events.ics"


@click.command(
    epilog="\b\nExamples:\n"
    "  stagecue demo\n"
    "  stagecue demo --devices 2000\n"
    "  stagecue demo --json | jq .stages\n"
    "  stagecue demo --stay       keeps the system running afterwards, with its addresses\n"
)
@click.option("--devices", type=click.IntRange(10, 8000), default=500, show_default=True, help="Simulated devices.")
@click.option("--seed", type=int, default=1, show_default=True, help="Chooses who goes offline, and every jitter.")
@click.option("--catalog", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="CSV or JSON of titles.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option("--stay", is_flag=True, help="Keep the system running afterwards, until Ctrl-C.")
def demo(devices: int, seed: int, catalog: Path | None, as_json: bool, stay: bool) -> None:
    """Play one compressed night and judge it, device by device.

    The whole system runs in one process beside this one, with simulated devices that prefetched their own stage maps.
    The start slips, a fifth of the devices goes offline across it, the server is killed and restarted. Exit code 1 if
    one device missed one stage or showed anything but its own prefetched row; 2 if the night could not be played.
    """
    from rich.console import Console

    from stagecue.demo.screen import TerminalScreen

    console = Console(stderr=True)
    if not as_json:
        console.print(f"[bold]One night, compressed: {devices} devices, every stage, on this machine alone[/]\n")
    screen = TerminalScreen(console)
    try:
        report = asyncio.run(_play(devices, seed, catalog, screen, as_json, stay, console))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    raise SystemExit(1 if report.complaints() else 0)


async def _play(
    devices: int,
    seed: int,
    catalog: Path | None,
    screen: TerminalScreen,
    as_json: bool,
    stay: bool,
    console: Console,
) -> NightReport:
    import tempfile
    from contextlib import AsyncExitStack

    from contract.errors import BroadcastSystemError
    from loadtest.bench.envelope import Envelope
    from loadtest.bench.outcome import CouldNotRun
    from stagecue.demo.night import Night

    envelope = Envelope(seed=seed)
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stagecue-demo-")))
        night = Night(
            devices=devices,
            directory=directory,
            calendar=_SCHEDULE.read_text("utf-8"),
            screen=screen,
            catalog=catalog,
            seed=seed,
        )
        with screen:
            try:
                report = await night.run(stack)
            except (CouldNotRun, BroadcastSystemError, OSError) as exc:
                console.print(f"[bold red]The night could not be played:[/] {exc}", highlight=False)
                raise SystemExit(2) from exc
        _show(report, envelope, as_json)
        if stay and night.server is not None:
            _show_addresses(console, night.server.addresses)
            await asyncio.Event().wait()
    return report


def _show(report: NightReport, envelope: Envelope, as_json: bool) -> None:
    import dataclasses
    import json

    from rich.console import Console

    from stagecue.demo.screen import reach_table

    if as_json:
        click.echo(json.dumps(envelope.seal(dataclasses.asdict(report)), indent=2))
    else:
        Console().print(reach_table(report))


def _show_addresses(console: Console, addresses: Addresses) -> None:
    console.print(
        f"\nStill running; Ctrl-C ends it and removes its data.\n\n"
        f"  operator API   {addresses.producer}   (documentation: {addresses.docs})\n"
        f"  prefetch       {addresses.dgs}/graphql\n"
        f"  devices        {addresses.push}/v1/stream\n\n"
        f"  stagecue event list --url {addresses.producer} --data-dir {addresses.data_dir}\n",
        highlight=False,
    )
