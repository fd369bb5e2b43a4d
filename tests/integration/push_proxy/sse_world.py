"""What the tests of server-sent events share."""

from __future__ import annotations

from typing import Any

from push_world import TOPIC, World

from tests.support.event_source import EventStreamClient, StreamEvent

PATH = f"/v1/events?topic={TOPIC}"


async def stream(world: World, client: EventStreamClient, path: str = PATH, **headers: str) -> StreamEvent:
    """Open one and return its welcome."""
    assert await client.open(path, Authorization=f"Bearer {world.token()}", **headers) == 200
    event = await client.next()
    assert event.name == "welcome"
    return event


def told(event: StreamEvent) -> tuple[str, Any, str]:
    """(what, which, id) of an event."""
    frame = event.frame
    return event.name, frame.get("verdict", frame.get("timestamp")), event.last_event_id
