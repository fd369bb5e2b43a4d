"""The outbox as the embedded log: Kafka's shape over published rows; one partition, offset = position."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence

from contract.errors import LogUnavailable, StoreUnavailable
from contract.log import LogBatch, LogEntry
from contract.schedule import TopicSchedule
from message_producer.store import Store
from message_producer.wakeups import Wakeup

__all__ = ["OutboxLog"]

PARTITION = 0
_TAIL_MAX = 4096
_READ_AT_ONCE = 1000
_FOREIGN_POLL_S = 0.02
_EMBEDDED_POLL_S = 1.0


class OutboxLog:
    """See BroadcastLog. One consumer at a time.

    In the producer's own process `announce` hands freshly published entries over, and `poll` answers from memory; in
    any other process it looks at the database every 20 ms.
    """

    def __init__(self, store: Store, *, consumer: str = "router", embedded: bool) -> None:
        self._store = store
        self._consumer = consumer
        self._poll_s = _EMBEDDED_POLL_S if embedded else _FOREIGN_POLL_S
        self._position: int | None = None
        """Newest position delivered; None before the assignment."""
        self._tail: deque[LogEntry] = deque()
        self._tail_after: int | None = None
        """The tail holds everything in (`_tail_after`, `_tail_to`]; None while nothing was announced."""
        self._tail_to: int | None = None
        self._news = Wakeup()
        self._committing: asyncio.Lock = asyncio.Lock()
        self._to_commit = 0
        self._committed = 0

    def announce(self, entries: Sequence[LogEntry]) -> None:
        """These were just published, in order. Event loop only.

        Should one be missing since the last call, what lies before it is left to the database.
        """
        for entry in entries:
            if self._tail_to is None or entry.offset != self._tail_to + 1:
                self._tail.clear()
                self._tail_after = entry.offset - 1
            elif len(self._tail) == _TAIL_MAX:
                self._tail_after = self._tail.popleft().offset
            self._tail.append(entry)
            self._tail_to = entry.offset
        if entries:
            self._news.set()

    async def poll(self, *, max_entries: int, timeout_s: float) -> LogBatch:
        if self._position is None:
            return await self._assign(max_entries)
        deadline = time.monotonic() + timeout_s
        while True:
            entries = await self._entries(self._position, max_entries)
            remaining = deadline - time.monotonic()
            if entries or remaining <= 0:
                break
            await self._news.wait(min(remaining, self._poll_s))
        if entries:
            self._position = entries[-1].offset
        return LogBatch(entries=tuple(entries))

    async def reread(self, partition: int, *, since_ms: int) -> AsyncIterator[LogEntry]:
        if partition != PARTITION:
            return
        try:
            end = await self._store.read(lambda tx: tx.outbox.head())
            after = 0
            while True:
                at = after
                rows = await self._store.read(
                    lambda tx, at=at: tx.outbox.broadcasts_since(since_ms, at, end, _READ_AT_ONCE)  # type: ignore[misc]
                )
                for row in rows:
                    yield row
                if len(rows) < _READ_AT_ONCE:
                    return
                after = rows[-1].offset
        except StoreUnavailable as exc:
            raise _unavailable(exc) from exc

    async def schedules(self) -> Sequence[TopicSchedule]:
        try:
            return await self._store.read(lambda tx: tx.outbox.schedules())
        except StoreUnavailable as exc:
            raise _unavailable(exc) from exc

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """Durable on return. Commits that arrive while one is being written are written together."""
        wanted = offsets.get(PARTITION, 0)
        self._to_commit = max(self._to_commit, wanted)
        async with self._committing:
            if self._committed >= wanted:
                return
            greatest = self._to_commit
            try:
                await self._store.write(lambda tx: tx.outbox.commit(self._consumer, greatest))
            except StoreUnavailable as exc:
                raise _unavailable(exc) from exc
            self._committed = greatest

    async def _assign(self, max_entries: int) -> LogBatch:
        try:
            committed = await self._store.read(lambda tx: tx.outbox.committed(self._consumer))
        except StoreUnavailable as exc:
            raise _unavailable(exc) from exc
        position = max(0, committed - 1)
        entries = await self._entries(position, max_entries)
        self._committed = self._to_commit = committed
        self._position = entries[-1].offset if entries else position
        return LogBatch(assigned={PARTITION: committed}, entries=tuple(entries))

    async def _entries(self, position: int, max_entries: int) -> list[LogEntry]:
        """Up to `max_entries` above `position`, from memory if it reaches back that far, else from the database."""
        if self._tail_after is not None and position >= self._tail_after:
            while self._tail and self._tail[0].offset <= position:
                self._tail_after = self._tail.popleft().offset
            if self._tail:
                return [self._tail[index] for index in range(min(max_entries, len(self._tail)))]
        try:
            return await self._store.read(lambda tx: tx.outbox.entries_after(position, max_entries))
        except StoreUnavailable as exc:
            raise _unavailable(exc) from exc


def _unavailable(exc: StoreUnavailable) -> LogUnavailable:
    return LogUnavailable(str(exc), retry_after_s=exc.retry_after_s)
