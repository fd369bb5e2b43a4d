"""Reading Kafka's topics again, beside the consumer group: for rebuilds (R10), and for what a store lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaTimeoutError

from contract.broadcast import Broadcast
from contract.log import LogEntry
from contract.names import KAFKA_BROADCASTS, KAFKA_SCHEDULE
from contract.records import Undecodable, decode_record, entry_partition
from contract.runtime.kafka import client_options, close_consumer, log_trouble
from contract.runtime.kafka_settings import KafkaSettings
from contract.schedule import TopicSchedule

__all__ = ["KafkaReread", "NewestBroadcasts"]

_READERS: Final = 2
"""Rebuild and repair may read at the same time; a third waits."""
_REQUEST_TIMEOUT_MS: Final = 5_000
_FETCH_MAX_WAIT_MS: Final = 5
"""A broker answers a connection's requests one after the other: the next read waits for a fetch that finds nothing."""
_PAGE: Final = 1_000
_STALL_S: Final = 5.0
_MAX_TOPICS: Final = 100_000
_log = structlog.get_logger(__name__)


class NewestBroadcasts:
    """The newest broadcast of every topic of one partition, as far as it was read; pure, and bounded.

    With it, only the first rereading of a partition goes through all that Kafka retains.
    """

    __slots__ = ("_bound", "_newest", "read_to")

    def __init__(self, bound: int = _MAX_TOPICS) -> None:
        assert bound >= 1
        self._bound = bound
        self._newest: dict[str, LogEntry] = {}
        self.read_to = 0
        """Everything retained below this offset is known."""

    def note(self, entry: LogEntry) -> None:
        """A broadcast of the partition; one older than known changes nothing."""
        assert entry.broadcast is not None
        topic, timestamp = entry.broadcast.topic, entry.broadcast.timestamp
        known = self._newest.get(topic)
        if known is None or _timestamp(known) < timestamp:
            self._newest[topic] = entry
        if len(self._newest) > self._bound:
            # Whose news are oldest goes; in tenths, so that a full house does not sort for every newcomer.
            keep = sorted(self._newest.items(), key=lambda item: _timestamp(item[1]))[self._bound // 10 + 1 :]
            self._newest = dict(keep)

    def older_than(self, since_ms: int) -> list[LogEntry]:
        """The newest entry of every topic that has none from `since_ms` on, ascending."""
        found = [entry for entry in self._newest.values() if _timestamp(entry) < since_ms]
        return sorted(found, key=_timestamp)


def _timestamp(entry: LogEntry) -> int:
    assert entry.broadcast is not None
    return entry.broadcast.timestamp


class KafkaReread:
    """Consumers without a group, kept for the next time. Every call ends, whatever the brokers do."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._slots = asyncio.Semaphore(_READERS)
        self._idle: dict[str, list[AIOKafkaConsumer]] = {KAFKA_BROADCASTS: [], KAFKA_SCHEDULE: []}
        """By the Kafka topic they read: a client that changes it asks for metadata anew."""
        self._newest: dict[int, NewestBroadcasts] = {}
        self._indexing: dict[int, asyncio.Lock] = {}

    async def broadcasts(self, partition: int, *, since_ms: int) -> AsyncIterator[LogEntry]:
        """See BroadcastLog.reread. Raises LogUnavailable."""
        tp = TopicPartition(KAFKA_BROADCASTS, partition)
        with log_trouble(f"rereading {KAFKA_BROADCASTS}-{partition}"):
            async with self._reader(KAFKA_BROADCASTS) as reader:
                begin = (await reader.beginning_offsets([tp]))[tp]
                end = (await reader.end_offsets([tp]))[tp]
                async with self._indexing.setdefault(partition, asyncio.Lock()):
                    newest = await self._index(reader, tp, begin, end)
                for entry in newest.older_than(since_ms):
                    yield entry
                # Records carry their broadcast's timestamp: nothing of the window lies before this one.
                found = (await reader.offsets_for_times({tp: since_ms}))[tp]
                if found is None:
                    return
                async for entry in _ascending(_read(reader, {tp: found.offset}, {tp: end}), since_ms):
                    yield entry

    async def schedules(self) -> Sequence[TopicSchedule]:
        """The newest schedule of every topic: stage.schedule read whole. Raises LogUnavailable."""
        newest: dict[str, TopicSchedule] = {}
        with log_trouble(f"reading {KAFKA_SCHEDULE}"):
            async with self._reader(KAFKA_SCHEDULE) as reader:
                partitions = [TopicPartition(KAFKA_SCHEDULE, number) for number in range(self._settings.partitions)]
                begin, end = await reader.beginning_offsets(partitions), await reader.end_offsets(partitions)
                async for entry in _read(reader, begin, end):
                    schedule = entry.schedule
                    if schedule is None:
                        continue
                    known = newest.get(schedule.topic)
                    if known is None or known.revision < schedule.revision:
                        newest[schedule.topic] = schedule
        return tuple(newest.values())

    async def close(self) -> None:
        """Disconnect; ends within seconds."""
        idle = [self._idle[topic].pop() for topic in self._idle for _ in range(len(self._idle[topic]))]
        await asyncio.gather(*(close_consumer(reader) for reader in idle))

    async def _index(self, reader: AIOKafkaConsumer, tp: TopicPartition, begin: int, end: int) -> NewestBroadcasts:
        newest = self._newest.setdefault(tp.partition, NewestBroadcasts())
        if end < newest.read_to:
            # The log is a new one: what was known of the old one is no longer anybody's truth.
            newest = self._newest[tp.partition] = NewestBroadcasts()
        async for entry in _read(reader, {tp: max(begin, newest.read_to)}, {tp: end}):
            if entry.broadcast is not None:
                newest.note(entry)
        newest.read_to = max(newest.read_to, end)
        return newest

    @asynccontextmanager
    async def _reader(self, topic: str) -> AsyncIterator[AIOKafkaConsumer]:
        """A connected consumer of one's own; one that failed is not used again."""
        async with self._slots:
            idle = self._idle[topic]
            reader = idle.pop() if idle else await self._connect()
            try:
                yield reader
            except BaseException:
                await close_consumer(reader)
                raise
            idle.append(reader)

    async def _connect(self) -> AIOKafkaConsumer:
        reader = AIOKafkaConsumer(
            **client_options(self._settings, "reread", request_timeout_ms=_REQUEST_TIMEOUT_MS),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=_FETCH_MAX_WAIT_MS,
        )
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT_MS / 1000):
                await reader.start()
        except BaseException:
            await close_consumer(reader)
            raise
        return reader


async def _read(reader: AIOKafkaConsumer, start: Mapping[Any, int], end: Mapping[Any, int]) -> AsyncIterator[LogEntry]:
    """Entries from `start` to `end` of each partition, in its order; what cannot be decoded is left out.

    Raises KafkaTimeoutError when nothing comes for five seconds.
    """
    left = {tp for tp, offset in end.items() if start[tp] < offset}
    if not left:
        return
    reader.assign(list(left))
    for tp in left:
        reader.seek(tp, start[tp])
    try:
        async for entry in _pages(reader, left, end):
            yield entry
    finally:
        # Nothing more is asked for until the next read.
        reader.pause(*reader.assignment())


async def _pages(reader: AIOKafkaConsumer, left: set[Any], end: Mapping[Any, int]) -> AsyncIterator[LogEntry]:
    moved_s = time.monotonic()
    while left:
        async with asyncio.timeout(_STALL_S):
            pages = await reader.getmany(*left, timeout_ms=200, max_records=_PAGE)
            # The end may lie behind records that are gone, or that no reader is given.
            left = {tp for tp in left if await reader.position(tp) < end[tp]}
        for tp, records in pages.items():
            moved_s = time.monotonic()
            for record in records:
                if record.offset < end[tp] and (entry := _entry(record)) is not None:
                    yield entry
        if left and time.monotonic() - moved_s > _STALL_S:
            raise KafkaTimeoutError


async def _ascending(entries: AsyncIterator[LogEntry], since_ms: int) -> AsyncIterator[LogEntry]:
    """Without what a producer sent again: per topic, timestamps rise."""
    newest: dict[str, int] = {}
    async for entry in entries:
        broadcast = entry.broadcast
        if broadcast is None or broadcast.timestamp < since_ms:
            continue
        if newest.get(broadcast.topic, -1) < broadcast.timestamp:
            newest[broadcast.topic] = broadcast.timestamp
            yield entry


def _entry(record: Any) -> LogEntry | None:
    try:
        said = decode_record(record.topic, record.value, record.headers)
    except Undecodable:
        return None  # the group's consumer sees it, too, and takes it to the dead letters
    number = entry_partition(record.topic, record.partition)
    if isinstance(said, Broadcast):
        return LogEntry(number, record.offset, broadcast=said)
    return LogEntry(number, record.offset, schedule=said)
