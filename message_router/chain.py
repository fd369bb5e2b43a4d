"""Repairing a chain, pure: what must be appended, and above which floor, so that a refused broadcast fits (R8, R9)."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from contract.broadcast import Broadcast

__all__ = ["Repair", "repair_chain"]


class Repair(msgspec.Struct, frozen=True):
    fill: tuple[Broadcast, ...]
    """What lies between the log's tail and the refused broadcast and is still known, ascending."""
    floor: int | None
    """Everything at or below it must be given up first; None: nothing is lost."""


def repair_chain(refused: Broadcast, tail: int, known: Mapping[int, Broadcast]) -> Repair | None:
    """How to make `refused` fit a log that ends in `tail`, given the topic's broadcasts still in the log in flight.

    Follows the chain down from `refused.prev`. Reaches the tail: fill. Breaks off above it: what lies below is lost,
    the floor rises to where it broke. Goes past below the tail: None, the stored log does not belong to this chain
    and no append can ever fit.
    """
    fill: list[Broadcast] = []
    at = refused.prev
    while at > tail and (found := known.get(at)) is not None:
        fill.append(found)
        at = found.prev
    if at < tail:
        return None
    fill.reverse()
    return Repair(tuple(fill), floor=at if at > tail else None)
