"""What one profile sees of one topic, as indexes into the catalog: the only state there is per profile. Pure.

A map is three things: the schedule (one per topic), the catalog (one), and which titles stand where. The last is some
160 bytes; it is what is ranked, materialised, cached, hashed into an ETag and counted as a distinct answer. A device's
kind, screen and language change how a title is dressed and never which.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

import msgspec

__all__ = ["Layout", "Missing", "Picks", "RowShape", "Wanted"]


class RowShape(msgspec.Struct, frozen=True, array_like=True):
    """One row of a stage."""

    titles: int
    because: bool = False
    """It begins with the watched title it is for: its first cell, followed by `titles` more."""


class Layout(msgspec.Struct, frozen=True, array_like=True, cache_hash=True):
    """Where cells go: stages in order, `cancelled` and `default` last, their rows, and how many titles in each.

    A profile without enough history has fewer because-rows than another: a schedule has a handful of layouts.
    """

    stages: tuple[tuple[str, tuple[RowShape, ...]], ...]
    catalog: str
    """Digest of the catalog the cells index: picks of another one mean nothing."""

    @property
    def cells(self) -> int:
        return sum(row.titles + row.because for _, rows in self.stages for row in rows)


class Picks(NamedTuple):
    """Cells in layout order, each an index into the catalog's titles."""

    layout: Layout
    cells: array[int]
    """Type code `I`."""
    digest: bytes
    """8 bytes of layout and cells: equal picks have equal ones, in every process."""
    made_at_ms: int
    source: str
    """Who chose: `catalog`, `materialised`, `http`, or `cohort` for the default of those nobody could choose for."""
    degraded: bool = False
    """Not what was asked for but what there was: said in the answer's `extensions`."""
    why: str = ""
    """Of degraded ones: what was in the way, in a few words that name no address and no person."""


class Missing(NamedTuple):
    """Nothing for one profile, and why. A value: others of the same batch have theirs."""

    why: str


class Wanted(NamedTuple):
    """Whose picks are asked for, of what."""

    topic: str
    revision: int
    version: int
    profile_id: str
