"""`stagecue device`: one device in a terminal."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import click

if TYPE_CHECKING:
    from stagecue.device_screen_changes import Change
    from stagecue.device_session import DevicePlan, DeviceSession

__all__ = ["device"]

_KINDS: Final = ("TV", "PHONE", "TABLET", "WEB")
_SCREENS: Final = ("SMALL", "MEDIUM", "LARGE")
_SECONDS: Final = click.FloatRange(0, 30 * 86_400, min_open=True)


@click.command(
    epilog="\b\nExamples:\n"
    "  stagecue device --event tyson-paul\n"
    "  stagecue device --event tyson-paul --profile p-77 --kind PHONE --locale de-DE\n"
    "  stagecue device --event tyson-paul --offline-after 10 --offline-for 60\n"
    "  stagecue device --event tyson-paul --json | jq -c 'select(.what == \"screen\")'\n"
    "\b\nExit codes: 0 left when asked to, 1 the node said not to come back, 2 it could not begin.\n"
)
@click.option("--event", "event_id", required=True, metavar="ID", help="The event to follow.")
@click.option("--profile", "profile_id", default="p-1", show_default=True, help="Whose picks it shows.")
@click.option(
    "--dgs",
    "dgs_url",
    envvar="STAGECUE_DGS_URL",
    default="http://127.0.0.1:8401",
    show_default=True,
    help="Where it prefetches; STAGECUE_DGS_URL.",
)
@click.option("--push", "push_urls", multiple=True, metavar="URL", help="ws:// or wss:// instead of the channel's.")
@click.option("--kind", type=click.Choice(_KINDS, case_sensitive=False), default="TV", show_default=True)
@click.option("--screen", type=click.Choice(_SCREENS, case_sensitive=False), help="Its size.  [default: the kind's]")
@click.option("--locale", help="BCP 47, such as de-DE.  [default: the profile's]")
@click.option(
    "--profile-token",
    envvar="STAGECUE_PROFILE_TOKEN",
    default="",
    help="Where the DGS demands one (`stagecue keys token --profile`); STAGECUE_PROFILE_TOKEN.",
)
@click.option("--device-id", default="terminal-1", show_default=True, help="What it calls itself.")
@click.option("--offline-after", "offline_after_s", type=_SECONDS, metavar="S", help="Lose the network then.")
@click.option("--offline-for", "offline_for_s", type=_SECONDS, metavar="S", help="And for so long.  [default: 20]")
@click.option("--for", "for_s", type=_SECONDS, metavar="S", help="Leave after so long.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line and change, and nothing else.")
def device(
    event_id: str,
    kind: str,
    screen: str | None,
    locale: str | None,
    for_s: float | None,
    as_json: bool,
    **given: Any,
) -> None:
    """One device: prefetches, connects, and shows what it holds, what is on its screen, and each change as it happens.

    It is the device of the fleet and of every load test, with its cache, cursor, windows and clock; see docs/device.md.
    Ctrl-C leaves.
    """
    from stagecue.device_session import CannotBegin, DevicePlan, DeviceSession

    context = {"kind": kind.upper()} | ({"screen": screen.upper()} if screen else {})
    context |= {"locale": locale} if locale else {}
    plan = DevicePlan(event_id=event_id, context=context, **_checked(given))
    try:
        code = asyncio.run(_follow(plan, DeviceSession, for_s, as_json))
    except CannotBegin as exc:
        click.echo(f"Error: {exc}", err=True)
        raise SystemExit(2) from None
    raise SystemExit(0 if code is None else 1)


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    from contract.errors import InvalidRequest
    from device_sim.client import Channel

    for url in given["push_urls"]:
        try:
            Channel.from_url(url)
        except InvalidRequest as exc:
            raise click.BadParameter(str(exc), param_hint="--push") from exc
    try:
        found = urlsplit(given["dgs_url"])
        good = found.scheme in ("http", "https") and bool(found.hostname) and found.port != 0
    except ValueError:
        good = False
    if not good:
        raise click.BadParameter(f"{given['dgs_url']!r} is no http(s) address", param_hint="--dgs")
    if given["offline_for_s"] is None:
        del given["offline_for_s"]
    elif given["offline_after_s"] is None:
        raise click.BadParameter("says how long, but not when: --offline-after does", param_hint="--offline-for")
    return given


async def _follow(plan: DevicePlan, new_session: type[DeviceSession], for_s: float | None, as_json: bool) -> int | None:
    import signal

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    ending = loop.call_later(for_s, stop.set) if for_s is not None else None
    try:
        return await (_as_json(plan, new_session, stop) if as_json else _as_screen(plan, new_session, stop))
    finally:
        if ending is not None:
            ending.cancel()


def _nobody_reads(stop: asyncio.Event) -> None:
    """Whoever read it has seen enough; what follows goes nowhere, the flush at the exit included."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    stop.set()


async def _as_json(plan: DevicePlan, new_session: type[DeviceSession], stop: asyncio.Event) -> int | None:
    def tell(change: Change) -> None:
        try:
            sys.stdout.buffer.write(change.as_json() + b"\n")
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            _nobody_reads(stop)

    return await new_session(plan, tell).run(stop)


async def _as_screen(plan: DevicePlan, new_session: type[DeviceSession], stop: asyncio.Event) -> int | None:
    from rich.console import Console

    from stagecue.device_screen import DeviceScreen

    class Screen(Console):
        def on_broken_pipe(self) -> None:
            _nobody_reads(stop)

    with DeviceScreen(Screen(highlight=False)) as screen:
        screen.session = new_session(plan, screen.tell)
        return await screen.session.run(stop)
