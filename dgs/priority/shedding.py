"""Which part of a class is served, from how long requests waited; and quotas of rules. Pure.

The signal is the wait in this process's own queue: its CPU is what all requests share. A wait is a good queue if it
comes from a burst and a bad one if it stands, so that the *least* wait of an interval counts (CoDel, RFC 8289: target
5 ms over 100 ms; for servers "Fail at Scale", Maurer, ACM Queue 13(8), 2015: wait at most N = 100 ms, but M = 5 ms once
the queue has not been empty for N).

How much goes is a cubic in how bad it is ("Keeping Netflix Reliable Using Prioritized Load Shedding", 2020): with
x = (wait - target) / (span x target), within 0 and 1, priorities above 1 - x^3 are shed. Nearly nothing goes at first,
and the important last. A class is a band of priorities: where the threshold lies within it, that part of it is let
through, counted out evenly. The more is shed the shorter the wait, so the two settle where the queue neither grows
nor runs empty: no step size to tune, no swinging between all and nothing.
"""

from __future__ import annotations

from typing import Final

from dgs.priority.rules import ClassPlan

__all__ = ["INTERVAL_S", "SPAN", "Lane", "Quota", "Thinning", "priority_threshold", "served_part"]

INTERVAL_S: Final = 0.1
SPAN: Final = 4.0
"""Everything is shed at a wait of 1 + SPAN targets."""
_LEAST_EVERY_S: Final = 1.0
"""A class that may be served at all is served once in this time, whatever happens: its users see that it lives."""


def priority_threshold(overload: float) -> float:
    """Priorities above it are shed; `overload` within [0, 1]: 0.35 -> 0.96, 0.8 -> 0.49, 0.95 -> 0.14."""
    return 1.0 - overload * overload * overload


def served_part(plan: ClassPlan, overload: float) -> float:
    """Part of a class that is let through, 0 to 1."""
    first, last = plan.sheds
    return min(1.0, max(0.0, (priority_threshold(overload) - first) / (last - first)))


class Thinning:
    """Lets a part through, evenly: of any n in a row at part p, n p of them, give or take one."""

    __slots__ = ("_credit",)

    def __init__(self) -> None:
        self._credit = 0.0

    def take(self, part: float) -> bool:
        self._credit += part
        if self._credit >= 1.0:
            self._credit -= 1.0
            return True
        return False


class Quota:
    """At most so many a second, with a burst of a tenth of a second's worth, one at least; 0: none ever."""

    __slots__ = ("_at_s", "_burst", "_left", "_per_s")

    def __init__(self, per_s: float, now_s: float) -> None:
        assert per_s >= 0
        self._per_s = per_s
        self._burst = max(1.0, per_s / 10)
        self._left = self._burst if per_s else 0.0
        self._at_s = now_s

    def take(self, now_s: float) -> bool:
        self._left = min(self._burst, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if self._left < 1.0 or not self._per_s:
            return False
        self._left -= 1.0
        return True


class Lane:
    """One class in the process's queue: whether its wait stands, what is let through, and what became of it."""

    __slots__ = (
        "_interval_ends_s",
        "_least_wait_s",
        "_plan",
        "_slot_at_s",
        "_target_s",
        "_thinning",
        "admitted",
        "failed",
        "late",
        "patience_s",
        "served",
        "shed",
        "standing",
    )

    def __init__(self, plan: ClassPlan, target_s: float) -> None:
        assert target_s > 0
        self._target_s = target_s
        self._least_wait_s: float | None = None
        self._interval_ends_s = 0.0
        self._slot_at_s = 0.0
        self._thinning = Thinning()
        self.standing = False
        """The queue of this class has not been short for an interval."""
        self.admitted = self.shed = self.served = self.failed = self.late = 0
        self.patience_s = 0.0
        """Waits up to it need no further look: nothing of them is shed."""
        self.plan = plan

    @property
    def plan(self) -> ClassPlan:
        return self._plan

    @plan.setter
    def plan(self, plan: ClassPlan) -> None:
        self._plan = plan
        self._set_patience()

    def note(self, wait_s: float, now_s: float) -> None:
        """A request of the class leaves the queue."""
        if now_s >= self._interval_ends_s:
            self.turn(now_s)
        if self._least_wait_s is None or wait_s < self._least_wait_s:
            self._least_wait_s = wait_s

    def turn(self, now_s: float) -> None:
        """An interval is over; without a request in it the queue was empty."""
        if now_s < self._interval_ends_s:
            return
        least = self._least_wait_s
        self.standing = least is not None and least > self._target_s
        self._least_wait_s = None
        self._interval_ends_s = now_s + INTERVAL_S
        self._set_patience()

    def overload(self, wait_s: float) -> float:
        """0 to 1: how bad a wait is. A burst's wait is none, up to an interval."""
        if not self.standing:
            return 0.0 if wait_s <= max(INTERVAL_S, self._target_s) else 1.0
        return min(1.0, max(0.0, (wait_s - self._target_s) / (SPAN * self._target_s)))

    def part(self, wait_s: float) -> float:
        """Part that is let through at this wait."""
        if self._plan.share == 0.0:
            return 0.0
        return served_part(self._plan, self.overload(wait_s))

    def lets_through(self, wait_s: float) -> bool:
        part = self.part(wait_s)
        return part >= 1.0 or (part > 0.0 and self._thinning.take(part))

    def last_resort(self, now_s: float) -> bool:
        """The one request a second that a class with a share has in any case; taken by asking."""
        if self._plan.share == 0.0 or now_s < self._slot_at_s:
            return False
        self._slot_at_s = now_s + _LEAST_EVERY_S
        return True

    def _set_patience(self) -> None:
        if self._plan.share == 0.0:
            self.patience_s = -1.0
        else:
            self.patience_s = self._target_s if self.standing else max(INTERVAL_S, self._target_s)
