"""What a welcome of graphql-transport-ws says of the reconnect window, however old its connection is."""

from __future__ import annotations

from hostile_client import Raw, text
from push_world import TOPIC, World

QUERY = """subscription ($topics: [TopicCursor!]!) {
  broadcasts(topics: $topics) { ... on Session { kind reconnectWindowMs } }
}"""


def subscribe(id: str, topic: str) -> bytes:
    variables = {"topics": [{"topic": topic}]}
    return text({"id": id, "type": "subscribe", "payload": {"query": QUERY, "variables": variables}})


async def test_an_operation_that_begins_later_hears_the_window_of_its_day(world: World) -> None:
    """Every device of a node has the same one: the last that was told (R21)."""
    raw = await Raw.open(
        world, without=[b"Sec-WebSocket-Protocol"], more=[(b"Sec-WebSocket-Protocol", b"graphql-transport-ws")]
    )
    raw.transport.write(text({"type": "connection_init"}) + subscribe("1", TOPIC))
    told = (await raw.until("next"))["payload"]["data"]["broadcasts"]
    assert told == {"kind": "WELCOME", "reconnectWindowMs": 2000}
    terms = world.node.service._listener.terms
    terms._returns._told.window_ms = 9000  # as after a window frame
    raw.transport.write(subscribe("2", "event:another"))
    while (item := await raw.until("next"))["id"] != "2":
        pass
    assert item["payload"]["data"]["broadcasts"] == {"kind": "WELCOME", "reconnectWindowMs": 9000}
    raw.transport.abort()
