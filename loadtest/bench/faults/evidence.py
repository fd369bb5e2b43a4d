"""What the judge reads beside the devices' records: the outbox in SQL, and the broadcasts' Kafka topic from its log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

import msgspec

from contract.broadcast import Broadcast
from contract.names import KAFKA_BROADCASTS
from contract.records import Undecodable, decode_record
from loadtest.bench.faults.recovery import Receipt
from loadtest.bench.faults.verdict import KafkaBroadcast, OutboxRow
from loadtest.bench.fleet_record import FleetRecord
from loadtest.bench.outcome import CouldNotRun

__all__ = ["broadcast_log_ends", "broadcasts_in_kafka", "outbox_rows", "receipts_of", "until_published"]

_T = TypeVar("_T")

_LOOK_EVERY_S: Final = 0.2
_READ_WITHIN_S: Final = 20.0
_COLUMNS: Final = "topic, state_key, arming, timestamp, prev, cause, due_at, dispatched_at, published_at"


async def outbox_rows(url: str, topics: Iterable[str]) -> list[OutboxRow]:
    """Everything that was broadcast on `topics`, oldest first; from the database, not through our API."""
    return await asyncio.to_thread(_read_outbox, url, list(topics))


async def until_published(url: str, *, within_s: float) -> int:
    """Wait until nothing waits for the log; returns what still does after `within_s`."""
    deadline = time.monotonic() + within_s
    while True:
        waiting = await asyncio.to_thread(_unpublished, url)
        if not waiting or time.monotonic() >= deadline:
            return waiting
        await asyncio.sleep(_LOOK_EVERY_S)


async def broadcast_log_ends(bootstrap_servers: str) -> dict[int, int]:
    """Partition -> where the next broadcast goes: what a run begins after. Raises CouldNotRun."""

    async def ends(consumer: Any, partitions: list[Any]) -> dict[int, int]:
        found = await consumer.end_offsets(partitions)
        return {partition.partition: offset for partition, offset in found.items()}

    return await _with_log(bootstrap_servers, ends)


async def broadcasts_in_kafka(bootstrap_servers: str, after: Mapping[int, int]) -> list[KafkaBroadcast]:
    """Every record of the broadcasts' topic from the offsets `after` on, repeats included. Raises CouldNotRun."""

    async def read(consumer: Any, partitions: list[Any]) -> list[KafkaBroadcast]:
        ends = await consumer.end_offsets(partitions)
        for partition in partitions:
            consumer.seek(partition, after.get(partition.partition, 0))
        found = []
        while behind := [each for each in partitions if await consumer.position(each) < ends[each]]:
            batches = await consumer.getmany(*behind, timeout_ms=500)
            found += [_of_record(record) for records in batches.values() for record in records]
        return found

    return await _with_log(bootstrap_servers, read)


async def _with_log(bootstrap_servers: str, use: Callable[[Any, list[Any]], Awaitable[_T]]) -> _T:
    from aiokafka import AIOKafkaConsumer, TopicPartition
    from aiokafka.errors import KafkaError

    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap_servers, enable_auto_commit=False, group_id=None)
    try:
        async with asyncio.timeout(_READ_WITHIN_S):
            await consumer.start()
            try:
                await consumer._client.force_metadata_update()
                numbers = consumer.partitions_for_topic(KAFKA_BROADCASTS) or set()
                partitions = [TopicPartition(KAFKA_BROADCASTS, number) for number in sorted(numbers)]
                consumer.assign(partitions)
                return await use(consumer, partitions)
            finally:
                await consumer.stop()
    except (KafkaError, OSError, TimeoutError) as exc:
        raise CouldNotRun(f"Kafka at {bootstrap_servers} cannot be read: {exc!r}") from exc


def _of_record(record: Any) -> KafkaBroadcast:
    try:
        said = decode_record(KAFKA_BROADCASTS, record.value, record.headers)
    except Undecodable as exc:
        raise CouldNotRun(f"offset {record.offset} of partition {record.partition} says nothing: {exc}") from exc
    assert isinstance(said, Broadcast)
    return KafkaBroadcast(said.topic, said.timestamp, said.prev, said.state_key)


def receipts_of(record: FleetRecord) -> Iterator[Receipt]:
    """Every broadcast frame at every device, as recovery counts them."""
    topics = record.plan.topics
    rows = record.arrivals
    columns = (rows[name].tolist() for name in ("device", "topic", "timestamp", "at_ms", "replayed"))
    for device, topic, timestamp, at_ms, replayed in zip(*columns, strict=True):
        yield Receipt(device, topics[topic], timestamp, at_ms, not replayed)


def _read_outbox(url: str, topics: list[str]) -> list[OutboxRow]:
    import psycopg

    with psycopg.connect(_driver_url(url), connect_timeout=5) as connection:
        found = connection.execute(
            f"SELECT {_COLUMNS} FROM outbox WHERE topic = ANY(%s) ORDER BY timestamp",  # noqa: S608 - our own names
            (topics,),
        )
        return [msgspec.convert(dict(zip(_COLUMNS.split(", "), row, strict=True)), OutboxRow) for row in found]


def _unpublished(url: str) -> int:
    import psycopg

    with psycopg.connect(_driver_url(url), connect_timeout=5) as connection:
        row = connection.execute("SELECT count(*) FROM outbox WHERE published_at IS NULL").fetchone()
        return int(row[0]) if row else 0


def _driver_url(url: str) -> str:
    """Without the driver SQLAlchemy wants named."""
    return url.replace("+psycopg", "", 1)
