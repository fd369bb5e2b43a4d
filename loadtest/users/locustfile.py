"""Our users for plain locust and its web page: `locust -f loadtest/users/locustfile.py --host DGS BrowsingDevice`.

Locust decides how many there are and when they come, and keeps its own statistics (rounded, and without the waiting
before a request was sent). For honest figures use `python -m loadtest.users`; this is for looking.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from locust import events

from contract.errors import InvalidRequest
from loadtest.bench.outcome import CouldNotRun
from loadtest.machine.here import is_here
from loadtest.users import devices
from loadtest.users.plan import USERS_PER_WORKER_MAX, Crowd, Kind, UsersPlan
from loadtest.users.world import World

_KINDS: dict[str, tuple[Kind, str]] = {
    "BrowsingDevice": ("browse", "browse"),
    "ConnectedDevice": ("connect", "connect"),
    "NaiveDevice": ("naive", "naive"),
    "Operator": ("operate", "operate"),
}


class BrowsingDevice(devices.BrowsingDevice):
    """Home rows and event pages at natural intervals, refreshes of the maps held."""


class ConnectedDevice(devices.ConnectedDevice):
    """Prefetches, connects, follows broadcasts by its map."""


class NaiveDevice(devices.NaiveDevice):
    """Asks the DGS at each broadcast."""


class Operator(devices.Operator):
    """Creates, moves, cues and cancels events of its own."""


def _options(parser: Any) -> None:
    parser.add_argument("--event", default="tyson-paul", env_var="STAGECUE_EVENT", help="What devices follow.")
    parser.add_argument("--producer", default="", env_var="STAGECUE_PRODUCER", help="http://host:port, for operators.")
    parser.add_argument("--token-file", default="", include_in_web_ui=False, help="operator.token, for operators.")
    parser.add_argument("--sign-profiles", default="", include_in_web_ui=False, help="Data directory with keys.")
    parser.add_argument("--retries", default="budget", choices=["none", "budget", "immediate"])
    parser.add_argument(
        "--compress", type=float, default=1.0, help="Think times and lifetimes, this many times shorter."
    )
    parser.add_argument("--connect-within", type=float, default=None, help="Seconds, instead of the channel's window.")
    parser.add_argument("--remote", action="store_true", help="Targets may lie outside this machine.")


def _set_up(environment: Any, **_: object) -> None:
    """A new world for each test: `Start new test` on the page begins from nothing."""
    options, runner = environment.parsed_options, environment.runner
    share = max(0, getattr(runner, "worker_index", 0))
    chosen = [
        each for each in (BrowsingDevice, ConnectedDevice, NaiveDevice, Operator) if each in environment.user_classes
    ]
    crowds = []
    most = USERS_PER_WORKER_MAX // max(1, len(chosen))
    for number, each in enumerate(chosen):
        kind, name = _KINDS[each.__name__]
        # How many there will be only locust knows. Every process and every kind has profiles of its own.
        crowd = Crowd(
            name=name,
            kind=kind,
            users=most,
            first_profile=share * 1_000_000 + number * most,
            retries=options.retries,
            connect_within_s=options.connect_within,
        )
        crowds.append(crowd)
    try:
        token = Path(options.token_file).read_text().strip() if options.token_file else ""
        plan = UsersPlan(
            crowds=tuple(crowds),
            dgs_url=environment.host or "",
            producer_url=options.producer,
            operator_token=token,
            profile_keys=options.sign_profiles,
            event_ids=(options.event,),
            time_compression=options.compress,
            remote=options.remote,
        )
        _stay_here(plan)
        world = World(plan, on_request=_tell_locust(environment))
    except (InvalidRequest, CouldNotRun, OSError, UnicodeDecodeError) as exc:
        raise SystemExit(f"{exc} (the DGS is --host)") from exc
    for each, crowd in zip(chosen, crowds, strict=True):
        each.world, each.crowd = world, crowd
    world.begin_now()


def _stay_here(plan: UsersPlan) -> None:
    for url in (plan.dgs_url, plan.producer_url):
        if url and not plan.remote and not is_here(url):
            raise CouldNotRun(f"{url} is not this machine: a load test of another one wants to be meant: --remote")


def _tell_locust(environment: Any) -> Any:
    def told(method: str, name: str, took_ms: float, size: int, error: Exception | None) -> None:
        environment.events.request.fire(
            request_type=method, name=name, response_time=took_ms, response_length=size, exception=error, context={}
        )

    return told


events.init_command_line_parser.add_listener(_options)  # type: ignore[no-untyped-call]
events.test_start.add_listener(_set_up)  # type: ignore[no-untyped-call]
