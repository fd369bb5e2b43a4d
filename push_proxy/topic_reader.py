"""What a node learns from the store about its topics: whether one exists, its schedule, its log, once for all (R14).

The other half of a node is `StreamNode`, which gets the news and tells devices. Both run on one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

import structlog

from contract.broadcast import Broadcast
from contract.clock import Clock
from contract.errors import Unavailable
from contract.kv.ports import ReplayLogReader, ScheduleViewReader
from contract.schedule import TopicSchedule
from push_proxy.followed import FollowedTopic
from push_proxy.metrics import NodeMetrics
from push_proxy.ports import InterestPort

__all__ = ["READ_SPACING_S", "TopicNews", "TopicReader"]

READ_SPACING_S: Final = 0.1
"""Least time between two reads of one topic's log, however many devices claim to know more than it."""
MAX_READS: Final = 32
"""Reads of the store in flight at once, when it comes back and every topic is reread."""
UNKNOWN_FOR_S: Final = 1.0
"""How long a topic the schedule view does not have is refused without asking again."""
_MAX_UNKNOWN: Final = 4096
_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


class TopicNews(Protocol):
    """Whoever is told what was learned; none of it waits."""

    def spread_news(self, followed: FollowedTopic, news: Sequence[Broadcast]) -> None:
        """Broadcasts the log had and this node did not know, ascending."""
        ...

    def settle(self, followed: FollowedTopic) -> None:
        """The topic's memory was compared with the log: whoever waits may be answered."""
        ...

    def unsettle(self, followed: FollowedTopic) -> None:
        """The topic's memory is in doubt."""
        ...

    def pass_on(self, followed: FollowedTopic, schedule: TopicSchedule) -> None:
        """A schedule of the view, new or not."""
        ...

    def forget_unknown(self, followed: FollowedTopic) -> None:
        """There is no such topic: whoever asked for it is told so."""
        ...


class TopicReader:
    """Asks the store, notices that it is away, and asks again. `topics` is shared with the node that owns it."""

    def __init__(
        self,
        topics: Mapping[str, FollowedTopic],
        news: TopicNews,
        *,
        replay_log: ReplayLogReader,
        schedule_view: ScheduleViewReader,
        interest: InterestPort,
        clock: Clock,
        metrics: NodeMetrics,
        timeout_s: float,
    ) -> None:
        self._topics = topics
        self._news = news
        self._replay_log = replay_log
        self._schedule_view = schedule_view
        self._interest = interest
        self._clock = clock
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._unknown: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._reads = asyncio.Semaphore(MAX_READS)
        self.store_down = False
        self.store_answered_at_s = clock.monotonic_s()

    def known_unknown(self, topic: str, now_s: float) -> bool:
        """Whether the topic was found not to exist a moment ago."""
        until_s = self._unknown.get(topic)
        if until_s is None:
            return False
        if now_s < until_s:
            return True
        del self._unknown[topic]
        return False

    async def settle_down(self) -> None:
        """End every task; idempotent."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Opening: schedule, interest, log.

    def open(self, followed: FollowedTopic) -> None:
        """Find out whether the topic exists, tell the routers, then read its log."""
        followed.opening = self._spawn(self._open(followed), f"push.open.{followed.topic}")

    async def _open(self, followed: FollowedTopic) -> None:
        try:
            known = await self._find_and_register(followed)
        finally:
            followed.opening = None
        if known:
            self.request_read(followed)
        else:
            self._refuse(followed)

    async def _find_and_register(self, followed: FollowedTopic) -> bool:
        """Whether the topic exists, as far as one can know; one that may exist is made known to the routers."""
        topic = followed.topic
        schedules = await self._ask(self._schedule_view.schedules([topic]))
        if schedules is not None and topic not in schedules and await self._whole():
            # Asked again: it may have been made whole between question and answer.
            schedules = await self._ask(self._schedule_view.schedules([topic]))
            if schedules is not None and topic not in schedules:
                return False
        if schedules is not None and topic in schedules:
            followed.put_schedule(schedules[topic])
        # Before the first await: a router linked from now on hears of it in the hello.
        followed.registered = True
        await self._interest.register(topic)
        return True

    async def _whole(self) -> bool:
        """Whether what the store does not have does not exist; while it is refilled, or away, nobody can know."""
        life = await self._ask(self._schedule_view.life())
        return life is not None and life.whole

    async def _ask(self, question: Awaitable[_T]) -> _T | None:
        """The store's answer, None if there is none."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await question
        except (Unavailable, TimeoutError):
            self.store_failed()
            return None

    def _refuse(self, followed: FollowedTopic) -> None:
        while len(self._unknown) >= _MAX_UNKNOWN:
            del self._unknown[next(iter(self._unknown))]
        self._unknown[followed.topic] = self._clock.monotonic_s() + UNKNOWN_FOR_S
        self._news.forget_unknown(followed)

    # Reading a topic's log: once for all who wait.

    def request_read(self, followed: FollowedTopic) -> None:
        if followed.opening is not None:
            return  # opening ends with a read
        if followed.reading is not None:
            followed.read_again = True
            return
        followed.reading = self._spawn(self._read(followed), f"push.read.{followed.topic}")

    async def _read(self, followed: FollowedTopic) -> None:
        try:
            while await self._read_once(followed) and followed.read_again:  # noqa: ASYNC110 - spacing, not waiting
                await asyncio.sleep(READ_SPACING_S)
        finally:
            followed.reading = None
            followed.read_again = False

    async def _read_once(self, followed: FollowedTopic) -> bool:
        followed.read_again = False
        number = followed.state.begin_read()
        started_at_s = self._clock.monotonic_s()
        self._metrics.count("log_reads")
        async with self._reads:
            snapshot = await self._ask(self._replay_log.read(followed.topic))
            if snapshot is not None and snapshot.tail == 0 and followed.state.latest == 0:
                # An emptied store says nothing about what was broadcast: until it is whole, anti-entropy asks again.
                whole = await self._whole()
                snapshot = await self._ask(self._replay_log.read(followed.topic)) if whole else None
            if snapshot is None:
                return False
        if self._topics.get(followed.topic) is not followed:
            return False
        self._store_answered(started_at_s)
        news = followed.state.absorb(snapshot, read=number, started_at_s=started_at_s)
        self._news.spread_news(followed, news)
        self._news.settle(followed)
        return True

    # Anti-entropy.

    def compare(self, tails: Mapping[str, int], *, asked_at_s: float) -> None:
        """The store is there, and each topic's tail was this when asked."""
        self._store_answered(asked_at_s)
        for topic, tail in tails.items():
            followed = self._topics.get(topic)
            if followed is None or followed.opening is not None:
                continue
            if not followed.registered:
                self.open(followed)
            elif followed.state.confirm(tail, asked_at_s=asked_at_s):
                self.request_read(followed)
            else:
                self._news.settle(followed)

    def stale_schedules(self, revisions: Mapping[str, int]) -> list[str]:
        """Topics whose schedule in the view is newer than ours."""
        found = []
        for topic, revision in revisions.items():
            followed = self._topics.get(topic)
            if followed is not None and revision > followed.revision:
                found.append(topic)
        return found

    def unconfirmed(self, found: Mapping[str, object], asked: Sequence[str]) -> list[str]:
        """Topics asked for that the view does not have, and never had as far as this node knows."""
        return [
            topic
            for topic in asked
            if topic not in found
            and (followed := self._topics.get(topic)) is not None
            and followed.opening is None
            and not followed.schedule_known
        ]

    def absorb_schedules(self, schedules: Mapping[str, TopicSchedule]) -> None:
        for topic, schedule in schedules.items():
            followed = self._topics.get(topic)
            if followed is not None and followed.opening is None:
                self._news.pass_on(followed, schedule)

    def refuse_unknown(self, topics: Sequence[str]) -> None:
        """A whole store does not have these: they do not exist after all."""
        for topic in topics:
            followed = self._topics.get(topic)
            if followed is not None and followed.opening is None and not followed.schedule_known:
                self._refuse(followed)

    def store_failed(self) -> None:
        """The store did not answer: what it says next must be read anew (R14)."""
        self._metrics.count("store_failures")
        if not self.store_down:
            self.store_down = True
            _log.warning("store_unavailable")

    def _store_answered(self, asked_at_s: float) -> None:
        self.store_answered_at_s = max(self.store_answered_at_s, asked_at_s)
        if not self.store_down:
            return
        self.store_down = False
        _log.info("store_available_again", topics=len(self._topics))
        for followed in self._topics.values():
            followed.state.doubt()
            self._news.unsettle(followed)

    # Tasks.

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._reap)
        return task

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("node_task_failed", task=task.get_name(), error=repr(error))
