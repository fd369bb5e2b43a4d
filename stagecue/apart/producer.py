"""The message producer alone: schedule store, dispatcher, operator API, feeds; publishing to Kafka, if there is one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from contract.runtime.asgi import listen_on
from contract.runtime.kafka_settings import KafkaSettings
from contract.runtime.runner import Readiness, run_services
from contract.runtime.system_clock import SystemClock
from message_producer.app import open_producer
from stagecue.apart.lifecycle import (
    DATABASE_FILE_PATIENCE_S,
    DATABASE_SETTING,
    KAFKA_SETTING,
    Announce,
    ReadyLine,
    ServiceAddress,
    opened_patiently,
)
from stagecue.apart.waiting import answering_meanwhile
from stagecue.keys import load_or_create_keys, operator_token
from stagecue.operator_part import operator_services
from stagecue.ring_watch import RingWatch
from stagecue.settings import InstallationSettings
from stagecue.store_part import producer_settings, shown_database

if TYPE_CHECKING:
    from message_producer.app import Producer
    from message_producer.settings import ProducerSettings

__all__ = ["run_producer"]


async def run_producer(
    settings: InstallationSettings,
    stop: asyncio.Event,
    announce: Announce,
    *,
    kafka: KafkaSettings,
    database_url: str | None = None,
    feeds: tuple[str, ...] = (),
    stage_template: Path | None = None,
) -> None:
    """Run until `stop`. Raises OSError, BrokenKeys, a settings error, or what waiting cannot help against.

    That is InvalidRequest for a log or a database that is none, or refuses us, and StoreUnavailable for one that
    another producer has, or that is newer than this code.
    """
    clock, readiness = SystemClock(), Readiness()
    keys = load_or_create_keys(settings.data_dir, clock)
    chosen = producer_settings(settings, database_url)
    async with AsyncExitStack() as stack:
        sock = stack.enter_context(listen_on(settings.host, settings.producer_port))
        async with answering_meanwhile(sock, readiness, "producer"):
            producer = await stack.enter_async_context(_opened(chosen, kafka, clock, readiness, stop))
        services = operator_services(
            producer.operations,
            operator_ring=keys.operator,
            clock=clock,
            readiness=readiness,
            sock=sock,
            feeds=feeds,
            template_file=stage_template,
            registries=(producer.metrics.registry,),
            status=lambda: {**producer.status(), "ready": readiness.ready},
        )
        url = settings.url("http", settings.producer_port)
        address = ServiceAddress(
            service="producer",
            address=url,
            data_dir=str(settings.data_dir),
            docs=url + "/docs",
            operator_token=operator_token(settings.data_dir, keys.operator, clock),
        )
        await run_services(
            [
                RingWatch(keys, settings.data_dir, clock, renews_operator_token=True),
                *producer.services,
                *services,
                ReadyLine(readiness, address, announce),
            ],
            stop=stop,
            stop_deadline_s=settings.stop_deadline_s,
            on_stopping=readiness.stopping,
        )


@asynccontextmanager
async def _opened(
    chosen: ProducerSettings, kafka: KafkaSettings, clock: SystemClock, readiness: Readiness, stop: asyncio.Event
) -> AsyncIterator[Producer]:
    """The producer on its database, and on Kafka if there is one; waits for both as long as waiting may help."""
    async with AsyncExitStack() as stack:
        publisher = None
        if kafka.bootstrap_servers:
            from message_producer.adapters.kafka_publisher import open_kafka_publisher

            publisher = await stack.enter_async_context(
                opened_patiently(
                    lambda: open_kafka_publisher(kafka, readiness=readiness),
                    stop,
                    setting=KAFKA_SETTING,
                    where=f"the Kafka broker {kafka.bootstrap_servers}",
                    readiness=readiness,
                    condition="kafka",
                    patience_s=None,
                )
            )
        yield await stack.enter_async_context(
            opened_patiently(
                lambda: open_producer(chosen, clock=clock, readiness=readiness, publisher=publisher),
                stop,
                setting=DATABASE_SETTING,
                where=shown_database(chosen),
                readiness=readiness,
                condition="database",
                patience_s=None if chosen.database_url else DATABASE_FILE_PATIENCE_S,
            )
        )
