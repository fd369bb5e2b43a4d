"""Links that drop, delay, are cut in half, in the middle of a message: no device misses a broadcast (R12-R14)."""

from __future__ import annotations

import asyncio

import pytest
from link_network import LinkNetwork, network
from router_world import eventually

from contract.broadcast import Broadcast

TOPIC = "event:night"
PING_S, SILENCE_S = 0.3, 1.2
"""A third of what is shipped."""
DETECTED_WITHIN_S = SILENCE_S + PING_S / 2 + 1.0
"""What both ends promise, and a second for a busy machine."""


async def everywhere(net: LinkNetwork, published: list[Broadcast], *, within_s: float = 3.0) -> None:
    """Every device shows everything published, in order, each once."""
    expected = [broadcast.timestamp for broadcast in published]
    for device in net.devices:
        await eventually(
            lambda: device.timestamps(TOPIC)[-1:] == expected[-1:],  # noqa: B023 - awaited at once
            within_s=within_s,
            what="the newest did not arrive",
        )
        await eventually(lambda: sorted(set(device.timestamps(TOPIC))) == expected, within_s=within_s, what="missed")  # noqa: B023
        assert device.applied(TOPIC) == expected, "none out of order"


async def stream(net: LinkNetwork, published: list[Broadcast], *, for_s: float, every_s: float = 0.1) -> None:
    """A broadcast every tenth of a second."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + for_s
    while loop.time() < until_s:
        published.append(net.publish(TOPIC))
        await asyncio.sleep(every_s)


@pytest.mark.parametrize("fault", ["drop", "half to node", "half to router"])
async def test_a_silent_link_is_replaced_and_nothing_is_missed(fault: str) -> None:
    """One node's link goes dark: its devices get everything from the log within seconds, the others notice nothing.

    Both ends find it within the silence they promise, and the link is back once the network is.
    """
    quick = {"anti_entropy_s": 0.5, "link_ping_s": PING_S, "link_silence_s": SILENCE_S}
    watched: dict[str, object] = {"ping_interval_s": PING_S, "silence_s": SILENCE_S}
    async with network(nodes=2, push_settings=quick, router_settings=watched) as net:
        await net.schedules([TOPIC])
        far, near = await net.device(0, TOPIC), await net.device(1, TOPIC)
        published: list[Broadcast] = []
        await stream(net, published, for_s=0.3)
        proxy = net.nodes[0].proxies[0]
        if fault == "drop":
            proxy.drop()
        else:
            # The router connects, so that what goes to the proxy's target goes to the node.
            proxy.half("to_target" if fault == "half to node" else "to_client")
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        streaming = asyncio.create_task(stream(net, published, for_s=2.5))
        await eventually(lambda: net.nodes[0].routers == 0, within_s=DETECTED_WITHIN_S, what="the node did not notice")
        await eventually(
            lambda: net.routers[0].router.status()["links"] == 1,
            within_s=DETECTED_WITHIN_S - (loop.time() - began_s),
            what="the router did not notice",
        )
        proxy.resume()
        await eventually(lambda: net.nodes[0].routers == 1, within_s=3.0, what="not linked again")
        await streaming
        await everywhere(net, published)
        lateness = [far.came_s[TOPIC, one.timestamp] - near.came_s[TOPIC, one.timestamp] for one in published]
        assert max(lateness) < 1.5, "anti-entropy brings what the link does not"
        spread = [near.came_s[TOPIC, one.timestamp] - one.timestamp / 1000 for one in published]
        assert max(spread) - min(spread) < 0.4, "the other node's devices noticed nothing"
        offsets = net.routers[0].log
        await eventually(lambda: offsets.committed.get(0) == offsets.end(0), what="a dark node blocks no partition")


async def test_a_delayed_link_is_behind_and_loses_nothing() -> None:
    """Everything 700 ms late both ways: not awaited, still sent to, awaited again once it is as fast as before."""
    async with network(nodes=2) as net:
        await net.schedules([TOPIC])
        await net.device(0, TOPIC)
        await net.device(1, TOPIC)
        net.nodes[0].proxies[0].delay(700)
        published: list[Broadcast] = []
        await stream(net, published, for_s=1.5)
        assert net.routers[0].router.status()["behind"] == ["n0"]
        assert net.nodes[0].routers == 1, "late is not silent"
        net.nodes[0].proxies[0].delay(0)
        await stream(net, published, for_s=1.0)
        await everywhere(net, published)
        await eventually(lambda: net.routers[0].router.status()["behind"] == [], what="caught up")


async def test_links_cut_in_the_middle_of_messages_again_and_again() -> None:
    """Half a message, then the end, ten times while broadcasts flow: nothing missed, nothing out of order."""
    async with network(nodes=2, routers=2) as net:
        await net.schedules([TOPIC])
        await net.device(0, TOPIC)
        await net.device(1, TOPIC)
        published: list[Broadcast] = []
        streaming = asyncio.create_task(stream(net, published, for_s=4.0, every_s=0.02))
        for number in range(10):
            await asyncio.sleep(0.3)
            async with asyncio.timeout(5):
                await net.nodes[number % 2].proxies[0].cut()
        await streaming
        await net.linked()
        published.append(net.publish(TOPIC))
        await everywhere(net, published)
        assert net.nodes[0].proxies[0].accepted >= 5


async def test_interest_follows_a_link_that_is_replaced() -> None:
    """Topics taken on while a link was dark are in the next hello: live deliveries go on without the log's help."""
    async with network(
        nodes=1, push_settings={"anti_entropy_s": 2.4, "kv_timeout_s": 0.5, "interest_ack_s": 0.1}
    ) as net:
        await net.schedules([TOPIC, "event:later"])
        await net.device(0, TOPIC)
        net.nodes[0].proxies[0].drop()
        device = await net.device(0, "event:later")
        net.nodes[0].proxies[0].reset()
        net.nodes[0].proxies[0].resume()
        await eventually(lambda: net.nodes[0].routers == 0)
        await net.linked()
        assert net.routers[0].router.status()["interest"] == {"topics": 2}
        broadcast = net.publish("event:later")
        await eventually(lambda: device.timestamps("event:later") == [broadcast.timestamp], within_s=1.0)


async def test_a_frozen_node_delays_no_delivery_elsewhere() -> None:
    """The others do not wait for a node that takes nothing: that would cost each delivery the node's deadline."""
    async with network(nodes=4) as net:
        await net.schedules([TOPIC])
        for number in range(4):
            await net.device(number, TOPIC)
        before = await latencies(net, net.devices[1:], 150)
        net.nodes[0].proxies[0].drop()
        during = await latencies(net, net.devices[1:], 150)
        assert net.routers[0].router.status()["behind"] == ["n0"]
        # The median: on a busy machine single deliveries take any time, a wait for the node would be in all of them.
        assert sorted(during)[len(during) // 2] < sorted(before)[len(before) // 2] + 0.1
        net.nodes[0].proxies[0].resume()


async def latencies(net: LinkNetwork, devices: list[object], count: int) -> list[float]:
    loop = asyncio.get_running_loop()
    published: list[tuple[Broadcast, float]] = []
    for _ in range(count):
        published.append((net.publish(TOPIC), loop.time()))
        await asyncio.sleep(0.01)
    newest = published[-1][0].timestamp
    await eventually(lambda: all((TOPIC, newest) in device.came_s for device in devices))  # type: ignore[attr-defined]
    return [
        device.came_s[TOPIC, broadcast.timestamp] - at_s  # type: ignore[attr-defined]
        for broadcast, at_s in published
        for device in devices
    ]


async def test_one_router_with_sixty_four_nodes() -> None:
    """Dozens of nodes on real links, each with its own topics, taken on and given up: every delivery finds its node."""
    topics = [f"event:e{number}" for number in range(64)]
    async with network(nodes=64, push_settings={"linger_s": 0.0, "anti_entropy_s": 0.9}) as net:
        await net.schedules([TOPIC, *topics])
        for number, own in enumerate(topics):
            await net.device(number, TOPIC, own)
        router = net.routers[0].router
        assert router.status()["links"] == 64
        assert router.status()["interest"] == {"topics": 65}
        shared = net.publish(TOPIC)
        own_ones = [net.publish(topic) for topic in topics]
        for device, own in zip(net.devices, own_ones, strict=True):
            await eventually(lambda: device.timestamps(TOPIC) == [shared.timestamp])  # noqa: B023
            await eventually(lambda: device.timestamps(own.topic) == [own.timestamp])  # noqa: B023
        for device in net.devices[:32]:
            await device.close()
        await eventually(lambda: router.status()["interest"] == {"topics": 33}, what="given up topics are withdrawn")
        log = net.routers[0].log
        await eventually(lambda: log.committed.get(0) == log.end(0))


async def test_two_routers_feed_every_node_and_one_that_dies_costs_no_broadcast_of_the_other() -> None:
    """Frames of both are merged by topic; a router's links end with it and nothing of its successor is lost."""
    other = "event:other"
    async with network(nodes=2, routers=2) as net:
        await net.schedules([TOPIC, other])
        one, two = await net.device(0, TOPIC, other), await net.device(1, TOPIC, other)
        published: list[Broadcast] = []
        streaming = asyncio.create_task(stream(net, published, for_s=2.0, every_s=0.02))
        others = []
        for number in range(40):
            others.append(net.publish(other, router=1))
            await asyncio.sleep(0.03)
            if number == 20:
                for node in net.nodes:
                    node.proxies[1].drop()
                # The successor takes the partition over at what was committed, and delivers again.
                log = net.routers[1].log
                successor = net.routers[0].log
                successor.entries[1] = list(log.entries[1])
                successor.committed[1] = log.committed.get(1, 0)
                log.entries[1] = []
                net.routers[1] = net.routers[0]
                successor.assign(1)
        await streaming
        await everywhere(net, published)
        expected = [broadcast.timestamp for broadcast in others]
        for device in (one, two):
            await eventually(lambda: device.applied(other) == expected)  # noqa: B023
