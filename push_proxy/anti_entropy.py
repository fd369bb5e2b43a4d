"""Anti-entropy: about once a second, what the node knows is compared with the store, and its sources are watched."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from random import Random
from typing import Final

from contract.clock import Clock
from contract.errors import Unavailable
from contract.kv.ports import ReplayLogReader, ScheduleViewReader
from contract.runtime.runner import Readiness
from push_proxy.node import StreamNode
from push_proxy.router_link import RouterLinks

__all__ = ["AntiEntropy", "SourceWatch"]

_PROBE: Final = "probe"


class SourceWatch:
    """Judges isolation (R17): no store, or no router, for two leases."""

    def __init__(self, *, clock: Clock, lease_s: float, readiness: Readiness, on_isolated: Callable[[], None]) -> None:
        self._clock = clock
        self._lease_s = lease_s
        self._readiness = readiness
        self._on_isolated = on_isolated
        self.isolated = False
        readiness.expect("push.routers", "no router linked yet")

    def linked(self) -> None:
        """A router accepted this node."""
        self._readiness.hold("push.routers")

    def judge(self, *, store_answered_at_s: float, router_seen_at_s: float) -> None:
        """Set readiness; call `on_isolated` once each time the node becomes isolated."""
        now_s = self._clock.monotonic_s()
        bound_s = 2 * self._lease_s
        store_lost = now_s - store_answered_at_s > bound_s
        routers_lost = now_s - router_seen_at_s > bound_s
        if store_lost:
            self._readiness.fail("push.store", f"no answer from the store for {bound_s:g} s")
        else:
            self._readiness.hold("push.store")
        if routers_lost:
            self._readiness.fail("push.routers", f"no router linked for {bound_s:g} s")
        isolated = store_lost or routers_lost
        if isolated and not self.isolated:
            self._on_isolated()
        self.isolated = isolated


class AntiEntropy:
    """The loop; cancelled at stop."""

    def __init__(
        self,
        node: StreamNode,
        links: RouterLinks,
        watch: SourceWatch,
        *,
        replay_log: ReplayLogReader,
        schedule_view: ScheduleViewReader,
        clock: Clock,
        random: Random,
        interval_s: float,
        timeout_s: float,
    ) -> None:
        self._due = asyncio.Event()
        self._node = node
        self._links = links
        self._watch = watch
        self._replay_log = replay_log
        self._schedule_view = schedule_view
        self._clock = clock
        self._random = random
        self._interval_s = interval_s
        self._timeout_s = timeout_s

    async def run(self) -> None:
        """Compare for ever; a store that does not answer is noted and asked again."""
        while True:
            self._due.clear()
            await self.compare_once()
            self._watch.judge(
                store_answered_at_s=self._node.reader.store_answered_at_s, router_seen_at_s=self._links.heard_at_s
            )
            self._node.forget_idle()
            # Jittered, so that the nodes of a cluster do not ask in step.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s * (0.75 + 0.5 * self._random.random())):
                    await self._due.wait()

    def compare_soon(self) -> None:
        """A link began or ended: what it did not bring is in the log."""
        self._due.set()

    async def compare_once(self) -> None:
        """One round: tails and revisions of all followed topics, one call each, and the schedules that changed."""
        reader = self._node.reader
        # A node without topics asks all the same, for one that cannot exist: a lost store must be noticed.
        topics = self._node.followed_topics or (_PROBE,)
        asked_at_s = self._clock.monotonic_s()
        try:
            async with asyncio.timeout(self._timeout_s):
                tails = await self._replay_log.tails(topics)
            reader.compare(tails, asked_at_s=asked_at_s)
            async with asyncio.timeout(self._timeout_s):
                revisions = await self._schedule_view.revisions(topics)
                if newer := reader.stale_schedules(revisions):
                    reader.absorb_schedules(await self._schedule_view.schedules(newer))
                if (absent := reader.unconfirmed(revisions, topics)) and (await self._schedule_view.life()).whole:
                    # Asked again: it may have been made whole between question and answer.
                    found = await self._schedule_view.schedules(absent)
                    reader.absorb_schedules(found)
                    reader.refuse_unknown(reader.unconfirmed(found, absent))
        except (Unavailable, TimeoutError):
            reader.store_failed()
