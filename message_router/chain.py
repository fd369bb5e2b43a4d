"""Laying a chain into a replay log, pure: what is appended in which atomic steps, and what is given up (R8-R10).

The log in flight is the truth. What the store holds is kept as far as it belongs to the same chain; where it does not,
the floor rises above it: a device below is told of a gap and of the newest state, and none is told an older one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from contract.broadcast import Broadcast
from contract.kv.ports import MAX_EXTEND

__all__ = ["Step", "chain_above", "plan_steps"]


class Step(msgspec.Struct, frozen=True):
    """One call of `ReplayLog.extend`."""

    broadcasts: tuple[Broadcast, ...]
    tail: int
    """Where the log must end for this step."""
    floor: int | None
    """All that is stored is given up first, up to here; None: the chain goes on where the log ends."""

    @property
    def foreign(self) -> bool:
        """Whether what the log holds belongs to another chain, instead of merely ending too early."""
        return self.floor is not None and self.broadcasts[0].prev < self.floor


def chain_above(newest: Broadcast, tail: int, known: Mapping[int, Broadcast]) -> tuple[Broadcast, ...]:
    """`newest` and, ascending before it, its predecessors above `tail` as far as they are known."""
    chain = [newest]
    while chain[-1].prev > tail and (found := known.get(chain[-1].prev)) is not None:
        chain.append(found)
    chain.reverse()
    return tuple(chain)


def plan_steps(broadcasts: Iterable[Broadcast], tail: int) -> list[Step]:
    """How one topic's `broadcasts`, ascending, get into a log that ends in `tail`; nothing at or below it is needed.

    A predecessor above the log's end is neither stored nor among them: lost, the floor rises to it. One below means
    that the log ends in another chain: the floor rises to that end.
    """
    steps: list[Step] = []
    run: list[Broadcast] = []
    begins, floor, end = tail, None, tail
    for broadcast in broadcasts:
        if broadcast.timestamp <= end:
            continue
        if run and (broadcast.prev != end or len(run) == MAX_EXTEND):
            steps.append(Step(tuple(run), begins, floor))
            run = []
        if not run:
            begins, floor = end, None if broadcast.prev == end else max(broadcast.prev, end)
        run.append(broadcast)
        end = broadcast.timestamp
    if run:
        steps.append(Step(tuple(run), begins, floor))
    return steps
