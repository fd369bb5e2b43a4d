"""What a run of users found, and whether it counts. Pure values; `UsersResult` is what a scenario judges by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from loadtest.bench.histogram import LatencyHistogram
from loadtest.users.plan import Kind

__all__ = [
    "CPU_SHARE_MAX",
    "LAG_P99_MS_MAX",
    "LAG_WORST_MS_MAX",
    "BroadcastTimes",
    "Curve",
    "CurveOf",
    "Delivery",
    "Generator",
    "RequestFigures",
    "SocketFigures",
    "Times",
    "UsersResult",
    "UsersSnapshot",
]

LAG_P99_MS_MAX: Final = 50.0
LAG_WORST_MS_MAX: Final = 100.0
CPU_SHARE_MAX: Final = 0.9
"""Beyond these a result says more about the generator than about the system."""

CurveOf = Literal[
    "sent", "failed", "refused", "handshakes", "opened", "handshakes_refused", "lost", "delivered", "users", "open"
]
"""What a curve counts, per bin. Of `<crowd>/<request>`: requests `sent` (every try), `failed`, `refused` (429 and 503).
Of `<crowd>`: `handshakes` tried, `opened`, `handshakes_refused`, connections `lost`, broadcasts `delivered`; and as it
stood at the bin's end: `users` present, connections `open`."""


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """A histogram, and the percentiles everybody asks for. All in milliseconds."""

    count: int
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    max_ms: float | None
    hdr: str
    """HDR histogram V2, compressed, base64; values in microseconds. Decode with `histogram()`."""
    below_zero: int = 0
    """Recorded as 0: clocks that disagree."""

    def histogram(self) -> LatencyHistogram:
        """A copy to merge, or to keep as a file."""
        encoded = {"hdr": self.hdr, "below_zero": self.below_zero, "max_ms": self.max_ms, "min_ms": None}
        return LatencyHistogram.decode(encoded)

    @classmethod
    def of_histogram(cls, found: LatencyHistogram) -> Times:
        p50, p90, p99, p999 = (found.percentile_ms(percent) for percent in (50, 90, 99, 99.9))
        encoded = found.encode()
        return cls(
            count=found.count,
            p50_ms=p50,
            p90_ms=p90,
            p99_ms=p99,
            p999_ms=p999,
            max_ms=found.max_ms,
            hdr=encoded["hdr"],
            below_zero=found.below_zero,
        )


class RequestFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of request of one crowd. What a user wants is an *ask*; each try of it is a *request*."""

    crowd: str
    request: str
    """`home`, `map`, `refresh`, `first` (map and channel), `channel`, `naive`, `artwork`; of operators `create`,
    `shift`, `cue`, `cancel`."""
    asks: int
    answered: int
    gave_up: int
    """Asks that ended without an answer after all tries their policy allowed."""
    unfinished: int
    """Asks under way when the run ended, and those due by then that waited for another ask of their user."""
    sent: int
    """Requests on the wire, all tries."""
    retries: int
    refused: int
    """Requests answered 429 or 503: the server protects itself. Not failures."""
    refused_with_retry_after: int
    failed: int
    """Requests that met anything else than an answer or a refusal."""
    unmodified: int
    """Answered 304."""
    moved: int
    """Asks that went to another address than their user's first: where the map held, or a picture's URL, said."""
    statuses: Mapping[str, int]
    reasons: Mapping[str, int]
    """Of failed requests: `timeout`, `connection refused`, `status 500`, ..."""
    time: Times
    """Of asks, from the moment the ask was due to its answer, waiting and retries included: coordinated omission
    corrected. Asks that gave up or did not end count with the time they had waited, which is no more than the truth."""
    service: Times
    """Of requests that were answered, from sent to answer: what a tool that forgets the waiting would show."""


class SocketFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The connections of one crowd."""

    crowd: str
    handshakes: int
    opened: int
    """Handshakes answered 101."""
    welcomed: int
    refused: int
    """Handshakes answered with another status."""
    failed: int
    """No TCP connection, or none that spoke WebSocket."""
    lost: int
    """Connections that ended without having been left by the device."""
    open: int
    """At the end of the run."""
    given_up: int
    """Devices the server told not to come back."""
    statuses: Mapping[str, int]
    """Of refused handshakes."""
    reasons: Mapping[str, int]
    """Why handshakes failed: `timeout`, `connection refused`, ...; and `malformed frame` of connections lost."""
    open_time: Times
    """From the moment the device wanted the connection to its welcome."""


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One broadcast, as the connected devices of one crowd got it."""

    crowd: str
    topic: str
    state_key: str
    timestamp: int
    """The cursor: milliseconds since the epoch."""
    due_ms: int | None
    """By the schedule (wall clock); None for a cue or a rewind, or where nobody knew."""
    dispatched_ms: int | None
    """By the producer, where the plan names one; None: unknown."""
    devices: int
    """That applied it and showed it, each once."""
    live: int
    """Of them: as it went out; the others by replay or continuity."""
    since: Literal["due", "dispatched", "timestamp"]
    """What `time` counts from: the best that is known. A cursor is the time of dispatch unless clocks went back."""
    time: Times
    """Of live deliveries, from `since` to the device's screen."""


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """Counts per bin, from the beginning of the run, without holes."""

    of: str
    what: CurveOf
    bin_s: float
    values: Sequence[int]

    def points(self, *, per_s: bool | None = None) -> list[tuple[float, float]]:
        """(seconds since the beginning, value) for a chart; counts as rates per second, levels as they are."""
        level = self.what in ("users", "open")
        scale = 1.0 if level or per_s is False else 1.0 / self.bin_s
        return [(round(number * self.bin_s, 6), value * scale) for number, value in enumerate(self.values)]

    @property
    def peak(self) -> int:
        """Of one bin."""
        return max(self.values, default=0)


class Generator(msgspec.Struct, frozen=True, kw_only=True):
    """How a process that carried users fared: whether it could have measured better than the system answered."""

    worker: int
    lag_p50_ms: float
    lag_p99_ms: float
    """How late a greenlet woke that slept 10 ms at a time; corrected for the wakings it missed."""
    lag_worst_ms: float
    """p99 of the worst five seconds."""
    lag_max_ms: float
    cpu_mean: float
    """Share of one core, over the run."""
    cpu_worst: float
    """The same over the worst five seconds."""
    rss_bytes: int

    def invalid_because(self) -> list[str]:
        """Why its measurements do not count; empty: they do."""
        because = []
        if self.lag_p99_ms > LAG_P99_MS_MAX:
            because.append(
                f"the event loop of generator {self.worker} lagged {self.lag_p99_ms:.0f} ms at p99 "
                f"(at most {LAG_P99_MS_MAX:.0f}): use more workers or fewer users"
            )
        elif self.lag_worst_ms > LAG_WORST_MS_MAX:
            because.append(
                f"the event loop of generator {self.worker} lagged {self.lag_worst_ms:.0f} ms at p99 of its worst five "
                f"seconds (at most {LAG_WORST_MS_MAX:.0f}): use more workers or fewer users"
            )
        if self.cpu_worst > CPU_SHARE_MAX:
            because.append(
                f"generator {self.worker} used {self.cpu_worst:.2f} of its core "
                f"(at most {CPU_SHARE_MAX}): use more workers or fewer users"
            )
        return because


class UsersSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """How a run stands. Counts only rise; workers report every second, so they are that old at most."""

    at_s: float
    """Since the beginning."""
    users: Mapping[str, int]
    """Crowd -> users present."""
    sent: int
    sent_per_s: float
    """Over the last whole seconds reported."""
    failed: int
    refused: int
    handshakes: int
    open: int
    delivered: int


class UsersResult(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    began_at_ms: int
    """Wall clock of the beginning: bin 0 of every curve starts here."""
    lasted_s: float
    workers: int
    seed: int
    kinds: Mapping[str, Kind]
    """Crowd -> what its users are."""
    users: Mapping[str, int]
    """Crowd -> the most present at one time."""
    requests: Sequence[RequestFigures]
    sockets: Sequence[SocketFigures]
    deliveries: Sequence[Delivery]
    """By crowd, topic and time."""
    curves: Sequence[Curve]
    cache_hits: Mapping[str, int]
    """Crowd -> screens shown from a map held: asked nobody."""
    generators: Sequence[Generator]
    invalid_because: Sequence[str]
    """Why the figures do not count; empty: they do."""
    partial: bool = False
    """Ended before its time: interrupted, or asked to finish."""

    @property
    def valid(self) -> bool:
        return not self.invalid_because

    def request(self, crowd: str, request: str) -> RequestFigures | None:
        for found in self.requests:
            if (found.crowd, found.request) == (crowd, request):
                return found
        return None

    def curve(self, of: str, what: CurveOf) -> Curve:
        """That curve; all zero where nothing was counted."""
        for found in self.curves:
            if (found.of, found.what) == (of, what):
                return found
        bins = max((len(each.values) for each in self.curves), default=0)
        bin_s = self.curves[0].bin_s if self.curves else 1.0
        return Curve(of=of, what=what, bin_s=bin_s, values=(0,) * bins)

    def summed(self, what: CurveOf, *, kind: Kind | None = None) -> Curve:
        """That curve over all crowds, or those of a kind."""
        chosen = [each for each in self.curves if each.what == what]
        if kind is not None:
            chosen = [each for each in chosen if self.kinds.get(each.of.split("/", 1)[0]) == kind]
        bins = max((len(each.values) for each in self.curves), default=0)
        values = [sum(each.values[number] for each in chosen if number < len(each.values)) for number in range(bins)]
        bin_s = self.curves[0].bin_s if self.curves else 1.0
        return Curve(of=kind or "all", what=what, bin_s=bin_s, values=values)


class BroadcastTimes(msgspec.Struct, frozen=True):
    """What the producer says about one broadcast, in milliseconds since the epoch."""

    due_ms: int | None
    """None for a cue or a rewind."""
    dispatched_ms: int | None
