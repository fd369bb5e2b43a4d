"""A drain as a plan: when it begins, and which connections are sent away when. Pure.

The order of a drain is: not ready (load balancers look elsewhere); wait for the moment it may begin, still accepting;
admit nobody more; accept whatever the kernel still queues, until it queues nothing, and only then close the listening
socket (closing it first resets what is queued); send everyone away in slices; close what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Generic, NamedTuple, TypeVar

from push_proxy.due_times import DueTimes

__all__ = ["Slice", "drain_begins_ms", "plan_drain"]

C = TypeVar("C")


class Slice(NamedTuple, Generic[C]):
    at_s: float
    """Seconds after the drain began."""
    leaving: tuple[C, ...]


def plan_drain(connections: Sequence[C], *, drain_s: float, slice_s: float = 0.1) -> tuple[Slice[C], ...]:
    """Spread `connections` evenly over `drain_s`. The first slice leaves at once; a drain of no length is one slice."""
    assert drain_s >= 0
    assert slice_s > 0
    slices = max(1, min(len(connections), int(drain_s / slice_s)))
    planned: list[Slice[C]] = []
    for number in range(slices):
        start, end = (len(connections) * number) // slices, (len(connections) * (number + 1)) // slices
        if end > start:
            planned.append(Slice(drain_s * number / slices, tuple(connections[start:end])))
    return tuple(planned)


def drain_begins_ms(now_ms: int, due: DueTimes, *, guard_ms: int, away_ms: int, defer_max_ms: int) -> int:
    """When a drain asked for at `now_ms` begins: at once, or once no stage is, or was, due too near.

    Too near: due in the `guard_ms` before it begins, or from then until `guard_ms` after everyone may be back, which
    takes `away_ms` (the drain's own length and the reconnect window). It is put off by `defer_max_ms` at most; where no
    clear moment lies within that, it begins at the moment farthest from the stages around it.
    """
    assert guard_ms >= 0
    assert away_ms >= 0
    assert defer_max_ms >= 0
    latest_ms = now_ms + defer_max_ms
    around = [at for at in due.times if now_ms - guard_ms <= at <= latest_ms + away_ms + guard_ms]
    clear_ms = DueTimes(around).guards(before_ms=away_ms + guard_ms, after_ms=guard_ms).clear_from(now_ms)
    if clear_ms <= latest_ms:
        return clear_ms

    def distance_ms(begin_ms: int) -> int:
        """From the nearest stage to the time in which devices are away; negative: it falls into that time."""
        return min(begin_ms - at if at <= begin_ms else at - begin_ms - away_ms for at in around)

    middles = ((before + after - away_ms) // 2 for before, after in pairwise(around))
    moments = [now_ms, *(at for at in middles if now_ms < at < latest_ms), latest_ms]
    return max(moments, key=distance_ms)
