"""Entities a federation gateway asks for, all of one kind in one go however many the document names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Final

from strawberry.dataloader import DataLoader

from contract.errors import InvalidRequest
from dgs.model import EventInfo, ShownTitle
from dgs.prefetch import Prefetch

__all__ = ["MAX_ENTITIES", "EntityLoaders"]

MAX_ENTITIES: Final = 500
"""Different entities of one request."""


class EntityLoaders:
    """The loaders of one request: what is asked for twice is loaded once."""

    def __init__(self, prefetch: Prefetch) -> None:
        self._prefetch = prefetch
        self._left = MAX_ENTITIES

    @cached_property
    def titles(self) -> DataLoader[str, ShownTitle | None]:
        return DataLoader(self._load_titles)

    @cached_property
    def events(self) -> DataLoader[str, EventInfo | None]:
        return DataLoader(self._load_events)

    async def _load_titles(self, title_ids: list[str]) -> Sequence[ShownTitle | None]:
        self._spend(len(title_ids))
        return self._prefetch.titles(title_ids)

    async def _load_events(self, event_ids: list[str]) -> Sequence[EventInfo | None]:
        self._spend(len(event_ids))
        return await self._prefetch.events(event_ids)

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise InvalidRequest(
                "too many entities in one request", field="representations", rule=f"at most {MAX_ENTITIES}"
            )
