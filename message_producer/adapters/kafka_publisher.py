"""The Publisher on Kafka: broadcasts and schedules to the log in flight, durable on return (R2)."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from contract.broadcast import Broadcast
from contract.errors import InvalidRequest, LogUnavailable
from contract.records import Record, broadcast_record, schedule_record
from contract.runtime.kafka_connect import ensure_topics
from contract.runtime.kafka_sender import KafkaSender, open_sender
from contract.runtime.kafka_settings import KafkaSettings
from contract.runtime.runner import Readiness
from contract.schedule import TopicSchedule
from contract.trace import trace_of

__all__ = ["KafkaPublisher", "open_kafka_publisher"]

_CONDITION: Final = "producer.kafka"
_RETRY_AFTER_S: Final = 1.0


class KafkaPublisher:
    """See Publisher. Within a topic nothing overtakes: what failed is sent before what comes after it.

    A record that was not confirmed in time may be in the log all the same, and sent again it is there twice: an exact
    repeat, which the router knows by its timestamp (R9), and a schedule by its revision (R5).
    """

    def __init__(self, sender: KafkaSender, readiness: Readiness) -> None:
        self._sender = sender
        self._readiness = readiness

    async def publish_broadcast(self, broadcast: Broadcast) -> None:
        """Durable on return. Raises LogUnavailable."""
        await self._send(broadcast_record(broadcast, _traceparent(f"{broadcast.topic} {broadcast.timestamp}")))

    async def publish_schedule(self, schedule: TopicSchedule) -> None:
        """Durable on return. Raises LogUnavailable."""
        await self._send(schedule_record(schedule, _traceparent(f"{schedule.topic} revision {schedule.revision}")))

    async def check(self) -> None:
        """Tell readiness whether the brokers answer."""
        try:
            await self._sender.check()
        except LogUnavailable as exc:
            self._readiness.fail(_CONDITION, str(exc))
        else:
            self._readiness.hold(_CONDITION)

    async def _send(self, record: Record) -> None:
        try:
            await self._sender.send(record)
        except InvalidRequest as exc:
            # Not the caller's mistake: what the outbox holds goes out once somebody has set the brokers right.
            self._readiness.fail(_CONDITION, str(exc))
            raise LogUnavailable(exc.message, field=exc.field, rule=exc.rule, retry_after_s=_RETRY_AFTER_S) from exc
        except LogUnavailable as exc:
            self._readiness.fail(_CONDITION, str(exc))
            raise
        self._readiness.hold(_CONDITION)


@asynccontextmanager
async def open_kafka_publisher(settings: KafkaSettings, *, readiness: Readiness) -> AsyncIterator[KafkaPublisher]:
    """Create the Kafka topics where they are missing, connect, and publish until left; within ten seconds.

    Raises LogUnavailable where waiting can help, and InvalidRequest naming the setting that is wrong.
    """
    readiness.expect(_CONDITION, "not reached yet")
    await ensure_topics(settings)
    async with open_sender(settings, "producer") as sender:
        publisher = KafkaPublisher(sender, readiness)
        await publisher.check()
        watching = asyncio.create_task(_watch(publisher, settings.health_interval_s), name="producer-kafka-health")
        try:
            yield publisher
        finally:
            watching.cancel()
            await asyncio.wait({watching})


async def _watch(publisher: KafkaPublisher, every_s: float) -> None:
    """Readiness must know of an outage on a quiet evening, too."""
    while True:
        await asyncio.sleep(every_s)
        await publisher.check()


def _traceparent(subject: str) -> str:
    return trace_of(subject, parent_id=secrets.token_bytes(8)).header()
