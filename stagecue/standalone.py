"""Everything in one process: the same services, ports and pure code as a cluster, with embedded adapters."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from contract.errors import NodeUnreachable
from contract.kv.memory import MemoryReplayLog, MemoryScheduleView
from contract.node_link import LinkMessage, MessageChannel
from contract.runtime.asgi import listen_on
from contract.runtime.channel import channel_pair
from contract.runtime.runner import Readiness, Service, run_services
from contract.runtime.system_clock import SystemClock
from message_producer.app import open_producer
from message_router.app import Router, build_router
from message_router.settings import RouterSettings
from push_proxy.app import PushNode, build_push_node
from push_proxy.settings import PushSettings
from stagecue.apart.health import with_status
from stagecue.keys import load_or_create_keys, operator_token
from stagecue.operator_part import operator_services
from stagecue.prefetch_part import dgs_settings, open_dgs
from stagecue.ring_watch import RingWatch
from stagecue.settings import InstallationSettings
from stagecue.store_part import producer_settings

__all__ = [
    "Addresses",
    "EmbeddedLink",
    "StandaloneOptions",
    "run_standalone",
]

_RELINK_AFTER_S: Final = 0.1
"""Pause before a link that ended is replaced; devices are served from the node's memory meanwhile."""


@dataclass(frozen=True, kw_only=True)
class StandaloneOptions:
    """What the command line adds to the settings; None leaves the service's own setting alone."""

    catalog: Path | None = None
    profiles: Path | None = None
    feeds: tuple[str, ...] = ()
    stage_template: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Where the running system is to be found."""

    producer: str
    dgs: str
    push: str
    docs: str
    data_dir: str
    operator_token: str


class _WatchedChannel:
    """A channel that tells when it ended, from whichever side."""

    def __init__(self, channel: MessageChannel) -> None:
        self._channel = channel
        self.ended = asyncio.Event()

    async def send(self, message: LinkMessage) -> None:
        try:
            await self._channel.send(message)
        except NodeUnreachable:
            self.ended.set()
            raise

    async def receive(self) -> LinkMessage:
        try:
            return await self._channel.receive()
        except NodeUnreachable:
            self.ended.set()
            raise

    def close(self) -> None:
        self._channel.close()
        self.ended.set()


class EmbeddedLink:
    """Service: the node link between the router and the push node of this process, replaced whenever it ends."""

    name = "node-link"

    def __init__(self, router: Router, node: PushNode) -> None:
        self._router = router
        self._node = node

    async def run(self, ready: asyncio.Event, stop: asyncio.Event) -> None:
        stopping = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                router_end, node_end = channel_pair()
                watched = _WatchedChannel(node_end)
                self._router.attach(router_end)
                self._node.attach_router(watched)
                ready.set()
                ended = asyncio.ensure_future(watched.ended.wait())
                await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
                ended.cancel()
                watched.close()
                if not stop.is_set():
                    await asyncio.sleep(_RELINK_AFTER_S)
        finally:
            stopping.cancel()


async def run_standalone(
    settings: InstallationSettings,
    options: StandaloneOptions,
    stop: asyncio.Event,
    announce: Callable[[Addresses], Awaitable[None]],
) -> None:
    """Run until `stop`; calls `announce` once everything serves. Raises OSError, BrokenKeys or a settings error."""
    clock, readiness = SystemClock(), Readiness()
    keys = load_or_create_keys(settings.data_dir, clock)
    async with AsyncExitStack() as stack:
        sockets = {
            port: stack.enter_context(listen_on(settings.host, port))
            for port in (settings.producer_port, settings.dgs_port, settings.push_port)
        }
        producer = await stack.enter_async_context(
            open_producer(producer_settings(settings), clock=clock, readiness=readiness)
        )
        replay_log, schedule_view = MemoryReplayLog(), MemoryScheduleView()
        router = build_router(
            RouterSettings(),
            log=producer.log,
            replay_log=replay_log,
            schedule_view=schedule_view,
            reports=producer.operations,
            clock=clock,
            readiness=readiness,
        )
        node = build_push_node(
            PushSettings(),
            replay_log=replay_log,
            schedule_view=schedule_view,
            device_ring=keys.device,
            clock=clock,
            readiness=readiness,
            sock=sockets[settings.push_port],
        )
        dgs = await stack.enter_async_context(
            open_dgs(
                settings,
                dgs_settings(settings, catalog=options.catalog, profiles=options.profiles),
                schedule_view=schedule_view,
                replay_log=replay_log,
                keys=keys,
                clock=clock,
                readiness=readiness,
                kv=None,
            )
        )
        services: list[Service] = [
            RingWatch(keys, settings.data_dir, clock, renews_operator_token=True),
            *producer.services,
            router.service,
            # Before the node, so that it is stopped after: a drain still delivers, and reports its last reach, over it.
            EmbeddedLink(router, node),
            node.service,
            *dgs.services,
            dgs.server(sockets[settings.dgs_port], app=with_status(dgs, dgs.status)),
            *operator_services(
                producer.operations,
                operator_ring=keys.operator,
                clock=clock,
                readiness=readiness,
                sock=sockets[settings.producer_port],
                feeds=options.feeds,
                template_file=options.stage_template,
                registries=(router.metrics.registry, producer.metrics.registry),
            ),
        ]
        token = operator_token(settings.data_dir, keys.operator, clock)
        addresses = Addresses(
            producer=settings.url("http", settings.producer_port),
            dgs=settings.url("http", settings.dgs_port),
            push=settings.url("ws", settings.push_port),
            docs=settings.url("http", settings.producer_port) + "/docs",
            data_dir=str(settings.data_dir),
            operator_token=token,
        )

        async def on_ready() -> None:
            await announce(addresses)

        await run_services(
            services,
            stop=stop,
            stop_deadline_s=settings.stop_deadline_s,
            on_ready=on_ready,
            on_stopping=readiness.stopping,
        )
