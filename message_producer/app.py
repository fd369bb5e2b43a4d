"""Composition of the producer: store, clock, lease, dispatcher, publisher, operations, log."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from contract.clock import Clock
from contract.log import BroadcastLog, ReportSink
from contract.runtime.runner import Readiness, Service
from message_producer.adapters.apscheduler_alarm import ApschedulerAlarm
from message_producer.adapters.late_reports import LateReports
from message_producer.adapters.outbox_log import OutboxLog
from message_producer.adapters.sql_engine import DatabaseLock, database_url, sqlite_path
from message_producer.adapters.sql_store import SqlStore, open_store
from message_producer.anchored_clock import AnchoredClock
from message_producer.dispatch import Dispatcher, Pace
from message_producer.lease_keeper import LeaseKeeper
from message_producer.log_publishing import LogPublishing
from message_producer.metrics import ProducerMetrics
from message_producer.operations import StoreOperations
from message_producer.ports import Operations, Publisher
from message_producer.publishing import PublishingService
from message_producer.settings import ProducerSettings
from message_producer.status import ProducerStatus
from message_producer.store_watch import StoreWatch
from message_producer.wakeups import Wakeups

__all__ = ["Producer", "SharedLog", "open_log", "open_producer", "open_reports"]

_ONE_WRITER: Final = Pace(events_per_commit=50, commits_at_once=1, look_every_s=1.0, ahead_ms=0)
"""A SQLite file has one writer, and nobody else changes it: looking is for an alarm that did not ring."""
_MANY_WRITERS: Final = Pace(events_per_commit=16, commits_at_once=3, look_every_s=0.2, ahead_ms=4)


@dataclass(frozen=True)
class Producer:
    """A producer whose resources are open; `services` are still to be run, in this order."""

    operations: Operations
    log: BroadcastLog
    services: list[Service]
    metrics: ProducerMetrics
    status: Callable[[], dict[str, object]]
    """What GET /status answers: whether it leads, under which epoch, what waits, what is due next."""


@dataclass(frozen=True)
class SharedLog:
    """What a router in another process needs of the producer's store: the log, and where reports are kept."""

    log: BroadcastLog
    reports: ReportSink


@asynccontextmanager
async def open_producer(
    settings: ProducerSettings,
    *,
    clock: Clock,
    readiness: Readiness,
    publisher: Publisher | None = None,
) -> AsyncIterator[Producer]:
    """Open the store (migrating it) and wire the producer. `publisher` None: embedded, the outbox is the log.

    Raises StoreUnavailable: another producer has the SQLite file, or the database is newer than this code.
    """
    url = database_url(settings.url())
    database = sqlite_path(url)
    async with AsyncExitStack() as stack:
        if database is not None:
            database.parent.mkdir(parents=True, exist_ok=True)
            await stack.enter_async_context(_held(DatabaseLock(database), settings.lock_wait_s))
        store = await stack.enter_async_context(
            open_store(url, clock=clock, readiness=readiness, busy_timeout_s=settings.busy_timeout_s)
        )
        anchored = AnchoredClock(clock)
        wakeups = Wakeups()
        lease = LeaseKeeper(
            store,
            anchored,
            wakeups,
            holder=f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}",
            length_ms=round(settings.lease_length_s * 1000),
            renew_every_s=settings.lease_renew_every_s,
            alone=database is not None,
        )
        log = OutboxLog(store, embedded=True)
        alarm = ApschedulerAlarm(anchored, wakeups.dispatch.set)
        alarm.start()
        stack.callback(alarm.close)
        operations = _operations(store, anchored, wakeups, settings)
        metrics = ProducerMetrics()
        embedded = PublishingService(store, anchored, lease, wakeups, metrics=metrics, on_published=log.announce)
        outlet = (
            LogPublishing(store, anchored, lease, wakeups, publisher=publisher, metrics=metrics)
            if publisher is not None
            else None
        )
        dispatcher = Dispatcher(
            store,
            anchored,
            lease,
            alarm,
            wakeups,
            late_after_ms=settings.late_after_ms,
            pace=_ONE_WRITER if database is not None else _MANY_WRITERS,
            metrics=metrics,
            log=embedded if outlet is None else None,
            outlet=outlet.hand_over if outlet is not None else None,
        )
        publishing = embedded if outlet is None else outlet
        yield Producer(
            operations=operations,
            log=log,
            services=[lease, publishing, dispatcher, StoreWatch(store, wakeups)],
            metrics=metrics,
            status=ProducerStatus(lease, publishing, dispatcher, metrics),
        )


@asynccontextmanager
async def open_log(
    settings: ProducerSettings, *, clock: Clock, readiness: Readiness, consumer: str = "router"
) -> AsyncIterator[SharedLog]:
    """The embedded log from a process other than the producer's, on the same database; reports are written into it.

    Whoever comes first migrates it. Raises StoreUnavailable: locked for longer than `busy_timeout_s` (`retry_after_s`
    is set, waiting helps), or the database is newer than this code.
    """
    url = database_url(settings.url())
    if (database := sqlite_path(url)) is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
    async with open_store(url, clock=clock, readiness=readiness, busy_timeout_s=settings.busy_timeout_s) as store:
        # Only where reports go is handed out: dispatch is the producer's, so nobody here waits for these wake-ups.
        operations = _operations(store, AnchoredClock(clock), Wakeups(), settings)
        yield SharedLog(log=OutboxLog(store, consumer=consumer, embedded=False), reports=operations)


@asynccontextmanager
async def open_reports(settings: ProducerSettings, *, clock: Clock, readiness: Readiness) -> AsyncIterator[ReportSink]:
    """Where a router leaves what nodes report when its log is not the store: the producers' database.

    Counts are what an operator reads; no broadcast waits for them. So a database that is down does not keep a router
    from starting: it is not ready until the database was reached once, and from then on the database's trouble is only
    the caller's (StoreUnavailable), who keeps the counts. Raises StoreUnavailable naming the setting where waiting
    cannot help, InvalidRequest for a URL that is none.
    """
    url = database_url(settings.url())
    if (database := sqlite_path(url)) is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
    async with LateReports(url, clock=clock, readiness=readiness, busy_timeout_s=settings.busy_timeout_s) as reports:
        yield reports


def _operations(store: SqlStore, clock: AnchoredClock, wakeups: Wakeups, settings: ProducerSettings) -> StoreOperations:
    return StoreOperations(
        store,
        clock,
        wakeups,
        coverage_fresh_ms=round(settings.coverage_fresh_s * 1000),
        late_after_ms=settings.late_after_ms,
    )


@asynccontextmanager
async def _held(lock: DatabaseLock, wait_s: float) -> AsyncIterator[None]:
    """Hold `lock`, waiting up to `wait_s` for a producer that is about to end. Raises StoreUnavailable."""
    deadline = asyncio.get_running_loop().time() + wait_s
    while not lock.try_acquire():
        if asyncio.get_running_loop().time() >= deadline:
            raise lock.refusal()
        await asyncio.sleep(0.02)
    try:
        yield
    finally:
        lock.release()
