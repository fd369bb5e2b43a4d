"""The router as a whole, with a scripted log, a store that fails as told, and nodes at the end of real links."""

from __future__ import annotations

from router_world import TOPIC, World, eventually, night, world


async def committed(here: World) -> None:
    await eventually(lambda: here.log.committed.get(0) == here.log.end(0), what=f"committed {here.log.committed}")


async def test_a_broadcast_is_stored_delivered_and_committed() -> None:
    """The plain path: store, then the interested node, then the offset; nobody else hears of it."""
    async with world() as here:
        node, other = await here.node("n1", TOPIC), await here.node("n2", "event:other")
        broadcasts = night(3)
        here.log.publish(*broadcasts)
        await committed(here)
        assert node.broadcasts == broadcasts
        assert other.broadcasts == []
        assert (await here.store.read(TOPIC)).entries == tuple(broadcasts)
        assert here.readiness.ready
