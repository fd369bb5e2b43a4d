"""Coverage on its way back: the newest share per node and topic, a bounded number at once, nothing lost in trouble."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from contract.backoff import Backoff
from contract.coverage import TopicCoverage
from contract.errors import StoreUnavailable
from message_router.coverage import CoverageForwarder
from message_router.metrics import RouterMetrics


def share(topic: str, seq: int = 1, node_id: str = "n") -> TopicCoverage:
    return TopicCoverage(node_id=node_id, incarnation="i", begun_at=1, seq=seq, topic=topic, held={1: seq})


class Sink:
    """Keeps batches; fails as often as told, while newer shares come in."""

    def __init__(self) -> None:
        self.batches: list[list[TopicCoverage]] = []
        self.failures = 0
        self.meanwhile: list[TopicCoverage] = []
        self.forwarder: CoverageForwarder | None = None

    async def record_coverage(self, shares: Sequence[TopicCoverage]) -> None:
        assert self.forwarder is not None
        if self.failures:
            self.failures -= 1
            self.forwarder.report(self.meanwhile)
            raise StoreUnavailable("away")
        self.batches.append(list(shares))


def forwarder(sink: Sink, bound: int = 10_000, metrics: RouterMetrics | None = None) -> CoverageForwarder:
    sink.forwarder = CoverageForwarder(
        sink,
        bound=bound,
        interval_s=0.001,
        new_backoff=lambda: Backoff(first_s=0.001, cap_s=0.001, jitter=lambda: 0.0),
        metrics=metrics or RouterMetrics(),
    )
    return sink.forwarder


async def until_quiet(coverage: CoverageForwarder, sink: Sink, batches: int) -> None:
    """Let it run until it wrote that many batches."""
    running = asyncio.create_task(coverage.run(), name="test.forwarder")
    async with asyncio.timeout(20):
        while len(sink.batches) < batches:  # noqa: ASYNC110 - a sink has no event
            await asyncio.sleep(0.001)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_the_newest_share_of_a_topic_is_written_once() -> None:
    sink = Sink()
    coverage = forwarder(sink)
    coverage.report([share("a", 1), share("b", 1), share("a", 2), share("a", 1, "other")])
    await until_quiet(coverage, sink, 1)
    assert sink.batches == [[share("a", 2), share("b", 1), share("a", 1, "other")]]


async def test_a_failed_write_keeps_its_place_and_yields_to_newer_shares() -> None:
    sink = Sink()
    coverage = forwarder(sink)
    sink.failures, sink.meanwhile = 2, [share("b", 2), share("c", 1)]
    coverage.report([share("a", 1), share("b", 1)])
    await until_quiet(coverage, sink, 1)
    assert sorted(sink.batches[0], key=lambda one: one.topic) == [share("a", 1), share("b", 2), share("c", 1)]


async def test_one_interval_writes_a_bounded_number_and_the_longest_waiting_first() -> None:
    sink = Sink()
    coverage = forwarder(sink)
    coverage.report(share(f"{number:04}") for number in range(2_500))
    await until_quiet(coverage, sink, 3)
    assert [len(batch) for batch in sink.batches] == [1_000, 1_000, 500]
    assert [one.topic for batch in sink.batches for one in batch] == [f"{number:04}" for number in range(2_500)]


async def test_beyond_the_bound_the_oldest_go_and_are_counted() -> None:
    metrics, sink = RouterMetrics(), Sink()
    coverage = forwarder(sink, bound=2, metrics=metrics)
    coverage.report([share("a"), share("b"), share("c")])
    await until_quiet(coverage, sink, 1)
    assert sink.batches == [[share("b"), share("c")]]
    assert metrics.registry.get_sample_value("stagecue_router_coverage_dropped_total") == 1
