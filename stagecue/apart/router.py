"""The message router alone: its log is Kafka or the producer's database, its store Redis, its links WebSockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

from contract.log import BroadcastLog, ReportSink
from contract.runtime.asgi import AsgiService, listen_on
from contract.runtime.kafka_settings import KafkaSettings
from contract.runtime.runner import Readiness, run_services
from contract.runtime.system_clock import SystemClock
from message_producer.app import open_log
from message_producer.settings import ProducerSettings
from message_router.app import build_node_links, build_router
from message_router.settings import RouterSettings
from stagecue.apart.health import health_app
from stagecue.apart.kv import KvWatch, open_kv
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
from stagecue.keys import load_or_create_keys
from stagecue.ring_watch import RingWatch
from stagecue.settings import InstallationSettings
from stagecue.store_part import producer_settings, shown_database

__all__ = ["run_router"]


class _Log(NamedTuple):
    """What a router reads, and where it reports."""

    log: BroadcastLog
    reports: ReportSink
    waiting: Callable[[], int | None] = lambda: None
    """Entries of this router's partitions that it has not taken yet; None: not known."""


async def run_router(
    settings: InstallationSettings,
    kv_url: str,
    stop: asyncio.Event,
    announce: Announce,
    *,
    kafka: KafkaSettings,
    database_url: str | None = None,
) -> None:
    """Run until `stop`. Raises OSError, BrokenKeys, a settings error, or what waiting cannot help against.

    That is InvalidRequest for a log, a store or a database that is none, or refuses us, and StoreUnavailable for one
    that is newer than this code.
    """
    clock, readiness = SystemClock(), Readiness()
    keys = load_or_create_keys(settings.data_dir, clock)
    chosen, store = _named(RouterSettings(), settings), producer_settings(settings, database_url)
    async with AsyncExitStack() as stack:
        sock = stack.enter_context(listen_on(settings.host, settings.router_port))
        async with answering_meanwhile(sock, readiness, "router"):
            kv = await stack.enter_async_context(open_kv(kv_url))
            if kafka.bootstrap_servers:
                opening = _kafka_log(kafka, chosen.replay_window_s, store, clock, readiness, stop)
            else:
                opening = _embedded_log(store, clock, readiness, stop)
            source = await stack.enter_async_context(opening)
        router = build_router(
            chosen,
            log=source.log,
            replay_log=kv.replay_log,
            schedule_view=kv.schedule_view,
            reports=source.reports,
            clock=clock,
            readiness=readiness,
        )
        links = build_node_links(chosen, router=router, leases=kv.leases, link_ring=keys.link, clock=clock)

        def status() -> dict[str, object]:
            said = router.status()
            return {**said, "lag": int(str(said["lag"])) + (source.waiting() or 0)}

        address = ServiceAddress(
            service="router",
            address=settings.url("http", settings.router_port),
            data_dir=str(settings.data_dir),
        )
        # The links are stopped after the router: its drain awaits acknowledgements that come over them.
        await run_services(
            [
                RingWatch(keys, settings.data_dir, clock),
                AsgiService("router-health", health_app(readiness, router.metrics.registry, status), sock),
                KvWatch(kv, readiness),
                links,
                router.service,
                ReadyLine(readiness, address, announce),
            ],
            stop=stop,
            stop_deadline_s=settings.stop_deadline_s,
            on_stopping=readiness.stopping,
        )


def _named(chosen: RouterSettings, settings: InstallationSettings) -> RouterSettings:
    """Routers are told apart by host and port, unless somebody named this one."""
    if "router_id" in chosen.model_fields_set:
        return chosen
    return chosen.model_copy(update={"router_id": f"{socket.gethostname()}:{settings.router_port}"})


@asynccontextmanager
async def _kafka_log(
    kafka: KafkaSettings,
    replay_window_s: float,
    store: ProducerSettings,
    clock: SystemClock,
    readiness: Readiness,
    stop: asyncio.Event,
) -> AsyncIterator[_Log]:
    """The log is Kafka, waited for as long as waiting may help; reports go to the database when there is one."""
    from message_producer.app import open_reports
    from message_router.adapters.kafka_log import open_kafka_log

    opened = opened_patiently(
        lambda: open_kafka_log(kafka, readiness=readiness, clock=clock, replay_window_s=replay_window_s),
        stop,
        setting=KAFKA_SETTING,
        where=f"the Kafka broker {kafka.bootstrap_servers}",
        readiness=readiness,
        condition="kafka",
        patience_s=None,
    )
    counted = opened_patiently(
        lambda: open_reports(store, clock=clock, readiness=readiness),
        stop,
        setting=DATABASE_SETTING,
        where=shown_database(store),
        readiness=readiness,
        condition="database",
        patience_s=None,
    )
    async with opened as log, counted as reports:
        yield _Log(log, reports, lambda: log.lag)


@asynccontextmanager
async def _embedded_log(
    store: ProducerSettings, clock: SystemClock, readiness: Readiness, stop: asyncio.Event
) -> AsyncIterator[_Log]:
    """The log is the producer's outbox, in the database that reports go to, too."""
    opened = opened_patiently(
        lambda: open_log(store, clock=clock, readiness=readiness),
        stop,
        setting=DATABASE_SETTING,
        where=shown_database(store),
        readiness=readiness,
        condition="database",
        patience_s=None if store.database_url else DATABASE_FILE_PATIENCE_S,
    )
    async with opened as shared:
        yield _Log(shared.log, shared.reports)
