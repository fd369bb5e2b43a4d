"""A service of so many slots, each busy for a fixed time per profile: when a batch is done. Pure."""

from __future__ import annotations

import heapq

__all__ = ["Slots"]


class Slots:
    """First come, first served; a profile takes one slot. Times are seconds on any one clock."""

    __slots__ = ("_free_at_s", "busy_s", "longest_wait_s", "profiles", "takes_s")

    def __init__(self, slots: int, takes_s: float) -> None:
        self._free_at_s = [0.0] * slots
        self.takes_s = takes_s
        self.profiles = 0
        self.busy_s = 0.0
        self.longest_wait_s = 0.0

    def enter(self, profiles: int, now_s: float) -> float:
        """When the last of them is done."""
        done_s = now_s
        for _ in range(profiles):
            begins_s = max(now_s, self._free_at_s[0])
            done_s = begins_s + self.takes_s
            heapq.heapreplace(self._free_at_s, done_s)
            self.longest_wait_s = max(self.longest_wait_s, begins_s - now_s)
        self.profiles += profiles
        self.busy_s += profiles * self.takes_s
        return done_s
