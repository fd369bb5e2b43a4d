"""`python -m loadtest.users`: users of one kind, or a plan of several crowds, against a running system."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeVar

import click
import msgspec

from contract.errors import InvalidRequest
from loadtest.bench.outcome import CouldNotRun, ExitCode
from loadtest.bench.report import Reporter
from loadtest.machine import read_machine
from loadtest.nearest import meant
from loadtest.users.fitting import lacking
from loadtest.users.plan import Crowd, Kind, UsersPlan, surge
from loadtest.users.result import UsersResult, UsersSnapshot
from loadtest.users.run import LocustRun
from loadtest.users.table import tabulate
from loadtest.users.targets import check_targets

__all__ = ["main", "read_plan", "run_plan"]

_F = TypeVar("_F", bound=Callable[..., object])
_SHOW_EVERY_S: Final = 1.0
_SURGE_S: Final = 30
_PLAN_MAX_BYTES: Final = 1 << 20
_TOKEN_MAX_BYTES: Final = 1 << 14
_UNKNOWN_FIELD: Final = re.compile(r"unknown field `([^`]{1,100})`(.*)")
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|)")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}


class _Duration(click.ParamType[float]):
    name = "DURATION"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = _DURATION.fullmatch(str(value))
        if found is None or float(found[1]) <= 0:
            self.fail(f"{value!r} is no duration: 500ms, 30s, 5m or 1h", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


@click.group(
    epilog="\b\nExamples:\n"
    "  python -m loadtest.users browse --users 500 --dgs http://127.0.0.1:8401 --event tyson-paul --duration 30s\n"
    "  python -m loadtest.users connect --users 2000 --over 20s --dgs http://127.0.0.1:8401 --event tyson-paul \\\n"
    "      --duration 2m --workers 2 --json\n"
    "  python -m loadtest.users operate --users 2 --producer http://127.0.0.1:8400 \\\n"
    "      --token-file stagecue-data/operator.token --duration 30s\n"
    "  python -m loadtest.users run night.json\n"
    "\b\nExit codes: 0 it ran and its figures count, 1 they do not (or the run was interrupted), 2 it could not run.\n"
)
def main() -> None:
    """Load from locust users, in processes of their own, with times that count from when a request was due."""


def _shared(command: _F) -> _F:
    options = (
        click.option("--users", type=click.IntRange(1), default=100, show_default=True, help="Users, at most."),
        click.option("--over", "over_s", type=_Duration(), help="They come evenly within this. [default: 1s]"),
        click.option("--surge", "surge_factor", type=click.FloatRange(1.0, min_open=True), metavar="FACTOR",
                     help=f"From the middle of the run this many times as many within {_SURGE_S} s; --users is the "
                          "number before."),
        click.option("--duration", "duration_s", type=_Duration(), default="30s", show_default=True,
                     help="Of the run."),
        click.option("--workers", type=click.IntRange(0, 64), default=0, show_default=True,
                     help="Processes that carry the users, beside a master; 0: one process."),
        click.option("--retries", type=click.Choice(["none", "budget", "immediate"]), default="budget",
                     show_default=True, help="What a user does about a failure."),
        click.option("--first-profile", type=click.IntRange(0), default=0, show_default=True,
                     help="Number of the first profile."),
        click.option("--header", "headers", multiple=True, metavar="NAME:VALUE",
                     help="Sent to the DGS; may be repeated."),
        click.option("--compress", "time_compression", type=float, default=1.0, show_default=True,
                     help="Think times and lifetimes of maps are this many times shorter."),
        click.option("--seed", type=int, default=1, show_default=True, help="Chooses moments and screens."),
        click.option("--remote", is_flag=True, help="Targets may lie outside this machine."),
        click.option("--keep", type=click.Path(file_okay=False, path_type=Path),
                     help="Keep plan, log and outcome in this directory."),
        click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def _device(command: _F) -> _F:
    options = (
        click.option("--dgs", "dgs_url", required=True, metavar="URL", help="http://host:port of the DGS."),
        click.option("--event", "event_ids", multiple=True, required=True, metavar="ID", help="May be repeated."),
        click.option("--sign-profiles", "profile_keys", default="", metavar="DIR",
                     help="Data directory whose keys sign what devices ask of the DGS (DGS_TOKENS)."),
        click.option("--push", "push_urls", multiple=True, metavar="URL",
                     help="ws://host:port/v1/stream instead of the channel's; may be repeated."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@_device
@click.option(
    "--think", "think_median_s", type=_Duration(), default="8s", show_default=True, help="Median time between screens."
)
@click.option("--ttl-spread", type=float, default=0.5, show_default=True, help="0: refresh exactly when a map expires.")
@_shared
def browse(**options: Any) -> None:
    """Devices that open screens at natural intervals and refresh the maps they hold."""
    _run_crowd("browse", options, ("think_median_s", "ttl_spread"))


@main.command()
@_device
@click.option("--connect-within", "connect_within_s", type=_Duration(), help="Instead of the channel's window.")
@click.option("--artwork", is_flag=True, help="Prefetch the pictures of the maps too.")
@_shared
def connect(**options: Any) -> None:
    """Devices that prefetch, connect and follow broadcasts by their map."""
    _run_crowd("connect", options, ("connect_within_s", "artwork"))


@main.command()
@_device
@click.option("--connect-within", "connect_within_s", type=_Duration(), help="Instead of the channel's window.")
@_shared
def naive(**options: Any) -> None:
    """Devices without a map, which ask the DGS at each broadcast: a herd."""
    _run_crowd("naive", options, ("connect_within_s",))


@main.command()
@click.option("--producer", "producer_url", required=True, metavar="URL", help="http://host:port of the producer.")
@click.option("--token-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True,
              help="`operator.token` of the data directory.")  # fmt: skip
@click.option(
    "--every", "act_every_s", type=_Duration(), default="5s", show_default=True, help="Mean time between acts."
)
@_shared
def operate(token_file: Path, **options: Any) -> None:
    """Operators who create, move, cue and cancel events of their own."""
    try:
        with token_file.open("rb") as file:
            token = file.read(_TOKEN_MAX_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise click.UsageError(f"--token-file {token_file}: no operator's token: {exc}") from exc
    _run_crowd("operate", {**options, "operator_token": token}, ("act_every_s",))


@main.command()
@click.argument("plan_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--remote", is_flag=True, help="Targets may lie outside this machine.")
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Keep plan, log and outcome here.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def run(plan_file: Path, remote: bool, keep: Path | None, as_json: bool) -> None:
    """Several crowds at once, from a plan: JSON or TOML with the fields of `UsersPlan` (docs/load-users.md)."""
    plan = read_plan(plan_file)
    if remote:
        plan = msgspec.structs.replace(plan, remote=True)
    raise SystemExit(run_plan(plan, keep=keep, as_json=as_json))


def read_plan(path: Path) -> UsersPlan:
    """A plan from JSON or TOML. Raises UsageError naming the file and the field at fault."""
    decode = msgspec.toml.decode if path.suffix == ".toml" else msgspec.json.decode
    try:
        with path.open("rb") as file:
            read = file.read(_PLAN_MAX_BYTES + 1)
        if len(read) > _PLAN_MAX_BYTES:
            raise click.UsageError(f"{path}: too large for a plan")
        return decode(read, type=UsersPlan)
    except UnicodeDecodeError as exc:
        raise click.UsageError(f"{path}: not UTF-8") from exc
    except (OSError, msgspec.MsgspecError, InvalidRequest) as exc:
        raise click.UsageError(f"{path}: {exc}{_nearest(str(exc))}") from exc


def _nearest(said: str) -> str:
    """What somebody who wrote an unknown field probably meant."""
    found = _UNKNOWN_FIELD.search(said)
    if found is None:
        return ""
    fields = Crowd.__struct_fields__ if "crowds" in found[2] else UsersPlan.__struct_fields__
    return meant(found[1], fields)


def run_plan(plan: UsersPlan, *, keep: Path | None = None, as_json: bool = False) -> int:
    """Run it, show it, and return the exit code."""
    reporter = Reporter(as_json=as_json)
    with contextlib.ExitStack() as stack:
        directory = keep or Path(stack.enter_context(TemporaryDirectory(prefix="stagecue-users-")))
        try:
            result = asyncio.run(_run(plan, directory, reporter))
        except CouldNotRun as exc:
            reporter.note(f"could not run: {exc}")
            return ExitCode.COULD_NOT_RUN
    tabulate(result, reporter)
    reporter.emit(msgspec.to_builtins(result))
    return ExitCode.HELD if result.valid and not result.partial else ExitCode.FELL_SHORT


def _run_crowd(kind: Kind, options: Mapping[str, Any], of_crowd: tuple[str, ...]) -> None:
    given = dict(options)
    reporting = {name: given.pop(name) for name in ("keep", "as_json")}
    crowd = {name: given.pop(name) for name in (*of_crowd, "retries", "first_profile")}
    users, over_s, factor = given.pop("users"), given.pop("over_s"), given.pop("surge_factor")
    if factor is not None and over_s is not None:
        raise click.UsageError("--over and --surge are two ways to arrive: one of them")
    if factor is not None and given["duration_s"] < 2 * _SURGE_S:
        raise click.UsageError(f"--surge takes {_SURGE_S} s from the middle on: --duration {2 * _SURGE_S}s or more")
    if factor is not None:
        curve = surge(users, factor=factor, after_s=given["duration_s"] / 2, over_s=_SURGE_S)
        crowd |= {"users": round(users * factor), "curve": curve}
    else:
        crowd |= {"users": users, "spawn_per_s": None if over_s is None else users / over_s}
    try:
        made = Crowd(name=kind, kind=kind, headers=_headers(given.pop("headers")), **crowd)
        plan = UsersPlan(crowds=(made,), **given)
    except InvalidRequest as exc:
        raise click.UsageError(str(exc)) from exc
    raise SystemExit(run_plan(plan, **reporting))


def _headers(given: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for each in given:
        name, colon, value = each.partition(":")
        if not colon:
            raise click.UsageError(f"--header {each!r}: NAME:VALUE")
        found[name] = value.strip()
    return found


async def _run(plan: UsersPlan, directory: Path, reporter: Reporter) -> UsersResult:
    lacks = await asyncio.to_thread(lambda: lacking(plan, read_machine()))
    if lacks:
        raise CouldNotRun(f"this machine cannot carry {plan.users} users: {'; '.join(lacks)}")
    await check_targets(plan)
    interrupted = asyncio.Event()
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        """The first Ctrl-C ends the run and keeps what was measured; the next one ends all."""
        interrupted.set()
        loop.remove_signal_handler(signal.SIGINT)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    async with LocustRun(plan, directory) as run:
        shows = asyncio.create_task(_show(run, reporter), name="users-show")
        through = asyncio.create_task(_through(run), name="users-through")
        stopped = asyncio.create_task(interrupted.wait(), name="users-interrupted")
        try:
            done, _ = await asyncio.wait((through, stopped), return_when=asyncio.FIRST_COMPLETED)
            if through in done:
                await through
        finally:
            for each in (shows, through, stopped):
                each.cancel()
            await asyncio.gather(shows, through, stopped, return_exceptions=True)
        if run.began_at_ms is None:
            raise CouldNotRun("interrupted before it began")
        return await run.finish()


async def _through(run: LocustRun) -> None:
    """The whole run; one without a duration ends by an interrupt, or because its processes did."""
    await run.started()
    await run.ended()


async def _show(run: LocustRun, reporter: Reporter) -> None:
    while True:
        await asyncio.sleep(_SHOW_EVERY_S)
        if run.began_at_ms is not None:
            reporter.note(_line(run.snapshot()))


def _line(now: UsersSnapshot) -> str:
    users = ", ".join(f"{number} {crowd}" for crowd, number in sorted(now.users.items()))
    others = {"refused": now.refused, "failed": now.failed, "open": now.open, "delivered": now.delivered}
    counts = "".join(f", {number} {what}" for what, number in others.items() if number)
    return f"{now.at_s:6.1f} s  {users}  {now.sent_per_s:.0f} requests/s, {now.sent} sent{counts}"
