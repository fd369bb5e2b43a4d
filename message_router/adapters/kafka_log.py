"""The BroadcastLog on Kafka: a member of a consumer group over stage.broadcasts and stage.schedule (R10, R12)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog
from aiokafka import TopicPartition

from contract.broadcast import Broadcast
from contract.clock import Clock
from contract.errors import InvalidRequest
from contract.log import LogBatch, LogEntry
from contract.names import KAFKA_BROADCASTS
from contract.records import Undecodable, decode_record, entry_partition, kafka_partition, traceparent_of
from contract.runtime.kafka_connect import ensure_topics
from contract.runtime.kafka_sender import KafkaSender, open_sender
from contract.runtime.kafka_settings import KafkaSettings
from contract.runtime.runner import Readiness
from contract.schedule import TopicSchedule
from message_router.adapters.kafka_dead_letters import DeadLetters
from message_router.adapters.kafka_member import GroupMember
from message_router.adapters.kafka_reread import KafkaReread

__all__ = ["KafkaLog", "open_kafka_log"]

_log = structlog.get_logger(__name__)


class KafkaLog:
    """See BroadcastLog. One consumer at a time; joins the group with the first poll.

    A partition of stage.schedule is one like any other to whoever polls: its number lies beyond those of
    stage.broadcasts (contract.records.entry_partition).
    """

    def __init__(
        self, settings: KafkaSettings, *, group: str, sender: KafkaSender, readiness: Readiness, clock: Clock
    ) -> None:
        self._settings = settings
        self._group = group
        self._clock = clock
        self._reread = KafkaReread(settings)
        self._member: GroupMember | None = None
        self._given: set[int] = set()
        """Partitions whoever polls believes to have."""
        self._dead_letters = DeadLetters(sender, readiness)

    async def poll(self, *, max_entries: int, timeout_s: float) -> LogBatch:
        deadline_s = self._clock.monotonic_s() + timeout_s
        while True:
            member = await self._joined()
            if not self._given <= member.partitions or member.changed():
                return await self._changes(member)
            left_s = deadline_s - self._clock.monotonic_s()
            records = await member.take(max_entries, left_s)
            # From here to the return nothing awaits: what was taken is handed over, or was never taken.
            if member.changed():
                continue
            if records:
                batch = self._batch(member, records)
                if batch.entries or batch.revoked:
                    return batch
            member.check()
            if left_s <= 0:
                return LogBatch()

    def reread(self, partition: int, *, since_ms: int) -> AsyncIterator[LogEntry]:
        """See BroadcastLog. Nothing for a partition of stage.schedule: `schedules` reads those."""
        kafka_topic, number = kafka_partition(partition)
        if kafka_topic != KAFKA_BROADCASTS:
            return _nothing()
        return self._reread.broadcasts(number, since_ms=since_ms)

    async def schedules(self) -> Sequence[TopicSchedule]:
        return await self._reread.schedules()

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """See BroadcastLog. What is no longer ours, or would go backwards, is left out: somebody else has it."""
        member = self._member
        if member is None:
            return
        beyond = self._dead_letters.beyond
        await member.commit({partition: beyond(partition, offset) for partition, offset in offsets.items()})

    @property
    def lag(self) -> int | None:
        """Records of our partitions not handed out yet, as of about a second ago; None: not known."""
        return None if self._member is None else self._member.lag

    async def close(self) -> None:
        """Leave the group, so that others take over at once, and disconnect; ends within seconds."""
        self._dead_letters.close()
        member, self._member = self._member, None
        if member is not None:
            await member.close()
        await self._reread.close()

    # -- the group ----------------------------------------------------------------------------------------------------

    async def _joined(self) -> GroupMember:
        """Our membership; a new one if the last broke. Raises LogUnavailable."""
        if self._member is not None and self._member.broken:
            _log.warning("kafka_member_replaced", group=self._group)
            member, self._member = self._member, None
            await member.close()
        if self._member is None:
            self._member = await GroupMember.join(self._settings, self._group)
        return self._member

    async def _changes(self, member: GroupMember) -> LogBatch:
        """What was revoked, at once; what was assigned, as soon as its committed offsets are known."""
        lost = self._given - member.partitions
        if lost:
            return self._revoked(lost)
        assigned = await member.positions()
        # From here to the return nothing awaits.
        if assigned is None:
            return LogBatch()
        self._given = set(assigned)
        member.handed_out(assigned)
        return LogBatch(assigned=assigned)

    def _revoked(self, partitions: Iterable[int]) -> LogBatch:
        revoked = tuple(sorted(partitions))
        self._given.difference_update(revoked)
        for partition in revoked:
            self._dead_letters.forget(partition)
        return LogBatch(revoked=revoked)

    # -- records ------------------------------------------------------------------------------------------------------

    def _batch(self, member: GroupMember, records: Mapping[TopicPartition, Sequence[Any]]) -> LogBatch:
        entries: list[LogEntry] = []
        restarted: dict[int, int] = {}
        for tp, found in records.items():
            partition = entry_partition(tp.topic, tp.partition)
            if partition not in self._given or self._dead_letters.holds(partition):
                continue
            for record in found:
                if record.offset < member.next_offset(partition):
                    # The log is a new one, or lost its end: whoever polls must start over with this partition.
                    _log.error("kafka_log_went_back", topic=tp.topic, partition=tp.partition, offset=record.offset)
                    restarted[partition] = record.offset
                    entries = [entry for entry in entries if entry.partition != partition]
                    member.handed_out({partition: record.offset})
                entry = self._entry(member, partition, record)
                if entry is None:
                    break
                entries.append(entry)
                member.took(partition, record.offset)
        return LogBatch(revoked=tuple(restarted), assigned=restarted, entries=tuple(entries))

    def _entry(self, member: GroupMember, partition: int, record: Any) -> LogEntry | None:
        """What a record says; None: the partition waits for it to be with the dead letters."""
        try:
            said = decode_record(record.topic, record.value, record.headers)
        except Undecodable as exc:
            self._dead_letters.take(member, partition, record, str(exc))
            return None
        trace = traceparent_of(record.headers)
        if isinstance(said, Broadcast):
            return LogEntry(partition, record.offset, broadcast=said, traceparent=trace)
        return LogEntry(partition, record.offset, schedule=said, traceparent=trace)


async def _nothing() -> AsyncIterator[LogEntry]:
    return
    yield  # an asynchronous iterator, of nothing


@asynccontextmanager
async def open_kafka_log(
    settings: KafkaSettings,
    *,
    group: str = "stagecue-router",
    readiness: Readiness,
    clock: Clock,
    replay_window_s: float | None = None,
) -> AsyncIterator[KafkaLog]:
    """Create the Kafka topics where they are missing, and be ready to poll; within ten seconds.

    Raises LogUnavailable where waiting can help, and InvalidRequest naming the setting that is wrong.
    """
    if replay_window_s is not None and replay_window_s >= settings.broadcast_retention_s:
        raise InvalidRequest(
            f"{settings.broadcast_retention_s:g} s are shorter than ROUTER_REPLAY_WINDOW_S, {replay_window_s:g} s",
            field="KAFKA_BROADCAST_RETENTION_S",
            rule="a store that lost everything is filled from what Kafka retains",
        )
    await ensure_topics(settings)
    async with open_sender(settings, "dead-letters") as sender:
        log = KafkaLog(settings, group=group, sender=sender, readiness=readiness, clock=clock)
        try:
            yield log
        finally:
            await log.close()
