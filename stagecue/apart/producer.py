"""The message producer alone: schedule store, dispatcher, operator API, feeds. It needs no other service."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from contract.runtime.asgi import listen_on
from contract.runtime.runner import Readiness, run_services
from contract.runtime.system_clock import SystemClock
from message_producer.app import open_producer
from stagecue.apart.lifecycle import Announce, ReadyLine, ServiceAddress, opened_patiently
from stagecue.keys import load_or_create_keys, operator_token
from stagecue.operator_part import operator_services
from stagecue.settings import InstallationSettings
from stagecue.store_part import producer_settings

__all__ = ["run_producer"]


async def run_producer(
    settings: InstallationSettings,
    stop: asyncio.Event,
    announce: Announce,
    *,
    feeds: tuple[str, ...] = (),
    stage_template: Path | None = None,
) -> None:
    """Run until `stop`. Raises OSError, BrokenKeys, a settings error, or StoreUnavailable where waiting cannot help."""
    clock, readiness = SystemClock(), Readiness()
    keys = load_or_create_keys(settings.data_dir)
    chosen = producer_settings(settings)
    async with AsyncExitStack() as stack:
        sock = stack.enter_context(listen_on(settings.host, settings.producer_port))
        producer = await stack.enter_async_context(
            opened_patiently(lambda: open_producer(chosen, clock=clock, readiness=readiness), stop)
        )
        services = operator_services(
            producer.operations,
            operator_ring=keys.operator,
            clock=clock,
            readiness=readiness,
            sock=sock,
            feeds=feeds,
            template_file=stage_template,
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
            [*producer.services, *services, ReadyLine(readiness, address, announce)],
            stop=stop,
            stop_deadline_s=settings.stop_deadline_s,
            on_stopping=readiness.stopping,
        )
