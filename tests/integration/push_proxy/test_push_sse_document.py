"""docs/sse.md says what a node sends: its streams are compared with those of a real one, line by line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from push_world import World, eventually

from contract.broadcast import Broadcast
from contract.frames import ServerFrame
from contract.schedule import PlannedStage, TopicSchedule
from push_proxy.settings import PushSettings
from push_proxy.sse import MIN_RETRY_MS
from tests.support.event_source import EventStreamClient

DOCUMENT = (Path(__file__).parents[3] / "docs" / "sse.md").read_text()
TOPIC = "event:tyson-paul"
_VOLATILE = ("server_time", "lifetime_s", "reconnect_after_ms", "reconnect_window_ms", "window_ms")


def answers() -> list[tuple[dict[str, str], list[str]]]:
    """Header fields and body of every answer the document shows."""
    found = []
    for block in re.findall(r"(?:^ {4}.*\n|^\n)+", DOCUMENT, re.MULTILINE):
        text = re.sub(r"^ {4}", "", block, flags=re.MULTILINE).strip()
        if text.startswith("HTTP/1.1 200 OK\n"):
            head, _, body = text.partition("\n\n")
            fields = dict(line.lower().split(": ", 1) for line in head.split("\n")[1:])
            found.append((fields, comparable(body)))
    return found


def comparable(body: str) -> list[str]:
    """Lines without heartbeats and with draws and times left out."""
    lines = []
    for line in re.sub(r"^:\n\n", "", body, flags=re.MULTILINE).strip().split("\n"):
        if line.startswith("data: "):
            frame = json.loads(line[6:])
            kept = {name: None if name in _VOLATILE else value for name, value in frame.items()}
            lines.append(f"data: {json.dumps(kept)}")
        else:
            lines.append(re.sub(r"^retry: \d+$", "retry: drawn", line))
    return lines


def _entry(key: str, timestamp: int, prev: int) -> Broadcast:
    return Broadcast(topic=TOPIC, state_key=key, timestamp=timestamp, prev=prev, event_id="tyson-paul")


async def test_the_stream(world: World, client: EventStreamClient) -> None:
    """First contact, then a broadcast: head and body are what the document shows."""
    fields, body = answers()[0]
    stages = (PlannedStage(key="live", order=0, due_at=1731722400000), PlannedStage(key="replay", order=1))
    plan = TopicSchedule(
        topic=TOPIC, event_id="tyson-paul", title="T", revision=12, version=7, starts_at=1731722400000, stages=stages
    )
    await world.view.put(plan)
    await world.publish(_entry("upcoming", 1731718800000, 0), _entry("starting_soon", 1731721500000, 1731718800000))
    assert await client.open(f"/v1/events?topic={TOPIC}", Authorization=f"Bearer {world.token()}") == 200
    await client.until("schedule")
    await world.routers[0].deliver(_entry("live", 1731722400456, 1731721500000))
    await client.until("broadcast")
    for name, value in client.headers.items():
        assert fields[name] == value.lower()
    assert comparable(client.raw.decode()) == body


@pytest.mark.parametrize("world", [{"max_connections": 1}], indirect=True)
async def test_a_refusal(world: World, client: EventStreamClient) -> None:
    """A full node answers as the document shows."""
    fields, body = answers()[1]
    await world.connect()
    await eventually(lambda: world.node.status()["connections"] == 1, 20)
    assert await client.open(f"/v1/events?topic={TOPIC}", Authorization=f"Bearer {world.token()}") == 200
    assert await client.rest()
    assert client.headers["content-type"] == fields["content-type"]
    assert comparable(client.raw.decode()) == body


def test_names_and_numbers() -> None:
    """Every frame is named, settings exist, and so are the numbers."""
    for kind in ServerFrame.__args__:
        assert f"`{kind.__struct_config__.tag}`" in DOCUMENT
    for name in re.findall(r"`PUSH_([A-Z_]+)`", DOCUMENT):
        assert name.lower() in PushSettings.model_fields
    assert f"at least {MIN_RETRY_MS} ms" in DOCUMENT
