"""`stagecue up`: the whole system in one process."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    import asyncio

    from contract.runtime.settings import ServiceSettings
    from stagecue.settings import InstallationSettings
    from stagecue.standalone import Addresses

__all__ = [
    "checked_settings",
    "installation_options",
    "installation_settings",
    "operator_options",
    "prefetch_options",
    "ready_option",
    "run_or_explain",
    "up",
]

S = TypeVar("S", bound="ServiceSettings")
_PORTS: Final = "Producer API; DGS +1, push node +2; apart also: node link +3, router +4. [8400]"
_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


def installation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options every running command shares; each falls back to its `STAGECUE_` variable, then its default."""
    for option in (
        click.option("--log-format", type=click.Choice(["json", "console"]), help="Default: console on a terminal."),
        click.option("--log-level", type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]), help="Default: INFO."),
        click.option("--port-base", type=click.IntRange(1, 65000), help=_PORTS),
        click.option("--host", help="Address to listen on. [127.0.0.1]"),
        click.option("--data-dir", type=click.Path(path_type=Path), help="Database, keys, token. [./stagecue-data]"),
    ):
        command = option(command)
    return command


def prefetch_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What the DGS reads: `catalog` and `profiles`."""
    for name, what in (("profiles", "CSV of histories."), ("catalog", "CSV or JSON of titles.")):
        command = click.option(f"--{name}", type=_FILE, help=what)(command)
    return command


def operator_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What the producer follows: `feeds` and `stage_template`."""
    what = "TOML with the stages every event of a feed gets."
    command = click.option("--stage-template", type=_FILE, help=what)(command)
    return click.option("--feed", "feeds", multiple=True, help="An .ics file or URL to follow; repeat for more.")(
        command
    )


ready_option = click.option("--ready-json", is_flag=True, help="Print one JSON line with the addresses once ready.")


def installation_settings(**given: object) -> InstallationSettings:
    """Settings from options and environment. Raises click.UsageError that names the setting."""
    from stagecue.settings import InstallationSettings

    return checked_settings(InstallationSettings, {name: value for name, value in given.items() if value is not None})


def checked_settings(model: type[S], given: Mapping[str, object]) -> S:
    """`model` from what was given and its environment. Raises click.UsageError that names the setting."""
    from pydantic import ValidationError

    try:
        return model(**given)  # type: ignore[arg-type]
    except ValidationError as exc:
        found = [(".".join(map(str, error["loc"])) or "settings", error["msg"]) for error in exc.errors()]
        lines = "; ".join(f"{field}: {why.removeprefix('Value error, ')}" for field, why in found)
        raise click.UsageError(lines) from exc


def run_or_explain(settings: InstallationSettings, service: str, main: Callable[[asyncio.Event], Any]) -> None:
    """Run a service's main until a signal; what an operator can mend is one clear line and exit code 2."""
    from pydantic import ValidationError

    from contract.errors import BroadcastSystemError
    from contract.runtime import failpoints
    from contract.runtime.runner import StopIncomplete, run_process
    from contract.runtime.telemetry import configure_logging
    from stagecue.keys import BrokenKeys

    configure_logging(level=settings.log_level, form=settings.log_format, service=service)
    if settings.failpoint:
        failpoints.arm(settings.failpoint, skip=settings.failpoint_skip)
    try:
        code = run_process(main)
    except ValidationError as exc:
        lines = [f"{exc.title}.{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors()]
        raise SystemExit(_explained(lines)) from exc
    except StopIncomplete as exc:
        _explained([str(exc)])
        raise SystemExit(1) from exc
    except (OSError, BrokenKeys, BroadcastSystemError) as exc:
        raise SystemExit(_explained([str(exc)])) from exc
    raise SystemExit(code)


def _explained(lines: list[str]) -> int:
    for line in lines:
        click.echo(f"stagecue: {line}", err=True)
    return 2


@click.command(
    epilog="\b\nExamples:\n"
    "  stagecue up\n"
    "  stagecue up --data-dir ./night --port-base 9000\n"
    "  stagecue up --feed examples/schedules/live-events.ics --catalog films.csv\n"
)
@installation_options
@prefetch_options
@operator_options
@ready_option
def up(
    catalog: Path | None,
    profiles: Path | None,
    feeds: tuple[str, ...],
    stage_template: Path | None,
    ready_json: bool,
    **installation: object,
) -> None:
    """Run the whole system in one process: SQLite and memory, no server needed.

    Serves once it says so, in under two seconds. Ctrl-C or SIGTERM drains and ends; the second one aborts.
    """
    settings = installation_settings(**installation)
    from stagecue.standalone import StandaloneOptions, run_standalone

    options = StandaloneOptions(catalog=catalog, profiles=profiles, feeds=feeds, stage_template=stage_template)

    async def announce(addresses: Addresses) -> None:
        if ready_json:
            click.echo(json.dumps({"ready": True, **dataclasses.asdict(addresses)}))
        else:
            _show(addresses)
        sys.stdout.flush()

    async def main(stop: asyncio.Event) -> None:
        await run_standalone(settings, options, stop, announce)

    run_or_explain(settings, "stagecue", main)


def _show(addresses: Addresses) -> None:
    click.echo(
        "\nstagecue is up. Ctrl-C stops it.\n\n"
        f"  operator API   {addresses.producer}   (documentation: {addresses.docs})\n"
        f"  prefetch       {addresses.dgs}/graphql\n"
        f"  devices        {addresses.push}/v1/stream\n"
        f"  operator token {addresses.data_dir}/operator.token\n\n"
        f"  stagecue event list --url {addresses.producer} --data-dir {addresses.data_dir}\n"
    )
