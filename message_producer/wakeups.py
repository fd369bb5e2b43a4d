"""In-process hints that there is something to do. Missing one costs a polling interval, nothing else."""

from __future__ import annotations

import asyncio
import contextlib

__all__ = ["Wakeup", "Wakeups"]


class Wakeup:
    """A flag one task waits for; setting it twice wakes it once. Event loop only."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self, at_most_s: float) -> bool:
        """Return when set since the last wait, or after `at_most_s`; whether it was set. Cancel-safe."""
        if not self._event.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(at_most_s):
                    await self._event.wait()
        was_set = self._event.is_set()
        self._event.clear()
        return was_set


class Wakeups:
    """Who is woken by a commit: the dispatcher (times may have changed) and the publisher (rows may wait)."""

    def __init__(self) -> None:
        self.dispatch = Wakeup()
        self.publish = Wakeup()
        self.lease = Wakeup()
        self.commits = 0
        """Commits heard of, ours and others': whoever remembers an older number knows an older store."""

    def committed(self) -> None:
        """Something was committed that others must know of."""
        self.commits += 1
        self.dispatch.set()
        self.publish.set()

    def told(self) -> None:
        """Another producer committed something: a change, a cue, or its lease's end."""
        self.committed()
        self.lease.set()
