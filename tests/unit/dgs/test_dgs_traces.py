"""Who is followed, what their line says, and that work for others is never written down as theirs."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from contract.trace import parse_traceparent
from dgs.serving import Answer, Ask
from dgs.traces import FIELD, Trace, Traces, concerned, enter, note_found, note_wanted, traced, tracing

CALLERS = "4bf92f3577b34da6a3ce929d0e0e4736"
SAMPLED = f"00-{CALLERS}-00f067aa0ba902b7-01".encode()
UNSAMPLED = SAMPLED[:-1] + b"0"


class Following:
    """Traces over a clock that is moved by hand; ids count."""

    def __init__(self, own_per_s: float = 0.0, asked_per_s: float = 10.0, draw: float = 0.5) -> None:
        self.now_s = 100.0
        self.lines: list[dict[str, Any]] = []
        ids = count(1)
        self.traces = Traces(
            own_per_s=own_per_s,
            asked_per_s=asked_per_s,
            now_s=lambda: self.now_s,
            now_ms=lambda: round(self.now_s * 1000),
            draw=lambda: draw,
            random_bytes=lambda size: next(ids).to_bytes(size, "big"),
            write=self.lines.append,
        )

    def begin(self, said: bytes | None = None) -> Trace | None:
        fields = {} if said is None else {FIELD: said}
        return self.traces.begin(Ask("POST", "/graphql", "", fields, b"", "h", self.now_s))

    def followed(self, said: bytes | None = SAMPLED) -> Trace:
        trace = self.begin(said)
        assert trace is not None
        return trace

    def end(self, trace: Trace, answer: Answer | None = Answer(200, b"a: b\r\n", b"{}")) -> Answer | None:  # noqa: B008
        return self.traces.end(trace, "prefetchEvent", "critical", answer)


def test_a_callers_trace_is_gone_on_with_and_told_back() -> None:
    """Its id and the caller's span as parent; a span of our own, which the answer names."""
    following = Following()
    answer = following.end(following.followed())
    (line,) = following.lines
    assert (line["trace_id"], line["parent_span_id"], line["sampled_by"]) == (CALLERS, "00f067aa0ba902b7", "caller")
    assert answer == Answer(
        200, b"a: b\r\ntraceresponse: 00-%b-%b-01\r\n" % (CALLERS.encode(), line["span_id"].encode()), b"{}"
    )
    assert (line["operation"], line["class"], line["status"]) == ("prefetchEvent", "critical", 200)


@pytest.mark.parametrize(
    "said",
    [UNSAMPLED, b"", b"00-0-0-01", SAMPLED + b"-more", SAMPLED + b", " + SAMPLED, b"\xff" * 55, SAMPLED.upper()],
)
def test_what_is_not_sampled_or_no_traceparent_is_not_followed(said: bytes) -> None:
    following = Following()
    assert following.begin(said) is None
    assert following.traces.stats()["not_understood"] == (said != UNSAMPLED)


def test_callers_wishes_are_bounded_and_counted() -> None:
    """A second's worth at once, then the rate; whatever the callers send."""
    following = Following(asked_per_s=8.0)
    assert sum(following.begin(SAMPLED) is not None for _ in range(1_000)) == 8
    following.now_s += 0.5
    assert sum(following.begin(SAMPLED) is not None for _ in range(1_000)) == 4
    assert following.traces.stats() == {"asked": 12, "own": 0, "left_out": 1_988, "not_understood": 0}


@pytest.mark.parametrize("draw", [0.0, 0.5, 0.999])
def test_own_choice_keeps_its_rate_and_says_when_the_next_is_due(draw: float) -> None:
    """Asked only from `due_s` on, as the server does: 2 a second on average, up to the stretch of the gaps."""
    following = Following(own_per_s=2.0, draw=draw)
    taken = 0
    for _ in range(20_000):
        if following.now_s >= following.traces.due_s:
            taken += following.begin() is not None
        following.now_s += 0.001
    assert taken == pytest.approx(2.0 * 20 / (0.5 + draw), abs=3)
    assert following.traces.stats()["own"] == taken


def test_own_choice_of_a_request_that_came_with_a_trace_stays_in_it() -> None:
    following = Following(own_per_s=1.0)
    trace = following.followed(UNSAMPLED)
    assert (trace.trace_id, trace.asked) == (CALLERS, False)
    assert Following().traces.due_s == float("inf"), "0 a second is never"


def test_phases_follow_each_other_and_make_up_the_whole() -> None:
    following = Following()
    trace = following.followed()
    for phase, spent_s in (("reading", 0.003), ("picks", 0.001), ("joining", 0.02), ("picks", 0.0)):
        following.now_s += spent_s
        enter((trace,), phase)  # type: ignore[arg-type]
    following.now_s += 0.004
    note_found((trace,), "miss", degraded=True)
    following.now_s += 0.5
    following.end(trace)
    (line,) = following.lines
    assert line["phases_us"] == {"waiting": 3_000, "reading": 1_000, "picks": 24_000, "joining": 500_000}
    assert line["took_us"] == sum(line["phases_us"].values()) == 528_000
    assert (line["began_at_ms"], line["cache"], line["degraded"]) == (100_000, "miss", True)


def test_a_client_that_left_leaves_a_line_without_status() -> None:
    following = Following()
    assert following.end(following.followed(), None) is None
    assert following.lines[0]["status"] is None


def test_calls_are_told_with_the_span_their_callee_knows_and_bounded() -> None:
    following = Following()
    trace = following.followed()
    child = trace.child()
    following.now_s += 0.25
    for _ in range(20):
        trace.called("ranking_service", "late", 0.2, span_id=child.parent_id, profiles=3)
    following.end(trace)
    (line,) = following.lines
    assert len(line["calls"]) == 8
    assert line["calls_left_out"] == 12
    assert line["calls"][0] == {
        "name": "ranking_service", "outcome": "late", "after_us": 50_000, "took_us": 200_000,
        "span_id": child.parent_id, "profiles": 3,
    }  # fmt: skip
    told = parse_traceparent(child.header())
    assert told is not None
    assert (told.trace_id, told.sampled) == (CALLERS, True)
    assert len({trace.span_id, trace.parent_id, told.parent_id}) == 3


def test_only_those_a_profile_concerns_are_told_of_its_call() -> None:
    """Two wait in one batch, each for a profile of its own; a third, alone, for whatever is done for it."""
    following = Following()
    first, second = following.followed(), following.followed()
    note_wanted((first,), ["p-1"])
    note_wanted((second,), ["p-2", "p-3"])
    with tracing((first, second, first)) as followed:
        assert followed == traced() == (first, second)
        assert concerned("p-1") == (first,)
        assert concerned("p-3") == (second,)
        assert concerned("p-4") == ()
        with tracing(()):
            assert concerned("p-1") == traced() == ()
        with tracing([following.followed()]):
            assert len(concerned("p-4")) == 1
    assert traced() == ()


def test_ids_are_never_all_zero() -> None:
    """The recommendation calls those invalid."""
    traces = Traces(
        own_per_s=1, asked_per_s=1, now_s=lambda: 0.0, now_ms=lambda: 0, draw=lambda: 0.5,
        random_bytes=bytes, write=lambda line: None,
    )  # fmt: skip
    trace = traces.begin(Ask("GET", "/", "", {}, b"", "h", 0.0))
    assert trace is not None
    assert parse_traceparent(trace.child().header()) is not None
