"""Where a router's reach counts go when its log is Kafka: the schedule store's database, once it can be opened."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

from contract.errors import StoreUnavailable
from contract.log import ReachSink
from contract.reach import ReachCount
from contract.runtime.runner import Readiness
from stagecue.apart.lifecycle import DATABASE_SETTING, StoppedEarly, opened_patiently

__all__ = ["LateReach"]

_RETRY_AFTER_S: Final = 1.0


class LateReach:
    """ReachSink and Service: broadcasts are routed without the database; counts wait for it in the router's own bound.

    Not ready until it was open once. Later failures are the sink's to tell: reach stands still, nothing else does.
    """

    name = "reach-store"

    def __init__(self, open_once: Callable[[], AbstractAsyncContextManager[ReachSink]], readiness: Readiness) -> None:
        self._open_once = open_once
        self._readiness = readiness
        self._sink: ReachSink | None = None
        readiness.expect("database", "not asked yet")

    async def record_reach(self, counts: Sequence[ReachCount]) -> None:
        """See contract.log.ReachSink. Raises StoreUnavailable, also until the database was open once."""
        if self._sink is None:
            raise StoreUnavailable("the schedule store's database is not open yet", retry_after_s=_RETRY_AFTER_S)
        await self._sink.record_reach(counts)

    async def run(self, ready: asyncio.Event, stop: asyncio.Event) -> None:
        """Ready at once. Raises InvalidRequest or StoreUnavailable where waiting for the database cannot help."""
        ready.set()
        opened = opened_patiently(
            self._open_once,
            stop,
            setting=DATABASE_SETTING,
            readiness=self._readiness,
            condition="database",
            patience_s=None,
        )
        try:
            async with opened as self._sink:
                await stop.wait()
        except StoppedEarly:
            return
        finally:
            self._sink = None
