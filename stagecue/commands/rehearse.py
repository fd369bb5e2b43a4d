"""`stagecue gameday rehearse`: a real event's schedule, compressed, to simulated devices of a running system."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from device_sim.prefetch import ProfileToken
    from loadtest.bench.report import Reporter
    from loadtest.gameday.rehearsal import Rehearsal, RehearsalPlan

__all__ = ["rehearse"]

_LENGTH: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_NOT_OF_A_FILE: Final = re.compile(r"[^\w.-]")
_UNITS_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, None: 1_000}
_PROFILE_TOKENS_LIVE_S: Final = 6 * 3_600


class _Length(click.ParamType):  # type: ignore[type-arg]
    """`60s`, `2m`, `PT1M30S` or plain seconds, as milliseconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from contract.durations import parse_duration
        from contract.errors import InvalidRequest

        found = _LENGTH.fullmatch(str(value))
        if found is not None:
            return round(float(found[1]) * _UNITS_MS[found[2]])
        try:
            return parse_duration(str(value), "over")
        except InvalidRequest:
            self.fail(f"{value!r}: write 60s, 2m or PT1M30S", param, ctx)


@click.command(
    epilog="\b\nExamples:\n"
    "  stagecue gameday rehearse --event tyson-paul\n"
    "  stagecue gameday rehearse --event tyson-paul --devices 2000 --over 2m\n"
    "  stagecue gameday rehearse --event tyson-paul --compress 500 --json | jq .verdict\n"
    "  stagecue gameday rehearse --event final --producer https://operator.example.org \\\n"
    '      --dgs https://dgs.example.org --token "$TOKEN" --remote\n'
    "\b\nExit codes: 0 every bar held, 1 not, or cut short, 2 it could not run.\n"
)
@click.option("--event", "event_id", required=True, metavar="ID", help="The event to rehearse; it is not changed.")
@click.option("--devices", type=click.IntRange(1, 20_000), default=200, show_default=True, help="Simulated devices.")
@click.option("--over", "over_ms", type=_Length(), help="From the first stage to the last.  [default: 60s]")
@click.option("--compress", type=click.FloatRange(1), help="Instead of --over: so many times faster than the event.")
@click.option(
    "--producer",
    "producer_url",
    envvar="STAGECUE_URL",
    default="http://127.0.0.1:8400",
    show_default=True,
    help="Operator API; STAGECUE_URL.",
)
@click.option(
    "--dgs",
    "dgs_url",
    envvar="STAGECUE_DGS_URL",
    default="http://127.0.0.1:8401",
    show_default=True,
    help="Where devices prefetch; STAGECUE_DGS_URL.",
)
@click.option("--token", envvar="STAGECUE_TOKEN", help="Operator token; STAGECUE_TOKEN.  [default: the data dir's]")
@click.option(
    "--data-dir",
    envvar="STAGECUE_DATA_DIR",
    default="stagecue-data",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where `stagecue up` keeps its data; STAGECUE_DATA_DIR.",
)
@click.option("--sign-profiles", is_flag=True, help="Sign prefetches with the data directory's keys (DGS_TOKENS).")
@click.option("--last-within", "last_within_ms", type=_Length(), default="5s", show_default=True, help="A bar.")
@click.option("--remote", is_flag=True, help="Allow targets outside this machine.")
@click.option("--seed", type=int, default=1, show_default=True, help="Chooses moments.")
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="[default: reports/gameday/rehearse-ID-TIME]"
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def rehearse(
    event_id: str,
    over_ms: int | None,
    compress: float | None,
    token: str | None,
    data_dir: Path,
    sign_profiles: bool,
    last_within_ms: int,
    output: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Play a real event's schedule, compressed, to simulated devices on a shadow topic of a running system.

    Real devices see nothing: no frame, no schedule, no refetch; lists and home screens do not have the shadow event.
    Every stage is judged on every simulated device, and a report written. Ctrl-C ends the shadow event; so does its own
    schedule, whatever becomes of this process.
    """
    from datetime import UTC, datetime

    from loadtest.bench.report import Reporter
    from loadtest.gameday.rehearsal import Rehearsal, RehearsalPlan
    from stagecue.commands.event_client import token_for

    if over_ms is not None and compress is not None:
        raise click.UsageError("--over and --compress: one of the two")
    for name in ("producer_url", "dgs_url"):
        if not given[name].startswith(("http://", "https://")):
            raise click.UsageError(f"{given[name]!r} is no http(s) address")
    reporter = Reporter(as_json=as_json)
    try:
        operator_token = token_for(token, data_dir)
        token_of = _signer(data_dir) if sign_profiles else None
    except click.ClickException as exc:
        exc.show()
        raise SystemExit(2) from exc
    plan = RehearsalPlan(
        event_id=event_id,
        operator_token=operator_token,
        over_ms=over_ms,
        compress=compress,
        last_within_s=last_within_ms / 1000,
        token_of=token_of,
        **given,
    )
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    where = output or Path("reports") / "gameday" / f"rehearse-{_NOT_OF_A_FILE.sub('_', event_id)}-{stamp}"
    raise SystemExit(_run(plan, Rehearsal(plan, output=where, reporter=reporter), where, reporter))


def _run(plan: RehearsalPlan, rehearsal: Rehearsal, output: Path, reporter: Reporter) -> int:
    """Play, report, and return the exit code."""
    from loadtest.bench.outcome import CouldNotRun, ExitCode
    from loadtest.gameday.running import reserved, show
    from loadtest.report.files import write_report

    try:
        reporter.note(f"Rehearsing {plan.event_id} on {plan.producer_url} with {plan.devices} devices")
        with reserved(output):
            partial = asyncio.run(_interruptible(rehearsal))
            if partial:
                reporter.note("interrupted: the run is partial")
            record = rehearsal.record(partial=partial)
            write_report(record, output)
    except CouldNotRun as exc:
        reporter.note(f"could not run: {exc}")
        return ExitCode.COULD_NOT_RUN
    except OSError as exc:
        reporter.note(f"could not run: {output} cannot be written: {exc.strerror or exc}")
        return ExitCode.COULD_NOT_RUN
    show(record, output, reporter)
    return ExitCode.HELD if record.verdict == "held" else ExitCode.FELL_SHORT


async def _interruptible(rehearsal: Rehearsal) -> bool:
    """Whether SIGINT or SIGTERM cut it short; the second one ends the process as it would without us."""
    import signal

    loop = asyncio.get_running_loop()
    playing = loop.create_task(rehearsal.run(), name="rehearsal")
    told = False

    def interrupt() -> None:
        nonlocal told
        told = True
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        playing.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    try:
        await playing
    except (asyncio.CancelledError, Exception):
        # What an interrupted one falls over on its way out says nothing of the system.
        if not told:
            raise
    return told


def _signer(data_dir: Path) -> ProfileToken:
    """Signs as `stagecue keys token --profile` does. Raises ClickException where there are no keys."""
    from contract.runtime.system_clock import SystemClock
    from stagecue.keys import load_or_create_keys, profile_token

    if not (data_dir / "keys.json").exists():
        raise click.ClickException(f"--sign-profiles: no keys in {data_dir}; give the --data-dir of the running system")
    clock = SystemClock()
    ring = load_or_create_keys(data_dir, clock).profile
    return lambda profile_id: profile_token(ring, clock, profile_id, lifetime_s=_PROFILE_TOKENS_LIVE_S)
