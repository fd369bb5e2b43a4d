"""The router's end of node links, as little of it as a benchmark needs: feeds broadcasts to push nodes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

from contract.broadcast import Broadcast
from contract.errors import BroadcastSystemError, NodeUnreachable
from contract.node_link import (
    Deliver,
    DeliverAck,
    Hello,
    HelloAccepted,
    InterestAck,
    InterestDelta,
    LinkPing,
    LinkPong,
)
from contract.runtime.link_handshake import NodeIdentity
from contract.runtime.ws_channel import WebSocketChannel, connect_link
from contract.schedule import TopicSchedule
from contract.tokens import KeyRing
from loadtest.bench.outcome import CouldNotRun

__all__ = ["NodeFeed"]

_ROUTER: Final = "bench-router"
_HELLO_WITHIN_S: Final = 10.0


class NodeFeed:
    """One link. `async with NodeFeed.linked(...)`-less: `open` it, `close` it; a link that ends stays ended."""

    def __init__(self, channel: WebSocketChannel) -> None:
        self._channel = channel
        self._seq = 0
        self._acks: dict[int, asyncio.Future[int]] = {}
        self._accepted = asyncio.Event()
        self._reading = asyncio.create_task(self._read(), name="bench.feed")

    @classmethod
    async def open(cls, address: str, *, ring: KeyRing, node: NodeIdentity) -> NodeFeed:
        """A link on which the node said hello. Raises CouldNotRun."""
        try:
            channel = await connect_link(address, ring=ring, router_id=_ROUTER, expected=node)
        except BroadcastSystemError as exc:
            raise CouldNotRun(f"no node link at {address}: {exc}") from exc
        feed = cls(channel)
        try:
            async with asyncio.timeout(_HELLO_WITHIN_S):
                await feed._accepted.wait()
        except TimeoutError:
            await feed.close()
            raise CouldNotRun(f"the node at {address} said no hello within {_HELLO_WITHIN_S:.0f} s") from None
        except BaseException:
            await feed.close()
            raise
        return feed

    @property
    def alive(self) -> bool:
        return not self._reading.done()

    async def deliver(
        self, broadcasts: Sequence[Broadcast] = (), schedules: Sequence[TopicSchedule] = ()
    ) -> asyncio.Future[int]:
        """Send; the future ends with the number of connections written to, or NodeUnreachable. Raises that, too."""
        self._seq += 1
        ack = self._acks[self._seq] = asyncio.get_running_loop().create_future()
        ack.add_done_callback(_looked_at)
        await self._channel.send(Deliver(self._seq, tuple(broadcasts), tuple(schedules)))
        return ack

    async def close(self) -> None:
        """End the link; idempotent."""
        self._channel.close()
        await asyncio.wait({self._reading})
        await self._channel.wait_closed()

    async def _read(self) -> None:
        with contextlib.suppress(NodeUnreachable):
            while True:
                message = await self._channel.receive()
                if isinstance(message, DeliverAck):
                    if (ack := self._acks.pop(message.seq, None)) is not None and not ack.done():
                        ack.set_result(message.written)
                elif isinstance(message, Hello):
                    await self._channel.send(HelloAccepted(_ROUTER))
                    self._accepted.set()
                elif isinstance(message, InterestDelta):
                    await self._channel.send(InterestAck(message.seq))
                elif isinstance(message, LinkPing):
                    await self._channel.send(LinkPong())
        for ack in self._acks.values():
            if not ack.done():
                ack.set_exception(NodeUnreachable("link closed"))


def _looked_at(ack: asyncio.Future[int]) -> None:
    """A delivery nobody waits for may fail in silence: the node was killed on purpose."""
    if not ack.cancelled():
        ack.exception()
