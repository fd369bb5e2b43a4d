"""The schedule view in memory: synchronous look-ups, a second old at most while the store answers.

Per topic the higher revision wins (R5), so that a store which replays an older life never takes anything back. What the
store stopped knowing, or has of a lower revision, is served until it was unconfirmed for `stale_s`; so is everything
while the store is silent.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final

import structlog

from contract.clock import Clock
from contract.errors import StoreUnavailable
from contract.kv.ports import ScheduleViewReader
from contract.schedule import TopicSchedule
from dgs.caches.single_flight import SingleFlight

__all__ = ["ScheduleMirror"]

_ALL: Final = ""
"""In place of an event's id: no event has it."""
_AGAIN_EVERY: Final = 5
"""Polls between two looks at the topics of events known already."""
_AGAIN_EVENTS: Final = 16
"""Events of one such look: an audience that came without a new revision is found, too, sooner or later."""
_NEW_AT_ONCE: Final = 1_000
"""Events learnt of in one poll; a store with more is gone through in several."""
_AT_ONCE: Final = 16
"""Reads of the store under way at once."""
_NO_EVENT_S: Final = 1.0
"""An event the store does not know is not asked for again within it."""
_MAX_NO_EVENTS: Final = 4_096
_NEW_EVENTS_PER_S: Final = 200
"""Unknown ids asked for in a second, whatever is made up; beyond it, what the last look at the events said."""
_VAIN_S: Final = 0.1
"""A version nobody has is looked for this often at most; who names one waits for the next look."""
_CALL_S: Final = 2.0
"""A read of the store; it lies within a request's deadline (DGS_REQUEST_TIMEOUT_S)."""
_log = structlog.get_logger(__name__)


class ScheduleMirror:
    """ScheduleReader, and the service that keeps it fresh."""

    name = "schedule-mirror"

    def __init__(
        self,
        view: ScheduleViewReader,
        clock: Clock,
        *,
        poll_s: float = 1.0,
        stale_s: float = 900.0,
        draw: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`draw` is uniform over [0, 1): it spreads the polls of several processes. `sleep` goes by `clock`."""
        assert 0 < poll_s < stale_s
        self._view = view
        self._clock = clock
        self._poll_s = poll_s
        self._stale_limit_s = stale_s
        self._draw = draw
        self._sleep = sleep
        self._by_topic: dict[str, TopicSchedule] = {}
        self._by_event: dict[str, tuple[TopicSchedule, ...]] = {}
        self._unconfirmed: dict[str, float] = {}
        """Topics the store does not have as we do, and since when."""
        self._no_events: OrderedDict[str, float] = OrderedDict()
        """Events the store does not know, and until when we do not ask again."""
        self._new_since_s = 0.0
        self._new_asked = 0
        """Unknown events asked for in the second that began then."""
        self._read_s: OrderedDict[str, float] = OrderedDict()
        """Events read through to the store, and when; in that order."""
        self._answered_s: float | None = None
        self._polls = self._reads = self._failed_polls = self._turned = 0
        self._index_whole = False
        self._sorted: tuple[str, ...] | None = None
        self._flights: SingleFlight[str, None] = SingleFlight("schedule")

    # What requests ask.

    def topics_of(self, event_id: str) -> tuple[TopicSchedule, ...] | None:
        """See ScheduleReader: sorted by topic; empty for no such event; None: `ensure` it."""
        found = self._by_event.get(event_id)
        if found is not None:
            # Written out: this is asked by every request.
            answered_s = self._answered_s
            if answered_s is not None and self._clock.monotonic_s() - answered_s < self._stale_limit_s:
                return found
            return None
        until_s = self._no_events.get(event_id)
        return () if until_s is not None and self._clock.monotonic_s() < until_s else None

    def schedule(self, topic: str) -> TopicSchedule | None:
        """One topic's, however old; None: not held."""
        return self._by_topic.get(topic)

    def known(self) -> tuple[TopicSchedule, ...]:
        """Every schedule held now."""
        return tuple(self._by_topic.values())

    async def events(self) -> tuple[str, ...]:
        """See ScheduleReader: ids of all events but shadows, sorted, as of the last poll. Raises StoreUnavailable."""
        if not (self._index_whole and self.usable):
            await self._flights.run(_ALL, self.poll)
        if self._sorted is None:
            listed = (event_id for event_id, found in self._by_event.items() if found[0].shadow_of is None)
            self._sorted = tuple(sorted(listed))
        return self._sorted

    async def ensure(self, event_id: str, *, version: int = 0) -> tuple[TopicSchedule, ...]:
        """See ScheduleReader. An answer below `version` is what the store had after the call was made.

        Raises StoreUnavailable; cancel-safe; callers of one event share a read.
        """
        for _ in range(2):  # a read that was joined may have begun before this call: then once more
            found = self.topics_of(event_id)
            if found is not None and all(schedule.version >= version for schedule in found):
                return found
            joined = self._flights.under_way(event_id)
            await self._flights.run(event_id, lambda: self._read_through(event_id))
            if not joined:
                break
        return self.topics_of(event_id) or ()

    @property
    def stale_s(self) -> float:
        """Seconds since the store last answered; infinite before the first answer."""
        if self._answered_s is None:
            return float("inf")
        return max(0.0, self._clock.monotonic_s() - self._answered_s)

    @property
    def usable(self) -> bool:
        """Whether what is held may be served; for readiness."""
        return self.stale_s < self._stale_limit_s

    def stats(self) -> dict[str, float]:
        """Counters, and how much is held; seconds where the name says so."""
        return {
            "events": len(self._by_event),
            "topics": len(self._by_topic),
            "unconfirmed": len(self._unconfirmed),
            "polls": self._polls,
            "failed_polls": self._failed_polls,
            "read_throughs": self._reads,
            "joined": self._flights.joined,
            "stale_s": self.stale_s,
        }

    # What keeps it fresh.

    async def run(self, ready: asyncio.Event, stop: asyncio.Event) -> None:
        """Ready after the first poll, whatever came of it: a store that is away is the readiness's business."""
        while not stop.is_set():
            try:
                await self.poll()
            except StoreUnavailable as exc:
                if self._failed_polls == 1 or self._failed_polls % 60 == 0:
                    _log.warning("schedules_not_confirmed", why=str(exc), polls=self._failed_polls)
            ready.set()
            try:
                # 0.75 to 1.25 of the interval: a fleet started together does not poll together for long.
                async with asyncio.timeout(self._poll_s * (0.75 + self._draw() / 2)):
                    await stop.wait()
            except TimeoutError:
                continue

    async def poll(self) -> None:
        """Compare events and revisions with the store, in one round trip, and read what is new or changed.

        Raises StoreUnavailable, and then nothing is known to have changed.
        """
        try:
            async with asyncio.timeout(_CALL_S + self._poll_s):
                await self._compare()
        except (StoreUnavailable, TimeoutError) as exc:
            self._failed_polls += 1
            if isinstance(exc, StoreUnavailable):
                raise
            raise StoreUnavailable("the schedule view answers too slowly") from exc
        self._polls += 1
        self._failed_polls = 0

    async def _compare(self) -> None:
        topics = list(self._by_topic)
        asked_s = self._clock.monotonic_s()
        events, revisions = await asyncio.gather(self._view.events(), self._view.revisions(topics))
        held = self._by_topic
        changed = {
            schedule.event_id
            for topic in topics
            if (schedule := held.get(topic)) is not None and revisions.get(topic, 0) > schedule.revision
        }
        new = [event_id for event_id in events if event_id not in self._by_event]
        # By event: a new revision may have brought an audience, and all topics of an event should agree.
        await self._load([*sorted(changed), *new[:_NEW_AT_ONCE], *self._again()])
        self._index_whole = len(new) <= _NEW_AT_ONCE
        self._confirm(revisions, topics, asked_s)
        self._answered_s = max(asked_s, self._answered_s or asked_s)

    def _again(self) -> Sequence[str]:
        """The next few of the events known, in turn."""
        if not self._by_event or self._polls % _AGAIN_EVERY:
            return ()
        known = list(self._by_event)
        start = self._turned % len(known)
        self._turned = start + min(_AGAIN_EVENTS, len(known))
        return (known + known)[start : self._turned]

    def _confirm(self, revisions: Mapping[str, int], topics: Sequence[str], asked_s: float) -> None:
        for topic in topics:
            schedule = self._by_topic.get(topic)
            if schedule is None:
                continue
            if revisions.get(topic, -1) >= schedule.revision:
                self._unconfirmed.pop(topic, None)
            else:
                self._unconfirmed.setdefault(topic, asked_s)
        gone = [topic for topic, since_s in self._unconfirmed.items() if asked_s - since_s >= self._stale_limit_s]
        for topic in gone:
            self._forget(topic)

    async def _load(self, event_ids: Sequence[str]) -> None:
        topics: list[str] = []
        for start in range(0, len(event_ids), _AT_ONCE):
            part = event_ids[start : start + _AT_ONCE]
            for found in await asyncio.gather(*(self._view.topics_of(event_id) for event_id in part)):
                topics += found
        if topics:
            self._take((await self._view.schedules(topics)).values())

    async def _read_through(self, event_id: str) -> None:
        now_s = self._clock.monotonic_s()
        if event_id not in self._by_event and not self._may_ask_for_new(now_s):
            self._deny(event_id, now_s)
            return
        read_s = self._read_s.get(event_id)
        if read_s is not None and now_s - read_s < _VAIN_S:
            # Later than asked, and therefore no older than the asking.
            await self._sleep(_VAIN_S - (now_s - read_s))
        self._reads += 1
        self._read_s[event_id] = now_s = self._clock.monotonic_s()
        self._read_s.move_to_end(event_id)
        while now_s - next(iter(self._read_s.values())) > 1.0:
            self._read_s.popitem(last=False)
        try:
            async with asyncio.timeout(_CALL_S):
                topics = await self._view.topics_of(event_id)
                found = await self._view.schedules(topics) if topics else {}
        except TimeoutError as exc:
            raise StoreUnavailable("the schedule view answers too slowly") from exc
        if not self._by_topic:
            self._answered_s = now_s  # nothing else is held that this answer would not confirm
        self._take(found.values())
        if event_id in self._by_event and not self.usable:
            await self.poll()  # it answers again: then all of it is asked, or this event would stay too old
        if event_id not in self._by_event:
            self._deny(event_id, now_s)

    def _may_ask_for_new(self, now_s: float) -> bool:
        if now_s - self._new_since_s >= 1.0:
            self._new_since_s, self._new_asked = now_s, 0
        self._new_asked += 1
        # Without a look at the index there is nothing to answer from: then each is asked for.
        return self._new_asked <= _NEW_EVENTS_PER_S or not self._index_whole

    def _deny(self, event_id: str, now_s: float) -> None:
        self._no_events[event_id] = now_s + _NO_EVENT_S
        self._no_events.move_to_end(event_id)
        while len(self._no_events) > _MAX_NO_EVENTS:
            self._no_events.popitem(last=False)

    # What is held.

    def _take(self, schedules: Collection[TopicSchedule]) -> None:
        changed: dict[str, set[str]] = {}
        for schedule in schedules:
            held = self._by_topic.get(schedule.topic)
            if held is None or schedule.revision > held.revision:
                self._by_topic[schedule.topic] = schedule
                self._unconfirmed.pop(schedule.topic, None)
                changed.setdefault(schedule.event_id, set()).add(schedule.topic)
        for event_id, topics in changed.items():
            self._no_events.pop(event_id, None)
            self._regroup(event_id, topics)

    def _regroup(self, event_id: str, topics: Collection[str] = ()) -> None:
        """What look-ups see of an event: replaced whole, so that all its topics change at once."""
        known = {schedule.topic for schedule in self._by_event.get(event_id, ())}
        found = tuple(self._by_topic[topic] for topic in sorted(known.union(topics)) if topic in self._by_topic)
        if found:
            if event_id not in self._by_event:
                self._sorted = None
            self._by_event[event_id] = found
        else:
            self._sorted = None
            self._by_event.pop(event_id, None)

    def _forget(self, topic: str) -> None:
        """It was unconfirmed for too long: the store is right, whatever it has."""
        schedule = self._by_topic.pop(topic)
        del self._unconfirmed[topic]
        self._regroup(schedule.event_id)
        _log.warning("schedule_forgotten", topic=topic, revision=schedule.revision)
