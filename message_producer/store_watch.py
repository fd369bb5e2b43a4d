"""Hears from the store what other producers commit, so that whoever leads acts on it at once."""

from __future__ import annotations

import asyncio

from message_producer.store import Store
from message_producer.wakeups import Wakeups

__all__ = ["StoreWatch"]


class StoreWatch:
    """A service. What it hears are hints: dispatcher and publisher look every so often, too."""

    name = "producer.watch"

    def __init__(self, store: Store, wakeups: Wakeups) -> None:
        self._store = store
        self._wakeups = wakeups

    async def run(self, ready: asyncio.Event, stop: asyncio.Event) -> None:
        watching = asyncio.create_task(self._store.watch(self._wakeups.told), name=f"{self.name}.listen")
        stopping = asyncio.create_task(stop.wait(), name=f"{self.name}.stop")
        ready.set()
        try:
            await asyncio.wait({watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                await watching  # it does not end by itself: whatever it raises is a mistake of ours
        finally:
            for task in (watching, stopping):
                task.cancel()
            await asyncio.wait({watching, stopping})
