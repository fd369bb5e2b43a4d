"""Routers and push nodes on a real Redis that dies, freezes, comes back with less: nobody is told less (R10, R11)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from link_network import DeviceEnd, LinkNetwork, network
from router_world import eventually

from contract.broadcast import Broadcast
from contract.kv.ports import NodeLease
from contract.kv.redis import RedisNodeLeases, connect_redis
from contract.runtime.runner import Readiness
from loadtest.cluster.ports import reserve_ports
from loadtest.cluster.redis import RedisServer
from stagecue.apart.lease import LeaseRenewal

pytestmark = pytest.mark.external_service

TOPICS = ("event:one", "event:two")
QUIET = "event:quiet"
"""Scheduled, and never broadcast: its schedule is all there is."""


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    with reserve_ports(1) as ports:
        server = RedisServer(tmp_path, port=ports.base)
        await server.start()
        yield server
        await server.stop()


class Night:
    """Broadcasts on two topics, each its own router's, until told to stop; what every device must show in the end."""

    def __init__(self, net: LinkNetwork) -> None:
        self.net = net
        self.published: dict[str, list[Broadcast]] = {topic: [] for topic in TOPICS}
        self._going = True
        self._task = asyncio.create_task(self._run(), name="night")

    async def _run(self) -> None:
        while self._going:
            for router, topic in enumerate(TOPICS):
                self.published[topic].append(self.net.publish(topic, router))
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        self._going = False
        await self._task

    async def shown(self, device: DeviceEnd, *, since: dict[str, int] | None = None) -> None:
        """The device shows everything after where it began, in order, each once."""
        for topic, published in self.published.items():
            begin = (since or {}).get(topic, 0)
            expected = [one.timestamp for one in published if one.timestamp > begin]
            await eventually(lambda: device.timestamps(topic)[-1:] == expected[-1:], within_s=5.0, what="the newest")  # noqa: B023
            got = [at for at in device.timestamps(topic) if at > begin]
            assert sorted(set(got)) == expected, f"missed {sorted(set(expected) - set(got))}"
            assert device.applied(topic)[-len(expected) :] == expected


@pytest.mark.parametrize("fault", ["with its data", "without its last second", "empty", "frozen"])
async def test_whatever_redis_forgets_no_device_does(fault: str, redis: RedisServer) -> None:
    """Broadcasts go on all the time; devices come while it is away and while it is refilled, with every cursor.

    None is moved backwards, none is told of an unknown topic, none misses anything, and within five seconds after its
    return the store holds everything again.
    """
    async with network(nodes=2, routers=2, redis_url=redis.url) as net:
        await net.schedules([*TOPICS, QUIET])
        here = [await net.device(0, *TOPICS), await net.device(1, *TOPICS)]
        night = Night(net)
        # A file is cut at a second that it marks: there must be one before the last.
        await asyncio.sleep(3.5 if fault == "without its last second" else 1.5)
        if fault == "frozen":
            redis.freeze()
        elif fault == "empty":
            await redis.lose_everything()
        elif fault == "without its last second":
            await redis.lose_last(1.0)
        else:
            redis.kill()
            await redis.wait()
        await asyncio.sleep(0.7)
        newest = {topic: published[-1].timestamp for topic, published in night.published.items()}
        away = [await net.device(0, *TOPICS, cursor=newest[TOPICS[0]])]
        if fault == "frozen":
            redis.thaw()
        else:
            await redis.start()
        late = [await net.device(number % 2, *TOPICS, QUIET, cursor=cursor) for number, cursor in enumerate((0, None))]
        await eventually(
            lambda: all(partition["whole"] for end in net.routers for partition in partitions(end.router.status())),
            within_s=20.0,
        )
        await eventually_whole(net, night)
        await asyncio.sleep(0.5)
        await night.stop()
        for device in here:
            await night.shown(device)
        await night.shown(late[0])
        for device in [*here, *away, *late]:
            assert not [frame for frame in device.frames if frame["type"] == "error"]
            assert not [frame for frame in device.frames if frame.get("verdict") == "gap"]
            for topic, published in night.published.items():
                newest_at = published[-1].timestamp
                await eventually(lambda: device.timestamps(topic)[-1:] == [newest_at])  # noqa: B023
        assert set(await net.view.revisions([*TOPICS, QUIET])) == {*TOPICS, QUIET}


def partitions(status: dict[str, object]) -> list[dict[str, object]]:
    found = status["partitions"]
    assert isinstance(found, dict)
    return list(found.values())


async def eventually_whole(net: LinkNetwork, night: Night) -> None:
    """Until the store holds everything published, contiguous from the first."""
    async with asyncio.timeout(5.0):
        for topic, published in night.published.items():
            wanted = tuple(published)
            while (await net.store.read(topic)).entries[: len(wanted)] != wanted:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            assert (await net.store.read(topic)).floor == 0


async def test_a_first_subscriber_during_the_refill_gets_its_topic(redis: RedisServer) -> None:
    """Nobody followed it here before; an emptied store does not have its schedule, and no router is back yet."""
    async with network(nodes=1, redis_url=redis.url) as net:
        await net.schedules([QUIET])
        await redis.lose_everything()
        net.routers[0].log.failing = True  # the log is away, too: nobody can refill it for now
        await redis.start()
        await asyncio.sleep(0.3)
        device = await net.device(0, QUIET, cursor=None)
        assert device.verdicts(QUIET) == ["pending"]
        net.routers[0].log.failing = False
        await eventually(lambda: device.verdicts(QUIET) == ["pending", "complete"], within_s=5.0)
        assert [frame["type"] for frame in device.frames if frame["type"] in ("schedule", "error")] == ["schedule"]


async def test_a_lease_is_back_soon_after_an_empty_store_is(redis: RedisServer) -> None:
    """A router that looks for nodes finds them again, in the same incarnation, within a third of a lease."""
    client = connect_redis(redis.url)
    leases = RedisNodeLeases(client)
    lease = NodeLease(node_id="n1", incarnation="i1", link_address="127.0.0.1:1")
    ready, stop = asyncio.Event(), asyncio.Event()
    renewal = LeaseRenewal(lease, leases, Readiness(), lifetime_s=3.0)
    running = asyncio.create_task(renewal.run(ready, stop), name="lease")
    await ready.wait()
    assert list(await leases.alive()) == [lease]
    await redis.lose_everything()
    await redis.start()
    async with asyncio.timeout(2.0):
        while list(await leases.alive()) != [lease]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    stop.set()
    await running
    await client.aclose()


async def test_a_frozen_redis_is_noticed_within_the_timeout(redis: RedisServer) -> None:
    """Readiness says so after about a second, and again that all is well soon after it goes on."""
    async with network(nodes=1, redis_url=redis.url) as net:
        node = net.nodes[0].node
        redis.freeze()
        await eventually(lambda: net.routers[0].router.status()["ready"] is False, within_s=15.0)
        redis.thaw()
        await eventually(lambda: net.routers[0].router.status()["ready"] is True, within_s=15.0)
        assert node.status()["isolated"] is False
