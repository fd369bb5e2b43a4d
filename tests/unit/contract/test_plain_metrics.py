"""What is counted plainly comes out as Prometheus text, described and in order."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from contract.plain_metrics import Described, Histogram, PlainMetrics

LISTED = (
    Described("asked", "counter", ("kind",), "Requests."),
    Described("open", "gauge", (), "Connections."),
    Described("seconds", "histogram", ("kind",), "How long."),
    Described("unread", "gauge", (), "Nobody counts it."),
)


def test_sources_are_read_when_asked_and_what_nobody_counts_is_left_out() -> None:
    metrics = PlainMetrics("test_", LISTED)
    asked = {("a",): 0, ("b",): 3}
    metrics.source("asked", lambda: asked)
    metrics.source("open", lambda: 7)
    metrics.histogram("seconds", (0.1, 1.0), ("a",)).observe(0.5)
    assert metrics.histogram("seconds", (0.1, 1.0), ("a",)).count == 1
    asked[("a",)] += 2
    families = {each.name: each for each in text_string_to_metric_families(metrics.render().decode())}
    assert list(families) == ["test_asked", "test_open", "test_seconds"]
    assert {(s.labels["kind"], s.value) for s in families["test_asked"].samples} == {("a", 2.0), ("b", 3.0)}
    assert families["test_open"].samples[0].value == 7
    assert [(s.labels.get("le"), s.value) for s in families["test_seconds"].samples] == [
        ("0.1", 0.0),
        ("1.0", 1.0),
        ("+Inf", 1.0),
        (None, 1.0),
        (None, 0.5),
    ]


def test_a_histogram_counts_up_to_its_bounds_and_beyond() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 99.0):
        histogram.observe(value)
    assert (histogram.count, histogram.total) == (4, 102.0)
    assert histogram.buckets() == [("1.0", 2.0), ("2.0", 3.0), ("+Inf", 4.0)]
