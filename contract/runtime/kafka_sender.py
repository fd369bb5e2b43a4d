"""Sending to Kafka so that returning means durable, waiting has an end, and a broken client is replaced."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError, MessageSizeTooLargeError

from contract.errors import LogUnavailable
from contract.records import Record, partition_of
from contract.runtime.kafka import client_options, close_producer, log_trouble, quiet_client_logs
from contract.runtime.kafka_connect import StuckClient
from contract.runtime.kafka_settings import KafkaSettings

__all__ = ["KafkaSender", "open_sender"]

_MAX_PENDING: Final = 10_000
_REQUEST_TIMEOUT_MS: Final = 5_000
"""How long one request may hang, on a broker that is frozen, before it is sent again on a new connection."""
_log = structlog.get_logger(__name__)


class _Client:
    """One aiokafka producer and what it has not confirmed yet."""

    def __init__(self, producer: AIOKafkaProducer, stuck: StuckClient) -> None:
        self.producer = producer
        self.stuck = stuck
        self.pending: dict[tuple[str, str, int], asyncio.Future[Any]] = {}
        self.retired = asyncio.Event()


class KafkaSender:
    """Sends records to the partitions their keys say, `acks=all`, idempotent, without lingering.

    aiokafka never times out what it took: a record that could not be sent in time stays with it and is sent later, so
    that nothing sent after it overtakes it in its partition. Sending the same record again waits for that one. Only
    a client that failed for good, or got nowhere for `renew_after_s` while brokers answer others, is replaced; then a
    record may be in the log twice, an exact repeat.
    """

    def __init__(self, settings: KafkaSettings, role: str) -> None:
        self._settings = settings
        self._role = role
        self._client: _Client | None = None
        self._opening = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._judging: asyncio.Task[None] | None = None

    async def send(self, record: Record) -> None:
        """Return once every in-sync replica has it. Cancelling gives up waiting; it may still be sent.

        Raises LogUnavailable: not confirmed within `send_timeout_s`, and perhaps sent later; InvalidRequest: too large.
        """
        with log_trouble(f"sending to {record.kafka_topic}"):
            try:
                async with asyncio.timeout(self._settings.send_timeout_s):
                    client = await self._open()
                    future = client.pending.get(record.identity) or await self._hand_over(client, record)
                    await self._confirmed(client, future)
            except TimeoutError:
                self._suspect()
                raise

    async def check(self) -> None:
        """Return if the brokers answer. Raises LogUnavailable."""
        with log_trouble("asking for its brokers"):
            async with asyncio.timeout(self._settings.send_timeout_s):
                client = await self._open()
                await client.producer.client.fetch_all_metadata()

    async def close(self) -> None:
        """Send what waits, for at most seconds, and disconnect."""
        if self._judging is not None:
            self._judging.cancel()
            await asyncio.wait({self._judging})
        if self._client is not None:
            self._retire(self._client)
        if self._closing:
            await asyncio.wait(self._closing)

    async def _hand_over(self, client: _Client, record: Record) -> asyncio.Future[Any]:
        if len(client.pending) >= _MAX_PENDING:
            raise KafkaTimeoutError(f"{_MAX_PENDING} records wait already")
        producer = client.producer
        try:
            partitions = await producer.partitions_for(record.kafka_topic)
            future: asyncio.Future[Any] = await producer.send(
                record.kafka_topic,
                value=record.value,
                key=record.key,
                partition=partition_of(record.partition_key, len(partitions)),
                timestamp_ms=record.timestamp_ms,
                headers=list(record.headers),
            )
        except KafkaError as exc:
            if not (exc.retriable or isinstance(exc, KafkaTimeoutError | MessageSizeTooLargeError)):
                self._retire(client)
            raise
        if (before := client.pending.get(record.identity)) is not None:
            # Somebody handed the same over meanwhile: this one is a repeat right behind it.
            future.add_done_callback(_seen)
            return before
        client.pending[record.identity] = future
        future.add_done_callback(lambda done: self._settled(client, record, done))
        return future

    def _settled(self, client: _Client, record: Record, future: asyncio.Future[Any]) -> None:
        client.pending.pop(record.identity, None)
        _seen(future)
        if not future.cancelled() and future.exception() is None:
            client.stuck.worked()

    async def _confirmed(self, client: _Client, future: asyncio.Future[Any]) -> None:
        retired = asyncio.ensure_future(client.retired.wait())
        try:
            await asyncio.wait({future, retired}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            retired.cancel()
        if not future.done():
            raise KafkaConnectionError("the client was replaced")
        try:
            future.result()
        except MessageSizeTooLargeError:
            raise
        except KafkaError:
            # An idempotent producer that lost one record of a partition cannot send the next.
            self._retire(client)
            raise

    async def _open(self) -> _Client:
        """The client in use, or a new one. Raises KafkaError."""
        if self._client is not None:
            return self._client
        async with self._opening:
            if self._client is None:
                quiet_client_logs()
                options = client_options(self._settings, self._role, request_timeout_ms=_REQUEST_TIMEOUT_MS)
                producer = AIOKafkaProducer(acks="all", enable_idempotence=True, linger_ms=0, **options)
                try:
                    await producer.start()
                except BaseException:
                    self._close_later(producer)
                    raise
                self._client = _Client(producer, StuckClient(self._settings))
            return self._client

    def _suspect(self) -> None:
        """The client got nowhere: find out, beside whoever sends, whether it is to be replaced."""
        client = self._client
        if client is not None and (self._judging is None or self._judging.done()):
            self._judging = asyncio.create_task(self._judge(client), name=f"kafka-{self._role}-stuck")

    async def _judge(self, client: _Client) -> None:
        if await client.stuck.failed() and self._client is client:
            _log.warning("kafka_client_replaced", role=self._role, pending=len(client.pending))
            self._retire(client)

    def _retire(self, client: _Client) -> None:
        if self._client is client:
            self._client = None
        if not client.retired.is_set():
            client.retired.set()
            self._close_later(client.producer)

    def _close_later(self, producer: AIOKafkaProducer) -> None:
        task = asyncio.create_task(close_producer(producer), name=f"kafka-{self._role}-close")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _seen(future: asyncio.Future[Any]) -> None:
    """Nobody may be waiting any more: its error is no news."""
    if not future.cancelled():
        future.exception()


@asynccontextmanager
async def open_sender(settings: KafkaSettings, role: str) -> AsyncIterator[KafkaSender]:
    """A sender that connects when first used; closed on leaving."""
    sender = KafkaSender(settings, role)
    try:
        yield sender
    finally:
        with contextlib.suppress(LogUnavailable):
            await sender.close()
