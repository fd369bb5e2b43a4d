"""Records of runs for tests of reports."""

from __future__ import annotations

from typing import Any

import msgspec

from loadtest.report.record import Bar, Chart, Fact, HistogramFile, Mark, RunRecord, Series, StageReach

__all__ = ["MACHINE", "some_record"]

MACHINE = {"cores": 2, "memory_bytes": 24_000_000_000, "kernel": "6.1.0", "processor": "x86_64"}


def some_record(**changes: Any) -> RunRecord:
    """One with a bit of everything, whose promises hold, and `changes` made to it."""
    record = RunRecord(
        scenario="surge",
        title="Join surge",
        question="Do ten times as many joins within 30 s reach everyone?",
        answer="Yes: the last of 1,000 devices after 4.2 s.",
        verdict="held",
        bars=[
            Bar(name="last_s", bar="<= 12 s", measured=4.2, unit="s", held=True, means="The last device."),
            Bar(name="missed", bar="= 0", measured=0.0, held=True),
        ],
        charts=[
            Chart(
                title="CPU",
                unit="cores",
                stacked=True,
                series=[
                    Series(name="push", points=[(0.0, 0.1), (1.0, 0.9), (2.0, 0.4)]),
                    Series(name="fleet", points=[(0.0, 0.2), (2.0, 0.2)]),
                ],
            ),
            Chart(title="Devices", unit="devices", series=[Series(name="here", points=[(0.0, 0.0), (2.5, 1000.0)])]),
        ],
        marks=[Mark(0.5, "joins begin"), Mark(1.5, "stage due")],
        reach=[
            StageReach(
                state_key="live", devices=1000, delivered_live=990, replayed=10, missed=0,
                p50_ms=9.0, p99_ms=30.0, last_ms=42.0,
            )
        ],
        histograms=[
            HistogramFile(
                name="delivery", path="histograms/delivery.hdr", unit="ms", count=1000, p50=9.0, p90=20.0, p99=30.0,
                p999=40.0, max=42.0, curve=[(0.0, 1.0), (50.0, 9.0), (99.0, 30.0), (100.0, 42.0)],
            )
        ],
        facts={"Memory": [Fact("push", "1.2 GB")]},
        notes=["Everything shared two cores."],
        devices=1000,
        envelope={
            "machine": MACHINE, "versions": {"python": "3.11.2"}, "commit": "a" * 40, "seed": 7, "valid": True,
            "started_at": "2026-01-02T03:04:05.678+00:00", "wall_s": 63.2,
        },
    )  # fmt: skip
    return msgspec.structs.replace(record, **changes)
