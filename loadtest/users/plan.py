"""What a run of locust users is made of: crowds, their numbers over time, and what they are pointed at. Pure.

    plan = UsersPlan(
        crowds=(
            Crowd(name="home", kind="browse", users=400, spawn_per_s=40),
            Crowd(name="surge", kind="connect", users=1_000, curve=surge(100, factor=10, after_s=20, over_s=30)),
        ),
        dgs_url="http://127.0.0.1:8401", event_ids=("tyson-paul",), duration_s=60, workers=2,
    )

A crowd is a number of users of one kind. Several crowds may be of the same kind, and tell apart in the result what
each of them met. User `i` of crowd `c` has the profile `p-<c.first_profile + i>`; a crowd that names no first profile
gets the ones after the crowd before it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec

from contract.errors import InvalidRequest

__all__ = ["USERS_PER_WORKER_MAX", "Crowd", "Kind", "Retries", "Stretch", "UsersPlan", "is_push_url", "surge"]

Kind = Literal["browse", "connect", "naive", "operate"]
"""`browse`: asks for the home row and for stage maps at natural intervals, and refreshes the maps it holds.
`connect`: prefetches, connects, follows broadcasts by its map. `naive`: connects without a map and asks the DGS at each
broadcast. `operate`: an operator with events of its own, by REST."""

Retries = Literal["none", "budget", "immediate"]
"""`none`: a failure is a failure. `budget`: a few more tries, growing and jittered, no earlier than Retry-After, paid
from an allowance that good answers refill. `immediate`: again at once, whatever the server asked for: how a retry storm
is made."""

USERS_PER_WORKER_MAX: Final = 15_000
"""A process may open 20,000 files, and a connected device needs one, for moments two."""
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_EVENT_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,100}")
_TOKEN: Final = re.compile(r"[!-~]{1,8192}")
_PUSH_URLS_MAX: Final = 1_024


class Stretch(msgspec.Struct, frozen=True, array_like=True):
    """A part of a curve: the number of users goes in a straight line to `users` within `over_s` seconds.

    In JSON and TOML `[over_s, users]`.
    """

    over_s: float
    users: int


class Crowd(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Users of one kind. `curve` decides when they come and go; without one they come at `spawn_per_s` and stay."""

    name: str
    """Part of every name in the result: `<name>/<request>`. a-z, 0-9, `_` and `-`."""
    kind: Kind
    users: int
    """At most. With a curve: no less than its highest point."""
    spawn_per_s: float | None = None
    """None: all at the beginning, each at a random moment of the first second."""
    curve: tuple[Stretch, ...] = ()
    """From 0 users at the beginning; after its end the last number stays."""
    first_profile: int | None = None
    retries: Retries = "budget"
    headers: Mapping[str, str] = {}
    """Sent with every request to the DGS: `{"X-Stagecue-Class": "best_effort"}` lowers its class."""
    think_median_s: float = 8.0
    """Between two screens of a browsing device: log-normal, this median."""
    think_sigma: float = 0.9
    """Of the logarithm: two thirds of all think times lie within a factor of e^0.9 = 2.5 around the median."""
    home_share: float = 0.5
    """Of a browsing device's screens; the others are event pages."""
    ttl_spread: float = 0.5
    """A map is refreshed at a random moment of [1 - spread, 1] of its `ttlSeconds`; 0: exactly at its end."""
    connect_within_s: float | None = None
    """A device with a channel connects at a random moment of this; None: of the channel's `connectWindowMs`."""
    artwork: bool = False
    """Whether connected devices prefetch the map's pictures too."""
    act_every_s: float = 5.0
    """Mean time between two actions of an operator."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidRequest(f"{self.name[:60]!r}", field="crowds.name", rule="a-z, 0-9, _ and -, at most 40")
        _demand_finite(self, "crowds.")
        _demand(all(math.isfinite(each.over_s) for each in self.curve), "crowds.curve", "", "finite numbers")
        highest = max((each.users for each in self.curve), default=0)
        _demand(self.users >= 1, "crowds.users", self.users, "at least 1")
        _demand(self.users >= highest, "crowds.users", self.users, f"at least the curve's highest point, {highest}")
        _demand(all(each.over_s >= 0 and each.users >= 0 for each in self.curve), "crowds.curve", "", "none negative")
        _demand(not self.curve or self.spawn_per_s is None, "crowds.spawn_per_s", "", "not together with a curve")
        _demand(self.spawn_per_s is None or self.spawn_per_s > 0, "crowds.spawn_per_s", self.spawn_per_s, "above 0")
        _demand(0 <= self.ttl_spread < 1, "crowds.ttl_spread", self.ttl_spread, "in [0, 1)")
        _demand(0 <= self.home_share <= 1, "crowds.home_share", self.home_share, "in [0, 1]")
        _demand(self.think_median_s > 0, "crowds.think_median_s", self.think_median_s, "above 0")
        _demand(0 <= self.think_sigma <= 3, "crowds.think_sigma", self.think_sigma, "in [0, 3]")
        _demand((self.connect_within_s or 0.0) >= 0, "crowds.connect_within_s", self.connect_within_s, "not negative")
        _demand(self.act_every_s > 0, "crowds.act_every_s", self.act_every_s, "above 0")
        _demand((self.first_profile or 0) >= 0, "crowds.first_profile", self.first_profile, "not negative")
        for name, value in self.headers.items():
            sendable = _HEADER_NAME.fullmatch(name) is not None and value.isascii() and value.isprintable()
            _demand(sendable, "crowds.headers", f"{name[:60]}: {value[:60]}", "NAME: VALUE, printable ASCII")


class UsersPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One object for the parent and all processes of a run. Raises InvalidRequest naming the field at fault."""

    crowds: tuple[Crowd, ...]
    dgs_url: str = ""
    """`http://host:port`; for devices of all kinds."""
    remote: bool = False
    """Whether targets may lie outside this machine: those named here, and those an answer names."""
    push_urls: tuple[str, ...] = ()
    """`ws://host:port/v1/stream` of push nodes, in turn; empty: the one `broadcastChannel` names."""
    producer_url: str = ""
    """For operators, and for the result: when each broadcast was due and dispatched."""
    operator_token: str = ""
    profile_keys: str = ""
    """Data directory of the installation, on this machine, whose keys sign what devices ask of the DGS
    (`DGS_TOKENS=required`); empty: they show no token."""
    event_ids: tuple[str, ...] = ()
    """What devices follow (all of them) and browse (one at a time)."""
    duration_s: float | None = None
    """From the beginning on; None: until `finish`."""
    seed: int = 1
    workers: int = 0
    """Processes that carry users, beside a master; 0: one process does both."""
    time_compression: float = 1.0
    """Think times, lifetimes of maps and pauses of operators are this many times shorter. Windows of reconnects and
    refetches, and what Retry-After says, are the server's and stay."""
    bin_s: float = 1.0
    """Width of a point of the series."""
    timeout_s: float = 10.0
    """Of one request."""
    drain_s: float = 3.0
    """At the end requests under way may take this long; the others count as unfinished."""

    def __post_init__(self) -> None:
        names = [crowd.name for crowd in self.crowds]
        _demand(bool(names), "crowds", "", "at least one")
        _demand(len(names) <= 32, "crowds", len(names), "at most 32")
        _demand(len(set(names)) == len(names), "crowds.name", ", ".join(names), "all different")
        kinds = {crowd.kind for crowd in self.crowds}
        devices = kinds - {"operate"}
        _demand(
            not devices or bool(self.dgs_url), "dgs_url", "", f"wanted by crowds of kind {', '.join(sorted(devices))}"
        )
        _demand(not devices or bool(self.event_ids), "event_ids", "", "devices follow at least one event")
        for event_id in self.event_ids:
            _demand(_EVENT_ID.fullmatch(event_id) is not None, "event_ids", event_id[:100], "an event's id")
        _demand(len(self.event_ids) <= 64, "event_ids", len(self.event_ids), "at most 64 topics a connection")
        _demand("operate" not in kinds or bool(self.producer_url), "producer_url", "", "wanted by operators")
        _demand("operate" not in kinds or bool(self.operator_token), "operator_token", "", "wanted by operators")
        sendable = not self.operator_token or _TOKEN.fullmatch(self.operator_token) is not None
        _demand(sendable, "operator_token", "", "one line of printable ASCII without blanks")
        _demand(_is_origin(self.dgs_url), "dgs_url", self.dgs_url[:200], "http://host:port without a path")
        _demand(
            _is_origin(self.producer_url), "producer_url", self.producer_url[:200], "http://host:port without a path"
        )
        _demand(len(self.push_urls) <= _PUSH_URLS_MAX, "push_urls", len(self.push_urls), f"at most {_PUSH_URLS_MAX}")
        for url in self.push_urls:
            _demand(is_push_url(url), "push_urls", url[:200], "ws://host:port/v1/stream")
        _demand_finite(self)
        _demand(self.duration_s is None or self.duration_s > 0, "duration_s", self.duration_s, "above 0")
        _demand(0 <= self.workers <= 64, "workers", self.workers, "0 to 64")
        _demand(self.time_compression > 0, "time_compression", self.time_compression, "above 0")
        _demand(0.01 <= self.bin_s <= 60, "bin_s", self.bin_s, "0.01 to 60")
        _demand(self.timeout_s > 0, "timeout_s", self.timeout_s, "above 0")
        _demand(0 <= self.drain_s <= 60, "drain_s", self.drain_s, "0 to 60")
        per_worker = math.ceil(self.users / max(1, self.workers))
        needed = math.ceil(self.users / USERS_PER_WORKER_MAX)
        rule = f"at most {USERS_PER_WORKER_MAX} a process: {needed} workers"
        _demand(per_worker <= USERS_PER_WORKER_MAX, "crowds.users", self.users, rule)

    @property
    def users(self) -> int:
        """Of all crowds, at most."""
        return sum(crowd.users for crowd in self.crowds)

    def crowd(self, name: str) -> Crowd:
        """Raises KeyError for a name that is none of its crowds."""
        for crowd in self.crowds:
            if crowd.name == name:
                return crowd
        raise KeyError(name)

    def first_profile(self, name: str) -> int:
        """Number of the crowd's first profile."""
        following = 0
        for crowd in self.crowds:
            first = following if crowd.first_profile is None else crowd.first_profile
            if crowd.name == name:
                return first
            following = first + crowd.users
        raise KeyError(name)


def surge(users: int, *, factor: float = 10.0, after_s: float = 0.0, over_s: float = 30.0) -> tuple[Stretch, ...]:
    """`users` from the beginning, and from `after_s` on `factor` times as many within `over_s`: "10x in 30 s"."""
    return (Stretch(0.0, users), Stretch(after_s, users), Stretch(over_s, round(users * factor)))


def is_push_url(url: str) -> bool:
    """Whether a device could connect to it."""
    return _is_url(url, ("ws", "wss")) and urlsplit(url).path not in ("", "/")


def _is_origin(url: str) -> bool:
    """Empty where it is not wanted."""
    return not url or (_is_url(url, ("http", "https")) and urlsplit(url)[2:] in (("", "", ""), ("/", "", "")))


def _is_url(url: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    return parts.scheme in schemes and bool(parts.hostname) and "@" not in parts.netloc and port != 0


def _demand_finite(found: msgspec.Struct, prefix: str = "") -> None:
    for name in found.__struct_fields__:
        value = getattr(found, name)
        _demand(not isinstance(value, float) or math.isfinite(value), f"{prefix}{name}", value, "a finite number")


def _demand(holds: bool, field: str, found: object, rule: str) -> None:
    if not holds:
        raise InvalidRequest(f"{found!r}" if found != "" else "missing or wrong", field=field, rule=rule)
