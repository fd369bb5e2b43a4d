"""docs/protocol.md says what the node sends: every conversation in it is played against a real node."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from push_world import Device, World

from contract.broadcast import Broadcast
from contract.close_codes import CloseCode, may_reconnect
from contract.close_codes import reason as close_reason
from contract.frames import MAX_CLIENT_FRAME_BYTES, MAX_TOPICS_PER_CONNECTION
from contract.schedule import PlannedStage, TopicSchedule
from push_proxy.settings import PushSettings

DOCUMENT = Path(__file__).parents[3] / "docs" / "protocol.md"
TOPIC = "event:tyson-paul"
_VOLATILE = ("server_time", "lifetime_s", "reconnect_after_ms")


def conversations() -> Iterator[Any]:
    title = ""
    block: list[str] | None = None
    for line in DOCUMENT.read_text().splitlines():
        if line.startswith("### "):
            title = line[4:]
        if line == "```stagecue":
            block = []
        elif line == "```" and block is not None:
            yield pytest.param(block, id=re.sub(r"\W+", "-", title.lower()))
            block = None
        elif block is not None:
            block.append(line)


def _plan(revision: int) -> TopicSchedule:
    starts_at = 1731722400000 if revision == 12 else 1731723000000
    stages = (PlannedStage(key="live", order=0, due_at=starts_at), PlannedStage(key="replay", order=1))
    return TopicSchedule(
        topic=TOPIC, event_id="tyson-paul", title="T", revision=revision, version=7, starts_at=starts_at, stages=stages
    )


def _entry(key: str, timestamp: int, prev: int) -> Broadcast:
    return Broadcast(topic=TOPIC, state_key=key, timestamp=timestamp, prev=prev, event_id="tyson-paul")


async def _happens(world: World, what: str) -> None:
    name, *arguments = what.split()
    if name == "broadcast":
        await world.routers[0].deliver(_entry(arguments[0], int(arguments[1]), 1731721500000))
    elif name == "trim":
        await world.log.trim(TOPIC, keep=1, before=0)
    elif name == "shift":
        await world.routers[0].deliver(schedules=[_plan(int(arguments[0]))])
    elif name == "stop":
        world.stop.set()
    else:
        raise AssertionError(f"unknown happening {what}")


@pytest.mark.parametrize("world", [{"ack_one_in": 100}], indirect=True)
@pytest.mark.parametrize("conversation", list(conversations()))
async def test_conversation(world: World, conversation: list[str]) -> None:
    """What the document shows is what arrives, but for times and draws."""
    await world.view.put(_plan(12))
    await world.publish(_entry("upcoming", 1731718800000, 0), _entry("starting_soon", 1731721500000, 1731718800000))
    device: Device | None = None
    for line in conversation:
        mark, _, rest = line.partition(" ")
        if mark == "..":
            await _happens(world, rest)
            continue
        if device is None:
            device = await world.connect(welcome=False)
        if mark == "->":
            await device.send(json.loads(rest))
        elif rest.startswith("close "):
            assert await device.closed() == int(rest.split()[1])
        else:
            shown, sent = json.loads(rest), await device.next()
            for field in _VOLATILE:
                assert (field in shown) == (field in sent)
                shown.pop(field, None)
                sent.pop(field, None)
            assert sent == shown


def test_tables_agree_with_the_code() -> None:
    """Close codes, their advice and the limits in the document are those of the code."""
    text = DOCUMENT.read_text()
    for code in CloseCode:
        if code < 4000:
            continue
        row = next(line for line in text.splitlines() if line.startswith(f"| {int(code)} |"))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1] == code.name
        assert close_reason(code).split(";")[0] in cells[2]
        assert (cells[3] not in ("no", "not with this token")) == may_reconnect(code)
    defaults = PushSettings()
    for value in (
        MAX_CLIENT_FRAME_BYTES,
        defaults.max_request_head_bytes,
        defaults.slow_consumer_bytes,
        defaults.max_connections,
    ):
        assert f"{value:,}" in text
    assert f"topics per connection | {MAX_TOPICS_PER_CONNECTION} |" in text
    for name in re.findall(r"`PUSH_([A-Z_]+)`", text):
        assert name.lower() in PushSettings.model_fields
