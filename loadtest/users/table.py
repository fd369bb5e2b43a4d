"""A result for a person."""

from __future__ import annotations

from collections.abc import Mapping

from loadtest.bench.report import Reporter
from loadtest.users.result import UsersResult

__all__ = ["tabulate"]


def tabulate(result: UsersResult, reporter: Reporter) -> None:
    """Tables of requests, connections, deliveries and generators; then what is wrong with the run, if anything."""
    if result.requests:
        reporter.table(
            "Requests",
            ("request", "asks", "answered", "gave up", "unfinished", "sent", "refused", "failed", "304"),
            [
                (f"{each.crowd}/{each.request}", each.asks, each.answered, each.gave_up, each.unfinished, each.sent,
                 each.refused, each.failed, each.unmodified)
                for each in result.requests
            ],
        )  # fmt: skip
        reporter.table(
            "Times, ms",
            ("request", "p50", "p90", "p99", "p99.9", "max", "served p50", "served p99"),
            [
                (f"{each.crowd}/{each.request}", each.time.p50_ms, each.time.p90_ms, each.time.p99_ms,
                 each.time.p999_ms, each.time.max_ms, each.service.p50_ms, each.service.p99_ms)
                for each in result.requests
            ],
            "From when an ask was due, retries included. Served: from sent to answer, of answers alone.",
        )  # fmt: skip
    if result.sockets:
        reporter.table(
            "Connections",
            ("crowd", "tried", "welcomed", "refused", "failed", "lost", "open", "p50 ms", "p99 ms"),
            [
                (each.crowd, each.handshakes, each.welcomed, each.refused, each.failed, each.lost, each.open,
                 each.open_time.p50_ms, each.open_time.p99_ms)
                for each in result.sockets
            ],
        )  # fmt: skip
    if result.deliveries:
        reporter.table(
            "Broadcasts",
            ("crowd/topic", "stage", "devices", "live", "since", "p50 ms", "p99 ms", "last ms"),
            [
                (f"{each.crowd}/{each.topic}", each.state_key, each.devices, each.live, each.since, each.time.p50_ms,
                 each.time.p99_ms, each.time.max_ms)
                for each in result.deliveries
            ],
        )  # fmt: skip
    reporter.table(
        "Generators",
        ("process", "lag p50 ms", "p99 ms", "p99 of worst 5 s", "max ms", "cores", "at worst", "MB"),
        [
            (each.worker, each.lag_p50_ms, each.lag_p99_ms, each.lag_worst_ms, each.lag_max_ms, each.cpu_mean,
             each.cpu_worst, each.rss_bytes / 1e6)
            for each in result.generators
        ],
    )  # fmt: skip
    for asked in result.requests:
        _note_most(reporter, f"{asked.crowd}/{asked.request}", asked.reasons)
        if asked.moved:
            reporter.note(
                f"{asked.crowd}/{asked.request}: {asked.moved} asked where an answer said, not at the first DGS"
            )
    for connected in result.sockets:
        refused = {f"refused with {status}": number for status, number in connected.statuses.items()}
        _note_most(reporter, connected.crowd, {**refused, **connected.reasons})
    if result.partial:
        reporter.note(f"partial: ended after {result.lasted_s:.1f} s")
    for because in result.invalid_because:
        reporter.note(f"does not count: {because}")


def _note_most(reporter: Reporter, of: str, counted: Mapping[str, int]) -> None:
    for what, number in sorted(counted.items(), key=lambda item: -item[1])[:5]:
        reporter.note(f"{of}: {number} x {what}")
