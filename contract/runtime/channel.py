"""A node link inside one process: two bounded queues that behave like a connection."""

from __future__ import annotations

import asyncio

from contract.errors import NodeUnreachable
from contract.node_link import LinkMessage

__all__ = ["MemoryChannel", "channel_pair"]


class MemoryChannel:
    """One end of a pair; satisfies MessageChannel."""

    def __init__(self, inbox: asyncio.Queue[LinkMessage], outbox: asyncio.Queue[LinkMessage], closed: asyncio.Event):
        self._inbox = inbox
        self._outbox = outbox
        self._closed = closed

    async def send(self, message: LinkMessage) -> None:
        if self._closed.is_set():
            raise NodeUnreachable("link closed")
        if not self._outbox.full():
            self._outbox.put_nowait(message)
            return
        await self._or_closed(asyncio.ensure_future(self._outbox.put(message)))

    async def receive(self) -> LinkMessage:
        if not self._inbox.empty():
            return self._inbox.get_nowait()
        if self._closed.is_set():
            raise NodeUnreachable("link closed")
        getting = asyncio.ensure_future(self._inbox.get())
        await self._or_closed(getting)
        return getting.result()

    def close(self) -> None:
        self._closed.set()

    async def _or_closed(self, doing: asyncio.Future[LinkMessage] | asyncio.Future[None]) -> None:
        closing = asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait({doing, closing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
            if not doing.done():
                doing.cancel()
        if not doing.done() or doing.cancelled():
            raise NodeUnreachable("link closed")


def channel_pair(*, bound: int = 256) -> tuple[MemoryChannel, MemoryChannel]:
    """Two connected ends, each holding at most `bound` unread messages."""
    one: asyncio.Queue[LinkMessage] = asyncio.Queue(bound)
    two: asyncio.Queue[LinkMessage] = asyncio.Queue(bound)
    closed = asyncio.Event()
    return MemoryChannel(one, two, closed), MemoryChannel(two, one, closed)
