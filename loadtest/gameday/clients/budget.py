"""When a client asks again after a failure: within a budget of tries, then within a refetch window that grows. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

from device_sim.return_window import return_delay_ms

__all__ = ["Again", "RetryBudget"]

_BASE_S: Final = 0.2
_MAX_S: Final = 5.0
_WINDOW_CAP_MS: Final = 120_000


class Again(NamedTuple):
    pause_s: float
    gave_up: bool
    """The budget is spent: this pause is of the refetch window, and the next try has a budget of its own."""


class RetryBudget:
    """Of one wanted answer, as the device's own prefetch does it (`device_sim.prefetch`, R19): a few tries, each pause
    twice the one before, half to one and a half of it, and no earlier than Retry-After asks, up to 5 s."""

    __slots__ = ("_failures", "_spent", "_tries", "_window_ms")

    def __init__(self, *, tries: int, refetch_window_ms: int) -> None:
        assert tries >= 1
        self._tries = tries
        self._window_ms = refetch_window_ms
        self._spent = 0
        self._failures = 0

    def failed(self, retry_after_s: float, draw: float) -> Again:
        """A try failed; `draw` lies in [0, 1)."""
        self._spent += 1
        if self._spent < self._tries:
            pause_s = min(_MAX_S, _BASE_S * float(2 ** (self._spent - 1)))
            return Again(max(pause_s, min(retry_after_s, _MAX_S)) * (0.5 + draw), gave_up=False)
        self._spent = 0
        self._failures += 1
        return Again(return_delay_ms(self._window_ms, self._failures, draw, cap_ms=_WINDOW_CAP_MS) / 1000, gave_up=True)
