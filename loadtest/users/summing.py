"""The result of a run from everything its processes counted, and why it would not count. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, Literal, get_args

from loadtest.users.figures import NO_FILE, NO_PORT, Book, reasons_of
from loadtest.users.plan import Crowd, UsersPlan
from loadtest.users.result import (
    BroadcastTimes,
    Curve,
    CurveOf,
    Delivery,
    Generator,
    RequestFigures,
    SocketFigures,
    Times,
    UsersResult,
)

__all__ = ["result_of"]

_CURVES: Final[tuple[CurveOf, ...]] = get_args(CurveOf)
_REQUEST_COUNTS: Final = (
    "asks", "answered", "gave_up", "unfinished", "sent", "retries", "refused", "refused_with_retry_after", "failed",
    "unmodified", "moved",
)  # fmt: skip


_OURS: Final = {
    "crashed": "{} users ended by an error of their own: see the log",
    "kept_here": "{} times an answer named an address outside this machine, which is not asked in a plan that is not "
    "remote",
    "overdue_uncounted": "more asks were overdue at the end than are counted, by {} users",
}
"""Counted where the run and not the system is at fault."""


def result_of(
    plan: UsersPlan,
    book: Book,
    *,
    began_at_ms: int,
    lasted_s: float,
    generators: Sequence[Generator],
    partial: bool,
    broadcasts: Mapping[tuple[str, int], BroadcastTimes] | None = None,
    invalid_because: Sequence[str] = (),
) -> UsersResult:
    """The result of a run from everything its processes counted.

    `broadcasts`: (topic, timestamp) -> times, from the producer; None where nobody was asked, and the times at which
    the devices' own schedules had the stage due must do.
    """
    bins = max(1, math.ceil(lasted_s / plan.bin_s))
    curves = [
        Curve(of=of, what=what, bin_s=plan.bin_s, values=[found.get(number, 0) for number in range(bins)])
        for of, series in sorted(book.bins.items())
        for what in _CURVES
        if (found := series.get(what)) is not None
    ]
    users = {each.of: each.peak for each in curves if each.what == "users"}
    ours = [said.format(number) for what, said in _OURS.items() if (number := book.total(what))]
    ours += [f"{number} connections failed: {what}" for what in (NO_FILE, NO_PORT) if (number := book.total(what))]
    because = [*invalid_because, *ours, *(reason for each in generators for reason in each.invalid_because())]
    return UsersResult(
        began_at_ms=began_at_ms,
        lasted_s=lasted_s,
        workers=plan.workers,
        seed=plan.seed,
        kinds={crowd.name: crowd.kind for crowd in plan.crowds},
        users={crowd.name: users.get(crowd.name, 0) for crowd in plan.crowds},
        requests=[_request(book, of) for of in sorted(book.counters) if "asks" in book.counters[of]],
        sockets=[_sockets(book, crowd) for crowd in plan.crowds if crowd.kind in ("connect", "naive")],
        deliveries=[_delivery(book, of, broadcasts) for of in sorted(book.facts)],
        curves=curves,
        cache_hits={
            crowd.name: book.counters[crowd.name].get("cache_hits", 0)
            for crowd in plan.crowds
            if crowd.kind == "browse"
        },
        generators=generators,
        invalid_because=because,
        partial=partial,
    )


def _request(book: Book, of: str) -> RequestFigures:
    crowd, _, request = of.partition("/")
    counted = book.counters[of]
    return RequestFigures(
        crowd=crowd,
        request=request,
        **{what: counted.get(what, 0) for what in _REQUEST_COUNTS},
        statuses=_statuses(counted),
        reasons=dict(book.counters[reasons_of(of)]),
        time=Times.of_histogram(book.histograms[of]["time"]),
        service=Times.of_histogram(book.histograms[of]["service"]),
    )


def _statuses(counted: Mapping[str, int]) -> dict[str, int]:
    return {what[1:]: number for what, number in sorted(counted.items()) if what.startswith("=")}


def _sockets(book: Book, crowd: Crowd) -> SocketFigures:
    counted = book.counters[crowd.name]
    return SocketFigures(
        crowd=crowd.name,
        refused=counted.get("handshakes_refused", 0),
        failed=counted.get("handshakes_failed", 0),
        **{what: counted.get(what, 0) for what in ("handshakes", "opened", "welcomed", "lost", "given_up")},
        statuses=_statuses(counted),
        reasons=dict(book.counters[reasons_of(crowd.name)]),
        open=counted.get("open_at_end", 0),
        open_time=Times.of_histogram(book.histograms[crowd.name]["open_time"]),
    )


def _delivery(book: Book, of: str, broadcasts: Mapping[tuple[str, int], BroadcastTimes] | None) -> Delivery:
    facts, counted = book.facts[of], book.counters[of]
    topic, timestamp = str(facts["topic"]), int(facts["timestamp"] or 0)
    told = None if broadcasts is None else broadcasts.get((topic, timestamp))
    due_ms = told.due_ms if told is not None else _whole(facts.get("due_ms"))
    dispatched_ms = told.dispatched_ms if told is not None else None
    since: Literal["due", "dispatched", "timestamp"] = "timestamp"
    times = book.histograms[of]["time"]
    if due_ms is not None:
        since, times = "due", times.moved_ms(timestamp - due_ms)
    elif dispatched_ms is not None:
        since, times = "dispatched", times.moved_ms(timestamp - dispatched_ms)
    return Delivery(
        crowd=str(facts["crowd"]),
        topic=topic,
        state_key=str(facts["state_key"]),
        timestamp=timestamp,
        due_ms=due_ms,
        dispatched_ms=dispatched_ms,
        devices=counted.get("devices", 0),
        live=counted.get("live", 0),
        since=since,
        time=Times.of_histogram(times),
    )


def _whole(found: int | str | None) -> int | None:
    return found if isinstance(found, int) else None
