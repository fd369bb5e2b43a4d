"""The link's rules: hello first, one link per node, silence noticed; and links between processes."""

from __future__ import annotations

import asyncio
import json
import random

import pytest
from router_world import TOPIC, FakeNode, eventually, night, world

from contract.clock import ManualClock
from contract.errors import NodeUnreachable, StoreUnavailable
from contract.kv.memory import MemoryNodeLeases
from contract.kv.ports import NodeLease
from contract.node_link import Deliver, DeliverAck, Hello, HelloAccepted, InterestDelta, LinkMessage
from contract.runtime.channel import channel_pair
from contract.runtime.link_handshake import NodeIdentity
from contract.runtime.system_clock import SystemClock
from contract.runtime.ws_channel import WebSocketChannel, serve_links
from contract.tokens import new_key_ring
from message_router.app import build_node_links

RING = new_key_ring("stagecue.link")


@pytest.mark.parametrize(
    "first",
    [InterestDelta(1), Deliver(1), Hello("n1", "i1", (), protocol=99), Hello("n1", "i1", ("event:a", "event:b"))],
    ids=["no hello", "nonsense", "other protocol", "too many topics"],
)
async def test_a_link_begins_with_a_fitting_hello(first: LinkMessage) -> None:
    async with world(max_topics_per_link=1) as here:
        ours, theirs = channel_pair()
        here.router.attach(ours)
        await theirs.send(first)
        with pytest.raises(NodeUnreachable):
            await theirs.receive()


async def test_a_link_that_says_nothing_is_closed() -> None:
    async with world(hello_timeout_s=0.05) as here:
        ours, theirs = channel_pair()
        here.router.attach(ours)
        with pytest.raises(NodeUnreachable):
            await theirs.receive()


async def test_an_acknowledgement_of_nothing_sent_closes_the_link() -> None:
    async with world() as here:
        ours, theirs = channel_pair()
        here.router.attach(ours)
        await theirs.send(Hello("n1", "i1", ()))
        assert await theirs.receive() == HelloAccepted("router-1")
        await theirs.send(DeliverAck(9))
        with pytest.raises(NodeUnreachable):
            await theirs.receive()


async def test_a_node_that_came_back_is_served_on_its_newer_link_alone() -> None:
    """The older link, not yet noticed dead, is closed; its late end does not touch the newer one."""
    async with world() as here:
        older = await here.node("n1", TOPIC)
        newer = await here.node("n1", TOPIC)
        await eventually(lambda: older.closed, within_s=0.3, what="closed at once, not when it is next heard")
        here.log.publish(*night(1))
        await eventually(lambda: len(newer.broadcasts) == 1)
        assert older.broadcasts == []
        assert here.metric("links") == 1


async def test_a_silent_link_is_closed_and_an_answering_one_kept() -> None:
    async with world(ping_interval_s=0.03, silence_s=0.12) as here:
        answering, mute = await here.node("n1", TOPIC), await here.node("n2", TOPIC)
        mute.answers_pings = False
        await eventually(lambda: mute.closed)
        await asyncio.sleep(0.15)
        assert not answering.closed


async def test_a_stopped_router_refuses_links() -> None:
    async with world() as here:
        pass
    ours, theirs = channel_pair()
    here.router.attach(ours)
    with pytest.raises(NodeUnreachable):
        await theirs.receive()


class Leases(MemoryNodeLeases):
    failing = False

    async def alive(self):  # type: ignore[no-untyped-def]
        if self.failing:
            raise StoreUnavailable("away")
        return await super().alive()


class NodeProcess:
    """A push node as another process would be: a listener, a lease, a FakeNode per link."""

    def __init__(self, leases: Leases, node_id: str, incarnation: str) -> None:
        self.leases = leases
        self.identity = NodeIdentity(node_id, incarnation)
        self.links: list[FakeNode] = []

    def _on_link(self, channel: WebSocketChannel, _: str) -> None:
        self.links.append(FakeNode(channel, self.identity.node_id, TOPIC))

    async def __aenter__(self) -> NodeProcess:
        self._serving = serve_links("127.0.0.1", 0, ring=RING, identity=self.identity, on_link=self._on_link)
        self.address = await self._serving.__aenter__()
        self.lease = NodeLease(
            node_id=self.identity.node_id, incarnation=self.identity.incarnation, link_address=self.address
        )
        await self.leases.renew(self.lease, lifetime_s=60)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._serving.__aexit__(None, None, None)
        for link in self.links:
            await link.stop()


async def test_a_router_finds_its_nodes_and_keeps_a_link_to_each() -> None:
    """Two nodes found by lease; one dies and is replaced by another incarnation elsewhere; the store goes away.

    The other's link lives through all of it.
    """
    leases = Leases(ManualClock())
    async with world(discover_interval_s=0.03, retry_first_s=0.01, retry_cap_s=0.05) as here:
        client = build_node_links(
            here.settings, router=here.router, leases=leases, link_ring=RING, clock=SystemClock(), rng=random.Random(1)
        )
        ready, stop = asyncio.Event(), asyncio.Event()
        running = asyncio.create_task(client.run(ready, stop))
        await ready.wait()
        async with NodeProcess(leases, "n1", "a") as one:
            async with NodeProcess(leases, "n2", "a") as two:
                await eventually(lambda: bool(one.links) and bool(two.links) and here.metric("links") == 2)
                here.log.publish(*night(2))
                await eventually(lambda: all(len(node.links[0].broadcasts) == 2 for node in (one, two)))
            await eventually(lambda: here.metric("links") == 1)
            async with NodeProcess(leases, "n2", "b") as successor:
                await eventually(lambda: here.metric("links") == 2)
                leases.failing = True
                await asyncio.sleep(0.1)
                fresh = night(1, topic=TOPIC, prev=0)[0]
                here.log.publish(fresh)
                await eventually(lambda: fresh in successor.links[0].broadcasts)
                assert fresh in one.links[0].broadcasts
                assert not one.links[0].closed
                leases.failing = False
                successor.links[0].channel.close()
                await eventually(lambda: len(successor.links) == 2 and here.metric("links") == 2, what="reconnected")
                stop.set()
                await running
                assert here.metric("links") == 0


async def test_leases_of_other_networks_are_ignored() -> None:
    leases = Leases(ManualClock())
    async with (
        world(discover_interval_s=0.02, allowed_networks=("10.0.0.0/8",)) as here,
        NodeProcess(leases, "n1", "a") as node,
    ):
        client = build_node_links(here.settings, router=here.router, leases=leases, link_ring=RING, clock=SystemClock())
        ready, stop = asyncio.Event(), asyncio.Event()
        running = asyncio.create_task(client.run(ready, stop))
        await ready.wait()
        await asyncio.sleep(0.1)
        assert node.links == []
        stop.set()
        await running


async def test_a_status_says_what_is_linked_behind_and_on_its_way() -> None:
    """What `GET /status` answers: partitions, lag, links, who is behind, interest."""
    async with world() as here:
        await here.node("good", TOPIC)
        silent = await here.node("silent", TOPIC, "event:other", acking=False)
        broadcasts = night(3)
        here.log.publish(*broadcasts)
        await eventually(lambda: here.log.committed.get(0) == here.log.end(0))
        await eventually(lambda: here.router.status()["behind"] == ["silent"])
        status = here.router.status()
        assert status["partitions"] == {"0": {"committed": here.log.end(0), "in_flight": 0, "whole": True}}
        assert (status["role"], status["lag"], status["links"], status["interest"]) == ("router", 0, 2, {"topics": 2})
        assert status["ready"] is True
        json.dumps(status)
        await silent.ack_all()
        await eventually(lambda: here.router.status()["behind"] == [])
