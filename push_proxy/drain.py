"""A drain as a plan: which connections are sent away when, each with its own moment to come back (R21)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

__all__ = ["Departure", "Slice", "plan_drain"]

C = TypeVar("C")


class Departure(NamedTuple, Generic[C]):
    connection: C
    reconnect_after_ms: int


class Slice(NamedTuple, Generic[C]):
    at_s: float
    """Seconds after the drain began."""
    departures: tuple[Departure[C], ...]


def plan_drain(
    connections: Sequence[C], draws: Sequence[float], *, drain_s: float, window_ms: int, slice_s: float = 0.1
) -> tuple[Slice[C], ...]:
    """Spread `connections` evenly over `drain_s`; `draws` are uniform in [0, 1), one per connection.

    The first slice leaves at once. A drain of no length is one slice.
    """
    assert len(connections) == len(draws)
    assert drain_s >= 0
    assert slice_s > 0
    slices = max(1, min(len(connections), int(drain_s / slice_s)))
    planned: list[Slice[C]] = []
    for number in range(slices):
        start, end = (len(connections) * number) // slices, (len(connections) * (number + 1)) // slices
        departures = tuple(Departure(connections[at], int(draws[at] * window_ms)) for at in range(start, end))
        if departures:
            planned.append(Slice(drain_s * number / slices, departures))
    return tuple(planned)
