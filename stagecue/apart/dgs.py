"""The GraphQL prefetch service alone: reads Redis and its catalog."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from contract.runtime.asgi import listen_on
from contract.runtime.runner import Readiness, run_services
from contract.runtime.system_clock import SystemClock
from stagecue.apart.health import with_status
from stagecue.apart.kv import KvWatch, open_kv
from stagecue.apart.lifecycle import Announce, ReadyLine, ServiceAddress
from stagecue.keys import load_or_create_keys
from stagecue.prefetch_part import dgs_settings, open_dgs
from stagecue.ring_watch import RingWatch
from stagecue.settings import InstallationSettings

__all__ = ["run_dgs"]


async def run_dgs(
    settings: InstallationSettings,
    kv_url: str,
    stop: asyncio.Event,
    announce: Announce,
    *,
    catalog: Path | None = None,
    profiles: Path | None = None,
) -> None:
    """Run until `stop`. Raises OSError, BrokenKeys, a settings error, or InvalidRequest for a store or catalog."""
    clock, readiness = SystemClock(), Readiness()
    keys = load_or_create_keys(settings.data_dir, clock)
    async with AsyncExitStack() as stack:
        sock = stack.enter_context(listen_on(settings.host, settings.dgs_port))
        kv = await stack.enter_async_context(open_kv(kv_url))
        chosen = dgs_settings(settings, catalog=catalog, profiles=profiles)
        dgs = await stack.enter_async_context(
            open_dgs(
                settings,
                chosen,
                schedule_view=kv.schedule_view,
                replay_log=kv.replay_log,
                keys=keys,
                clock=clock,
                readiness=readiness,
                kv=kv.client,
            )
        )

        def status() -> dict[str, object]:
            sends_to = chosen.push_url.split(",")
            return {"role": "dgs", "ready": readiness.ready, "sends_devices_to": sends_to, **dgs.status()}

        address = ServiceAddress(
            service="dgs", address=settings.url("http", settings.dgs_port), data_dir=str(settings.data_dir)
        )
        await run_services(
            [
                RingWatch(keys, settings.data_dir, clock),
                *dgs.services,
                dgs.server(sock, app=with_status(dgs, status)),
                KvWatch(kv, readiness),
                ReadyLine(readiness, address, announce),
            ],
            stop=stop,
            stop_deadline_s=settings.stop_deadline_s,
            on_stopping=readiness.stopping,
        )
