"""Metrics of a push node: what is counted where, what is exported, and that the page about it is complete."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from contract.close_codes import CloseCode, GraphqlCloseCode
from push_proxy.metrics import (
    METRICS,
    CounterName,
    GaugeName,
    HandshakeOutcome,
    Histogram,
    NodeMetrics,
    StreamProtocol,
)

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"


def exported(metrics: NodeMetrics) -> dict[str, float]:
    """Every sample of the rendered text, by name and labels as written."""
    lines = metrics.render().decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
    return {f"{name}": float(value) for name, _, value in pairs}


def complete() -> NodeMetrics:
    """A node's metrics with every gauge given."""
    metrics = NodeMetrics()
    for number, name in enumerate(get_args(GaugeName)):
        metrics.gauge(name, lambda number=number: number)
    return metrics


def test_plain_counters_and_gauges_are_rendered() -> None:
    """Two nodes in one process do not share a registry."""
    one, two = NodeMetrics(), NodeMetrics()
    one.count("log_reads", 5)
    one.gauge("connections", lambda: 7)
    assert exported(one)["stagecue_push_log_reads_total"] == 5
    assert exported(one)["stagecue_push_connections"] == 7
    assert one.value("log_reads") == 5
    assert exported(two)["stagecue_push_log_reads_total"] == 0


def test_what_is_counted_late_is_counted_before_it_is_shown() -> None:
    metrics = NodeMetrics()
    metrics.counted_late(lambda: metrics.count("verdicts_complete", 4))
    assert exported(metrics)['stagecue_push_verdicts_total{verdict="complete"}'] == 4


@pytest.mark.parametrize("name", get_args(CounterName))
def test_every_counter_counts_and_is_exported(name: CounterName) -> None:
    """Whatever name is counted, exactly one series rises by as much."""
    metrics = complete()
    before = exported(metrics)
    metrics.count(name, 3)
    after = exported(metrics)
    assert metrics.value(name) == 3
    assert {series: after[series] - before[series] for series in after if after[series] != before[series]} == {
        next(series for series in after if after[series] != before[series]): 3
    }


@pytest.mark.parametrize("outcome", get_args(HandshakeOutcome))
def test_handshakes_are_told_apart_by_outcome(outcome: HandshakeOutcome) -> None:
    metrics = NodeMetrics()
    metrics.handshake(outcome)
    assert metrics.labelled("handshakes", outcome) == 1
    assert exported(metrics)[f'stagecue_push_handshakes_total{{outcome="{outcome}"}}'] == 1
    assert sum(metrics.labelled("handshakes", each) for each in get_args(HandshakeOutcome)) == 1


def test_an_outcome_nobody_listed_is_counted_as_other() -> None:
    """A label from outside the list must neither raise in a handshake nor make a new series."""
    metrics = NodeMetrics()
    metrics.handshake("no such outcome")  # type: ignore[arg-type]
    assert metrics.labelled("handshakes", "other") == 1
    assert "no such outcome" not in metrics.render().decode()


def test_older_names_are_the_same_series() -> None:
    """A delivery is counted once, by whichever name."""
    metrics = NodeMetrics()
    metrics.delivered("live", 100, 11_700)
    metrics.count("written", 20)
    metrics.delivered("replayed", 3, 0)
    metrics.delivered("coalesced", 2, 0)
    metrics.handshake("accepted")
    assert metrics.value("written") == metrics.labelled("deliveries", "live") == 120
    assert (metrics.value("replayed"), metrics.value("coalesced"), metrics.value("connects")) == (3, 2, 1)
    metrics.answered(64)
    assert [metrics.labelled("sent_bytes", kind) for kind in ("live", "answers")] == [11_700, 64]


def test_connections_by_protocol_are_what_was_opened_and_not_closed() -> None:
    metrics = NodeMetrics()
    for protocol in ("v1", "v1", "graphql", "sse"):
        metrics.opened(protocol)
    metrics.closed(CloseCode.DRAIN, "v1")
    metrics.closed(1006, "sse")
    seen = exported(metrics)
    now = [seen[f'stagecue_push_protocol_connections{{protocol="{each}"}}'] for each in get_args(StreamProtocol)]
    assert now == [1, 1, 0]
    assert seen['stagecue_push_closes_total{code="4000",protocol="v1"}'] == 1
    assert seen['stagecue_push_sessions_total{protocol="v1"}'] == 2


def test_no_device_can_make_series() -> None:
    """It may close with any code from 1000 to 4999: those that mean nothing here share one."""
    metrics = NodeMetrics()
    for code in range(1000, 5000):
        for protocol in get_args(StreamProtocol):
            metrics.opened(protocol)
            metrics.closed(code, protocol)
    series = [name for name in exported(metrics) if name.startswith("stagecue_push_closes_total")]
    known = {*map(int, CloseCode), *map(int, GraphqlCloseCode), 1005, 1006}
    assert len(series) == (len(known) + 1) * len(get_args(StreamProtocol))
    assert metrics.labelled("closes", "other", "v1") == 4000 - len(known)


def test_a_histogram_is_cumulative() -> None:
    histogram = Histogram((0.1, 1.0))
    for value in (0.0, 0.1, 0.5, 3.0):
        histogram.observe(value)
    assert histogram.buckets() == [("0.1", 2.0), ("1.0", 3.0), ("+Inf", 4.0)]
    assert (histogram.count, histogram.total) == (4, 3.6)


def test_stalls_and_lags_are_exported() -> None:
    metrics = NodeMetrics()
    metrics.stall(0.03)
    metrics.written_lag_s.observe(0.004)
    seen = exported(metrics)
    assert seen['stagecue_push_stall_seconds_bucket{le="0.02"}'] == 0
    assert seen['stagecue_push_stall_seconds_bucket{le="0.05"}'] == 1
    assert seen["stagecue_push_written_lag_seconds_count"] == 1
    assert seen["stagecue_push_written_lag_seconds_sum"] == pytest.approx(0.004)


def test_what_is_exported_is_the_list() -> None:
    """Neither a metric without a description, nor a description without a metric."""
    metrics = complete()
    metrics.closed(1000, "v1")
    text = metrics.render().decode()
    assert re.findall(r"^# TYPE (\S+)", text, re.M) == [metric.exported for metric in METRICS]
    for metric in METRICS:
        assert f"# HELP {metric.exported} {metric.meaning}\n" in text
        assert f"# TYPE {metric.exported} {metric.kind}\n" in text
        labels = set(re.findall(r'(\w+)="', "".join(re.findall(rf"^{metric.exported}\{{.*", text, re.M)))) - {"le"}
        assert labels == set(metric.labels), metric.name


def test_the_page_lists_exactly_what_exists() -> None:
    """docs/metrics.md: name, kind, labels and meaning of every metric, in the order of the list."""
    rows = re.findall(r"^\| `(stagecue_push_\w+)` \| (\w+) \| ([^|]*) \| (.*) \|$", PAGE.read_text(), re.M)
    assert rows == [
        (metric.exported, metric.kind, ", ".join(f"`{label}`" for label in metric.labels), metric.meaning)
        for metric in METRICS
    ]


def test_the_page_lists_every_outcome_of_a_handshake() -> None:
    table = PAGE.read_text().partition("| outcome |")[2].partition("\n\n")[0]
    named = re.findall(r"^\| `(\w+)` \|", table, re.M)
    assert named == list(get_args(HandshakeOutcome))
