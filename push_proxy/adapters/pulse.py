"""When a node looks at its deadlines: often while one may be near, seldom while everything rests."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from contract.clock import Clock

__all__ = ["TICK_S", "Pulse"]

TICK_S: Final = 0.05
"""How late a short deadline may be looked at."""


class Pulse:
    """One task rests, anybody hurries it. On one event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._hurried = asyncio.Event()

    def hurry(self) -> None:
        """A deadline came up that may be near: the rest under way ends within TICK_S, and the next one is as short."""
        self._hurried.set()

    async def rest(self, until_s: float) -> float:
        """Sleep until then (monotonic), at least TICK_S; returns by how many seconds the loop was late meanwhile."""
        late_s = await self._unless_hurried(until_s - TICK_S)
        self._hurried.clear()
        began_s = self._clock.monotonic_s()
        await asyncio.sleep(TICK_S)
        return max(late_s, self._clock.monotonic_s() - began_s - TICK_S)

    async def _unless_hurried(self, until_s: float) -> float:
        wait_s = until_s - self._clock.monotonic_s()
        if wait_s <= 0 or self._hurried.is_set():
            return 0.0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._hurried.wait()
            return 0.0
        return max(0.0, self._clock.monotonic_s() - until_s)
