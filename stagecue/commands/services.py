"""`stagecue producer|router|push|dgs`: one service each, in a process of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stagecue.commands.up import (
    checked_settings,
    installation_options,
    installation_settings,
    operator_options,
    prefetch_options,
    ready_option,
    run_or_explain,
)

if TYPE_CHECKING:
    import asyncio

    from contract.runtime.kafka_settings import KafkaSettings
    from stagecue.apart.lifecycle import Announce
    from stagecue.settings import InstallationSettings

__all__ = ["dgs", "producer", "push", "router"]

_kv_option = click.option("--kv", "kv_url", help="redis://host:port of the KV store, or STAGECUE_KV_URL. Required.")
_kafka_option = click.option(
    "--kafka", "kafka_servers", help="host:port[,host:port] of Kafka, or KAFKA_BOOTSTRAP_SERVERS."
)
_database_option = click.option(
    "--database", "database_url", help="postgresql+psycopg://user:password@host:port/name, or PRODUCER_DATABASE_URL."
)


@click.command(
    epilog="\b\nExamples:\n"
    "  stagecue producer\n"
    "  stagecue producer --data-dir ./night --port-base 9000\n"
    "  stagecue producer --feed examples/schedules/live-events.ics\n"
    "  stagecue producer --kafka 127.0.0.1:9092 --database postgresql+psycopg://me:secret@127.0.0.1:5432/stagecue\n"
)
@installation_options
@_kafka_option
@_database_option
@operator_options
@ready_option
def producer(
    kafka_servers: str | None,
    database_url: str | None,
    feeds: tuple[str, ...],
    stage_template: Path | None,
    ready_json: bool,
    **installation: object,
) -> None:
    """Run the message producer alone: schedule, dispatch, operator API, feeds.

    Without --kafka and --database its log is the SQLite file in --data-dir, which a router on this host reads, and it
    needs no other service. With both, several may run: one leads.
    """
    settings, kafka = installation_settings(**installation), _kafka_settings(kafka_servers)
    from stagecue.apart.producer import run_producer

    async def main(stop: asyncio.Event, announce: Announce) -> None:
        await run_producer(
            settings,
            stop,
            announce,
            kafka=kafka,
            database_url=database_url,
            feeds=feeds,
            stage_template=stage_template,
        )

    _run(settings, "producer", main, ready_json)


@click.command(
    epilog="\b\nExamples:\n"
    "  stagecue router --kv redis://127.0.0.1:6379\n"
    "  stagecue router --data-dir ./night --port-base 9000 --kv redis://127.0.0.1:6379/3\n"
    "  STAGECUE_KV_URL=redis://127.0.0.1:6379 stagecue router --ready-json\n"
    "  stagecue router --kafka 127.0.0.1:9092 --database postgresql+psycopg://me:secret@127.0.0.1:5432/stagecue\n"
)
@installation_options
@_kv_option
@_kafka_option
@_database_option
@ready_option
def router(kafka_servers: str | None, database_url: str | None, ready_json: bool, **installation: object) -> None:
    """Run the message router alone: from the log to Redis and to every push node.

    Without --kafka it reads the SQLite file in --data-dir, so it runs on the producer's host. With it, several share
    the work, and --database is where reach is counted. Answers /healthz, /readyz, /status and /metrics.
    """
    settings, kafka = installation_settings(**installation), _kafka_settings(kafka_servers)
    kv_url = _kv_url(settings, "router")
    from stagecue.apart.router import run_router

    async def main(stop: asyncio.Event, announce: Announce) -> None:
        await run_router(settings, kv_url, stop, announce, kafka=kafka, database_url=database_url)

    _run(settings, "router", main, ready_json)


@click.command(
    epilog="\b\nExamples:\n"
    "  stagecue push --kv redis://127.0.0.1:6379\n"
    "  stagecue push --data-dir ./night --port-base 9000 --kv redis://127.0.0.1:6379/3\n"
    "  stagecue push --workers 4 --kv redis://127.0.0.1:6379\n"
    "  PUSH_DRAIN_S=10 stagecue push --kv redis://127.0.0.1:6379 --ready-json\n"
)
@installation_options
@_kv_option
@click.option(
    "--workers",
    "push_workers",
    type=click.IntRange(1, 128),
    help="Nodes behind the one device port, a process each, or STAGECUE_PUSH_WORKERS. [1]",
)
@ready_option
def push(ready_json: bool, **installation: object) -> None:
    """Run one push node alone: devices on one port, routers on the next. Or several, which share the device port.

    Ready once Redis answers and a router is linked. Its keys are those of --data-dir.
    """
    settings = installation_settings(**installation)
    kv_url = _kv_url(settings, "push")

    async def main(stop: asyncio.Event, announce: Announce) -> None:
        if settings.push_workers == 1:
            from stagecue.apart.push import run_push

            await run_push(settings, kv_url, stop, announce)
        else:
            from stagecue.apart.push_workers import run_push_workers

            await run_push_workers(settings, kv_url, stop, announce)

    _run(settings, "push", main, ready_json)


@click.command(
    epilog="\b\nExamples:\n"
    "  stagecue dgs --kv redis://127.0.0.1:6379\n"
    "  stagecue dgs --data-dir ./night --port-base 9000 --kv redis://127.0.0.1:6379/3 --catalog films.csv\n"
    "  DGS_PUSH_URL=wss://push.example.net/v1/stream stagecue dgs --kv redis://127.0.0.1:6379\n"
)
@installation_options
@_kv_option
@prefetch_options
@ready_option
def dgs(catalog: Path | None, profiles: Path | None, ready_json: bool, **installation: object) -> None:
    """Run the GraphQL prefetch service alone: stage maps, artwork, where devices connect.

    Reads schedules from Redis. Its keys are those of --data-dir.
    """
    settings = installation_settings(**installation)
    kv_url = _kv_url(settings, "dgs")
    from stagecue.apart.dgs import run_dgs

    async def main(stop: asyncio.Event, announce: Announce) -> None:
        await run_dgs(settings, kv_url, stop, announce, catalog=catalog, profiles=profiles)

    _run(settings, "dgs", main, ready_json)


def _kv_url(settings: InstallationSettings, service: str) -> str:
    if not settings.kv_url:
        raise click.UsageError(
            f"kv_url: `stagecue {service}` needs a Redis: give --kv redis://host:port or set STAGECUE_KV_URL"
        )
    return settings.kv_url


def _kafka_settings(servers: str | None) -> KafkaSettings:
    """The log's settings; `servers` win over KAFKA_BOOTSTRAP_SERVERS. Raises click.UsageError naming the setting."""
    from contract.runtime.kafka_settings import KafkaSettings

    return checked_settings(KafkaSettings, {} if servers is None else {"bootstrap_servers": servers})


def _run(
    settings: InstallationSettings,
    service: str,
    main: Callable[[asyncio.Event, Announce], Awaitable[None]],
    ready_json: bool,
) -> None:
    from stagecue.apart.lifecycle import ServiceAddress, StoppedEarly

    async def announce(address: ServiceAddress) -> None:
        import msgspec

        fields: dict[str, Any] = msgspec.to_builtins(address)
        if ready_json:
            click.echo(json.dumps({"ready": True, **fields}))
        else:
            click.echo(f"stagecue {service} is ready at {address.address}. Ctrl-C stops it.")
            for worker in address.workers:
                click.echo(f"  {worker.node}   {worker.pages}/metrics   routers: {worker.link}")
        sys.stdout.flush()

    async def until_stopped(stop: asyncio.Event) -> None:
        try:
            await main(stop, announce)
        except StoppedEarly:
            return

    run_or_explain(settings, service, until_stopped)
