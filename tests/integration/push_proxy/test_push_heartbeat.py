"""A client's own heartbeat: pongs nobody asked for (RFC 6455, 5.5.3), as .NET's client sends them."""

from __future__ import annotations

import asyncio

import pytest
from push_world import World
from websockets.frames import Frame, Opcode

from push_proxy.adapters.websocket_connection import FRAMES_PER_LOOK


@pytest.mark.parametrize("world", [{"ping_s": 0.5, "pong_deadline_s": 0.49}], indirect=True)
async def test_a_heartbeat_nobody_asked_for_is_no_flood(world: World) -> None:
    """More pongs than are allowed at once, but spread over many intervals of pings."""
    device = await world.connect()
    await device.subscribe(0)
    await device.until("schedule")
    for _ in range(30):
        device.connection.transport.write(Frame(Opcode.PONG, b"").serialize(mask=True) * (FRAMES_PER_LOOK // 20))
        await asyncio.sleep(0.1)
        assert device.connection.close_code is None
