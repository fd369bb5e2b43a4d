"""What each kind of run can be told: `[parameters]` of a scenario. Pure values; every field has a default."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

__all__ = [
    "REQUESTS_MAX",
    "Flood",
    "GameDay",
    "JoinSurge",
    "NaiveVsPrefetch",
    "Parameters",
    "ReconnectStorm",
    "RetryStorm",
    "SlipAndCancel",
    "TtlHerds",
]

Devices = Annotated[int, Meta(ge=10, le=18_000)]
"""Connected to one node: it holds 18,000."""
Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0, le=1_200)]
Rate = Annotated[float, Meta(gt=0, le=1_000_000)]
Factor = Annotated[float, Meta(ge=1, le=1_000)]
_COUNTED_S_MAX: Final = 450.0
Counted = Annotated[float, Meta(gt=0, le=_COUNTED_S_MAX)]
"""Seconds in which the DGS's own count is asked for afterwards: it remembers the last ten minutes."""
REQUESTS_MAX: Final = 20_000_000
"""Of one half of a run: when each is due lies in memory."""


def _bounded(requests: float) -> None:
    """Raises ValueError, which reading a scenario tells with its file."""
    if not requests <= REQUESTS_MAX:
        raise ValueError(f"these come to {requests:,.0f} requests; at most {REQUESTS_MAX:,}")


class Parameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of any kind."""


class NaiveVsPrefetch(Parameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    devices: Devices = 2_000
    """Connected in each of the two runs."""
    stages: Annotated[int, Meta(ge=1, le=20)] = 3
    """Of the event, one after the other."""
    spacing_s: Annotated[float, Meta(ge=2, le=600)] = 5.0
    """Between stages: the herd of one is over before the next."""
    ask_timeout_s: Seconds = 5.0
    """A naive device asks again, at once, when there was no answer by then."""

    def __post_init__(self) -> None:
        if self.stages * self.spacing_s > _COUNTED_S_MAX:
            lasts = f"{self.stages} stages {self.spacing_s:g} s apart last {self.stages * self.spacing_s:g} s"
            raise ValueError(f"{lasts}; requests are counted over at most {_COUNTED_S_MAX:g} s")


class TtlHerds(Parameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    devices: Devices = 600
    """Of the compressed run, in each half: real prefetches, each map refetched when it expires."""
    simulated_devices: Annotated[int, Meta(ge=10_000, le=10_000_000)] = 1_000_000
    """Of the simulated night, 24 hours, lifetimes drawn by the code the service hands them out with."""
    join_s: Seconds = 1.0
    """Devices of the compressed run join within this: a push notification, compressed."""
    ttl_s: Annotated[int, Meta(ge=10, le=600)] = 10
    """Mean lifetime in the compressed run; production's is six hours."""
    lasts_s: Counted = 45.0
    """Of the compressed run, from when all have joined."""


class ReconnectStorm(Parameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    devices: Devices = 8_000
    """Connected in each of the two runs."""
    handshakes_per_s: Rate = 2_000.0
    """The node admits so many in the long run: scaled down with the fleet, which is what its window follows from."""
    handshake_burst: Count = 1_000
    """And so many at once."""
    connect_s: Seconds = 10.0
    """Devices connect within this before the storm."""
    gives_up_after_s: Seconds = 60.0
    """Longest time devices are waited for after the break."""


class RetryStorm(Parameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    profiles: Annotated[int, Meta(ge=100, le=500_000)] = 15_000
    """That want a map one after the other; the first comes again once all have."""
    slots: Count = 10
    """Profiles the ranking service behind the DGS works on at once."""
    slot_ms: Rate = 10.0
    """And for how long on each. This is the capacity."""
    load: Annotated[float, Meta(gt=0, lt=1)] = 0.4
    """Wanted answers a second, as a share of that capacity."""
    trouble: Literal["refuse", "hang", "ranking"] = "refuse"
    """`refuse`: an operator's rule sheds everything. `hang`: connections stay open, nothing is answered. `ranking`: the
    ranking service alone hangs."""
    before_s: Seconds = 3.0
    """Without trouble, before it."""
    trouble_s: Seconds = 4.0
    """How long it lasts."""
    after_s: Seconds = 20.0
    """How long it is watched afterwards; new answers are wanted throughout."""
    timeout_s: Seconds = 1.0
    """A client that was not answered by then gives the request up."""
    tries: Annotated[int, Meta(ge=1, le=20)] = 4
    """Of a client with a budget, before it leaves it to its refetch window."""
    refetch_window_s: Seconds = 10.0
    """Over which a client whose budget is spent asks again; production's is a minute."""

    def __post_init__(self) -> None:
        capacity = self.slots * 1000 / self.slot_ms
        _bounded(self.load * capacity * (self.before_s + self.trouble_s + self.after_s))


class JoinSurge(Parameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    devices: Devices = 6_000
    """Connect during the surge, evenly."""
    prefetches_per_s: Rate = 60.0
    """First prefetches before and after it."""
    factor: Factor = 10.0
    """How many times that come in the surge."""
    before_s: Seconds = 8.0
    """Usual arrivals, before it."""
    surge_s: Seconds = 30.0
    """How long it lasts; the devices connect within it."""
    after_s: Seconds = 6.0
    """Usual arrivals, after it."""
    profiles: Annotated[int, Meta(ge=100, le=500_000)] = 40_000
    """That prefetch; the first comes again once all have."""
    timeout_s: Seconds = 5.0
    """A prefetch that was not answered by then failed."""

    def __post_init__(self) -> None:
        _bounded(self.prefetches_per_s * (self.before_s + self.factor * self.surge_s + self.after_s))


class Flood(Parameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    slots: Count = 8
    """Profiles the ranking service behind the DGS works on at once."""
    slot_ms: Rate = 10.0
    """And for how long on each. This is the capacity."""
    critical_load: Annotated[float, Meta(gt=0, lt=1)] = 0.1
    """First prefetches, as a share of what it can do."""
    flood: Factor = 4.0
    """Refreshes, as a multiple of what it can do."""
    before_s: Seconds = 4.0
    """Usual load, before it."""
    flood_s: Seconds = 15.0
    """How long it lasts."""
    after_s: Seconds = 5.0
    """Usual load, after it: recovery is looked for here."""
    profiles: Annotated[int, Meta(ge=100, le=500_000)] = 20_000
    """Of each kind of request; the first comes again once all have."""

    def __post_init__(self) -> None:
        capacity, lasts_s = self.slots * 1000 / self.slot_ms, self.before_s + self.flood_s + self.after_s
        _bounded((1 + self.critical_load + self.flood) * capacity * lasts_s)


class SlipAndCancel(Parameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    devices: Devices = 2_000
    """Connected, with prefetched maps of both events."""
    lead_s: Annotated[float, Meta(ge=4, le=240)] = 8.0
    """From the last device's arrival to the due time that will not be kept."""
    slips_before_s: Annotated[float, Meta(ge=0.1, le=60)] = 1.0
    """The operator moves one event, and cancels another, so long before their stage is due."""
    slip_s: Annotated[int, Meta(ge=2, le=200)] = 8
    """By so much the one moves."""


class GameDay(Parameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    projection: str = "game-day-projection.toml"
    """File of expectations, TOML or CSV, from the scenario's own directory."""
    scale: Annotated[float, Meta(gt=0, le=1)] | None = None
    """The projection times this is what runs here; none given: `devices` over the projected devices."""
    devices: Devices = 6_000
    """Of this run, if no scale is given."""
    browsers_max: Annotated[int, Meta(ge=0, le=2_000)] = 200
    """Locust users that browse meanwhile."""
    outage_share: Annotated[float, Meta(ge=0, le=1)] = 0.2
    """Of the devices: they lose the network for a moment while the stage goes live."""
    outage_s: Seconds = 4.0
    """How long they are without it."""
    slip_s: Annotated[int, Meta(ge=2, le=600)] = 5
    """By so much the operator moves the event, two seconds before it is due."""


KINDS_OF_PARAMETERS: Final = (
    NaiveVsPrefetch, TtlHerds, ReconnectStorm, RetryStorm, JoinSurge, Flood, SlipAndCancel, GameDay,
)  # fmt: skip
