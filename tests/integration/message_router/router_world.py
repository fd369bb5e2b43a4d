"""A router's surroundings for tests: a scripted log, nodes that acknowledge or do not, a store that can fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from contract.broadcast import Broadcast
from contract.coverage import CoverageShare, TopicCoverage
from contract.errors import LogUnavailable, NodeUnreachable, StoreUnavailable
from contract.kv.memory import MemoryReplayLog, MemoryScheduleView
from contract.kv.ports import StoreLife
from contract.log import LogBatch, LogEntry
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
from contract.replay_log import AppendResult
from contract.runtime.channel import channel_pair
from contract.runtime.runner import Readiness
from contract.runtime.system_clock import SystemClock
from contract.schedule import PlannedStage, TopicSchedule
from message_router.app import Router, build_router
from message_router.settings import RouterSettings

__all__ = ["FakeLog", "FakeNode", "FlakyReplayLog", "FlakyView", "World", "eventually", "night", "schedule", "world"]

TOPIC = "event:night"


def night(
    count: int, *, topic: str = TOPIC, start: int | None = None, step: int = 10, prev: int = 0
) -> list[Broadcast]:
    """A chain of broadcasts, the newest a moment ago."""
    first = start if start is not None else SystemClock().now_ms() - step * (count + 1)
    found = []
    for number in range(count):
        timestamp = first + number * step
        found.append(Broadcast(topic=topic, state_key=f"s{number}", timestamp=timestamp, prev=prev, event_id=topic[6:]))
        prev = timestamp
    return found


def schedule(revision: int, *, topic: str = TOPIC) -> TopicSchedule:
    return TopicSchedule(
        topic=topic,
        event_id=topic[6:],
        title="A night",
        revision=revision,
        version=1,
        starts_at=1_800_000_000_000,
        stages=(PlannedStage(key="live", order=1, due_at=1_800_000_000_000 + revision),),
    )


async def eventually(holds: Callable[[], bool], *, within_s: float = 3.0, what: str = "") -> None:
    """Wait until `holds`, or fail."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while not holds():
        assert loop.time() < deadline, what or "did not happen in time"
        await asyncio.sleep(0.005)


class FakeLog:
    """Entries of partitions in memory, polled in order from what was committed when they were assigned."""

    def __init__(self) -> None:
        self.entries: dict[int, list[LogEntry]] = {}
        self.committed: dict[int, int] = {}
        self.schedule_table: dict[str, TopicSchedule] = {}
        self.failing = False
        self.rereads = 0
        self.open_rereads = 0
        self.most_open_rereads = 0
        self._next: dict[int, int] = {}
        self._assign: dict[int, int] = {}
        self._revoke: list[int] = []
        self._changed = asyncio.Event()

    def assign(self, partition: int = 0) -> None:
        self._assign[partition] = self._next[partition] = self.committed.get(partition, 0)
        self._changed.set()

    def revoke(self, partition: int) -> None:
        self._next.pop(partition, None)
        self._revoke.append(partition)
        self._changed.set()

    def publish(self, *broadcasts: Broadcast, partition: int = 0) -> None:
        for broadcast in broadcasts:
            self._add(partition, broadcast=broadcast)

    def publish_schedule(self, plan: TopicSchedule, partition: int = 0) -> None:
        self.schedule_table[plan.topic] = plan
        self._add(partition, schedule=plan)

    def _add(
        self, partition: int, *, broadcast: Broadcast | None = None, schedule: TopicSchedule | None = None
    ) -> None:
        entries = self.entries.setdefault(partition, [])
        offset = entries[-1].offset + 3 if entries else 0  # rising, not contiguous
        entries.append(LogEntry(partition, offset, broadcast, schedule))
        self._changed.set()

    def end(self, partition: int = 0) -> int:
        return self.entries[partition][-1].offset + 1

    async def poll(self, *, max_entries: int, timeout_s: float) -> LogBatch:
        if self.failing:
            raise LogUnavailable("the log is away")
        if not self._pending():
            self._changed.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait()
            except TimeoutError:
                return LogBatch()
        if self.failing:
            raise LogUnavailable("the log is away")
        revoked, self._revoke = tuple(self._revoke), []
        assigned, self._assign = self._assign, {}
        found: list[LogEntry] = []
        for partition, position in self._next.items():
            fresh = [entry for entry in self.entries.get(partition, []) if entry.offset >= position]
            fresh = fresh[: max_entries - len(found)]
            if fresh:
                self._next[partition] = fresh[-1].offset + 1
                found += fresh
        return LogBatch(revoked, assigned, tuple(found))

    def _pending(self) -> bool:
        return bool(
            self._assign
            or self._revoke
            or any(
                entry.offset >= position
                for partition, position in self._next.items()
                for entry in self.entries.get(partition, [])[-1:]
            )
        )

    async def reread(self, partition: int, *, since_ms: int) -> AsyncIterator[LogEntry]:
        self.rereads += 1
        if self.failing:
            raise LogUnavailable("the log is away")
        self.open_rereads += 1
        self.most_open_rereads = max(self.most_open_rereads, self.open_rereads)
        try:
            for entry in list(self.entries.get(partition, [])):
                if entry.broadcast is not None and entry.broadcast.timestamp >= since_ms:
                    yield entry
        finally:
            self.open_rereads -= 1

    async def schedules(self) -> Sequence[TopicSchedule]:
        if self.failing:
            raise LogUnavailable("the log is away")
        return list(self.schedule_table.values())

    async def commit(self, offsets: Mapping[int, int]) -> None:
        if self.failing:
            raise LogUnavailable("the log is away")
        for partition, offset in offsets.items():
            assert offset >= self.committed.get(partition, 0), "a commit went back"
            self.committed[partition] = offset


class FlakyReplayLog(MemoryReplayLog):
    """Fails, hangs, or forgets, as told."""

    def __init__(self) -> None:
        super().__init__()
        self.failing = False
        self.pause_s = 0.0
        self.appends = 0
        self.extensions = 0
        self.refuses_extensions = 0
        self.tails_pause_s = 0.0
        self.after_extension: Callable[[], None] | None = None

    async def _answer(self) -> None:
        if self.failing:
            raise StoreUnavailable("the store is away")
        if self.pause_s:
            await asyncio.sleep(self.pause_s)

    async def append(self, broadcast: Broadcast) -> AppendResult:
        await self._answer()
        self.appends += 1
        return await super().append(broadcast)

    async def extend(self, broadcasts: Sequence[Broadcast], *, tail: int, floor: int | None = None) -> AppendResult:
        await self._answer()
        self.extensions += 1
        if self.refuses_extensions > 0:
            self.refuses_extensions -= 1
            raise StoreUnavailable("the store is away")
        result = await super().extend(broadcasts, tail=tail, floor=floor)
        if self.after_extension is not None:
            self.after_extension()
        return result

    async def tails(self, topics: Sequence[str]) -> Mapping[str, int]:
        await self._answer()
        await asyncio.sleep(self.tails_pause_s)
        return await super().tails(topics)

    def tail(self, topic: str) -> int:
        log = self._logs.get(topic)
        return log.tail if log else 0

    def lose_everything(self) -> None:
        self._logs.clear()


class FlakyView(MemoryScheduleView):
    def __init__(self) -> None:
        super().__init__()
        self.failing = False
        self.dies_in_put = ""
        """The life that begins with the next `put`, without a word."""
        self.marks: list[str] = []
        self.held_at_mark: dict[str, set[str]] = {}
        self.marked: str | None = None
        self._life = "life-1"

    async def put(self, schedule: TopicSchedule) -> bool:
        if self.failing:
            raise StoreUnavailable("the store is away")
        if self.dies_in_put:
            self.begin_life(self.dies_in_put)
            self.dies_in_put = ""
            return True
        return await super().put(schedule)

    async def life(self) -> StoreLife:
        if self.failing:
            raise StoreUnavailable("the store is away")
        return StoreLife(self._life, whole=self.marked == self._life)

    async def mark_whole(self, name: str) -> None:
        self.marked = name
        self.marks.append(name)
        self.held_at_mark[name] = set(self._schedules)

    def begin_life(self, name: str) -> None:
        """Restarted, back with nothing."""
        self._life = name
        self.forget()

    def forget(self) -> None:
        self.marked = None
        self._schedules.clear()
        self._topics.clear()


class FakeReach:
    def __init__(self) -> None:
        self.counts: dict[tuple[str, str, str, int], ReachCount] = {}
        self.coverage: dict[tuple[str, str, str], TopicCoverage] = {}
        self.coverage_writes: list[int] = []
        self.failing = False

    async def record_reach(self, counts: Sequence[ReachCount]) -> None:
        if self.failing:
            raise StoreUnavailable("no disk")
        for count in counts:
            self.counts[count.node_id, count.incarnation, count.topic, count.timestamp] = count

    async def record_coverage(self, shares: Sequence[TopicCoverage]) -> None:
        if self.failing:
            raise StoreUnavailable("no disk")
        self.coverage_writes.append(len(shares))
        for share in shares:
            self.coverage[share.node_id, share.incarnation, share.topic] = share


class FakeNode:
    """A push node's end of a link: says hello, keeps what it is sent, acknowledges while `acking`."""

    def __init__(self, channel: MessageChannel, node_id: str, *topics: str) -> None:
        self.channel = channel
        self.node_id = node_id
        self.topics = topics
        self.acking = True
        self.closed = False
        self.accepted = asyncio.Event()
        self.interest_acked: list[int] = []
        self.broadcasts: list[Broadcast] = []
        self.arrived_s: list[float] = []
        self.schedules: list[TopicSchedule] = []
        self.unacked: list[int] = []
        self.answers_pings = True
        self._task = asyncio.create_task(self._run(), name=f"fake-{node_id}")

    async def _run(self) -> None:
        await self.channel.send(Hello(self.node_id, "i1", self.topics))
        try:
            while True:
                await self._handle(await self.channel.receive())
        except NodeUnreachable:
            self.closed = True

    async def _handle(self, message: LinkMessage) -> None:
        match message:
            case HelloAccepted():
                self.accepted.set()
            case InterestAck(seq=seq):
                self.interest_acked.append(seq)
            case Deliver(seq=seq, broadcasts=broadcasts, schedules=schedules):
                self.broadcasts += broadcasts
                self.arrived_s += [asyncio.get_running_loop().time()] * len(broadcasts)
                self.schedules += schedules
                self.unacked.append(seq)
                if self.acking:
                    await self.ack_all()
            case LinkPing() if self.answers_pings:
                await self.channel.send(LinkPong())

    async def ack_all(self) -> None:
        while self.unacked:
            await self.channel.send(DeliverAck(self.unacked.pop(0)))

    async def want(self, seq: int, *topics: str) -> None:
        await self.channel.send(InterestDelta(seq, added=topics))
        await eventually(lambda: seq in self.interest_acked, what="interest not acknowledged")

    async def report(self, *counts: ReachCount) -> None:
        await self.channel.send(ReachReport(counts))

    async def report_coverage(self, seq: int, *shares: CoverageShare) -> None:
        await self.channel.send(CoverageReport(begun_at=1_000, seq=seq, shares=shares))

    @property
    def timestamps(self) -> list[int]:
        return [broadcast.timestamp for broadcast in self.broadcasts]

    async def stop(self) -> None:
        self.channel.close()
        await self._task


class World:
    """A running router and everything around it."""

    def __init__(self, settings: RouterSettings, store: FlakyReplayLog | None, view: FlakyView | None) -> None:
        self.settings = settings
        self.log = FakeLog()
        self.store = store or FlakyReplayLog()
        self.view = view or FlakyView()
        self.reach = FakeReach()
        self.readiness = Readiness()
        self.nodes: list[FakeNode] = []
        self.router: Router = build_router(
            settings,
            log=self.log,
            replay_log=self.store,
            schedule_view=self.view,
            reports=self.reach,
            clock=SystemClock(),
            readiness=self.readiness,
        )

    async def node(self, node_id: str, *topics: str, acking: bool = True) -> FakeNode:
        ours, theirs = channel_pair()
        self.router.attach(ours)
        node = FakeNode(theirs, node_id, *topics)
        node.acking = acking
        self.nodes.append(node)
        await node.accepted.wait()
        return node

    def metric(self, name: str, **labels: str) -> float:
        return self.router.metrics.registry.get_sample_value(f"stagecue_router_{name}", labels) or 0.0


@asynccontextmanager
async def world(
    *,
    assign: bool = True,
    store: FlakyReplayLog | None = None,
    view: FlakyView | None = None,
    **settings: object,
) -> AsyncIterator[World]:
    """A router that has started with partition 0 assigned; stopped at the end. It may share a store with another."""
    fast: dict[str, object] = {
        "node_deadline_s": 0.1,
        "store_patience_s": 0.05,
        "commit_interval_s": 0.01,
        "tail_check_interval_s": 0.05,
        "reach_interval_s": 0.01,
        "coverage_interval_s": 0.01,
        "retry_first_s": 0.005,
        "retry_cap_s": 0.02,
        "drain_s": 0.5,
        "start_patience_s": 0.5,
    }
    here = World(RouterSettings(**(fast | settings)), store, view)  # type: ignore[arg-type]
    ready, stop = asyncio.Event(), asyncio.Event()
    if assign:
        here.log.assign(0)
    task = asyncio.create_task(here.router.service.run(ready, stop), name="router")
    await ready.wait()
    try:
        yield here
    finally:
        stop.set()
        await task
        for node in here.nodes:
            await node.stop()
