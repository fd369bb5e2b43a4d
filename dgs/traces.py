"""Which requests are followed, what is noted of one, and the line it leaves. Pure.

A request that nobody follows costs a look for a header field and a comparison. A followed one is in the context of
whatever is done for it (`traced`), so that parts far from the request can note what they did; work done for several
requests at once is noted in each. What is not done for a request must be done outside its context (`tracing(())`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar, Token
from typing import Final, Literal, NamedTuple

from contract.trace import TraceParent, parse_traceparent
from dgs.serving import Answer, Ask, Class

__all__ = ["FIELD", "Phase", "Trace", "Traces", "concerned", "enter", "note_found", "note_wanted", "traced", "tracing"]

FIELD: Final = b"traceparent"
Phase = Literal["waiting", "reading", "picks", "joining", "executing"]
"""In the intake; token, document and variables; looking picks up or waiting for them; joining the answer; whatever is
done by use cases and behind the fast path (GraphQL's execution, a picture). The last one ends with the answer.
"""
_MAX_CALLS: Final = 8
_S_TO_US: Final = 1e6
_NewId = Callable[[int], str]
"""Bytes -> a random id of so many, in hexadecimal, not all zero."""


class _Call(NamedTuple):
    """Something a request waited for."""

    name: str
    outcome: str
    began_s: float
    took_s: float
    span_id: str
    profiles: int


class Trace:
    """One followed request: a span, and the calls made for it. Notes come from its loop alone."""

    __slots__ = (
        "_began_s", "_calls", "_calls_left_out", "_entered_s", "_new_id", "_now_s", "_phase", "_phases",
        "asked", "cache", "degraded", "parent_id", "profile_ids", "span_id", "trace_id",
    )  # fmt: skip

    def __init__(
        self, parent: TraceParent | None, *, asked: bool, began_s: float, now_s: Callable[[], float], new_id: _NewId
    ) -> None:
        self.trace_id = parent.trace_id if parent is not None else new_id(16)
        self.parent_id = parent.parent_id if parent is not None else None
        self.span_id = new_id(8)
        self.asked = asked
        """The caller wants it followed; else it was drawn here."""
        self.cache: Literal["hit", "miss"] | None = None
        """Whether all its picks were in memory; None: it wanted none."""
        self.degraded = False
        self.profile_ids: set[str] = set()
        """Whose picks it waits for, as far as it shares the wait with others; never written."""
        self._began_s = self._entered_s = began_s
        self._phase: Phase = "waiting"
        self._phases: dict[Phase, float] = {}
        self._calls: list[_Call] = []
        self._calls_left_out = 0
        self._now_s = now_s
        self._new_id = new_id

    def enter(self, phase: Phase) -> None:
        """The phase before ends now."""
        now_s = self._now_s()
        self._phases[self._phase] = self._phases.get(self._phase, 0.0) + now_s - self._entered_s
        self._phase, self._entered_s = phase, now_s

    def called(self, name: str, outcome: str, took_s: float, *, span_id: str = "", profiles: int = 0) -> None:
        """A call made for it has ended. `span_id`: the callee was told this one; `profiles` that shared the call."""
        if len(self._calls) >= _MAX_CALLS:
            self._calls_left_out += 1
        else:
            self._calls.append(_Call(name, outcome, self._now_s() - took_s, took_s, span_id, profiles))

    def child(self) -> TraceParent:
        """The context for a call to another service; its `parent_id` is the call's span."""
        return TraceParent(self.trace_id, self._new_id(8))

    def line(self, *, now_ms: int) -> dict[str, object]:
        """What is said of it as it ends, ids and times; `now_ms` by the wall clock."""
        self.enter(self._phase)
        took_s = self._entered_s - self._began_s
        line: dict[str, object] = {"trace_id": self.trace_id, "span_id": self.span_id}
        if self.parent_id is not None:
            line["parent_span_id"] = self.parent_id
        line["sampled_by"] = "caller" if self.asked else "dgs"
        line["began_at_ms"] = now_ms - round(took_s * 1000)
        line["took_us"] = _us(took_s)
        line["phases_us"] = {phase: _us(spent_s) for phase, spent_s in self._phases.items()}
        if self.cache is not None:
            line["cache"] = self.cache
        if self.degraded:
            line["degraded"] = True
        if self._calls:
            line["calls"] = [self._told(call) for call in self._calls]
        if self._calls_left_out:
            line["calls_left_out"] = self._calls_left_out
        return line

    def _told(self, call: _Call) -> dict[str, object]:
        told: dict[str, object] = {
            "name": call.name,
            "outcome": call.outcome,
            "after_us": _us(call.began_s - self._began_s),
            "took_us": _us(call.took_s),
        }
        if call.span_id:
            told["span_id"] = call.span_id
        if call.profiles:
            told["profiles"] = call.profiles
        return told


# Who is followed in this context.

_TRACED: ContextVar[tuple[Trace, ...]] = ContextVar("dgs_traced", default=())
traced: Final = _TRACED.get
"""The followed requests that the work of this context is done for; nearly always none."""


class tracing:  # noqa: N801 - used like a function, in a `with`
    """What is done and begun inside is done for these requests, and for no others."""

    __slots__ = ("_token", "_traces")

    def __init__(self, traces: Iterable[Trace]) -> None:
        self._traces = tuple(dict.fromkeys(traces))

    def __enter__(self) -> tuple[Trace, ...]:
        self._token: Token[tuple[Trace, ...]] = _TRACED.set(self._traces)
        return self._traces

    def __exit__(self, *exc: object) -> None:
        _TRACED.reset(self._token)


def concerned(profile_id: str) -> tuple[Trace, ...]:
    """Of the followed requests those that want this profile's picks: a batch is made for many."""
    traces = _TRACED.get()
    if not traces:
        return traces
    return tuple(trace for trace in traces if not trace.profile_ids or profile_id in trace.profile_ids)


def enter(traces: Sequence[Trace], phase: Phase) -> None:
    for trace in traces:
        trace.enter(phase)


def note_wanted(traces: Sequence[Trace], profile_ids: Iterable[str]) -> None:
    """They wait for picks of these, together with others."""
    if traces:
        ids = tuple(profile_ids)
        for trace in traces:
            trace.profile_ids.update(ids)


def note_found(traces: Sequence[Trace], cache: Literal["hit", "miss"], *, degraded: bool) -> None:
    """Their picks are there."""
    for trace in traces:
        trace.cache = trace.cache or cache
        trace.degraded |= degraded
        trace.enter("joining")


# Who is followed at all.


class _Bucket:
    """At most `per_s` on average, after a burst of a second's worth; 0: none."""

    __slots__ = ("_burst_s", "_gap_s", "due_s")

    def __init__(self, per_s: float, now_s: float) -> None:
        self._gap_s = 1 / per_s if per_s > 0 else 0.0
        self._burst_s = max(0.0, 1.0 - self._gap_s)
        self.due_s = now_s - self._burst_s if per_s > 0 else float("inf")
        """When the next one may be taken."""

    def take(self, now_s: float, stretch: float = 1.0) -> bool:
        """`stretch` of the gap that follows."""
        if now_s < self.due_s:
            return False
        self.due_s = max(self.due_s, now_s - self._burst_s) + stretch * self._gap_s
        return True


class Traces:
    """Chooses whom to follow: callers' own choice up to a rate, and a few beside, drawn here. One server's."""

    def __init__(
        self,
        *,
        own_per_s: float,
        asked_per_s: float,
        now_s: Callable[[], float],
        now_ms: Callable[[], int],
        draw: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        write: Callable[[dict[str, object]], object],
    ) -> None:
        """`draw` is uniform over [0, 1); `write` is given the one line of each, and must not raise."""
        self._now_s = now_s
        self._now_ms = now_ms
        self._draw = draw
        self._random_bytes = random_bytes
        self._write = write
        self._own = _Bucket(own_per_s, now_s())
        self._asked = _Bucket(asked_per_s, now_s())
        self.due_s = self._own.due_s
        """From when on `begin` is to be asked of requests without the field, too; monotonic."""
        self._counts = {"asked": 0, "own": 0, "left_out": 0, "not_understood": 0}

    def begin(self, ask: Ask) -> Trace | None:
        """A trace for a request that just arrived, if it is to be followed."""
        said = ask.fields.get(FIELD)
        parent = parse_traceparent(said.decode("latin-1")) if said is not None else None
        if said is not None and parent is None:
            self._counts["not_understood"] += 1
        now_s = ask.arrived_s
        asked = parent is not None and parent.sampled
        if asked and self._asked.take(now_s):
            self._counts["asked"] += 1
        elif self._own.take(now_s, 0.5 + self._draw()):  # stretched: what comes in step is not met in step
            self.due_s = self._own.due_s
            self._counts["own"] += 1
            asked = False
        else:
            self._counts["left_out"] += asked
            return None
        return Trace(parent, asked=asked, began_s=now_s, now_s=self._now_s, new_id=self._new_id)

    def end(self, trace: Trace, operation: str, klass: Class, answer: Answer | None) -> Answer | None:
        """Write its line. Returns the answer with the ids its client is told; None: the client left before it."""
        line = trace.line(now_ms=self._now_ms())
        self._write({"operation": operation, "class": klass, "status": answer.status if answer else None} | line)
        if answer is None:
            return None
        told = f"traceresponse: {TraceParent(trace.trace_id, trace.span_id).header()}\r\n"
        return answer._replace(head=answer.head + told.encode())

    def stats(self) -> dict[str, int]:
        """Requests followed since the start, and those whose wish was left out or not understood."""
        return dict(self._counts)

    def _new_id(self, size: int) -> str:
        drawn = self._random_bytes(size)
        return (drawn if any(drawn) else b"\1" * size).hex()


def _us(duration_s: float) -> int:
    return round(duration_s * _S_TO_US)
