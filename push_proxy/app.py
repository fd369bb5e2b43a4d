"""Composition of a push node."""

from __future__ import annotations

import asyncio
import random
import secrets
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Any

from contract.clock import Clock
from contract.kv.ports import ReplayLogReader, ScheduleViewReader
from contract.node_link import MessageChannel
from contract.runtime.runner import Readiness
from contract.runtime.tls import server_context
from contract.tokens import KeyRing
from push_proxy.adapters.device_listener import DeviceListener
from push_proxy.adapters.pulse import Pulse
from push_proxy.anti_entropy import AntiEntropy, SourceWatch
from push_proxy.coverage import CoverageReports
from push_proxy.metrics import NodeMetrics
from push_proxy.node import StreamNode
from push_proxy.reach_tally import ReachTally
from push_proxy.router_link import RouterLinks
from push_proxy.settings import PushSettings
from push_proxy.siblings import NO_SIBLINGS, Siblings
from push_proxy.terms import Terms

__all__ = ["PushNode", "PushService", "build_push_node"]


class PushService:
    """A push node as a runner Service: ready once it listens, drained when stopped."""

    def __init__(
        self,
        *,
        node: StreamNode,
        links: RouterLinks,
        listener: DeviceListener,
        pulse: Pulse,
        anti_entropy: AntiEntropy,
        tally: ReachTally,
        coverage: CoverageReports,
        clock: Clock,
        reach_report_s: float,
        name: str = "push",
    ) -> None:
        self.name = name
        self._node = node
        self._links = links
        self._listener = listener
        self._pulse = pulse
        self._anti_entropy = anti_entropy
        self._tally = tally
        self._coverage = coverage
        self._clock = clock
        self._reach_report_s = reach_report_s

    async def run(self, ready: asyncio.Event, stop: asyncio.Event) -> None:
        self._links.start()
        background: list[asyncio.Task[None]] = [
            asyncio.create_task(self._anti_entropy.run(), name="push.anti_entropy"),
            asyncio.create_task(self._tick(), name="push.tick"),
            asyncio.create_task(self._report_forever(), name="push.reports"),
        ]
        stopping = asyncio.create_task(stop.wait(), name="push.stop")
        try:
            await self._listener.start()
            ready.set()
            waited: set[asyncio.Task[Any]] = {stopping, *background}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            for task in background:
                if task.done():
                    task.result()  # none of them ends by itself: its error ends the service
            await self._listener.drain()
            self._report_once()
        finally:
            for task in background:
                task.cancel()
            stopping.cancel()
            await asyncio.gather(*background, stopping, return_exceptions=True)
            await self._node.reader.settle_down()
            await self._links.stop()

    async def _tick(self) -> None:
        second_s = late_s = 0.0
        while True:
            now_s = self._clock.monotonic_s()
            self._listener.tick(late_s)
            self._node.tick()
            if now_s >= second_s:
                self._listener.every_second()
                second_s = now_s + 1.0
            until_s = 0.0 if self._node.unsettled else self._listener.look_again_s(second_s)
            late_s = await self._pulse.rest(until_s)

    async def _report_forever(self) -> None:
        while True:
            await asyncio.sleep(self._reach_report_s)
            self._report_once()

    def _report_once(self) -> None:
        if self._links.connected:
            self._node.count_answers(self._clock.monotonic_s())
            counts = self._tally.report()
            if counts:
                self._links.report(counts)
            report = self._coverage.due(self._clock.monotonic_s())
            if report is not None:
                self._links.report_coverage(report)


class PushNode:
    """A composed node."""

    def __init__(
        self,
        *,
        service: PushService,
        links: RouterLinks,
        node_id: str,
        incarnation: str,
        metrics: NodeMetrics,
        status: Callable[[], Mapping[str, object]],
    ) -> None:
        self.service = service
        self.node_id = node_id
        self.incarnation = incarnation
        self.metrics = metrics
        self._links = links
        self._status = status

    def status(self) -> Mapping[str, object]:
        """How it is now, for `GET /status`; plain JSON values."""
        return self._status()

    def attach_router(self, channel: MessageChannel) -> None:
        """Own a link to one more router until it closes; may be called before the service runs."""
        self._links.attach(channel)


def build_push_node(
    settings: PushSettings,
    *,
    replay_log: ReplayLogReader,
    schedule_view: ScheduleViewReader,
    device_ring: KeyRing,
    clock: Clock,
    readiness: Readiness,
    sock: socket.socket,
    siblings: Siblings = NO_SIBLINGS,
) -> PushNode:
    """A node that serves devices on `sock`, a bound and listening socket, which it owns from then on.

    Raises InvalidRequest for TLS files that cannot be used.
    """
    rng = random.Random(secrets.randbits(64))  # noqa: S311 - jitter, not secrecy
    node_id = settings.resolved_node_id(sock.getsockname()[1])
    incarnation = secrets.token_hex(8)
    metrics = NodeMetrics()
    tally = ReachTally(node_id, incarnation)
    pulse = Pulse(clock)
    links = RouterLinks(
        node_id=node_id,
        incarnation=incarnation,
        interest_ack_s=settings.interest_ack_s,
        ping_s=settings.link_ping_s,
        silence_s=settings.link_silence_s,
        clock=clock,
    )
    node = StreamNode(
        settings,
        replay_log=replay_log,
        schedule_view=schedule_view,
        interest=links,
        clock=clock,
        tally=tally,
        metrics=metrics,
        hurry=pulse.hurry,
    )

    def status() -> Mapping[str, object]:
        return {
            "role": "push",
            "node": node_id,
            "incarnation": incarnation,
            "ready": readiness.ready,
            "connections": listener.connections,
            "topics": len(node.followed_topics),
            "routers": links.count,
            "open_holes": node.open_holes,
            "isolated": watch.isolated,
        }

    terms = Terms(
        settings,
        device_ring=device_ring,
        clock=clock,
        random=rng,
        siblings=siblings,
        sessions=lambda: listener.connections,
    )
    listener = DeviceListener(
        settings,
        node=node,
        node_id=node_id,
        terms=terms,
        clock=clock,
        random=rng,
        readiness=readiness,
        metrics=metrics,
        sock=sock,
        tls=_tls(settings),
        siblings=siblings,
        hurry=pulse.hurry,
        status=status,
        isolated=lambda: watch.isolated,
    )
    watch = SourceWatch(
        clock=clock,
        lease_s=settings.lease_s,
        readiness=readiness,
        on_isolated=lambda: node.say_stale(listener.devices),
    )

    coverage = CoverageReports(node.coverage, begun_at=clock.now_ms(), repeat_s=settings.coverage_repeat_s)

    def linked() -> None:
        watch.linked()
        anti_entropy.compare_soon()

    def unlinked() -> None:
        # What was reported over a link that ended may be lost: whoever is linked then hears all of it. So may what was
        # being delivered, until that router's successor delivers again.
        tally.report_all_again()
        coverage.report_all_again()
        anti_entropy.compare_soon()

    links.bind(deliver=node.deliver, topics=node.topics, on_linked=linked, on_unlinked=unlinked)
    metrics.gauge("router_links", lambda: links.count)
    anti_entropy = AntiEntropy(
        node,
        links,
        watch,
        replay_log=replay_log,
        schedule_view=schedule_view,
        clock=clock,
        random=rng,
        interval_s=settings.anti_entropy_s,
        timeout_s=settings.kv_timeout_s,
    )
    service = PushService(
        node=node,
        links=links,
        listener=listener,
        pulse=pulse,
        anti_entropy=anti_entropy,
        tally=tally,
        coverage=coverage,
        clock=clock,
        reach_report_s=settings.reach_report_s,
    )
    return PushNode(
        service=service, links=links, node_id=node_id, incarnation=incarnation, metrics=metrics, status=status
    )


def _tls(settings: PushSettings) -> ssl.SSLContext | None:
    if settings.tls_cert_file is None:
        return None
    return server_context(
        settings.tls_cert_file,
        settings.tls_key_file,
        cert_field="PUSH_TLS_CERT_FILE",
        key_field="PUSH_TLS_KEY_FILE",
    )
