"""One call for all who want the same at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from functools import partial
from typing import Any, Generic, TypeVar

__all__ = ["SingleFlight"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Flight(Generic[V]):
    __slots__ = ("task", "waiting")

    def __init__(self, task: asyncio.Task[V]) -> None:
        self.task = task
        self.waiting = 0


class SingleFlight(Generic[K, V]):
    """Calls by key; a call that is under way is joined instead of made again.

    The call belongs to nobody: it goes on while anybody waits for it, whoever began it, and is cancelled with the last
    of them. What it raises, all of them see. Bounded by the callers there are.
    """

    def __init__(self, name: str = "flight") -> None:
        self.joined = 0
        """Callers so far that found a call under way."""
        self._name = name
        self._flights: dict[K, _Flight[V]] = {}

    def __len__(self) -> int:
        """Calls under way."""
        return len(self._flights)

    def under_way(self, key: K) -> bool:
        """Whether `run` would join a call."""
        flight = self._flights.get(key)
        return flight is not None and not flight.task.done()

    async def run(self, key: K, make: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """What `make()` gives, or the call already under way for `key`. Cancelling one caller leaves the others be."""
        flight = self._flights.get(key)
        if flight is None or flight.task.done():  # one that landed this very turn is over
            flight = self._flights[key] = _Flight(asyncio.create_task(make(), name=f"{self._name} {key}"))
            flight.task.add_done_callback(partial(self._landed, key, flight))
        else:
            self.joined += 1
        flight.waiting += 1
        try:
            # A cancelled caller leaves the shield, and the call goes on behind it.
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                # Given up at once: who comes now must not join a call that is about to be cancelled.
                self._give_up(key, flight)
                flight.task.cancel()

    def _landed(self, key: K, flight: _Flight[V], task: asyncio.Task[V]) -> None:
        self._give_up(key, flight)
        if not task.cancelled():
            task.exception()  # seen, although nobody may be left to raise it to

    def _give_up(self, key: K, flight: _Flight[V]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
