"""Links to push nodes: hello, interest, numbered deliveries, acknowledgements, reach, and silence (R12, R14)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from contract.broadcast import Broadcast
from contract.clock import Clock
from contract.coverage import TopicCoverage
from contract.errors import NodeUnreachable
from contract.node_link import (
    LINK_PROTOCOL,
    CoverageReport,
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
from message_router.commit import Work
from message_router.delivery import DeliveryWindow
from message_router.interest import InterestTable
from message_router.metrics import RouterMetrics
from message_router.settings import RouterSettings

__all__ = ["LinkRefused", "NodeLinks"]

_MAX_CONTROL: Final = 1_024
"""Answers waiting to be sent: a node that asks this much without reading is cut."""
_log = structlog.get_logger(__name__)


class LinkRefused(Exception):
    """The router ends a link; `why` is a low-cardinality reason."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class _NodeLink:
    """One link after its hello. The receiving and the sending task share it; both end with its channel."""

    __slots__ = ("channel", "control", "heard_s", "incarnation", "node_id", "sendable", "timer", "why", "window")

    def __init__(self, channel: MessageChannel, hello: Hello, window: DeliveryWindow) -> None:
        self.channel = channel
        self.node_id = hello.node_id
        self.incarnation = hello.incarnation
        self.window = window
        self.control: deque[LinkMessage] = deque()
        self.sendable = asyncio.Event()
        self.timer: asyncio.TimerHandle | None = None
        self.heard_s = 0.0
        self.why = "closed by the node"

    def answer(self, message: LinkMessage) -> None:
        if len(self.control) >= _MAX_CONTROL:
            raise LinkRefused("answers not read")
        self.control.append(message)
        self.sendable.set()


class NodeLinks:
    """Every link of this router, and who is interested in what over them."""

    def __init__(
        self,
        settings: RouterSettings,
        *,
        clock: Clock,
        metrics: RouterMetrics,
        on_reach: Callable[[Iterable[ReachCount]], None],
        on_coverage: Callable[[Iterable[TopicCoverage]], None],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._on_reach = on_reach
        self._on_coverage = on_coverage
        self._interest: InterestTable[_NodeLink] = InterestTable()
        self._by_node: dict[str, _NodeLink] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._channels: set[MessageChannel] = set()
        self._closed = False
        self._count = 0

    # -- what a status shows ------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """Nodes linked."""
        return len(self._by_node)

    @property
    def behind(self) -> list[str]:
        """Ids of the nodes that are sent to but not awaited (R12)."""
        return sorted(node_id for node_id, link in self._by_node.items() if link.window.behind)

    @property
    def topics(self) -> int:
        """Topics some node is interested in."""
        return len(self._interest)

    # -- what the relay asks ------------------------------------------------------------------------------------

    def attach(self, channel: MessageChannel) -> None:
        """Own `channel` until it closes; its node is expected to say hello."""
        if self._closed:
            channel.close()
            return
        self._count += 1
        task = asyncio.create_task(self._serve(channel), name=f"router-link-{self._count}")
        self._tasks.add(task)
        self._channels.add(channel)
        task.add_done_callback(self._tasks.discard)

    def deliver_broadcast(self, broadcast: Broadcast, work: Work) -> int:
        """Offer to every interested link; returns to how many. `work` is held until those awaited have it."""
        links = list(self._interest.links(broadcast.topic))
        now_s = self._clock.monotonic_s()
        for link in links:
            link.window.offer_broadcast(broadcast, (work,), now_s)
            self._offered(link)
        return len(links)

    def deliver_schedule(self, schedule: TopicSchedule, work: Work | None = None) -> int:
        """As `deliver_broadcast`; a rebuild's schedules are no log entries and hold no work."""
        links = list(self._interest.links(schedule.topic))
        now_s = self._clock.monotonic_s()
        for link in links:
            link.window.offer_schedule(schedule, (work,) if work else (), now_s)
            self._offered(link)
        return len(links)

    async def close(self) -> None:
        """Close every link and wait for their tasks; later ones are refused. Idempotent."""
        self._closed = True
        for channel in list(self._channels):
            channel.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- one link's life ----------------------------------------------------------------------------------------

    async def _serve(self, channel: MessageChannel) -> None:
        why = "closed by the node"
        link: _NodeLink | None = None
        try:
            link = await self._welcome(channel)
            await self._converse(link)
        except NodeUnreachable:
            why = link.why if link is not None else why
        except LinkRefused as exc:
            why = exc.why
        except asyncio.CancelledError:
            why = "router stops"
            raise
        finally:
            self._channels.discard(channel)
            channel.close()
            if link is not None:
                self._drop(link)
            self._metrics.links_closed.labels(why).inc()
            _log.info("node_link_closed", node=link.node_id if link else None, why=why)

    async def _welcome(self, channel: MessageChannel) -> _NodeLink:
        try:
            async with asyncio.timeout(self._settings.hello_timeout_s):
                hello = await channel.receive()
        except TimeoutError:
            raise LinkRefused("no hello") from None
        if not isinstance(hello, Hello):
            raise LinkRefused("no hello")
        if hello.protocol != LINK_PROTOCOL:
            raise LinkRefused("other protocol")
        window = DeliveryWindow(
            max_unacked=self._settings.max_unacked_batches,
            max_pending=self._settings.max_pending_broadcasts,
            deadline_s=self._settings.node_deadline_s,
        )
        link = _NodeLink(channel, hello, window)
        link.heard_s = self._clock.monotonic_s()
        if len(hello.topics) > self._settings.max_topics_per_link:
            raise LinkRefused("too many topics")
        older = self._by_node.get(link.node_id)
        if older is not None:
            # A node speaks over one link: it came back before we noticed that it was gone.
            older.why = "replaced"
            older.channel.close()
            self._drop(older)
        self._by_node[link.node_id] = link
        self._interest.hello(link, hello.topics)
        link.answer(HelloAccepted(self._settings.router_id))
        self._metrics.links.inc()
        _log.info("node_linked", node=hello.node_id, incarnation=hello.incarnation, topics=len(hello.topics))
        return link

    async def _converse(self, link: _NodeLink) -> None:
        """Receive until the link ends; the other two tasks end with it."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send_all(link), name=f"router-link-send-{link.node_id}")
                group.create_task(self._watch_silence(link), name=f"router-link-watch-{link.node_id}")
                group.create_task(self._receive_all(link), name=f"router-link-receive-{link.node_id}")
        except* (NodeUnreachable, LinkRefused) as ended:
            refused = [exc for exc in _leaves(ended) if isinstance(exc, LinkRefused)]
            raise (refused[0] if refused else NodeUnreachable("link closed")) from None

    async def _receive_all(self, link: _NodeLink) -> None:
        while True:
            message = await link.channel.receive()
            if self._by_node.get(link.node_id) is not link:
                raise NodeUnreachable("link dropped")  # overflowed, or the node is back on a newer one
            link.heard_s = self._clock.monotonic_s()
            self._receive(link, message)

    def _receive(self, link: _NodeLink, message: LinkMessage) -> None:
        match message:
            case DeliverAck(seq=seq):
                was_behind = link.window.behind
                if not link.window.acked(seq):
                    raise LinkRefused("unknown batch")
                failpoint("router.deliver.after_ack")
                link.sendable.set()
                if was_behind and not link.window.behind:
                    self._metrics.behind.dec()
                    _log.info("node_caught_up", node=link.node_id)
            case InterestDelta(seq=seq, added=added, removed=removed):
                self._interest.delta(link, added=added, removed=removed)
                if self._interest.topic_count(link) > self._settings.max_topics_per_link:
                    raise LinkRefused("too many topics")
                link.answer(InterestAck(seq))
            case ReachReport(counts=counts):
                self._on_reach(counts)
            case CoverageReport():
                self._on_coverage(_shares(link, message))
            case LinkPing():
                link.answer(LinkPong())
            case LinkPong():
                pass
            case Hello(topics=topics):
                self._interest.hello(link, topics)
                link.answer(HelloAccepted(self._settings.router_id))
            case _:
                raise LinkRefused("unexpected message")

    async def _send_all(self, link: _NodeLink) -> None:
        """Answers first: an interest acknowledged before a delivery is what makes that delivery complete."""
        while True:
            while link.control:
                await link.channel.send(link.control.popleft())
            batch = link.window.next_batch(self._settings.max_batch_items)
            if batch is not None:
                failpoint("router.deliver.before_send")
                self._metrics.batches.inc()
                await link.channel.send(batch)
            elif not link.control:
                link.sendable.clear()
                await link.sendable.wait()

    async def _watch_silence(self, link: _NodeLink) -> None:
        """Ask a quiet node for a sign, end the link of one that stays silent: `silence_s` and half a ping after."""
        ping_s, asked_s = self._settings.ping_interval_s, 0.0
        while True:
            slept_s = self._clock.monotonic_s()
            await asyncio.sleep(ping_s / 2)
            now_s = self._clock.monotonic_s()
            if now_s - slept_s > 2 * ping_s:
                continue  # it was us who were frozen: what came meanwhile is yet to be read
            silent_s = now_s - link.heard_s
            if silent_s >= self._settings.silence_s:
                raise LinkRefused("silent")
            if silent_s >= ping_s / 2 and now_s - asked_s >= ping_s:
                asked_s = now_s
                link.answer(LinkPing())

    # -- deadlines and bounds -----------------------------------------------------------------------------------

    def _offered(self, link: _NodeLink) -> None:
        if link.window.overflowing:
            link.why = "too far behind"
            link.channel.close()
            self._drop(link)
            return
        link.sendable.set()
        if link.timer is None:
            self._arm(link)

    def _arm(self, link: _NodeLink) -> None:
        deadline_s = link.window.next_deadline_s()
        if deadline_s is None:
            link.timer = None
            return
        pause_s = max(0.001, deadline_s - self._clock.monotonic_s())
        link.timer = asyncio.get_running_loop().call_later(pause_s, self._check_deadline, link)

    def _check_deadline(self, link: _NodeLink) -> None:
        if link.window.expire(self._clock.monotonic_s()):
            self._metrics.behind.inc()
            _log.warning("node_behind", node=link.node_id, unacked=link.window.unacked)
        self._arm(link)

    def _drop(self, link: _NodeLink) -> None:
        """Forget the link's interest and let its work go; idempotent, and never touches a newer link of the node."""
        if link.timer is not None:
            link.timer.cancel()
            link.timer = None
        if link.window.behind:
            self._metrics.behind.dec()
            link.window.behind = False
        self._interest.drop(link)
        link.window.close()
        if self._by_node.get(link.node_id) is link:
            del self._by_node[link.node_id]
            self._metrics.links.dec()


def _shares(link: _NodeLink, report: CoverageReport) -> list[TopicCoverage]:
    """What a node reports is put to the incarnation that its link belongs to."""
    return [
        TopicCoverage(
            node_id=link.node_id,
            incarnation=link.incarnation,
            begun_at=report.begun_at,
            seq=report.seq,
            topic=share.topic,
            held=share.held,
        )
        for share in report.shares
    ]


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for exc in group.exceptions:
        found.extend(_leaves(exc) if isinstance(exc, BaseExceptionGroup) else [exc])
    return found
