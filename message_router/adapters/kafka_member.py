"""One membership in Kafka's consumer group: what it was given, where it stands, whether it still works."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from contract.errors import LogUnavailable
from contract.names import KAFKA_BROADCASTS, KAFKA_SCHEDULE
from contract.records import entry_partition, kafka_partition
from contract.runtime.kafka import client_options, close_consumer, log_trouble
from contract.runtime.kafka_connect import StuckClient
from contract.runtime.kafka_settings import KafkaSettings

__all__ = ["GroupMember"]

_TOPICS: Final = (KAFKA_BROADCASTS, KAFKA_SCHEDULE)
_CONNECT_WITHIN_S: Final = 5.0
_ANSWER_WITHIN_S: Final = 3.0
_FETCH_MAX_WAIT_MS: Final = 100
"""A broker answers a connection's requests one after the other: partitions just assigned wait for a fetch that waits
for others."""
_RECOVERING_S: Final = 0.2
_ACTIVE_S: Final = 2.0
_FAILURES_MAX: Final = 3
_log = structlog.get_logger(__name__)


_Stand = tuple[int, int | None]
"""Rebalances so far, and the sum of our next offsets; None: not known yet."""


class _Partition:
    """Where we stand in one partition that was handed out."""

    __slots__ = ("committed", "end", "next_offset")

    def __init__(self, next_offset: int) -> None:
        self.next_offset = next_offset
        self.committed = next_offset
        self.end: int | None = None


class GroupMember(ConsumerRebalanceListener):  # type: ignore[misc]
    """A consumer subscribed to both Kafka topics. Everything is keyed by `LogEntry.partition`.

    aiokafka rebalances eagerly: each time, all partitions are revoked and then some assigned, in its own tasks. What
    it tells there is only noted, without waiting for anybody, and interrupts whoever waits here.
    """

    def __init__(self, settings: KafkaSettings, consumer: AIOKafkaConsumer) -> None:
        self._settings = settings
        self._consumer = consumer
        self._ours: dict[int, _Partition] = {}
        self._assigned: frozenset[int] | None = None
        """Told by Kafka and not handed out yet; None: nothing new."""
        self._rebalances = 0
        self._waits: set[asyncio.Timeout] = set()
        self._stuck = StuckClient(settings)
        self._trouble: LogUnavailable | None = None
        self._unassigned_since_s: float | None = time.monotonic()
        self._asking = False
        self._asked_s = time.monotonic()
        self._failures = 0
        self._behind: tuple[_Stand, float] | None = None
        """Where we stood while there was more to come, and since when that has not moved."""
        self.broken = False
        """It got nowhere for long, or failed for good: close it and join anew."""
        self._watching = asyncio.create_task(self._watch(), name="kafka-member-health")

    @classmethod
    async def join(cls, settings: KafkaSettings, group: str) -> GroupMember:
        """Connect and ask for partitions; they come later. Raises LogUnavailable."""
        consumer = AIOKafkaConsumer(
            # A join waits at the broker until every member has answered or lost its session.
            **client_options(settings, "router", request_timeout_ms=2 * settings.session_timeout_ms),
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=settings.session_timeout_ms,
            heartbeat_interval_ms=settings.heartbeat_interval_ms,
            max_poll_interval_ms=settings.max_poll_interval_ms,
            fetch_max_wait_ms=_FETCH_MAX_WAIT_MS,
        )
        with log_trouble("joining the routers' group"):
            try:
                async with asyncio.timeout(_CONNECT_WITHIN_S):
                    await consumer.start()
            except BaseException:
                await close_consumer(consumer)
                raise
        _look_at_commits(consumer)
        member = cls(settings, consumer)
        consumer.subscribe(list(_TOPICS), listener=member)
        return member

    async def close(self) -> None:
        """Leave the group and disconnect; ends within seconds."""
        self._watching.cancel()
        await asyncio.wait({self._watching})
        await close_consumer(self._consumer)

    # -- told by aiokafka, in its tasks -------------------------------------------------------------------------------

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._rebalances += 1
        self._ours.clear()
        self._assigned = None
        if self._unassigned_since_s is None:
            self._unassigned_since_s = time.monotonic()
        self._interrupt()

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._rebalances += 1
        self._assigned = frozenset(entry_partition(tp.topic, tp.partition) for tp in assigned)
        self._unassigned_since_s = None
        self._interrupt()

    def _interrupt(self) -> None:
        now_s = asyncio.get_running_loop().time()
        for wait in self._waits:
            if not wait.expired():
                wait.reschedule(now_s)

    # -- asked by the log ---------------------------------------------------------------------------------------------

    @property
    def partitions(self) -> set[int]:
        """Handed out and not revoked since."""
        return set(self._ours)

    def changed(self) -> bool:
        """Kafka gave us partitions that were not handed out yet."""
        return self._assigned is not None

    @property
    def lag(self) -> int | None:
        known = [max(0, one.end - one.next_offset) for one in self._ours.values() if one.end is not None]
        return sum(known) if len(known) == len(self._ours) else None

    def next_offset(self, partition: int) -> int:
        return self._ours[partition].next_offset

    def check(self) -> None:
        """Raises LogUnavailable while the brokers do not answer, or give us no place in the group."""
        if self._trouble is not None:
            raise self._trouble
        if self._unassigned_since_s is not None and self._waited_s(self._unassigned_since_s) > self._patience_s:
            raise LogUnavailable("Kafka: the routers' group has no place for us yet", rule="is its coordinator up?")

    async def take(self, max_entries: int, timeout_s: float) -> Mapping[TopicPartition, Sequence[Any]]:
        """Records that arrived, or nothing after `timeout_s` or when Kafka moved partitions. Cancel-safe."""
        rebalances = self._rebalances
        with log_trouble("taking records"), self._asked():
            try:
                async with self._interruptible(timeout_s):
                    records = await self._records(max_entries, timeout_s)
            except TimeoutError:
                return {}
            except KafkaError:
                # Some it tells once and goes on; a member that failed for good fails every time.
                self._failures += 1
                self.broken |= self._failures >= _FAILURES_MAX
                raise
        self._failures = 0
        if rebalances != self._rebalances:
            return {}
        if records:
            self._trouble = None  # somebody answers
        return records

    async def _records(self, max_entries: int, timeout_s: float) -> Mapping[TopicPartition, Sequence[Any]]:
        timeout_ms = max(0, round(timeout_s * 1000))
        try:
            records: Mapping[TopicPartition, Sequence[Any]]
            records = await self._consumer.getmany(timeout_ms=timeout_ms, max_records=max_entries)
        except BaseException:
            # aiokafka takes a call that did not return for one that still goes on, and would never again find that
            # nobody polls and leave the group (max_poll_interval_ms).
            fetches = self._consumer._subscription
            fetches._fetch_count, fetches._last_fetch_ended = 0, time.monotonic()
            raise
        return records

    async def positions(self) -> dict[int, int] | None:
        """Committed offset of every partition just assigned, or Kafka's first; None: it moved them meanwhile.

        Raises LogUnavailable.
        """
        assigned, rebalances = self._assigned, self._rebalances
        assert assigned is not None
        found = {}
        with log_trouble("asking for committed offsets"), self._asked():
            try:
                async with self._interruptible(_ANSWER_WITHIN_S):
                    for partition in sorted(assigned):
                        found[partition] = await self._consumer.position(_tp(partition))
            except (TimeoutError, IllegalStateError):
                if rebalances != self._rebalances:
                    return None
                raise
        return found if rebalances == self._rebalances else None

    def handed_out(self, offsets: Mapping[int, int]) -> None:
        """Whoever polls starts there."""
        self._ours |= {partition: _Partition(offset) for partition, offset in offsets.items()}
        self._assigned = None

    def took(self, partition: int, offset: int) -> None:
        self._ours[partition].next_offset = offset + 1

    def wait_at(self, partition: int, offset: int) -> None:
        """Take nothing more of the partition; `go_on_at` undoes it."""
        tp = _tp(partition)
        self._consumer.pause(tp)
        self._consumer.seek(tp, offset)

    def go_on_at(self, partition: int, offset: int) -> None:
        """Take the partition's records from `offset` on. Nothing happens when it is no longer ours."""
        ours = self._ours.get(partition)
        if ours is None:
            return
        tp = _tp(partition)
        ours.next_offset = offset
        self._consumer.seek(tp, offset)
        self._consumer.resume(tp)

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """Commit what is ours and further on than before. Raises LogUnavailable.

        An expelled member's commit is refused by its generation. One that waits for a broker is given up when Kafka
        moves partitions: sent later, in another generation, it could take back what another router finished.
        """
        due = {
            partition: (ours, offset)
            for partition, offset in offsets.items()
            if (ours := self._ours.get(partition)) is not None and offset > ours.committed
        }
        if not due:
            return
        rebalances = self._rebalances
        with log_trouble("committing"):
            try:
                async with self._interruptible(_ANSWER_WITHIN_S):
                    await self._consumer.commit({_tp(partition): offset for partition, (_, offset) in due.items()})
            except (CommitFailedError, IllegalStateError) as exc:
                _log.info("kafka_commit_given_up", why=type(exc).__name__)
                return
            except TimeoutError:
                if rebalances != self._rebalances:
                    return
                raise
        for ours, offset in due.values():
            ours.committed = max(ours.committed, offset)

    def committed(self, partition: int) -> int | None:
        ours = self._ours.get(partition)
        return None if ours is None else ours.committed

    def _interruptible(self, timeout_s: float) -> _Interruptible:
        return _Interruptible(self._waits, timeout_s)

    @contextlib.contextmanager
    def _asked(self) -> Iterator[None]:
        """Somebody polls."""
        self._asking = True
        try:
            yield
        finally:
            self._asking = False
            self._asked_s = time.monotonic()

    # -- health -------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """aiokafka hides an outage from whoever polls: ask for the ends of our partitions, for readiness and lag."""
        while True:
            await asyncio.sleep(self._settings.health_interval_s if self._trouble is None else _RECOVERING_S)
            try:
                with log_trouble("asking for the ends of partitions"):
                    async with asyncio.timeout(_ANSWER_WITHIN_S):
                        await self._look()
            except LogUnavailable as exc:
                self._trouble = exc
                self.broken |= await self._stuck.failed()
            except Exception:
                # A mistake of the client's own. Without this task nobody would find out that it is broken.
                _log.exception("kafka_health_unknown")
                self.broken = True
            else:
                self._trouble = None
                self._stuck.worked()
                self.broken |= self._stalled()

    async def _look(self) -> None:
        if not all(self._consumer.partitions_for_topic(topic) for topic in _TOPICS):
            # Created a moment ago, a topic may not be known to the broker that was asked about it; the client would ask
            # again when its knowledge is a minute old, and until then nobody in the group is given its partitions.
            await self._consumer._client.force_metadata_update()
        watched = list(self._ours)
        # Without a partition, any will do: what matters is whether somebody answers.
        ends = await self._consumer.end_offsets([_tp(partition) for partition in watched or [0]])
        for partition in watched:
            ours = self._ours.get(partition)
            if ours is not None:
                ours.end = ends[_tp(partition)]

    def _stalled(self) -> bool:
        """Whether brokers answer, somebody polls, there is more to come, and yet nothing comes."""
        stand = self._stand()
        if stand is None or not (self._asking or self._waited_s(self._asked_s) <= _ACTIVE_S):
            self._behind = None
            return False
        if self._behind is None or self._behind[0] != stand:
            self._behind = (stand, time.monotonic())
        return self._waited_s(self._behind[1]) >= self._settings.renew_after_s

    def _stand(self) -> _Stand | None:
        """What moves on while a consumer works; None: there is nothing more to come."""
        if self._assigned is not None:
            return self._rebalances, None  # where its partitions begin
        paused = self._consumer.paused()
        waiting = any(
            one.end is not None and one.end > one.next_offset and _tp(partition) not in paused
            for partition, one in self._ours.items()
        )
        return (self._rebalances, sum(one.next_offset for one in self._ours.values())) if waiting else None

    @property
    def _patience_s(self) -> float:
        """How long a rebalance may take: members that are gone are waited for as long as their sessions last."""
        return 2 * self._settings.session_timeout_ms / 1000

    def _waited_s(self, since_s: float) -> float:
        return time.monotonic() - since_s


class _Interruptible:
    """`asyncio.timeout` that a rebalance ends early, like its time: by TimeoutError."""

    def __init__(self, waits: set[asyncio.Timeout], timeout_s: float) -> None:
        self._waits = waits
        self._timeout = asyncio.timeout(timeout_s)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._waits.add(self._timeout)

    async def __aexit__(self, *error: Any) -> None:
        self._waits.discard(self._timeout)
        await self._timeout.__aexit__(*error)


def _look_at_commits(consumer: AIOKafkaConsumer) -> None:
    """See how each commit ends: aiokafka forgets one that is given up on its way, and asyncio then reports its error
    as lost, though a commit of a member that was expelled has to fail.
    """
    coordinator = consumer._coordinator
    send = coordinator._do_commit_offsets

    async def seen(*args: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda done: None if done.cancelled() else done.exception())
        await send(*args)

    coordinator._do_commit_offsets = seen


def _tp(partition: int) -> TopicPartition:
    return TopicPartition(*kafka_partition(partition))
