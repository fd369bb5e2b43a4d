"""What `bench cluster` measures, and how much of it."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import msgspec

from loadtest.bench.event_plan import EventPlan
from loadtest.bench.outcome import CouldNotRun

__all__ = ["PARTS", "ClusterOptions", "Part"]

Part = Literal["latency", "burst", "reconnect", "devices", "nodes"]
PARTS: Final[tuple[Part, ...]] = ("latency", "burst", "reconnect", "devices", "nodes")


class ClusterOptions(msgspec.Struct, frozen=True, kw_only=True):
    parts: tuple[Part, ...] = PARTS
    seed: int = 1
    nodes: int = 4
    devices: int = 2_000
    """Of every part but `devices`."""

    stages: int = 200
    events: int = 10
    span_s: float = 120.0
    """As `bench dispatch`: nearer together, stages mostly wait for the fan-out of the one before on the same cores."""

    burst_events: int = 500
    burst_stages: int = 4
    """Of each event."""
    burst_span_s: float = 60.0
    burst_topics: int = 4
    """Followed by each device."""

    storms: int = 5
    storm_s: float = 6.0
    """From one storm to the next: twice the window over which devices return."""

    rounds: int = 3
    idle_s: float = 5.0
    """Before each round, for what the routers use anyway."""
    round_s: float = 15.0
    round_broadcasts: int = 300
    node_counts: tuple[int, ...] = (4, 16, 64)
    devices_few: int = 2_000
    devices_many: int = 20_000

    keep: Path | None = None
    """Keep logs and records here."""

    @property
    def night(self) -> EventPlan:
        return EventPlan(events=self.events, stages=self.stages, span_s=self.span_s, seed=self.seed, prefix="latency")

    @property
    def burst(self) -> EventPlan:
        return EventPlan(
            events=self.burst_events,
            stages=self.burst_events * self.burst_stages,
            span_s=self.burst_span_s,
            seed=self.seed,
            prefix="burst",
        )

    def round(self, name: str, *, events: int) -> EventPlan:
        """One round of a routing part; no more events than broadcasts."""
        events = min(events, self.round_broadcasts)
        return EventPlan(events=events, stages=self.round_broadcasts, span_s=self.round_s, seed=self.seed, prefix=name)

    def check(self) -> None:
        """Raises CouldNotRun naming the option and the rule."""
        if not 1 <= self.events <= 20:
            raise CouldNotRun("--events: 1 to 20, each device follows all of them")
        if self.stages < self.events or self.devices < self.nodes or self.nodes < 1:
            raise CouldNotRun("--stages: at least one per event; --devices: at least one per node; --nodes: at least 1")
        if not self.night.is_spacious:
            raise CouldNotRun("--span: too short for that many stages of one event")
        if not self.burst.is_spacious or self.burst_topics > min(64, self.burst_events):
            raise CouldNotRun("--burst-events: at least as many as a device follows, with room for their stages")
        if len(set(self.node_counts)) < 2 or min(self.node_counts) < self.nodes:
            raise CouldNotRun(f"--node-counts: at least two different ones, none below --nodes ({self.nodes})")
        if not 0 < self.devices_few < self.devices_many:
            raise CouldNotRun("--devices-many: more than --devices-few")
