"""A device on a real socket: welcome, verdict, replay, live, schedule."""

from __future__ import annotations

from push_world import TOPIC, World, broadcast


async def test_connect_subscribe_and_live(world: World) -> None:
    """A device is welcomed, told where it stands, and gets what is broadcast then."""
    device = await world.connect()
    await device.subscribe(None)
    assert await device.next() == {
        "type": "continuity",
        "topic": TOPIC,
        "verdict": "complete",
        "state_key": None,
        "latest": 0,
    }
    assert (await device.next())["type"] == "schedule"
    await world.publish(broadcast(1000, 0))
    assert await world.routers[0].deliver(broadcast(1000, 0)) == 1
    frame = await device.next()
    assert frame == {
        "type": "broadcast",
        "topic": TOPIC,
        "state_key": "s1000",
        "timestamp": 1000,
        "prev": 0,
        "ack": {"one_in": 100, "within_ms": 30_000},
    }
