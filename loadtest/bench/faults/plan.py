"""Which stage of which event is due when, and which device follows what. Pure.

A *channel* is what the audience watches: a broadcast every `interval_ms`, as long as the run lasts. An event holds a
bounded number of stages, so a channel is a row of events, each taking over where the one before ends; a device follows
all of its channels' events from the beginning. Channels are shifted in phase, so that broadcasts come evenly. All of it
is stored before the first one is due: what falls due during a fault is the schedule's business alone, as on the night.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from contract.durations import format_duration
from contract.names import topic_of

__all__ = ["CUES_PER_EVENT", "STAGES_PER_EVENT", "FaultPlan", "PlannedStage", "cue_keys"]

CUES_PER_EVENT: Final = 4
"""Manual stages of each event, for whoever cues during a fault."""
STAGES_PER_EVENT: Final = 60
"""With a time; together with the manual ones within what one event may have."""


class PlannedStage(msgspec.Struct, frozen=True):
    channel: int
    topic: str
    state_key: str
    due_at_ms: int


class FaultPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One run's schedule."""

    name: str
    """Starts every event id: runs against one store do not meet."""
    first_due_ms: int
    lasts_s: float
    channels: int = 20
    interval_ms: int = 300
    channels_per_device: int = 2
    """Divides `channels`, so that every channel has the same number of devices on every node."""

    def __post_init__(self) -> None:
        assert self.channels % self.channels_per_device == 0, "channels are shared out evenly"

    @property
    def events_per_channel(self) -> int:
        stages = -(-int(self.lasts_s * 1000) // self.interval_ms)
        return max(1, -(-stages // STAGES_PER_EVENT))

    @property
    def last_due_ms(self) -> int:
        stages = self.events_per_channel * STAGES_PER_EVENT
        return self._due(self.channels - 1, stages - 1)

    def event_id(self, channel: int, number: int) -> str:
        return f"{self.name}-{channel:02d}-{number}"

    def topics(self) -> tuple[str, ...]:
        """All of them, by generation: in this order a `FleetPlan` gives each device all events of its channels."""
        return tuple(topic_of(event_id) for event_id in self._event_ids())

    @property
    def topics_per_device(self) -> int:
        return self.channels_per_device * self.events_per_channel

    def channel_of_topic(self) -> dict[str, int]:
        return {topic: number % self.channels for number, topic in enumerate(self.topics())}

    def followers(self, topics_of_devices: Iterable[Iterable[str]]) -> dict[int, set[int]]:
        """Channel -> the devices that follow it, given every device's topics in turn."""
        found: dict[int, set[int]] = {channel: set() for channel in range(self.channels)}
        channels = self.channel_of_topic()
        for device, topics in enumerate(topics_of_devices):
            for topic in topics:
                found[channels[topic]].add(device)
        return found

    def stages(self) -> list[PlannedStage]:
        """Every stage with a time, by channel and due time."""
        return [
            PlannedStage(channel, topic, key, due)
            for channel in range(self.channels)
            for number in range(self.events_per_channel)
            for topic in [topic_of(self.event_id(channel, number))]
            for key, due in self._stages(channel, number)
        ]

    def current_event(self, channel: int, now_ms: int) -> str:
        """The event of `channel` whose stages are falling due at `now_ms`."""
        length_ms = STAGES_PER_EVENT * self.interval_ms
        number = (now_ms - self._due(channel, 0)) // length_ms
        return self.event_id(channel, max(0, min(number, self.events_per_channel - 1)))

    def events(self) -> list[dict[str, Any]]:
        """Bodies of `POST /v1/events`, those that begin first coming first."""
        return [
            self._event(channel, number)
            for number in range(self.events_per_channel)
            for channel in range(self.channels)
        ]

    def _event_ids(self) -> list[str]:
        return [self.event_id(channel, n) for n in range(self.events_per_channel) for channel in range(self.channels)]

    def _event(self, channel: int, number: int) -> dict[str, Any]:
        timed = self._stages(channel, number)
        starts_at = timed[0][1]
        stages: list[Mapping[str, object]] = [{"key": key, "anchor": "manual"} for key in cue_keys()]
        stages += [{"key": key, "offset": format_duration(due - starts_at)} for key, due in timed]
        return {
            "id": self.event_id(channel, number),
            "title": f"Fault run {self.name}, channel {channel}, event {number}",
            "starts_at": datetime.fromtimestamp(starts_at / 1000, UTC).isoformat(timespec="milliseconds"),
            "stages": stages,
            "broadcast_budget_per_hour": 3600,
        }

    def _stages(self, channel: int, number: int) -> Sequence[tuple[str, int]]:
        first = number * STAGES_PER_EVENT
        return [(f"stage_{n}", self._due(channel, n)) for n in range(first, first + STAGES_PER_EVENT)]

    def _due(self, channel: int, index: int) -> int:
        return self.first_due_ms + index * self.interval_ms + channel * self.interval_ms // self.channels


def cue_keys() -> list[str]:
    return [f"cue_{number}" for number in range(CUES_PER_EVENT)]
