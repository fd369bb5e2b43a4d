"""The node's end of the link to each router: hello, interest, deliveries acknowledged, reach reported (R12, R14)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

import structlog

from contract.broadcast import Broadcast
from contract.clock import Clock
from contract.errors import NodeUnreachable
from contract.node_link import (
    CoverageReport,
    Deliver,
    DeliverAck,
    Hello,
    HelloAccepted,
    InterestAck,
    InterestDelta,
    LinkMessage,
    LinkPing,
    LinkPong,
    MessageChannel,
    ReachReport,
)
from contract.reach import ReachCount
from contract.runtime.failpoints import failpoint
from contract.schedule import TopicSchedule

__all__ = ["MAX_UNACKED", "RouterLinks"]

MAX_UNACKED: Final = 256
"""Deliveries of one link being written at once; further ones wait in the channel, whose bound then holds the router."""
_MAX_REPORTED: Final = 512
"""Reach counts, or shares of coverage, per message."""

Deliverer = Callable[[Iterable[Broadcast], Iterable[TopicSchedule]], "asyncio.Future[int]"]
_log = structlog.get_logger(__name__)


class RouterLinks:
    """All links of this node. `bind` before use: the node and its links know each other."""

    def __init__(
        self,
        *,
        node_id: str,
        incarnation: str,
        interest_ack_s: float,
        ping_s: float,
        silence_s: float,
        clock: Clock,
    ) -> None:
        self._node_id = node_id
        self._incarnation = incarnation
        self._interest_ack_s = interest_ack_s
        self._ping_s = ping_s
        self._silence_s = silence_s
        self._clock = clock
        self._links: dict[_Link, None] = {}
        self._attached_early: list[MessageChannel] = []
        self._running = False
        self._stopped = False
        self._deliver: Deliverer | None = None
        self._topics: Callable[[], Sequence[str]] = tuple
        self._on_linked: Callable[[], None] = _nothing
        self._on_unlinked: Callable[[], None] = _nothing
        self._heard_at_s = clock.monotonic_s()
        self._watching: asyncio.Task[None] | None = None

    def bind(
        self,
        *,
        deliver: Deliverer,
        topics: Callable[[], Sequence[str]],
        on_linked: Callable[[], None],
        on_unlinked: Callable[[], None],
    ) -> None:
        """`topics`: what a hello names; `on_linked`: a router accepted this node; `on_unlinked`: a link ended."""
        self._deliver = deliver
        self._topics = topics
        self._on_linked = on_linked
        self._on_unlinked = on_unlinked

    @property
    def heard_at_s(self) -> float:
        """Last moment at which a linked router was heard: a frozen one is linked, and no source of anything."""
        self._heard_at_s = max([self._heard_at_s, *(link.heard_s for link in self._links if link.accepted)])
        return self._heard_at_s

    @property
    def connected(self) -> bool:
        return any(link.accepted for link in self._links)

    @property
    def count(self) -> int:
        return sum(link.accepted for link in self._links)

    def attach(self, channel: MessageChannel) -> None:
        """Own a new link until it closes; before `start` it waits, after `stop` it is closed."""
        if self._stopped:
            channel.close()
        elif self._running:
            self._open(channel)
        else:
            self._attached_early.append(channel)

    def start(self) -> None:
        self._running = True
        self._watching = asyncio.create_task(self._watch_forever(), name="push.links")
        early, self._attached_early = self._attached_early, []
        for channel in early:
            self._open(channel)

    async def stop(self) -> None:
        """Close every link and wait for its tasks; idempotent."""
        self._stopped = True
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
        links = list(self._links)
        for link in links:
            link.close()
        await asyncio.gather(*(link.closed() for link in links))

    async def register(self, topic: str) -> None:
        """InterestPort.register: a router that once missed the bound is told, and not waited for until it answers."""
        told = [(link, link.change_interest(added=(topic,))) for link in self._links]
        awaited = {ack: link for link, ack in told if not link.late}
        if awaited:
            _, missing = await asyncio.wait(awaited, timeout=self._interest_ack_s)
            for ack in missing:
                awaited[ack].late = True

    def withdraw(self, topics: Sequence[str]) -> None:
        """InterestPort.withdraw; nobody waits for its acknowledgement."""
        for link in self._links:
            link.change_interest(removed=tuple(topics))

    def report(self, counts: Sequence[ReachCount]) -> bool:
        """Send reach counts to one router that is not silent; False if none is linked."""
        link = self._listener()
        if link is None:
            return False
        for start in range(0, len(counts), _MAX_REPORTED):
            link.post(ReachReport(tuple(counts[start : start + _MAX_REPORTED])))
        return True

    def report_coverage(self, report: CoverageReport) -> bool:
        """Send shares of coverage to one router that is not silent; False if none is linked."""
        link = self._listener()
        if link is None:
            return False
        for start in range(0, len(report.shares), _MAX_REPORTED):
            shares = report.shares[start : start + _MAX_REPORTED]
            link.post(CoverageReport(report.begun_at, report.seq, shares))
        return True

    def _listener(self) -> _Link | None:
        accepted = [link for link in self._links if link.accepted]
        if not accepted:
            return None
        recent_s = self._clock.monotonic_s() - 2 * self._ping_s
        return next((link for link in accepted if link.heard_s >= recent_s), accepted[0])

    async def _watch_forever(self) -> None:
        """Ask quiet routers for a sign, end links that stay silent: at most `silence_s` and half a `ping_s` after."""
        while True:
            slept_s = self._clock.monotonic_s()
            await asyncio.sleep(self._ping_s / 2)
            now_s = self._clock.monotonic_s()
            if now_s - slept_s > 2 * self._ping_s:
                continue  # it was us who were frozen: what came meanwhile is yet to be read
            for link in list(self._links):
                link.watch(now_s, ping_s=self._ping_s, silence_s=self._silence_s)

    def _open(self, channel: MessageChannel) -> None:
        assert self._deliver is not None, "bind first"
        link = _Link(channel, self._clock, deliver=self._deliver, on_accepted=self._accepted)
        self._links[link] = None
        link.post(Hello(self._node_id, self._incarnation, tuple(self._topics())))
        link.start(on_end=self._ended)

    def _accepted(self) -> None:
        self._on_linked()

    def _ended(self, link: _Link, was_accepted: bool) -> None:
        if was_accepted:
            self._heard_at_s = max(self._heard_at_s, link.heard_s)
        self._links.pop(link, None)
        self._on_unlinked()


class _Link:
    """One channel: a task that reads, a task that writes, and what still has to be acknowledged."""

    def __init__(
        self, channel: MessageChannel, clock: Clock, *, deliver: Deliverer, on_accepted: Callable[[], None]
    ) -> None:
        self._channel = channel
        self._clock = clock
        self._asked_s = self.heard_s = clock.monotonic_s()
        self._deliver = deliver
        self._on_accepted = on_accepted
        self._outbox: list[LinkMessage] = []
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._unacked = 0
        self._seq = 0
        self._interest: dict[int, asyncio.Future[None]] = {}
        self._task: asyncio.Task[None] | None = None
        self.accepted = False
        self.late = False
        """Whether it missed the bound on an interest's acknowledgement, and acknowledged none since."""
        self.router_id = "?"

    def start(self, *, on_end: Callable[[_Link, bool], None]) -> None:
        self._task = asyncio.create_task(self._run(on_end), name="push.link")

    def close(self) -> None:
        self._channel.close()

    async def closed(self) -> None:
        if self._task is not None:
            await asyncio.wait({self._task})

    def watch(self, now_s: float, *, ping_s: float, silence_s: float) -> None:
        """A half-open link looks like a quiet one until it is asked; while we do not read, it cannot answer."""
        if self._unacked >= MAX_UNACKED:
            return
        silent_s = now_s - self.heard_s
        if silent_s >= silence_s:
            _log.warning("router_silent", router=self.router_id, for_s=round(silent_s, 1))
            self._channel.close()
        elif silent_s >= ping_s / 2 and now_s - self._asked_s >= ping_s:
            self._asked_s = now_s
            self.post(LinkPing())

    def post(self, message: LinkMessage) -> None:
        """Queue a message. Bounded: acks by MAX_UNACKED, interest by topics, reports by time."""
        self._outbox.append(message)
        self._wake.set()

    def change_interest(self, *, added: tuple[str, ...] = (), removed: tuple[str, ...] = ()) -> asyncio.Future[None]:
        """Ends when the router acknowledged, or the link ended: who is gone delivers nothing."""
        self._seq += 1
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._interest[self._seq] = future
        self.post(InterestDelta(self._seq, added, removed))
        return future

    async def _run(self, on_end: Callable[[_Link, bool], None]) -> None:
        accepted = False
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_until_closed(self._write), name="push.link.write")
                await _until_closed(self._read)
                self._channel.close()
                self._wake.set()
        finally:
            self._channel.close()
            accepted, self.accepted = self.accepted, False
            for future in self._interest.values():
                if not future.done():
                    future.set_result(None)
            on_end(self, accepted)
            _log.info("router_link_ended", router=self.router_id)

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            messages, self._outbox = self._outbox, []
            for message in messages:
                if isinstance(message, DeliverAck):
                    failpoint("node.deliver.before_ack")
                await self._channel.send(message)
                if isinstance(message, DeliverAck):
                    failpoint("node.deliver.after_ack")
            if not messages:
                raise NodeUnreachable("link closed")

    async def _read(self) -> None:
        while True:
            message = await self._channel.receive()
            self.heard_s = self._clock.monotonic_s()
            if isinstance(message, Deliver):
                await self._delivered(message)
            elif isinstance(message, InterestAck):
                self.late = False
                future = self._interest.pop(message.seq, None)
                if future is not None and not future.done():
                    future.set_result(None)
            elif isinstance(message, LinkPing):
                self.post(LinkPong())
            elif isinstance(message, HelloAccepted):
                self.accepted = True
                self.router_id = message.router_id
                _log.info("router_linked", router=message.router_id)
                self._on_accepted()

    async def _delivered(self, message: Deliver) -> None:
        while self._unacked >= MAX_UNACKED:
            self._room.clear()
            await self._room.wait()
            self.heard_s = self._clock.monotonic_s()  # what was sent meanwhile is still to be read
        self._unacked += 1

        def acknowledge(done: asyncio.Future[int]) -> None:
            self._unacked -= 1
            self._room.set()
            if not done.cancelled():
                self.post(DeliverAck(message.seq, done.result()))

        self._deliver(message.broadcasts, message.schedules).add_done_callback(acknowledge)


async def _until_closed(work: Callable[[], Awaitable[None]]) -> None:
    with contextlib.suppress(NodeUnreachable):
        await work()


def _nothing() -> None:
    """Until bound."""
