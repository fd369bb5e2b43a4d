"""A node link inside one process: two bounded queues that behave like a connection."""

from __future__ import annotations

import asyncio
from collections import deque

from contract.errors import NodeUnreachable
from contract.node_link import LinkMessage

__all__ = ["MemoryChannel", "channel_pair"]


class _Pipe:
    """One direction: what was sent and not yet received, and who waits for either end.

    Hand-made instead of `asyncio.Queue`, which cannot be closed: racing a queue against a close event costs two tasks
    a message and loses the message when both happen in the same turn of the loop.
    """

    __slots__ = ("bound", "closed", "messages", "reader", "writers")

    def __init__(self, bound: int) -> None:
        assert bound >= 1
        self.bound = bound
        self.messages: deque[LinkMessage] = deque()
        self.closed = False
        self.reader: asyncio.Future[None] | None = None
        self.writers: deque[asyncio.Future[None]] = deque()

    async def put(self, message: LinkMessage) -> None:
        while not self.closed and len(self.messages) >= self.bound:
            waiter = asyncio.get_running_loop().create_future()
            self.writers.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake_writer()  # our turn goes to the next in line
                raise
        if self.closed:
            raise NodeUnreachable("link closed")
        self.messages.append(message)
        self._wake_reader()

    async def get(self) -> LinkMessage:
        while not self.messages:
            if self.closed:
                raise NodeUnreachable("link closed")
            assert self.reader is None, "two tasks receive from one channel"
            self.reader = asyncio.get_running_loop().create_future()
            try:
                await self.reader
            finally:
                self.reader = None
        message = self.messages.popleft()
        self._wake_writer()
        return message

    def close(self) -> None:
        self.closed = True
        self._wake_reader()
        while self.writers:
            self._wake_writer()

    def _wake_reader(self) -> None:
        if self.reader is not None and not self.reader.done():
            self.reader.set_result(None)

    def _wake_writer(self) -> None:
        while self.writers:
            waiter = self.writers.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return


class MemoryChannel:
    """One end of a pair; satisfies MessageChannel."""

    __slots__ = ("_inbox", "_outbox")

    def __init__(self, inbox: _Pipe, outbox: _Pipe) -> None:
        self._inbox = inbox
        self._outbox = outbox

    async def send(self, message: LinkMessage) -> None:
        await self._outbox.put(message)

    async def receive(self) -> LinkMessage:
        return await self._inbox.get()

    def close(self) -> None:
        self._inbox.close()
        self._outbox.close()


def channel_pair(*, bound: int = 256) -> tuple[MemoryChannel, MemoryChannel]:
    """Two connected ends, each holding at most `bound` unread messages."""
    one, two = _Pipe(bound), _Pipe(bound)
    return MemoryChannel(one, two), MemoryChannel(two, one)
