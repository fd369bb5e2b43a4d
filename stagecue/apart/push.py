"""One push node alone: reads Redis, is found by routers through its lease, serves devices."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from contract.kv.ports import NodeLease
from contract.runtime.asgi import listen_on
from contract.runtime.link_handshake import NodeIdentity
from contract.runtime.runner import Readiness, run_services
from contract.runtime.system_clock import SystemClock
from contract.runtime.ws_channel import serve_links
from push_proxy.app import build_push_node
from push_proxy.settings import PushSettings
from stagecue.apart.kv import KvWatch, open_kv
from stagecue.apart.lease import LeaseRenewal
from stagecue.apart.lifecycle import Announce, ReadyLine, ServiceAddress
from stagecue.keys import load_or_create_keys
from stagecue.settings import InstallationSettings

__all__ = ["run_push"]


async def run_push(settings: InstallationSettings, kv_url: str, stop: asyncio.Event, announce: Announce) -> None:
    """Run until `stop`. Raises OSError, BrokenKeys, a settings error, or InvalidRequest for a KV store that is none."""
    clock, readiness = SystemClock(), Readiness()
    keys = load_or_create_keys(settings.data_dir)
    chosen = PushSettings()
    async with AsyncExitStack() as stack:
        sock = stack.enter_context(listen_on(settings.host, settings.push_port, backlog=chosen.backlog))
        kv = await stack.enter_async_context(open_kv(kv_url))
        node = build_push_node(
            chosen,
            replay_log=kv.replay_log,
            schedule_view=kv.schedule_view,
            device_ring=keys.device,
            clock=clock,
            readiness=readiness,
            sock=sock,
        )
        link_address = await stack.enter_async_context(
            serve_links(
                settings.link_host,
                settings.link_port,
                ring=keys.link,
                identity=NodeIdentity(node.node_id, node.incarnation),
                on_link=lambda channel, router_id: node.attach_router(channel),
            )
        )
        told = settings.link_told or link_address
        lease = NodeLease(node_id=node.node_id, incarnation=node.incarnation, link_address=told)
        address = ServiceAddress(
            service="push",
            address=settings.url("ws", settings.push_port),
            data_dir=str(settings.data_dir),
            link=told,
        )
        # Stopped in reverse: the lease goes first, so that no router comes; the last reach leaves over open links.
        await run_services(
            [
                KvWatch(kv, readiness, patience_s=2 * chosen.lease_s),
                node.service,
                LeaseRenewal(lease, kv.leases, readiness, lifetime_s=chosen.lease_s),
                ReadyLine(readiness, address, announce),
            ],
            stop=stop,
            stop_deadline_s=settings.stop_deadline_s,
            on_stopping=readiness.stopping,
        )
