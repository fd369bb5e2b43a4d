"""Reach on its way back: merged, bounded, never replaced by something older when a write fails."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from contract.backoff import Backoff
from contract.errors import StoreUnavailable
from contract.reach import ReachCount
from message_router.metrics import RouterMetrics
from message_router.reach import ReachForwarder


def count(timestamp: int, written: int = 0) -> ReachCount:
    return ReachCount(node_id="n", incarnation="i", topic="event:a", timestamp=timestamp, written=written)


class Sink:
    def __init__(self) -> None:
        self.batches: list[list[ReachCount]] = []
        self.failing = False
        self.meanwhile: list[ReachCount] = []
        self.forwarder: ReachForwarder | None = None

    async def record_reach(self, counts: Sequence[ReachCount]) -> None:
        if self.forwarder is not None:
            self.forwarder.report(self.meanwhile)
        if self.failing:
            raise StoreUnavailable("away")
        self.batches.append(list(counts))


def forwarder(sink: Sink, bound: int = 10) -> ReachForwarder:
    made = ReachForwarder(
        sink,
        bound=bound,
        interval_s=0.01,
        new_backoff=lambda: Backoff(first_s=0.01, cap_s=0.01, jitter=lambda: 0.0),
        metrics=RouterMetrics(),
    )
    sink.forwarder = made
    return made


async def test_the_newest_count_of_a_broadcast_is_written_once() -> None:
    sink = Sink()
    reach = forwarder(sink)
    reach.report([count(1, 5), count(2, 1), count(1, 9)])
    await reach.flush()
    await reach.flush()
    assert sink.batches == [[count(1, 9), count(2, 1)]]


async def test_a_failed_write_keeps_its_counts_but_not_over_newer_ones() -> None:
    """While the write of 5 fails, 8 arrives: the next write says 8."""
    sink = Sink()
    reach = forwarder(sink)
    reach.report([count(1, 5), count(2, 1)])
    sink.failing, sink.meanwhile = True, [count(1, 8)]
    with pytest.raises(StoreUnavailable):
        await reach.flush()
    sink.failing, sink.meanwhile = False, []
    await reach.flush()
    assert sorted(sink.batches[0], key=lambda one: one.timestamp) == [count(1, 8), count(2, 1)]


async def test_what_waits_is_bounded_and_the_oldest_goes() -> None:
    sink = Sink()
    reach = forwarder(sink, bound=3)
    reach.report([count(at) for at in range(1, 6)])
    await reach.flush()
    assert [one.timestamp for one in sink.batches[0]] == [3, 4, 5]


async def test_much_is_written_in_parts() -> None:
    sink = Sink()
    reach = forwarder(sink, bound=5_000)
    reach.report([count(at) for at in range(2_500)])
    await reach.flush()
    assert [len(batch) for batch in sink.batches] == [1_000, 1_000, 500]
