"""What nodes report, on its way to the store: merged, written in batches, kept while the store is in trouble."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

from contract.backoff import Backoff
from contract.errors import StoreUnavailable

__all__ = ["Forwarder"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
_BATCH = 1_000


class Forwarder(Generic[K, T]):
    """Holds the newest report per key, at most `bound` of them; `dropped` is called for each beyond.

    Reports are absolute and nodes repeat them, so dropping one delays it and loses nothing. At most `at_once` are
    written per interval, those waiting longest first: None for all.
    """

    def __init__(
        self,
        write: Callable[[Sequence[T]], Awaitable[None]],
        key: Callable[[T], K],
        *,
        bound: int,
        interval_s: float,
        new_backoff: Callable[[], Backoff],
        dropped: Callable[[], None],
        at_once: int | None = None,
    ) -> None:
        self._write = write
        self._key = key
        self._bound = bound
        self._interval_s = interval_s
        self._new_backoff = new_backoff
        self._dropped = dropped
        self._at_once = at_once
        self._pending: OrderedDict[K, T] = OrderedDict()
        self._arrived = asyncio.Event()

    def report(self, items: Iterable[T]) -> None:
        for item in items:
            self._pending[self._key(item)] = item
        while len(self._pending) > self._bound:
            self._pending.popitem(last=False)
            self._dropped()
        self._arrived.set()

    async def run(self) -> None:
        """Forward until cancelled; retries with growing pauses."""
        backoff = self._new_backoff()
        while True:
            await self._arrived.wait()
            try:
                await self._flush(self._at_once)
            except StoreUnavailable:
                await asyncio.sleep(backoff.next_s())
            else:
                backoff.reset()
                await asyncio.sleep(self._interval_s)

    async def flush(self) -> None:
        """Write everything held now. Raises StoreUnavailable; what was not written stays held."""
        await self._flush(None)

    async def _flush(self, at_most: int | None) -> None:
        self._arrived.clear()
        left = len(self._pending) if at_most is None else min(at_most, len(self._pending))
        while left > 0 and self._pending:
            taken = [self._pending.popitem(last=False) for _ in range(min(_BATCH, left, len(self._pending)))]
            left -= len(taken)
            try:
                await self._write([item for _, item in taken])
            except BaseException:
                for key, item in reversed(taken):
                    if key not in self._pending:  # a newer one may have come meanwhile
                        self._pending[key] = item
                        self._pending.move_to_end(key, last=False)
                self._arrived.set()
                raise
        if self._pending:
            self._arrived.set()
