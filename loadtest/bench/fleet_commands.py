"""What a `FleetProcess` and its child say to each other: commands and their answers. Pure values.

Shares are parts of all devices of the fleet, drawn by its seed; every fault ends by itself.
"""

from __future__ import annotations

import msgspec

from device_sim.start_shape import StartShape
from loadtest.bench.fleet_reach import BroadcastReach

__all__ = [
    "Chosen",
    "Churn",
    "Command",
    "Connect",
    "Done",
    "Drop",
    "Finish",
    "FleetSnapshot",
    "Freeze",
    "HalfOpen",
    "Offline",
    "Origin",
    "Prefetch",
    "PrefetchAnswer",
    "Reach",
    "ReachAnswer",
    "SlowDown",
    "Snapshot",
    "Watch",
    "Watched",
]


class _Command(msgspec.Struct, frozen=True, tag_field="do", tag=str.lower):
    def __post_init__(self) -> None:
        share, seconds = getattr(self, "share", 0.0), getattr(self, "seconds", 0.0)
        if not 0.0 <= share <= 1.0 or not 0.0 <= seconds <= 3600.0:
            raise ValueError("shares lie in 0..1, durations in 0..3600 s")


class Connect(_Command, frozen=True):
    """Start every device at a random moment of `over_s`; answered at once. First of all, once."""

    over_s: float = 0.0
    shape: StartShape = "uniform"


class Snapshot(_Command, frozen=True):
    """Answered with a FleetSnapshot."""


class Watch(_Command, frozen=True):
    """Count this process's CPU and loop lag from now on."""


class Watched(_Command, frozen=True):
    """Answered with a GeneratorReport since `watch`; None without one."""


class Drop(_Command, frozen=True):
    """Break connections by a reset; devices come back within their windows (R21)."""

    share: float = 1.0


class Offline(_Command, frozen=True):
    """Devices lose the network for some seconds, and know."""

    share: float
    seconds: float


class Freeze(_Command, frozen=True):
    """Devices neither read nor write nor keep time for some seconds, as suspended apps; then they go on."""

    share: float
    seconds: float


class HalfOpen(_Command, frozen=True):
    """Devices vanish without their node learning of it: their sockets stay and are never read again. They come back
    after some seconds, by new sockets, within their windows."""

    share: float
    seconds: float


class SlowDown(_Command, frozen=True):
    """Devices read `bytes_per_s` at most for some seconds."""

    share: float
    seconds: float
    bytes_per_s: int = 256


class Churn(_Command, frozen=True):
    """Devices leave at random moments of `over_s`. Each comes back `away_s` later with its cursors; None: for good, and
    a new one, which was never subscribed, comes at once in its place."""

    share: float
    over_s: float = 0.0
    away_s: float | None = None


class Prefetch(_Command, frozen=True):
    """Ask the DGS for the plan's maps and give them to the devices: the first one starts, later ones ask how it is."""


class Origin(msgspec.Struct, frozen=True):
    """What a broadcast's latency counts from: its due time, say."""

    topic: str
    timestamp: int
    at_ms: float


class Reach(_Command, frozen=True):
    """Answered with a ReachAnswer: fleets that record lightly."""

    origins: tuple[Origin, ...] = ()


class Finish(_Command, frozen=True):
    """Write the record as it stands now, stop every device and end."""


Command = (
    Connect
    | Snapshot
    | Watch
    | Watched
    | Drop
    | Offline
    | Freeze
    | HalfOpen
    | SlowDown
    | Churn
    | Prefetch
    | Reach
    | Finish
)


class Done(msgspec.Struct, frozen=True):
    """The answer to a command that asks for nothing."""


class Chosen(msgspec.Struct, frozen=True):
    """The answer to a fault."""

    devices: int


class PrefetchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How far the prefetch is; `over` once the devices hold their maps, or `failed` says why not."""

    profiles: int
    done: int
    seconds: float
    """Since it started, or that it took."""
    over: bool = False
    failed: str = ""
    distinct_maps: int = 0
    """Maps that differ in what they show."""
    operations: int = 0
    """Asked of the DGS, retries apart."""
    retries: int = 0


class ReachAnswer(msgspec.Struct, frozen=True):
    broadcasts: tuple[BroadcastReach, ...]
    unsubscribed: int
    """Devices and topics that never heard a continuity: nothing is expected of them."""
    unknown: int
    """Broadcasts forgotten because there were too many: the answer is not whole."""


class FleetSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """How the fleet stands. Counts of frames and handshakes only rise."""

    devices: int
    connected: int
    """Devices with a welcomed connection."""
    subscribed: int
    """Devices that were connected and knew a cursor for each of their topics at some time; falls where one is replaced
    (churn), until its successor has subscribed."""
    broadcasts: int
    """Received by all devices, repeats and replays included."""
    handshakes: int
    refused: int
    failed: int
    given_up: int
    protocol_violations: int
    cpu_s: float
    """Of this process since its start."""
    rss_bytes: int
