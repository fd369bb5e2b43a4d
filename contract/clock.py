"""Time as a port: integer milliseconds since the epoch, and a monotonic clock for durations."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Clock", "ManualClock"]


class Clock(Protocol):
    """What pure code and use cases may know of time."""

    def now_ms(self) -> int:
        """Wall-clock milliseconds since the Unix epoch."""
        ...

    def monotonic_s(self) -> float:
        """Seconds on a clock that never steps; only differences mean anything."""
        ...


class ManualClock:
    """A clock that moves only when told to: for tests and simulations."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms
        self._monotonic_s = 0.0

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def advance_ms(self, by: int) -> None:
        """Let `by` milliseconds pass on both clocks."""
        assert by >= 0, "time does not run backwards; use step_ms for a wall-clock step"
        self._now_ms += by
        self._monotonic_s += by / 1000

    def step_ms(self, by: int) -> None:
        """Step the wall clock alone, as an NTP correction would; `by` may be negative."""
        self._now_ms += by
