"""When a rule is in force. Pure.

A rule comes on at once and goes off slowly: load that was shed away is still there, and a rule that let it back in as
soon as it helped would be on and off for the whole night.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from dgs.priority.rules import Phase, When

__all__ = ["Activation", "Load"]


class Load(NamedTuple):
    """What triggers are compared with."""

    requests_per_s: float
    queue_delay_ms: float
    phases: Collection[Phase]
    """Phases that events (the rule's own, if it names some) are in."""


class Activation:
    """Whether one rule is in force, as it was last told. Without triggers it always is."""

    __slots__ = ("_quiet_since_s", "_when", "active", "switches")

    def __init__(self, when: When | None) -> None:
        self._when = when
        self._quiet_since_s: float | None = None
        self.active = when is None
        self.switches = 0

    def update(self, load: Load, now_s: float) -> bool:
        """Whether it is in force from now on; `now_s` is monotonic and never falls."""
        when = self._when
        if when is None:
            return True
        if not self.active:
            if _calls_for(when, load, on=True):
                self.active = True
                self.switches += 1
                self._quiet_since_s = None
        elif _calls_for(when, load, on=False):
            self._quiet_since_s = None
        elif self._quiet_since_s is None:
            self._quiet_since_s = now_s
        if self.active and self._quiet_since_s is not None and now_s - self._quiet_since_s >= when.off_after_s:
            self.active = False
            self.switches += 1
        return self.active


def _calls_for(when: When, load: Load, *, on: bool) -> bool:
    """Whether any trigger turns the rule on, or (`on` false) keeps it on."""
    measured = ((when.requests_per_s, load.requests_per_s), (when.queue_delay_ms, load.queue_delay_ms))
    if any(trigger and value >= (trigger.on if on else trigger.off) for trigger, value in measured):
        return True
    return when.phases is not None and any(phase in when.phases for phase in load.phases)
