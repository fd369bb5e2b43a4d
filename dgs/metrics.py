"""Every metric of the DGS, in a registry of its own so that several services fit in one process.

`METRICS` is the whole list; names, labels and meanings are an interface. Labels are low-cardinality: operations of the
manifest and root fields, classes, codes, rules, dependencies, stages; never ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from contract.plain_metrics import Described, Histogram, PlainMetrics
from dgs.serving import Class

__all__ = ["METRICS", "PREFIX", "DgsMetrics"]

PREFIX: Final = "stagecue_dgs_"
_SECONDS: Final = (0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.5, 2.0)
_OTHERS: Final = "other"
_MAX_OPERATIONS: Final = 64
"""Operations told apart; names of a manifest are as many as somebody writes."""

METRICS: Final[tuple[Described, ...]] = (
    # Requests.
    Described("requests", "counter", ("kind",), "Requests by kind, counted on arrival."),
    Described("answers", "counter", ("operation", "class", "status"), "Requests served, by the answer's status class."),
    Described("seconds", "histogram", ("operation",), "From a request's admission to its answer."),
    Described("graphql_errors", "counter", ("code",), "Errors in GraphQL answers by code."),
    Described("artwork_not_found", "counter", (), "Artwork URLs that name nothing."),
    Described("server", "counter", ("event",), "Connections and requests, by what became of them before an answer."),
    Described("connections", "gauge", (), "Connections now."),
    Described(
        "traces",
        "counter",
        ("outcome",),
        "Requests followed: asked for, own choice; wishes left out or not understood.",
    ),
    Described("queue_delay_seconds", "gauge", (), "Longest wait in the queue since metrics were last read."),
    # Answering.
    Described("fast_path", "counter", ("outcome",), "Answers from compiled operations, and what was left to GraphQL."),
    Described("operations", "counter", ("outcome",), "Persisted operations looked for by id or hash."),
    Described("compiled_bytes", "gauge", ("kind",), "Memory of rendered titles and of automatic operations."),
    Described("picks", "counter", ("outcome",), "Where picks came from: memory, store, source, or instead."),
    Described("picks_held", "gauge", ("unit",), "Picks in memory."),
    Described(
        "source_profiles", "counter", ("source", "outcome"), "Profiles sources of recommendations were asked for."
    ),
    Described("distinct_answers", "gauge", ("stage",), "Distinct answers of a stage, the most of any topic."),
    Described("over_budget", "counter", (), "Profiles that got their cohort's answer: the stage had its number."),
    # Overload.
    Described("class_requests", "counter", ("class", "outcome"), "Requests admitted, shed, served, failed, late."),
    Described("rule_requests", "counter", ("rule", "outcome"), "What rules of priority shed, or would have."),
    Described("rule_active", "gauge", ("rule",), "Whether a rule is in force."),
    Described("ruleset_failures", "counter", (), "Ruleset files that could not be used."),
    Described("dependency_calls", "counter", ("dependency", "class"), "Calls of a dependency, by class."),
    Described("dependency_refused", "counter", ("dependency", "class"), "Calls not made for want of room."),
    Described("dependency_limit", "gauge", ("dependency",), "Calls of a dependency allowed at once."),
    Described("dependency_in_flight", "gauge", ("dependency",), "Calls of a dependency under way."),
    # What it stands on.
    Described("schedules", "gauge", ("unit",), "Events and topics in memory, topics not confirmed."),
    Described("schedules_stale_seconds", "gauge", (), "Since the store last confirmed schedules."),
    Described("store_reads", "counter", ("what",), "Reads of the store: polls, read-throughs, newest broadcasts."),
    Described("catalog_titles", "gauge", (), "Titles served."),
    Described("catalog_rejected_rows", "gauge", (), "Catalog rows left out."),
    Described("catalog_looks", "counter", ("outcome",), "Looks at the catalog for a newer one."),
)


class DgsMetrics(PlainMetrics):
    """What happens in the request path is counted here; what parts count for themselves is read from them."""

    def __init__(self) -> None:
        super().__init__(PREFIX, METRICS)
        self.errors: dict[tuple[str, ...], float] = {}
        self.artwork_not_found = 0
        self._answers: dict[tuple[str, Class, int], int] = {}
        self._seconds: dict[str, Histogram] = {}
        self.source("graphql_errors", lambda: self.errors)
        self.source("artwork_not_found", lambda: self.artwork_not_found)
        self.source("answers", self._answers_by_label)

    def error(self, code: str) -> None:
        """One error in a GraphQL answer."""
        self.errors[(code,)] = self.errors.get((code,), 0) + 1

    def answered(self, operation: str, klass: Class, status: int, took_s: float) -> None:
        """One request served; about a microsecond."""
        seconds = self._seconds.get(operation)
        if seconds is None:
            if len(self._seconds) >= _MAX_OPERATIONS:
                operation = _OTHERS
            seconds = self._seconds[operation] = self.histogram("seconds", _SECONDS, (operation or _OTHERS,))
        seconds.observe(took_s)
        key = operation, klass, status // 100
        self._answers[key] = self._answers.get(key, 0) + 1

    def spread(
        self,
        name: str,
        read: Callable[[], Mapping[str, Any]],
        fields: Mapping[str, str] | tuple[str, ...],
        *,
        scale: float = 1,
    ) -> None:
        """Read fields of a part's `stats()` into one labelled metric; `fields`: their names, or name -> label."""
        labels = fields if isinstance(fields, Mapping) else {field: field for field in fields}

        def series() -> Mapping[tuple[str, ...], float]:
            found = read()
            return {(label,): scale * found[field] for field, label in labels.items()}

        self.source(name, series)

    def _answers_by_label(self) -> Mapping[tuple[str, ...], float]:
        return {
            (operation or _OTHERS, klass, f"{status}xx"): count
            for (operation, klass, status), count in self._answers.items()
        }
