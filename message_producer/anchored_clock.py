"""One clock for dispatching: monotonic, anchored to the database's (R3). Pure.

A wall clock may step; a dispatcher that follows a step fires everything at once or nothing at all. So time is read
from the monotonic clock, anchored to the database's clock, and compared with it at every lease renewal: small
offsets are slewed away, one above `OFFSET_MAX_MS` means that this process must not dispatch until it is anchored anew.
"""

from __future__ import annotations

from typing import Final

from contract.clock import Clock

__all__ = ["OFFSET_MAX_MS", "SLEW_MS", "AnchoredClock"]

OFFSET_MAX_MS: Final = 500
SLEW_MS: Final = 2.0
"""How much one check may correct: less than a renewal lasts, so the clock always moves forward between checks."""


class AnchoredClock:
    """A Clock whose wall time is the database's, carried on by the monotonic clock in between."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # One tuple, replaced whole: the store's threads read it while the event loop corrects it.
        self._base = (float(clock.now_ms()), clock.monotonic_s())

    def now_ms(self) -> int:
        return int(self._at(self._clock.monotonic_s()))

    def monotonic_s(self) -> float:
        return self._clock.monotonic_s()

    def anchor(self, database_now_ms: int, read_at_s: float) -> None:
        """Take the database's time as read at `read_at_s` of the monotonic clock, looked at right after the answer:
        so this clock runs late by the round trip, never early, and nothing is dispatched before its time (R4)."""
        self._base = (float(database_now_ms), read_at_s)

    def offset_ms(self, database_now_ms: int, read_at_s: float) -> float:
        """How far this clock runs ahead of the database's, as read at `read_at_s`."""
        return self._at(read_at_s) - database_now_ms

    def correct(self, database_now_ms: int, read_at_s: float) -> bool:
        """Slew towards the database's clock; False when the offset is beyond `OFFSET_MAX_MS`: give the lease up."""
        offset = self.offset_ms(database_now_ms, read_at_s)
        if abs(offset) > OFFSET_MAX_MS:
            return False
        # A reading has whole milliseconds: within one there is nothing to correct.
        if abs(offset) >= 1:
            base_ms, base_s = self._base
            self._base = (base_ms - max(-SLEW_MS, min(SLEW_MS, offset)), base_s)
        return True

    def _at(self, monotonic_s: float) -> float:
        base_ms, base_s = self._base
        return base_ms + (monotonic_s - base_s) * 1000
