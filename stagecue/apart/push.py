"""One push node alone: reads Redis, is found by routers through its lease, serves devices."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Final, NamedTuple

from contract.kv.ports import NodeLease
from contract.runtime.asgi import listen_on
from contract.runtime.link_handshake import NodeIdentity
from contract.runtime.runner import Readiness, Service, run_services
from contract.runtime.system_clock import SystemClock
from contract.runtime.ws_channel import serve_links
from push_proxy.app import PushNode, build_push_node
from push_proxy.settings import PushSettings
from push_proxy.siblings import NO_SIBLINGS, Siblings
from stagecue.apart.kv import KvWatch, open_kv
from stagecue.apart.lease import LeaseRenewal
from stagecue.apart.lifecycle import Announce, ReadyLine, ServiceAddress
from stagecue.apart.pages import JSON, Page, PagesService
from stagecue.keys import load_or_create_keys
from stagecue.ring_watch import RingWatch
from stagecue.settings import InstallationSettings

__all__ = ["PushWorker", "run_push"]

_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"


class PushWorker(NamedTuple):
    """One of several nodes behind one device port."""

    number: int
    siblings: Siblings


async def run_push(
    settings: InstallationSettings,
    kv_url: str,
    stop: asyncio.Event,
    announce: Announce,
    *,
    worker: PushWorker | None = None,
) -> None:
    """Run until `stop`. Raises OSError, BrokenKeys, a settings error, or InvalidRequest for a KV store that is none.

    As a `worker` it shares the device port with others, and has a node id, a listener for routers and pages of its own.
    """
    clock, readiness = SystemClock(), Readiness()
    keys = load_or_create_keys(settings.data_dir, clock)
    chosen = _named(PushSettings(), settings, worker)
    async with AsyncExitStack() as stack:
        if worker is None:
            first, link_port = listen_on(settings.host, settings.push_port, backlog=chosen.backlog), settings.link_port
        else:
            # A port that is taken shows that another installation runs here, which the shared one would hide.
            first = listen_on(settings.link_host, settings.worker_pages_port(worker.number))
            link_port = settings.worker_link_port(worker.number)
        sock = stack.enter_context(first)
        kv = await stack.enter_async_context(open_kv(kv_url))
        if worker is not None:
            # Not before it can serve: the kernel gives every listener its share of connections.
            pages, sock = (
                sock,
                stack.enter_context(listen_on(settings.host, settings.push_port, backlog=chosen.backlog, shared=True)),
            )
        node = build_push_node(
            chosen,
            replay_log=kv.replay_log,
            schedule_view=kv.schedule_view,
            device_ring=keys.device,
            clock=clock,
            readiness=readiness,
            sock=sock,
            siblings=NO_SIBLINGS if worker is None else worker.siblings,
        )
        link_address = await stack.enter_async_context(
            serve_links(
                settings.link_host,
                link_port,
                ring=keys.link,
                identity=NodeIdentity(node.node_id, node.incarnation),
                on_link=lambda channel, router_id: node.attach_router(channel),
            )
        )
        told = settings.link_told if worker is None else settings.worker_link_told(worker.number)
        lease = NodeLease(node_id=node.node_id, incarnation=node.incarnation, link_address=told or link_address)
        address = ServiceAddress(
            service="push",
            address=settings.url("ws", settings.push_port),
            data_dir=str(settings.data_dir),
            link=lease.link_address,
            pages=None if worker is None else _url(settings.link_host, settings.worker_pages_port(worker.number)),
            node=None if worker is None else node.node_id,
        )
        of_worker: list[Service] = []
        if worker is not None:
            of_worker = [PagesService("worker-pages", pages, lambda path: _page(node, readiness, path))]
        # Stopped in reverse: the lease goes first, so that no router comes; the last reach leaves over open links.
        await run_services(
            [
                RingWatch(keys, settings.data_dir, clock),
                *of_worker,
                KvWatch(kv, readiness, patience_s=2 * chosen.lease_s),
                node.service,
                LeaseRenewal(lease, kv.leases, readiness, lifetime_s=chosen.lease_s),
                ReadyLine(readiness, address, announce),
            ],
            stop=stop,
            stop_deadline_s=settings.stop_deadline_s,
            on_stopping=readiness.stopping,
        )


def _named(chosen: PushSettings, settings: InstallationSettings, worker: PushWorker | None) -> PushSettings:
    """A worker's node id is the node's, and its number: the same whenever it is started again."""
    if worker is None:
        return chosen
    return chosen.model_copy(update={"node_id": f"{chosen.resolved_node_id(settings.push_port)}-w{worker.number}"})


def _page(node: PushNode, readiness: Readiness, path: str) -> Page:
    if path == "/metrics":
        return Page(200, _TEXT, node.metrics.render())
    if path == "/healthz":
        return Page(200, JSON, b'{"status":"alive"}')
    if path == "/status":
        return Page(200, JSON, json.dumps(node.status()).encode())
    if path == "/readyz":
        status, body = readiness.report()
        return Page(status, JSON, json.dumps(body).encode())
    return Page(404, JSON, b'{"status":"there are /healthz, /readyz, /status and /metrics"}')


def _url(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
