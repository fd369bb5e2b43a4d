"""Which part counts what: the sources of the metrics of `dgs.metrics`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from dgs.http.server import DgsServer
from dgs.metrics import DgsMetrics
from dgs.operations.fast_path import FastPath
from dgs.operations.library import Library
from dgs.priority.gate import PriorityGate
from dgs.priority.ruleset_file import RulesetFile
from dgs.stock import Stock
from dgs.traces import Traces

__all__ = ["show_gate", "show_server", "show_stock"]

_SERVER = ("accepted", "no_room", "requests", "served", "refused", "turned_away", "expired", "malformed", "let_go",
           "abandoned", "failed")  # fmt: skip
_PICKS = ("hits", "misses", "early_refreshes", "joined", "store_hits", "store_reads", "store_failures", "asked",
          "stale", "otherwise", "failed", "late", "refused", "pushed_out")  # fmt: skip


def show_server(metrics: DgsMetrics, server: DgsServer, fast_path: FastPath, library: Library, traces: Traces) -> None:
    found: Mapping[str, int] = {}

    def once() -> Mapping[str, int]:
        """Asked first of the three: the longest wait is told once."""
        nonlocal found
        found = server.stats()
        return found

    metrics.spread("server", once, _SERVER)
    metrics.source("connections", lambda: found["connections"])
    metrics.source("queue_delay_seconds", lambda: found["queue_delay_us_max"] / 1e6)
    metrics.spread("traces", traces.stats, ("asked", "own", "left_out", "not_understood"))
    metrics.spread("fast_path", fast_path.stats, ("fast", "not_modified", "left", "faults", "waiting_refused"))
    metrics.spread("operations", library.stats, ("hits", "not_found", "refused", "apq_evicted", "documents_compiled"))
    metrics.source(
        "compiled_bytes",
        lambda: {
            ("titles",): fast_path.stats()["fragment_bytes"],
            ("automatic_operations",): library.stats()["apq_bytes"],
        },
    )


def show_stock(metrics: DgsMetrics, stock: Stock) -> None:
    metrics.spread("picks", stock.picks.stats, _PICKS)
    metrics.spread("picks_held", stock.picks.stats, ("entries", "bytes", "waiting"))
    if (chain := stock.chain) is not None:
        metrics.source("source_profiles", lambda: _two_deep(chain.stats()))
    metrics.source("distinct_answers", lambda: {(key,): count for key, count in stock.distinct.most_by_stage().items()})
    metrics.source("over_budget", lambda: stock.distinct.stats()["refused"])
    metrics.spread("schedules", stock.schedules.stats, ("events", "topics", "unconfirmed"))
    metrics.source("schedules_stale_seconds", lambda: stock.schedules.stale_s)
    metrics.source(
        "store_reads",
        lambda: {
            ("polls",): (found := stock.schedules.stats())["polls"],
            ("failed_polls",): found["failed_polls"],
            ("read_throughs",): found["read_throughs"],
            ("newest",): stock.newest.stats()["reads"],
        },
    )
    metrics.source("catalog_titles", lambda: len(stock.reload.current().titles))
    metrics.source("catalog_rejected_rows", lambda: len(stock.reload.current().rejected))
    metrics.spread("catalog_looks", stock.reload.stats, ("looks", "loads", "failures", "unsettled"))


def show_gate(metrics: DgsMetrics, gate: PriorityGate, rules: RulesetFile) -> None:
    def part(name: str) -> Mapping[str, Mapping[str, Any]]:
        return cast("Mapping[str, Mapping[str, Any]]", gate.stats()[name])

    def by_class(field: str) -> dict[tuple[str, ...], float]:
        return {
            (name, klass): count
            for name, found in part("dependencies").items()
            for klass, count in found[field].items()
        }

    metrics.source("class_requests", lambda: _two_deep(part("classes")))
    metrics.source(
        "rule_requests",
        lambda: {
            (name, outcome): found[field]
            for name, found in part("rules").items()
            for outcome, field in (("shed", "shed_by_rule"), ("would_shed", "would_shed"))
        },
    )
    metrics.source("rule_active", lambda: {(name,): float(found["active"]) for name, found in part("rules").items()})
    metrics.source("ruleset_failures", lambda: rules.failures)
    metrics.source("dependency_calls", lambda: by_class("calls"))
    metrics.source("dependency_refused", lambda: by_class("refused"))
    metrics.source(
        "dependency_limit", lambda: {(name,): found["limit"] for name, found in part("dependencies").items()}
    )
    metrics.source(
        "dependency_in_flight", lambda: {(name,): found["in_flight"] for name, found in part("dependencies").items()}
    )


def _two_deep(found: Mapping[str, Mapping[str, float]]) -> dict[tuple[str, ...], float]:
    return {(outer, inner): value for outer, values in found.items() for inner, value in values.items()}
