"""What is shown when a profile's own picks cannot be: its cohort's, made when they are first wanted. Pure."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from contract.schedule import TopicSchedule
from dgs.catalogs import CatalogIndex, CatalogInUse
from dgs.model import Profile
from dgs.picks import Picks
from dgs.shelf import index_picks
from dgs.stage_map import stage_keys, titles_needed

__all__ = ["DefaultPicks"]

_KEPT: Final = 4_096
"""Picks of cohorts remembered, some 400 bytes each."""


class DefaultPicks:
    """Picks that need no history, no store and no service; equal for all of a cohort."""

    def __init__(self, catalogs: CatalogInUse, *, per_row: int, now_ms: Callable[[], int]) -> None:
        self._catalogs = catalogs
        self._per_row = per_row
        self._now_ms = now_ms
        self._made = lru_cache(maxsize=_KEPT)(self._make)

    def of(self, schedule: TopicSchedule, profile: Profile | None, why: str) -> Picks:
        """The picks of the profile's cohort, or of everyone without a profile; `why` they are not its own.

        Everyone's cost a look-up; a cohort is found in some 20 us from a history that is at hand.
        """
        index = self._catalogs.current
        number = 0 if profile is None else index.cohorts.cohort_of(profile)
        made = self._made(index, stage_keys(schedule), titles_needed(schedule, self._per_row), number)
        return made._replace(why=why)

    def _make(self, index: CatalogIndex, keys: tuple[str, ...], needed: int, number: int) -> Picks:
        return index_picks(
            keys,
            index.cohorts.rank(number, needed),
            (),
            per_row=self._per_row,
            catalog=index.digest,
            now_ms=self._now_ms(),
            source="cohort",
            degraded=True,
        )
