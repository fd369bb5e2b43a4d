"""What cannot be decoded goes to the dead letters with its reason; the partition waits for that, and then goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from contract.names import KAFKA_BROADCASTS, KAFKA_DEAD_LETTERS, KAFKA_SCHEDULE
from contract.records import partition_of
from contract.runtime.kafka_connect import ensure_topics
from contract.runtime.kafka_settings import KafkaSettings
from contract.runtime.runner import Readiness
from tests.integration.kafka.kafka_world import BASE, broadcast, polled, publisher
from tests.support.kafka_server import kafka, kafka_group, kafka_server

__all__ = ["kafka", "kafka_group", "kafka_server"]
pytestmark = [pytest.mark.external_service, pytest.mark.timeout(180)]


@asynccontextmanager
async def stranger(kafka: KafkaSettings) -> AsyncIterator[AIOKafkaProducer]:
    """Somebody else's producer, which writes whatever it likes."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def letters(kafka: KafkaSettings, number: int) -> list[Any]:
    """The first `number` dead letters."""
    consumer = AIOKafkaConsumer(
        KAFKA_DEAD_LETTERS, bootstrap_servers=kafka.bootstrap_servers, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        found: list[Any] = []
        async with asyncio.timeout(10):
            while len(found) < number:
                found.append(await consumer.getone())
        return found
    finally:
        await consumer.stop()


async def test_the_partition_goes_on_behind_what_says_nothing(kafka: KafkaSettings, kafka_group: str) -> None:
    """Rubbish among good records of both topics: every good one arrives, and each bad one is kept as it was, once."""
    readiness = Readiness()
    partition = partition_of("e0", kafka.partitions)
    async with publisher(kafka) as log, stranger(kafka) as other:
        await log.publish_broadcast(broadcast("e0", 1))
        bad = [
            (b"rubbish", [("x", b"y")], "no broadcast"),
            (b'{"topic":"event:e0","state_key":"live","timestamp":5,"prev":7,"event_id":"e0"}', [], "broken chain"),
            (b'{"topic":"event:e0"}', [], "missing required field"),
            (None, [], "no value"),
            (b"{}", [("stagecue-schema", b"broadcast/2")], "this router reads broadcast/1"),
            (b"{}", [("stagecue-schema", b"schedule/1")], "not a broadcast"),
        ]
        for value, headers, _ in bad:
            await other.send_and_wait(KAFKA_BROADCASTS, value=value, key=b"e0", partition=partition, headers=headers)
        await other.send_and_wait(KAFKA_SCHEDULE, value=b"[]", key=b"event:e0", partition=0)
        await log.publish_broadcast(broadcast("e0", 2))
        async with polled(kafka, kafka_group, readiness=readiness) as router:
            await router.until(lambda: len(router.broadcasts) == 2)
            assert [one.timestamp for one in router.broadcasts] == [BASE + 1, BASE + 2]
            kept = await letters(kafka, len(bad) + 1)
        said = {record.key: dict(record.headers) for record in kept}
        assert said[b"event:e0"]["source-topic"] == KAFKA_SCHEDULE.encode()
        ours = [record for record in kept if record.key == b"e0"]
        for offset, (record, (value, headers, reason)) in enumerate(zip(ours, bad, strict=True), start=1):
            told = dict(record.headers)
            assert record.value == (value or b"")
            assert reason in told["reason"].decode()
            assert told["source-topic"] == KAFKA_BROADCASTS.encode()
            assert (told["source-partition"], told["source-offset"]) == (str(partition).encode(), str(offset).encode())
            assert set(headers) <= set(record.headers)
        assert not readiness.failing()


async def test_a_dead_letter_at_the_end_is_finished_too(kafka: KafkaSettings, kafka_group: str) -> None:
    """Nothing good follows, and yet a router that starts anew does not find it again."""
    partition = partition_of("e0", kafka.partitions)
    async with publisher(kafka) as log, stranger(kafka) as other:
        await log.publish_broadcast(broadcast("e0", 1))
        await other.send_and_wait(KAFKA_BROADCASTS, value=b"?", partition=partition)
        await other.send_and_wait(KAFKA_BROADCASTS, value=b"!", partition=partition)
        async with polled(kafka, kafka_group) as router:
            await router.until(lambda: len(router.broadcasts) == 1)
            await letters(kafka, 2)
            await router.until(lambda: router.log.lag == 0)
            await asyncio.sleep(0.3)
        async with polled(kafka, kafka_group) as again:
            await again.until(lambda: bool(again.ours))
            assert again.ours[partition] == 3
            await log.publish_broadcast(broadcast("e0", 2))
            await again.until(lambda: len(again.broadcasts) == 1)
            assert again.broadcasts[0].timestamp == BASE + 2


async def test_a_partition_waits_until_its_dead_letter_is_kept(kafka: KafkaSettings, kafka_group: str) -> None:
    """Without a topic for dead letters nothing behind it is given out; other partitions go on; then all is well."""
    readiness = Readiness()
    hasty = kafka.model_copy(update={"send_timeout_s": 0.5})
    waiting = partition_of("e0", kafka.partitions)
    other_event = next(
        f"e{number}" for number in range(1, 99) if partition_of(f"e{number}", kafka.partitions) != waiting
    )
    async with (
        publisher(kafka) as log,
        stranger(kafka) as other,
        polled(hasty, kafka_group, readiness=readiness) as router,
    ):
        await router.until(lambda: bool(router.ours))
        await drop_dead_letters(kafka)
        await other.send_and_wait(KAFKA_BROADCASTS, value=b"?", partition=waiting)
        await log.publish_broadcast(broadcast("e0", 1))
        await log.publish_broadcast(broadcast(other_event, 1))
        await router.until(lambda: "router.dead-letters" in readiness.failing())
        assert [one.event_id for one in router.broadcasts] == [other_event]
        await router.commit()
        await ensure_topics(kafka)
        await router.until(lambda: len(router.broadcasts) == 2)
        assert not readiness.failing()
        assert router.broadcasts[-1].event_id == "e0"
        [kept] = await letters(kafka, 1)
        assert kept.value == b"?"


async def drop_dead_letters(kafka: KafkaSettings) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()
    try:
        async with asyncio.timeout(10):
            await admin.delete_topics([KAFKA_DEAD_LETTERS])
            while KAFKA_DEAD_LETTERS in await admin.list_topics():  # noqa: ASYNC110 - the broker tells nobody
                await asyncio.sleep(0.05)
    finally:
        await admin.close()
