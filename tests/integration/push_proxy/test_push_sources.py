"""A node's sources in trouble: a store emptied or refilled, routers frozen or silent, a clock an hour off (R14-R17)."""

from __future__ import annotations

import asyncio

import pytest
from push_world import TOPIC, World, broadcast, eventually, schedule

from contract.runtime.system_clock import SystemClock

NOW_MS = SystemClock().now_ms()
HOUR_MS = 3_600_000


class WrongClock(SystemClock):
    """Its wall clock is off; its monotonic one is not."""

    def __init__(self, off_ms: int) -> None:
        super().__init__()
        self.off_ms = off_ms

    def now_ms(self) -> int:
        return super().now_ms() + self.off_ms


async def test_an_emptied_store_makes_no_topic_unknown_and_nothing_never_broadcast(world: World) -> None:
    """Until a router refilled it, what it does not have may exist: `pending`, live frames flow, then the verdict."""
    world.log.lose_everything()
    world.view.lose_everything()
    device, fresh = await world.connect(), await world.connect()
    await device.subscribe(1000)
    await fresh.subscribe(None)
    for one in (device, fresh):
        frame = await one.next()
        assert (frame["type"], frame["verdict"]) == ("continuity", "pending")
    await world.routers[0].deliver(broadcast(3000, 2000))
    assert (await device.until("broadcast", 2))["timestamp"] == 3000
    await world.publish(broadcast(1000, 0), broadcast(2000, 1000), broadcast(3000, 2000))
    await world.view.put(schedule())
    world.view.whole = True
    verdict = await device.until("continuity")
    assert (verdict["verdict"], verdict["latest"]) == ("complete", 3000)
    assert (await device.until("broadcast"))["timestamp"] == 2000
    verdict = await fresh.until("continuity")
    assert (verdict["verdict"], verdict["state_key"]) == ("complete", "s3000")
    assert world.node.status()["open_holes"] == 0


async def test_what_a_whole_store_does_not_have_is_unknown_after_all(world: World) -> None:
    """A topic taken on while the store was not whole, and refused once it is and does not have it."""
    world.view.lose_everything()
    device = await world.connect()
    await device.subscribe(0, topic="event:nonsense")
    assert (await device.next())["verdict"] == "pending"
    await device.quiet()
    world.view.whole = True
    error = await device.until("error")
    assert (error["code"], error["topic"]) == ("unknown_topic", "event:nonsense")


async def test_a_topic_that_is_refilled_between_two_questions_is_not_unknown(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Absent when asked, whole a moment later: asked again before anybody is told that it does not exist."""
    world.view.lose_everything()
    asked = world.view.life

    async def refilled_meanwhile() -> object:
        await world.view.put(schedule())
        world.view.whole = True
        return await asked()

    monkeypatch.setattr(world.view, "life", refilled_meanwhile)
    device = await world.connect()
    await device.subscribe(None)
    assert (await device.next())["verdict"] == "complete"
    assert (await device.next())["type"] == "schedule"


async def test_a_log_that_is_refilled_between_two_questions_is_not_empty(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty when read, whole a moment later: read again before anybody is told that nothing was broadcast."""
    world.view.whole = False
    asked = world.view.life

    async def refilled_meanwhile() -> object:
        if not world.view.whole:
            world.view.whole = True
            await world.publish(broadcast(1000, 0))
        return await asked()

    monkeypatch.setattr(world.view, "life", refilled_meanwhile)
    device = await world.connect()
    await device.subscribe(None)
    verdict = await device.next()
    assert (verdict["verdict"], verdict["latest"], verdict["state_key"]) == ("complete", 1000, "s1000")


async def test_devices_of_a_followed_topic_are_answered_from_memory_while_the_store_is_refilled(world: World) -> None:
    """A store that lost everything takes nothing from a node that knows: never moved backwards, never `ahead`."""
    await world.publish(broadcast(1000, 0), broadcast(2000, 1000))
    first = await world.connect()
    await first.subscribe(2000)
    await first.until("continuity")
    world.log.lose_everything()
    world.view.lose_everything()
    await asyncio.sleep(0.3)
    for cursor, replayed in ((1000, True), (2000, False)):
        device = await world.connect()
        await device.subscribe(cursor)
        verdict = await device.next()
        assert (verdict["verdict"], verdict["latest"]) == ("complete", 2000)
        if replayed:
            assert (await device.until("broadcast"))["timestamp"] == 2000
    await first.quiet()


@pytest.mark.parametrize("world", [{"lease_s": 0.3}], indirect=True)
async def test_who_comes_while_the_node_is_isolated_hears_it_too(world: World) -> None:
    """`stale` is not a message to those who happened to be there: who connects later has no better source."""
    early = await world.connect()
    await world.routers[0].close()
    assert await early.next() == {"type": "stale"}
    late = await world.connect()
    assert await late.next() == {"type": "stale"}
    world.router()
    await eventually(lambda: world.readiness.ready)
    after = await world.connect()
    await after.subscribe(None)
    assert (await after.next())["type"] == "continuity"


@pytest.mark.parametrize("world", [{"lease_s": 0.4, "link_silence_s": 0.3}], indirect=True)
async def test_a_frozen_router_is_no_source(world: World) -> None:
    """Linked, and silent: it does not count for two leases, and its link is ended after the silence."""
    await eventually(lambda: world.readiness.ready)
    began_s = asyncio.get_running_loop().time()
    world.routers[0].frozen = True
    await eventually(lambda: world.node.status()["routers"] == 0)
    assert asyncio.get_running_loop().time() - began_s < world.settings.link_silence_s + world.settings.link_ping_s
    await eventually(lambda: "push.routers" in world.readiness.failing())
    assert asyncio.get_running_loop().time() - began_s < 2 * world.settings.lease_s + 0.4
    world.routers[0].frozen = False


@pytest.mark.parametrize("world", [{"interest_ack_s": 0.2, "link_silence_s": 30.0}], indirect=True)
async def test_a_frozen_router_delays_one_first_subscription_and_no_other(world: World) -> None:
    """One missed bound and nobody waits for it; once it answers it counts again (R14)."""
    loop = asyncio.get_running_loop()
    healthy = world.router()
    await eventually(lambda: world.node.status()["routers"] == 2)
    frozen = world.routers[0]
    frozen.frozen = True
    took_s = []
    for number in range(4):
        topic = f"event:e{number}"
        await world.view.put(schedule(topic=topic))
        device = await world.connect()
        asked_s = loop.time()
        await device.subscribe(None, topic=topic)
        await device.until("continuity")
        took_s.append(loop.time() - asked_s)
        assert topic in healthy.topics
    assert took_s[0] >= 0.2
    assert max(took_s[1:]) < 0.15, took_s
    frozen.frozen = False
    await eventually(lambda: frozen.topics == {f"event:e{number}" for number in range(4)})
    frozen.frozen = True
    await world.view.put(schedule(topic="event:again"))
    device = await world.connect()
    asked_s = loop.time()
    await device.subscribe(None, topic="event:again")
    await device.until("continuity")
    assert loop.time() - asked_s >= 0.2, "it had answered: it is waited for again, once"
    frozen.frozen = False


@pytest.mark.parametrize("world", [{"link_silence_s": 30.0}], indirect=True)
async def test_reach_goes_to_a_router_that_is_heard(world: World) -> None:
    """Counts told to a frozen router would wait for its link to end."""
    device = await world.connect()
    await device.subscribe(0)
    await device.until("schedule")
    other = world.router()
    await eventually(lambda: world.node.status()["routers"] == 2)
    world.routers[0].frozen = True
    await asyncio.sleep(0.15)
    await other.deliver(broadcast(1000, 0))
    await eventually(lambda: (TOPIC, 1000) in other.reach)
    world.routers[0].frozen = False


@pytest.mark.parametrize("world", [{"anti_entropy_s": 2.4, "kv_timeout_s": 0.5}], indirect=True)
async def test_what_a_link_did_not_bring_is_read_as_soon_as_it_ends_or_begins(world: World) -> None:
    """Batches under way died with it: the node asks the log at once, not at its next turn."""
    device = await world.connect()
    await device.subscribe(0)
    await device.until("schedule")
    await asyncio.sleep(0.05)
    timestamps = iter(range(1000, 9000, 1000))
    for change in (world.routers[0].close, None):
        timestamp = next(timestamps)
        await world.publish(broadcast(timestamp, timestamp - 1000 if timestamp > 1000 else 0))
        if change is not None:
            await change()
        else:
            world.router()
        assert (await device.until("broadcast", 1.0))["timestamp"] == timestamp


@pytest.mark.parametrize("off_ms", [-HOUR_MS, HOUR_MS])
async def test_a_clock_an_hour_off_refuses_no_device(off_ms: int) -> None:
    """The node's clock stepped; a cursor of the true present is no cursor from the future once the log was read."""
    world = World(clock=WrongClock(off_ms))
    await world.start()
    world.router()
    try:
        await world.publish(broadcast(NOW_MS - 1000, 0), broadcast(NOW_MS, NOW_MS - 1000))
        device = await world.connect()
        await device.subscribe(NOW_MS - 1000)
        assert (await device.next())["verdict"] == "complete"
        assert (await device.until("broadcast"))["timestamp"] == NOW_MS
    finally:
        await world.end()


async def test_a_cursor_from_the_future_is_told_so_once_the_log_was_read(world: World) -> None:
    """Within the doubt about our own clock it is judged late, and judged all the same."""
    await world.publish(broadcast(NOW_MS, 0))
    device = await world.connect()
    await device.subscribe(NOW_MS + HOUR_MS)
    error = await device.next()
    assert (error["type"], error["code"], error["topic"]) == ("error", "cursor_in_future", TOPIC)
    await device.subscribe(NOW_MS + HOUR_MS)
    assert (await device.next())["code"] == "cursor_in_future", "at once, now that the log is known"
    await device.subscribe(NOW_MS + 1000)
    assert (await device.next())["verdict"] == "ahead", "a little ahead is no error"
