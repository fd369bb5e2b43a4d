"""The push node's use case: follows topics for its devices, accepts by chain, answers, fans out (R13-R17).

Runs on one event loop and owns all its state; every public method returns without waiting. What the store knows is
asked by its other half, the `reader`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import structlog

from contract.broadcast import Broadcast
from contract.clock import Clock
from contract.cursor import Cursor
from contract.frames import NODE_FULL, UNKNOWN_TOPIC, AckRequest, Held, StaleFrame
from contract.kv.ports import ReplayLogReader, ScheduleViewReader
from contract.runtime.failpoints import failpoint
from contract.schedule import TopicSchedule
from push_proxy.answering import Answering
from push_proxy.coverage import CoverageCount
from push_proxy.fanout import FanOut
from push_proxy.followed import Delivery, FollowedTopic
from push_proxy.forms import PreparedFrame
from push_proxy.hub import Hub
from push_proxy.metrics import NodeMetrics
from push_proxy.ports import DevicePort, InterestPort
from push_proxy.reach_tally import ReachTally
from push_proxy.recovery import Phase, Subscription, Waiting
from push_proxy.settings import PushSettings
from push_proxy.topic_reader import TopicReader

__all__ = ["StreamNode"]

_log = structlog.get_logger(__name__)


class StreamNode:
    """Everything between the links to the routers and the connections of the devices."""

    def __init__(
        self,
        settings: PushSettings,
        *,
        replay_log: ReplayLogReader,
        schedule_view: ScheduleViewReader,
        interest: InterestPort,
        clock: Clock,
        tally: ReachTally,
        metrics: NodeMetrics,
        hurry: Callable[[], None],
    ) -> None:
        """`hurry` is called when `tick` has something to look at that it had not."""
        self._settings = settings
        self._interest = interest
        self._clock = clock
        self._tally = tally
        self._metrics = metrics
        self._hurry = hurry
        self._hub = Hub()
        self.coverage = CoverageCount()
        """Which stage-map versions the devices here hold (R7)."""
        self._fanout = FanOut()
        self._topics: dict[str, FollowedTopic] = {}
        self._unsettled: dict[str, None] = {}
        """Topics of which a subscription waits for its answer, or a hole is open: of all others everyone is LIVE."""
        self._acked: dict[Subscription, int] = {}
        self._holes_told: dict[Subscription, int] = {}
        """Newest timestamps acknowledged, and at which a hole was told: of one device in a hundred, or of none."""
        self._ack = AckRequest(settings.ack_one_in, settings.ack_within_ms) if settings.ack_one_in else None
        self.reader = TopicReader(
            self._topics,
            self,
            replay_log=replay_log,
            schedule_view=schedule_view,
            interest=interest,
            clock=clock,
            metrics=metrics,
            timeout_s=settings.kv_timeout_s,
        )
        self._answering = Answering(clock=clock, tally=tally, metrics=metrics, refuse=self._refuse)
        metrics.counted_late(lambda: self.count_answers(clock.monotonic_s()))
        metrics.gauge("topics", lambda: len(self._topics))
        metrics.gauge("subscriptions", lambda: self._hub.subscription_count)
        metrics.gauge("open_holes", lambda: self.open_holes)
        metrics.gauge("fanout_jobs", lambda: self._fanout.waiting)

    # Devices.

    def latest_of(self, topic: str) -> int | None:
        """Newest timestamp known of a topic; None while its log was not read: then nobody can tell."""
        followed = self._topics.get(topic)
        return followed.state.latest if followed and followed.state.absorbed_read else None

    def follow(self, device: DevicePort, topic: str, cursor: Cursor, held: Held | None) -> None:
        """Subscribe: register first, answer as soon as memory may (R14-R16)."""
        now_s = self._clock.monotonic_s()
        followed = self._topics.get(topic)
        if followed is None:
            refusal = self._refusal(topic, now_s)
            if refusal is not None:
                device.unfollow(topic, *refusal)
                return
            followed = self._topics[topic] = FollowedTopic(topic, ack=self._ack)
            self.reader.open(followed)
        held_revision = held.revision if held is not None else -1
        held_version = self.coverage.joined(topic, held.version if held is not None else None)
        ready = followed.ready_answer(device.form, cursor, held_revision, now_s)
        if ready is not None and not device.congested:
            self._register(
                followed,
                Subscription(device, topic, waiting=None, told_revision=ready.revision, held_version=held_version),
            )
            self._answering.give(ready, device)
            return
        subscription = Subscription(
            device,
            topic,
            waiting=Waiting(cursor, now_s + self._settings.verdict_wait_s, followed.state.reads_begun),
            told_revision=held_revision,
            held_version=held_version,
        )
        self._register(followed, subscription)
        self._answering.answer(followed, subscription, give_up=self.reader.store_down and followed.opening is None)
        if subscription.phase < Phase.LIVE:
            self.unsettle(followed)
            if subscription.needs_read(followed.state):
                self.reader.request_read(followed)

    def _register(self, followed: FollowedTopic, subscription: Subscription) -> None:
        former = self._hub.add(subscription)
        if former is not None:
            self._forget(former)
        followed.empty_since_s = None

    def leave(self, device: DevicePort, topic: str) -> None:
        subscription = self._hub.remove(device, topic)
        if subscription is not None:
            self._left(subscription)

    def dropped(self, device: DevicePort) -> None:
        """The connection is gone; only its own subscriptions end."""
        for subscription in self._hub.drop(device):
            self._left(subscription)

    def acked(self, device: DevicePort, topic: str, timestamp: int) -> None:
        subscription = self._hub.get(device, topic)
        if subscription is not None and timestamp > self._acked.get(subscription, 0):
            self._acked[subscription] = timestamp
            if self._knows(topic, timestamp):
                self._metrics.count("acks")
                self._tally.acked(topic, timestamp, now_s=self._clock.monotonic_s())

    def hole_reported(self, device: DevicePort, topic: str, timestamp: int) -> None:
        subscription = self._hub.get(device, topic)
        if subscription is not None and timestamp > self._holes_told.get(subscription, 0):
            self._holes_told[subscription] = timestamp
            if self._knows(topic, timestamp):
                self._metrics.count("holes_reported")
                self._tally.hole_told(topic, timestamp, now_s=self._clock.monotonic_s())

    # Routers.

    def topics(self) -> tuple[str, ...]:
        """Topics routers were told of: what a hello must name."""
        return tuple(topic for topic, followed in self._topics.items() if followed.registered)

    def deliver(self, broadcasts: Iterable[Broadcast], schedules: Iterable[TopicSchedule]) -> asyncio.Future[int]:
        """A router's batch; the future ends once all of it is in memory and written, with the number of writes."""
        delivery = Delivery(asyncio.get_running_loop().create_future())
        received_at_ms = self._clock.now_ms()
        failpoint("node.deliver.before_write")
        for schedule in schedules:
            followed = self._topics.get(schedule.topic)
            if followed is not None:
                self.pass_on(followed, schedule)
        for broadcast in broadcasts:
            followed = self._topics.get(broadcast.topic)
            if followed is not None:
                self._accept(followed, broadcast, delivery, received_at_ms)
        delivery.finish()
        return delivery.done

    # What a status shows, and what is compared with the store.

    @property
    def open_holes(self) -> int:
        """Topics of which something is known to be missing."""
        return sum(followed.state.hole_open for followed in self._topics.values())

    @property
    def followed_topics(self) -> tuple[str, ...]:
        return tuple(self._topics)

    # Time.

    def tick(self) -> None:
        """Deadlines of topics; called about every 50 ms while anything is unsettled, and now and then."""
        now_s = self._clock.monotonic_s()
        self.count_answers(now_s)
        for topic in list(self._unsettled):
            followed = self._topics.get(topic)
            if followed is None:
                del self._unsettled[topic]
                continue
            released = followed.state.release_overdue(now_s)
            if released:
                self._metrics.count("holes_released", len(released))
                self._spread(followed, released)
            waiting = self._hub.unanswered(topic)
            self._answer_all(followed, [s for s in waiting if s.overdue(now_s)])
            if not waiting and not followed.state.holding:
                del self._unsettled[topic]

    @property
    def unsettled(self) -> bool:
        """Whether somebody waits for an answer, or a hole is open: `tick` must look before long."""
        return bool(self._unsettled)

    def count_answers(self, now_s: float) -> None:
        """Count what was answered alike since the last call."""
        self._answering.count(now_s)

    def forget_idle(self) -> None:
        """Stop following topics that had no subscriber for the linger time; called about once a second."""
        now_s = self._clock.monotonic_s()
        idle = [
            followed
            for followed in self._topics.values()
            if followed.empty_since_s is not None and now_s - followed.empty_since_s >= self._settings.linger_s
        ]
        for followed in idle:
            self._close_topic(followed)

    def say_stale(self, devices: Sequence[DevicePort]) -> None:
        """Tell every device that this node lost its sources (R17)."""
        self.tell_all(devices, PreparedFrame(StaleFrame()))

    def tell_all(self, devices: Sequence[DevicePort], frame: PreparedFrame) -> None:
        """Send `frame` to every device, in slices, in order with the broadcasts."""

        def tell(device: DevicePort) -> bool:
            device.send((frame,))
            return True

        self._fanout.visit(devices, tell, _ignore)

    def due_times(self) -> list[int]:
        """When stages of the topics followed are due, ms since the epoch."""
        return [
            due
            for followed in self._topics.values()
            if followed.schedule is not None
            for due in followed.schedule.times().values()
            if due is not None
        ]

    def schedules_mark(self) -> tuple[int, int]:
        """Differs, all but always, after a schedule changed or a topic came or went: cheaper to ask than due times."""
        revisions = (each.schedule.revision for each in self._topics.values() if each.schedule is not None)
        return len(self._topics), sum(revisions)

    # Slow consumers, and what became of frames that were held back for them.

    def congested(self, device: DevicePort) -> None:
        """Its socket takes no more: a fan-out asks the port itself, which holds back."""
        self._hub.write_to(device, -1)

    def flowing(self, device: DevicePort) -> None:
        """Its socket takes bytes again, and nothing is held back any more."""
        self._hub.write_to(device, device.fd)

    def written_late(self, topic: str, timestamp: int) -> None:
        """One device got it after all."""
        self._metrics.delivered("live", 1, 0)
        self._tally.written(topic, timestamp, 1, now_s=self._clock.monotonic_s())

    def coalesced(self, topic: str, timestamp: int) -> None:
        """One device gets a later one instead, which lists it as skipped."""
        self._metrics.delivered("coalesced", 1, 0)
        self._tally.coalesced(topic, timestamp, now_s=self._clock.monotonic_s())

    # What the reader learned (TopicNews).

    def spread_news(self, followed: FollowedTopic, news: Sequence[Broadcast]) -> None:
        self._spread(followed, news, settled_only=True)

    def settle(self, followed: FollowedTopic) -> None:
        if followed.topic in self._unsettled:
            self._answer_all(followed, self._hub.unanswered(followed.topic))

    def unsettle(self, followed: FollowedTopic) -> None:
        if followed.topic not in self._unsettled:
            self._unsettled[followed.topic] = None
            self._hurry()

    def pass_on(self, followed: FollowedTopic, schedule: TopicSchedule) -> None:
        if not followed.put_schedule(schedule):
            return
        assert followed.prepared_schedule is not None
        for peers in tuple(self._hub.by_form(followed.topic).values()):
            to = [s for s in peers if s.phase > 0 and s.told_revision < schedule.revision]
            for subscription in to:
                subscription.told_revision = schedule.revision
            self._fanout.broadcast(followed.prepared_schedule, to, _ignore)

    def forget_unknown(self, followed: FollowedTopic) -> None:
        topic = followed.topic
        ended = self._hub.drop_topic(topic)
        self._close_topic(followed)
        for subscription in ended:
            self._forget(subscription)
            subscription.sink.unfollow(topic, UNKNOWN_TOPIC, _no_such_topic(topic))

    # Topics.

    def _refusal(self, topic: str, now_s: float) -> tuple[str, str] | None:
        if self.reader.known_unknown(topic, now_s):
            return UNKNOWN_TOPIC, _no_such_topic(topic)
        if len(self._topics) >= self._settings.max_topics:
            return NODE_FULL, f"topics[{topic}]: this node follows {len(self._topics)} topics already; try later"
        return None

    def _close_topic(self, followed: FollowedTopic) -> None:
        topic = followed.topic
        del self._topics[topic]
        self._unsettled.pop(topic, None)
        for task in (followed.opening, followed.reading):
            if task is not None:
                task.cancel()
        if followed.registered:
            self._interest.withdraw([topic])
        for deliveries in followed.awaited.values():
            for delivery in deliveries:
                delivery.finish()
        followed.awaited.clear()

    def _forget(self, subscription: Subscription) -> None:
        """What is counted of it beside the hub."""
        self.coverage.left(subscription.topic, subscription.held_version)
        self._acked.pop(subscription, None)
        self._holes_told.pop(subscription, None)

    def _left(self, subscription: Subscription) -> None:
        """A subscription ended; perhaps its topic's last."""
        topic = subscription.topic
        self._forget(subscription)
        followed = self._topics.get(topic)
        if followed is not None and not self._hub.by_form(topic):
            followed.empty_since_s = self._clock.monotonic_s()

    # Accepting and writing.

    def _accept(self, followed: FollowedTopic, broadcast: Broadcast, delivery: Delivery, received_at_ms: int) -> None:
        now_s = self._clock.monotonic_s()
        accepted = followed.state.accept(broadcast, now_s)
        if accepted.conflict:
            self._metrics.count("conflicts")
            _log.error("broadcast_conflict", topic=broadcast.topic, timestamp=broadcast.timestamp)
        else:
            # Repeats too: what anti-entropy found in the log first was routed all the same.
            self._tally.routed(broadcast.topic, broadcast.timestamp, at_ms=received_at_ms, now_s=now_s)
        if accepted.read_log:
            self.unsettle(followed)
            if broadcast not in accepted.send:
                delivery.begin()
                followed.awaited.setdefault(broadcast.timestamp, []).append(delivery)
            self.reader.request_read(followed)
        elif not accepted.send:
            self._metrics.count("repeats")
        self._spread(followed, accepted.send, delivery=delivery)
        if followed.topic in self._unsettled and not followed.state.holding:
            self.settle(followed)

    def _spread(
        self,
        followed: FollowedTopic,
        broadcasts: Sequence[Broadcast],
        *,
        delivery: Delivery | None = None,
        settled_only: bool = False,
    ) -> None:
        """Write each to the topic's subscribers; `settled_only` leaves out those who are about to be answered."""
        for broadcast in broadcasts:
            timestamp = broadcast.timestamp
            deliveries = followed.awaited.pop(timestamp, [])
            if delivery is not None:
                delivery.begin()
                deliveries.append(delivery)
            self._metrics.count("broadcasts")
            by_form, unsettled = self._hub.by_form(followed.topic), followed.topic in self._unsettled
            frame, written = followed.live_frame(broadcast), _Written(self, broadcast, deliveries, len(by_form))
            if not unsettled:
                self._begin_count(followed, timestamp, sum(map(len, by_form.values())))
                for form, peers in tuple(by_form.items()):  # whoever is too slow leaves while it is written to
                    self._fanout.to_all(frame, peers, form, written)
            else:
                # Somebody waits for an answer, and remembers what it was sent meanwhile.
                least = Phase.LIVE if settled_only else Phase.PENDING
                some = [[s for s in peers if s.phase >= least and s.flow(timestamp)] for peers in by_form.values()]
                self._begin_count(followed, timestamp, sum(map(len, some)))
                for to in some:
                    self._fanout.broadcast(frame, to, written)
            if not by_form:
                written(0, 0)

    def _begin_count(self, followed: FollowedTopic, timestamp: int, subscribers: int) -> None:
        self._tally.begin(followed.topic, timestamp, subscribers=subscribers, now_s=self._clock.monotonic_s())

    def written(self, broadcast: Broadcast, deliveries: Sequence[Delivery], count: int, nbytes: int) -> None:
        """A broadcast's fan-out is done."""
        failpoint("node.deliver.after_write")
        now_s = self._clock.monotonic_s()
        self._metrics.count("fanouts")
        self._metrics.delivered("live", count, nbytes)
        if count:
            self._tally.written(broadcast.topic, broadcast.timestamp, count, now_s=now_s)
            if broadcast.dispatched_at is not None:
                self._metrics.written_lag_s.observe(max(0, self._clock.now_ms() - broadcast.dispatched_at) / 1000)
        for number, delivery in enumerate(deliveries):
            delivery.finish(count if number == 0 else 0)

    # Answering.

    def _answer_all(self, followed: FollowedTopic, subscriptions: Sequence[Subscription]) -> None:
        if subscriptions:
            self._fanout.visit(subscriptions, lambda one: self._answering.answer(followed, one), _ignore)

    def _refuse(self, subscription: Subscription, code: str, message: str) -> None:
        """It cannot be followed after all."""
        self.leave(subscription.sink, subscription.topic)
        subscription.sink.unfollow(subscription.topic, code, message)

    def _knows(self, topic: str, timestamp: int) -> bool:
        followed = self._topics.get(topic)
        return followed is not None and followed.state.knows(timestamp)


class _Written:
    """Ends of the fan-outs of one broadcast, one per form, told as one."""

    __slots__ = ("_broadcast", "_bytes", "_deliveries", "_node", "_open", "_written")

    def __init__(self, node: StreamNode, broadcast: Broadcast, deliveries: Sequence[Delivery], forms: int) -> None:
        self._node = node
        self._broadcast = broadcast
        self._deliveries = deliveries
        self._open = max(1, forms)
        self._written = 0
        self._bytes = 0

    def __call__(self, count: int, nbytes: int) -> None:
        self._written += count
        self._bytes += nbytes
        self._open -= 1
        if self._open == 0:
            self._node.written(self._broadcast, self._deliveries, self._written, self._bytes)


def _no_such_topic(topic: str) -> str:
    return f"topics[{topic}]: no such topic (ask the GraphQL service for its name)"


def _ignore(count: int, nbytes: int) -> None:
    """Nobody waits for this job."""
