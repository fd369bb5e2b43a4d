"""Metrics of a push node: plain integers on the hot path, rendered as Prometheus text on request.

`METRICS` is the whole list; names, labels and meanings are an interface. What happens once per device of a fan-out is
counted once per fan-out job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, Literal, NamedTuple, get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from contract.close_codes import CloseCode, GraphqlCloseCode
from contract.plain_metrics import Histogram

__all__ = [
    "METRICS",
    "PREFIX",
    "CounterName",
    "DeliveryKind",
    "Described",
    "GaugeName",
    "HandshakeOutcome",
    "NodeMetrics",
    "StreamProtocol",
]

PREFIX: Final = "stagecue_push_"
StreamProtocol = Literal["v1", "graphql", "sse"]
DeliveryKind = Literal["live", "replayed", "coalesced"]
HandshakeOutcome = Literal[
    "accepted",  # a stream began
    "malformed",  # not an HTTP/1.1 request, or one that breaks its rules
    "too_large",  # request head above its limit
    "late",  # no complete request, or no token, within its deadline
    "lost",  # the peer left within its request, or before it showed its token
    "not_found",  # no such path
    "method",  # not GET
    "not_websocket",  # no upgrade, or to another version of WebSocket
    "subprotocol",  # none of ours offered
    "unauthorized",  # token missing, expired or not ours
    "forbidden",  # a good token that does not allow this
    "origin",  # a page of somebody else
    "full",  # no room for one more connection
    "too_fast",  # the node's rate of handshakes is used up
    "address",  # too many connections or handshakes from one address
    "draining",  # the node is about to stop
    "other",
]
CounterName = Literal[
    "connects",  # handshakes accepted
    "refused",  # handshakes refused for another reason than `handshake` knows
    "broadcasts",
    "repeats",
    "conflicts",
    "holes_released",
    "holes_reported",
    "written",  # deliveries, live
    "replayed",  # deliveries, replayed
    "coalesced",  # deliveries, coalesced
    "fanouts",
    "acks",
    "verdicts_complete",
    "verdicts_gap",
    "verdicts_ahead",
    "verdicts_pending",
    "error_frames",
    "goaways",
    "tokens_renewed",
    "log_reads",
    "store_failures",
    "congested",
    "closed_slow",
    "closed_silent",
]
GaugeName = Literal["connections", "topics", "subscriptions", "open_holes", "fanout_jobs", "router_links"]


class Described(NamedTuple):
    """One exported metric; its full name is PREFIX + name, and `_total` after that of a counter."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    meaning: str

    @property
    def exported(self) -> str:
        return f"{PREFIX}{self.name}{'_total' if self.kind == 'counter' else ''}"


METRICS: Final[tuple[Described, ...]] = (
    # Connections.
    Described("connections", "gauge", (), "Devices with a session now."),
    Described("protocol_connections", "gauge", ("protocol",), "The same, by the protocol they speak."),
    Described("handshakes", "counter", ("outcome",), "Requests for a stream, by what became of them."),
    Described("sessions", "counter", ("protocol",), "Sessions begun."),
    Described("closes", "counter", ("code", "protocol"), "Sessions ended, by close code; 1006: without one."),
    Described("goaways", "counter", (), "Devices told when to come back, before they were closed."),
    Described("tokens_renewed", "counter", (), "Tokens renewed over the stream."),
    Described("error_frames", "counter", (), "Error frames sent: requests of devices that failed."),
    Described("congested", "counter", (), "Times a device read so slowly that frames were held back for it."),
    Described("closed_slow", "counter", (), "Sessions closed because the device read too slowly."),
    Described("closed_silent", "counter", (), "Sessions closed because a ping was not answered."),
    # Broadcasts.
    Described("broadcasts", "counter", (), "Broadcasts accepted, each counted once."),
    Described("repeats", "counter", (), "Broadcasts that were known already."),
    Described("conflicts", "counter", (), "Repeats with another payload: an alarm."),
    Described("open_holes", "gauge", (), "Topics of which this node knows that something is missing."),
    Described("holes_released", "counter", (), "Broadcasts sent before the hole below them was closed (R13)."),
    Described("holes_reported", "counter", (), "Holes that devices reported."),
    Described("verdicts", "counter", ("verdict",), "Continuity told to subscribers (R15)."),
    Described("deliveries", "counter", ("kind",), "Broadcast frames written to devices; live, replayed, or coalesced."),
    Described(
        "sent_bytes",
        "counter",
        ("kind",),
        "Bytes written: of fan-outs (live), and of answers to one subscriber.",
    ),
    Described("acks", "counter", (), "Broadcasts that devices acknowledged when asked to."),
    Described("fanouts", "counter", (), "Fan-out jobs finished."),
    Described("fanout_jobs", "gauge", (), "Fan-out jobs not finished."),
    Described("topics", "gauge", (), "Topics this node follows."),
    Described("subscriptions", "gauge", (), "Subscriptions of devices to topics."),
    Described("written_lag_seconds", "histogram", (), "From a broadcast's dispatch to its last write on this node."),
    # The node itself.
    Described("stall_seconds", "histogram", (), "How late the event loop was, looked at up to 20 times a second."),
    Described("log_reads", "counter", (), "Reads of a topic's log from the store."),
    Described("store_failures", "counter", (), "Reads of the store that failed."),
    Described("router_links", "gauge", (), "Routers linked."),
)

_SERIES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "connects": ("handshakes", ("accepted",)),
    "refused": ("handshakes", ("other",)),
    "written": ("deliveries", ("live",)),
    "replayed": ("deliveries", ("replayed",)),
    "coalesced": ("deliveries", ("coalesced",)),
    **{f"verdicts_{verdict}": ("verdicts", (verdict,)) for verdict in ("complete", "gap", "ahead", "pending")},
}
"""Counter names that are one series of a labelled metric."""
_LAG_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_STALL_BUCKETS_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
_LIVE: Final = ("live",)
_ANSWERS: Final = ("answers",)
_NO_STATUS: Final = 1005
_BROKEN: Final = 1006
_CODES: Final = {int(code): str(int(code)) for code in (*CloseCode, *GraphqlCloseCode)} | {
    _NO_STATUS: "1005",
    _BROKEN: "1006",
}
"""A device may close with any code; those that mean nothing here share one series."""


class NodeMetrics:
    """Counters as plain integers; an own registry, so that several nodes may share a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.written_lag_s = Histogram(_LAG_BUCKETS_S)
        self.stall_s = Histogram(_STALL_BUCKETS_S)
        self._counters = _all_at_zero()
        self._plain = self._counters[""]
        self._handshakes = self._counters["handshakes"]
        self._closes = self._counters["closes"]
        self._deliveries = self._counters["deliveries"]
        self._sent_bytes = self._counters["sent_bytes"]
        self._sessions = self._counters["sessions"]
        self._ended: dict[str, int] = dict.fromkeys(get_args(StreamProtocol), 0)
        self._gauges: dict[str, Callable[[], int]] = {}
        self._counted_late: list[Callable[[], None]] = []
        self.registry.register(_Exposition(self))

    # What the node tells.

    def count(self, name: CounterName, by: int = 1) -> None:
        """Once per fan-out job or rarer."""
        series = _SERIES.get(name)
        if series is None:
            self._plain[(name,)] += by
        else:
            self._counters[series[0]][series[1]] += by

    def handshake(self, outcome: HandshakeOutcome) -> None:
        """A request for a stream was answered; pages like `/healthz` are none. Replaces `connects` and `refused`."""
        key = (outcome,)
        self._handshakes[key if key in self._handshakes else ("other",)] += 1

    def opened(self, protocol: StreamProtocol) -> None:
        """A session began; `closed` is called once for it."""
        self._sessions[(protocol,)] += 1

    def closed(self, code: int, protocol: StreamProtocol) -> None:
        """A session ended: with the code we or the device closed it with, 1006 where its socket broke."""
        key = (_CODES.get(code, "other"), protocol)
        self._closes[key] = self._closes.get(key, 0) + 1
        self._ended[protocol] += 1

    def delivered(self, kind: DeliveryKind, count: int, nbytes: int) -> None:
        """`count` broadcast frames were written, by a fan-out of `nbytes` in all: call it once per fan-out job.

        The same series as `count("written")` and `count("replayed")`, which it replaces.
        """
        self._deliveries[(kind,)] += count
        self._sent_bytes[_LIVE] += nbytes

    def answered(self, nbytes: int) -> None:
        """Bytes of an answer to one subscriber: verdict, replay and schedule."""
        self._sent_bytes[_ANSWERS] += nbytes

    def stall(self, seconds: float) -> None:
        """How late the loop was at one look; from the tick, 20 times a second while it is busy, less often at rest."""
        self.stall_s.observe(seconds)

    def gauge(self, name: GaugeName, read: Callable[[], int]) -> None:
        """Have `name` read from `read` whenever metrics are rendered."""
        self._gauges[name] = read

    def counted_late(self, count: Callable[[], None]) -> None:
        """Have `count` called before metrics are rendered: for what is counted many at a time, some while later."""
        self._counted_late.append(count)

    # What others read.

    def value(self, name: CounterName) -> int:
        """A counter's value now."""
        family, labels = _SERIES.get(name, ("", (name,)))
        return self._counters[family][labels]

    def labelled(self, family: str, *labels: str) -> int:
        """The value of one series of a labelled counter, 0 for one that never counted."""
        return self._counters[family].get(labels, 0)

    def connections(self, protocol: StreamProtocol) -> int:
        """Sessions of a protocol that were opened and not closed."""
        return self._sessions[(protocol,)] - self._ended[protocol]

    def render(self) -> bytes:
        """Prometheus text."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Every metric of METRICS, in its order; a gauge that nobody gave is left out."""
        for count in self._counted_late:
            count()
        for described in METRICS:
            name = PREFIX + described.name
            if described.kind == "counter":
                counter = CounterMetricFamily(name, described.meaning, labels=described.labels)
                series = self._counters[described.name] if described.labels else {(): self._plain[(described.name,)]}
                for labels, value in series.items():
                    counter.add_metric(labels, value)
                yield counter
            elif described.kind == "histogram":
                source = self.written_lag_s if described.name == "written_lag_seconds" else self.stall_s
                yield HistogramMetricFamily(name, described.meaning, source.buckets(), source.total)
            elif described.labels:
                gauge = GaugeMetricFamily(name, described.meaning, labels=described.labels)
                for protocol in get_args(StreamProtocol):
                    gauge.add_metric((protocol,), self.connections(protocol))
                yield gauge
            elif (read := self._gauges.get(described.name)) is not None:
                yield GaugeMetricFamily(name, described.meaning, value=read())


class _Exposition(Collector):
    def __init__(self, metrics: NodeMetrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return self._metrics.collect()


def _all_at_zero() -> dict[str, dict[tuple[str, ...], int]]:
    """Every series whose labels are known beforehand: a rate needs the 0 it rose from. Unlabelled ones under ""."""
    kinds: tuple[str, ...] = get_args(DeliveryKind)
    known: dict[str, tuple[str, ...]] = {
        "": tuple(name for name in get_args(CounterName) if name not in _SERIES),
        "handshakes": get_args(HandshakeOutcome),
        "sessions": get_args(StreamProtocol),
        "deliveries": kinds,
        "sent_bytes": (*_LIVE, *_ANSWERS),
        "verdicts": ("complete", "gap", "ahead", "pending"),
        "closes": (),
    }
    return {family: {(value,): 0 for value in values} for family, values in known.items()}
