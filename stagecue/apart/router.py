"""The message router alone: its log is the producer's database, its store Redis; nodes are linked over WebSockets."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from contract.runtime.asgi import AsgiService, listen_on
from contract.runtime.runner import Readiness, run_services
from contract.runtime.system_clock import SystemClock
from message_producer.app import open_log
from message_router.app import build_node_links, build_router
from message_router.settings import RouterSettings
from stagecue.apart.health import health_app
from stagecue.apart.kv import KvWatch, open_kv
from stagecue.apart.lifecycle import Announce, ReadyLine, ServiceAddress, opened_patiently
from stagecue.keys import load_or_create_keys
from stagecue.settings import InstallationSettings
from stagecue.store_part import producer_settings

__all__ = ["run_router"]


async def run_router(settings: InstallationSettings, kv_url: str, stop: asyncio.Event, announce: Announce) -> None:
    """Run until `stop`. Raises OSError, BrokenKeys, a settings error, or InvalidRequest for a KV store that is none."""
    clock, readiness = SystemClock(), Readiness()
    keys = load_or_create_keys(settings.data_dir)
    chosen, store = RouterSettings(), producer_settings(settings)
    async with AsyncExitStack() as stack:
        sock = stack.enter_context(listen_on(settings.host, settings.router_port))
        kv = await stack.enter_async_context(open_kv(kv_url))
        shared = await stack.enter_async_context(
            opened_patiently(lambda: open_log(store, clock=clock, readiness=readiness), stop)
        )
        router = build_router(
            chosen,
            log=shared.log,
            replay_log=kv.replay_log,
            schedule_view=kv.schedule_view,
            reach=shared.reach,
            clock=clock,
            readiness=readiness,
        )
        links = build_node_links(chosen, router=router, leases=kv.leases, link_ring=keys.link, clock=clock)
        address = ServiceAddress(
            service="router",
            address=settings.url("http", settings.router_port),
            data_dir=str(settings.data_dir),
        )
        # The links are stopped after the router: its drain awaits acknowledgements that come over them.
        await run_services(
            [
                AsgiService("router-health", health_app(readiness, router.metrics.registry), sock),
                KvWatch(kv, readiness),
                links,
                router.service,
                ReadyLine(readiness, address, announce),
            ],
            stop=stop,
            stop_deadline_s=settings.stop_deadline_s,
            on_stopping=readiness.stopping,
        )
