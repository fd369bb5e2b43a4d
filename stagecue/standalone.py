"""Everything in one process: the same services, ports and pure code as a cluster, with embedded adapters."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from contract.clock import Clock
from contract.errors import NodeUnreachable
from contract.kv.memory import MemoryReplayLog, MemoryScheduleView
from contract.node_link import LinkMessage, MessageChannel
from contract.runtime.asgi import AsgiService, listen_on
from contract.runtime.channel import channel_pair
from contract.runtime.runner import Readiness, Service, run_services
from contract.runtime.system_clock import SystemClock
from dgs.app import build_dgs
from dgs.settings import DgsSettings
from message_producer.api import create_app
from message_producer.app import open_producer
from message_producer.feeds.poller import FeedPoller, FeedSource
from message_producer.feeds.template import DEFAULT_TEMPLATE, StageTemplate, load_template
from message_producer.ports import Operations
from message_producer.settings import ProducerSettings
from message_router.app import Router, build_router
from message_router.settings import RouterSettings
from push_proxy.app import PushNode, build_push_node
from push_proxy.settings import PushSettings
from stagecue.keys import load_or_create_keys, operator_token
from stagecue.settings import InstallationSettings

__all__ = [
    "Addresses",
    "EmbeddedLink",
    "StandaloneOptions",
    "dgs_settings",
    "feed_pollers",
    "producer_settings",
    "run_standalone",
    "stage_template",
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
    keys = load_or_create_keys(settings.data_dir)
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
            reach=producer.operations,
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
        dgs = build_dgs(
            dgs_settings(settings, options),
            schedule_view=schedule_view,
            replay_log=replay_log,
            device_ring=keys.device,
            clock=clock,
            readiness=readiness,
        )
        template = stage_template(options.stage_template)
        api = create_app(
            producer.operations,
            operator_ring=keys.operator,
            readiness=readiness,
            clock=clock,
            stage_template=template,
        )
        services: list[Service] = [
            *producer.services,
            router.service,
            node.service,
            EmbeddedLink(router, node),
            AsgiService("dgs", dgs, sockets[settings.dgs_port]),
            AsgiService("producer-api", api, sockets[settings.producer_port]),
            *feed_pollers(options.feeds, producer.operations, clock, template),
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


def producer_settings(settings: InstallationSettings) -> ProducerSettings:
    """The producer's settings, its data in this installation's directory unless PRODUCER_DATA_DIR says otherwise."""
    given = ProducerSettings()
    if "data_dir" in given.model_fields_set or given.database_url:
        return given
    return given.model_copy(update={"data_dir": settings.data_dir})


def dgs_settings(settings: InstallationSettings, options: StandaloneOptions) -> DgsSettings:
    """The DGS's settings, sending devices to this installation's push node unless DGS_PUSH_URL says otherwise."""
    given = DgsSettings()
    update: dict[str, Any] = {}
    if "push_url" not in given.model_fields_set:
        update["push_url"] = settings.url("ws", settings.push_port) + "/v1/stream"
    if options.catalog is not None:
        update["catalog_path"] = options.catalog
    if options.profiles is not None:
        update["profiles_path"] = options.profiles
    return given.model_copy(update=update)


def stage_template(path: Path | None) -> StageTemplate:
    """The stages of events that name none. Raises InvalidRequest naming the field, OSError."""
    return DEFAULT_TEMPLATE if path is None else load_template(path.read_text("utf-8"))


def feed_pollers(
    locations: tuple[str, ...], operations: Operations, clock: Clock, template: StageTemplate
) -> list[FeedPoller]:
    """One poller per feed; a feed's name is its file's or its address's, so that a restart recognises its events."""
    pollers = []
    for location in locations:
        parts = urlsplit(location)
        name = f"{parts.netloc}{parts.path}" if parts.scheme in ("http", "https") else Path(location).name
        source = FeedSource(name=name, location=location)
        pollers.append(FeedPoller(source, operations, clock=clock, draw=random.random, template=template))
    return pollers
