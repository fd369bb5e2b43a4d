"""Counts in bins are counts of arrivals, however the clock steps, as far back as they say they are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dgs.request_log import RequestKind, RequestLog

WINDOW_MS = 50
steps = st.lists(
    st.tuples(st.sampled_from(["graphql", "artwork"]), st.integers(-70, 120) | st.integers(0, 3)), max_size=40
)


@given(steps, st.integers(0, 2_000), st.integers(0, 200))
def test_a_window_that_is_complete_counts_what_came(
    moves: list[tuple[RequestKind, int]], since: int, span: int
) -> None:
    log = RequestLog(window_ms=WINDOW_MS, started_ms=1_000)
    now, came = 1_000, []
    for kind, step in moves:
        now = max(0, now + step)
        log.note(kind, now)
        came.append((kind, now))
    counts = log.counts(since, since + span)
    within = [kind for kind, at in came if since <= at < since + span]
    assert counts.graphql <= within.count("graphql")
    assert counts.artwork <= within.count("artwork")
    if since >= counts.complete_since_ms:
        assert (counts.graphql, counts.artwork) == (within.count("graphql"), within.count("artwork"))
    assert log.totals == {kind: [each for each, _ in came].count(kind) for kind in ("graphql", "artwork")}
