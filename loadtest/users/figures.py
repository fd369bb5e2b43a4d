"""What users counted and timed: kept by each process, sent on as differences, added up by the master. Pure.

Everything is addressed by *of* (`<crowd>`, `<crowd>/<request>`, `<crowd>/<topic>@<timestamp>`) and *what* (`sent`,
`refused`, `time`). Adding two books adds their counters, bins and histograms, in any order and grouping, so nothing is
averaged twice and no percentile is ever computed from percentiles.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from loadtest.bench.histogram import LatencyHistogram

__all__ = ["NO_FILE", "NO_PORT", "REASONS_MAX", "Book", "BookReport", "corrected_ms", "reasons_of"]

NO_FILE: Final = "too many open files here"
NO_PORT: Final = "no free port here"
"""Reasons of failures that are the generator's own."""

REASONS_MAX: Final = 32
"""Different reasons of failures kept per request; more are counted as `other`."""


class BookReport(msgspec.Struct, frozen=True):
    """A book for another process: JSON-able."""

    counters: Mapping[str, Mapping[str, int]]
    """of -> what -> count."""
    bins: Mapping[str, Mapping[str, Mapping[int, int]]]
    """of -> what -> number of the bin -> count."""
    histograms: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """of -> what -> `LatencyHistogram.encode`."""
    facts: Mapping[str, Mapping[str, int | str | None]]
    """of -> what everybody saw alike: state key and due time of a broadcast."""


class Book:
    """Counters, bins over time and histograms. Adding is commutative and associative; facts are the same everywhere."""

    __slots__ = ("bins", "counters", "facts", "histograms")

    def __init__(self) -> None:
        self.counters: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self.bins: dict[str, dict[str, dict[int, int]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(int)))
        self.histograms: dict[str, dict[str, LatencyHistogram]] = defaultdict(lambda: defaultdict(LatencyHistogram))
        self.facts: dict[str, dict[str, int | str | None]] = {}

    def count(self, of: str, what: str, number: int = 1) -> None:
        self.counters[of][what] += number

    def count_in(self, of: str, what: str, bin_number: int, number: int = 1) -> None:
        """Into the counter and into the bin it happened in."""
        self.counters[of][what] += number
        self.bins[of][what][bin_number] += number

    def level(self, of: str, what: str, bin_number: int, level: int) -> None:
        """Something that goes up and down, as it stands; once per bin and process, so that processes add up."""
        self.bins[of][what][bin_number] = level

    def reason(self, of: str, reason: str) -> None:
        """Count a failure by why it failed; bounded."""
        found = self.counters[reasons_of(of)]
        found[reason if reason in found or len(found) < REASONS_MAX else "other"] += 1

    def time(self, of: str, what: str, value_ms: float) -> None:
        self.histograms[of][what].record_ms(value_ms)

    def total(self, what: str) -> int:
        """One counter summed over everything that has it."""
        return sum(found.get(what, 0) for found in self.counters.values())

    def add(self, other: Book) -> None:
        for of, counts in other.counters.items():
            for what, number in counts.items():
                self.counters[of][what] += number
        for of, series in other.bins.items():
            for what, bins in series.items():
                for number, count in bins.items():
                    self.bins[of][what][number] += count
        for of, histograms in other.histograms.items():
            for what, histogram in histograms.items():
                self.histograms[of][what].merge(histogram)
        for of, facts in other.facts.items():
            held = self.facts.get(of)
            # Who heard late may know a later schedule, by which a stage was not due when it went out.
            if held is None or held.get("due_ms") is None:
                self.facts[of] = facts

    def report(self) -> BookReport:
        return BookReport(
            {of: dict(counts) for of, counts in self.counters.items()},
            {of: {what: dict(bins) for what, bins in series.items()} for of, series in self.bins.items()},
            {of: {what: each.encode() for what, each in found.items()} for of, found in self.histograms.items()},
            dict(self.facts),
        )

    @classmethod
    def of_report(cls, report: BookReport) -> Book:
        """Inverse of `report`."""
        book = cls()
        for of, counts in report.counters.items():
            book.counters[of].update(counts)
        for of, series in report.bins.items():
            for what, bins in series.items():
                book.bins[of][what].update(bins)
        for of, histograms in report.histograms.items():
            for what, encoded in histograms.items():
                book.histograms[of][what] = LatencyHistogram.decode(dict(encoded))
        book.facts.update({of: dict(facts) for of, facts in report.facts.items()})
        return book


def reasons_of(of: str) -> str:
    """Where the reasons of `of`'s failures are counted."""
    return f"{of}!"


def corrected_ms(value_ms: float, interval_ms: float) -> Iterator[float]:
    """The value, and one for every sample that was due every `interval_ms` while it was waited for.

    Tene's correction for coordinated omission, as `HdrHistogram.record_corrected_value`: a pause of a second, seen by
    somebody who would have looked every 10 ms, was a pause for a hundred looks, of 1 s, 990 ms, 980 ms and so on.
    """
    while True:
        yield value_ms
        if value_ms <= interval_ms or interval_ms <= 0:
            return
        value_ms -= interval_ms
