"""docs/graphql-stream.md says what the node sends: every conversation in it is played against a real node."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets
from push_world import World

from contract.broadcast import Broadcast
from contract.close_codes import GRAPHQL_FATAL_CODES, CloseCode, GraphqlCloseCode, graphql_close_code
from contract.frames import MAX_CLIENT_FRAME_BYTES, MAX_TOPICS_PER_CONNECTION
from contract.schedule import PlannedStage, TopicSchedule
from push_proxy import graphql_documents, graphql_selection, graphql_stream
from push_proxy.adapters.websocket_connection import FRAMES_PER_LOOK
from push_proxy.settings import PushSettings

DOCUMENT = Path(__file__).parents[3] / "docs" / "graphql-stream.md"
TOPIC = "event:tyson-paul"
PATIENCE_S = 20.0
_VOLATILE = ("reconnectAfterMs",)


def conversations() -> Iterator[Any]:
    title = ""
    block: list[str] | None = None
    for line in DOCUMENT.read_text().splitlines():
        if line.startswith("### "):
            title = line[4:]
        if line == "```graphql-transport-ws":
            block = []
        elif line == "```" and block is not None:
            yield pytest.param(block, id=re.sub(r"\W+", "-", title.lower()))
            block = None
        elif block is not None:
            block.append(line)


def _plan() -> TopicSchedule:
    starts_at = 1731722400000
    stages = (PlannedStage(key="live", order=0, due_at=starts_at), PlannedStage(key="replay", order=1))
    return TopicSchedule(
        topic=TOPIC, event_id="tyson-paul", title="T", revision=12, version=7, starts_at=starts_at, stages=stages
    )


def _entry(key: str, timestamp: int, prev: int) -> Broadcast:
    return Broadcast(topic=TOPIC, state_key=key, timestamp=timestamp, prev=prev, event_id="tyson-paul")


async def _happens(world: World, what: str) -> None:
    name, *arguments = what.split()
    if name == "broadcast":
        await world.routers[0].deliver(_entry(arguments[0], int(arguments[1]), 1731721500000))
    elif name == "stop":
        world.stop.set()
    else:
        raise AssertionError(f"unknown happening {what}")


def _settled(message: dict[str, Any]) -> dict[str, Any]:
    """Without what is drawn: it must be a number where it is shown as one."""
    payload = message.get("payload")
    item = (payload.get("data") or {}).get("broadcasts") if isinstance(payload, dict) else None
    for field in _VOLATILE:
        if isinstance(item, dict) and isinstance(item.get(field), int):
            item[field] = 0
    return message


@pytest.mark.parametrize("world", [{"ack_one_in": 100, "link_silence_s": 30.0, "verdict_wait_s": 20.0}], indirect=True)
@pytest.mark.parametrize("conversation", list(conversations()))
async def test_conversation(world: World, conversation: list[str]) -> None:
    """What the document shows is what arrives, but for tokens and draws."""
    await world.view.put(_plan())
    await world.publish(_entry("upcoming", 1731718800000, 0), _entry("starting_soon", 1731721500000, 1731718800000))
    async with asyncio.timeout(PATIENCE_S):
        async with websockets.connect(
            world.url, subprotocols=[websockets.Subprotocol("graphql-transport-ws")], compression=None, proxy=None
        ) as device:
            for line in conversation:
                mark, _, rest = line.partition(" ")
                if mark == "..":
                    await _happens(world, rest)
                elif mark == "->":
                    json.loads(rest)
                    await device.send(rest.replace('"..."', f'"{world.token()}"').replace("Bearer ...", _bearer(world)))
                elif rest.startswith("close "):
                    await device.wait_closed()
                    assert device.close_code == int(rest.split()[1])
                else:
                    assert _settled(json.loads(await device.recv())) == _settled(json.loads(rest))


def _bearer(world: World) -> str:
    return f"Bearer {world.token()}"


def test_there_are_conversations() -> None:
    assert len(list(conversations())) == 6


def test_tables_agree_with_the_code() -> None:
    """Close codes, what a client does after them, and the limits are those of the code."""
    text = DOCUMENT.read_text()
    rows = {cells[0]: cells for cells in _rows(text) if re.match(r"\d{4}", cells[0])}
    for code in GraphqlCloseCode:
        cells = rows[str(int(code))]
        assert cells[3].startswith("no") == (int(code) in GRAPHQL_FATAL_CODES)
        instead = {int(v1) for v1 in CloseCode if v1 != code and graphql_close_code(v1) == code}
        assert {int(number) for number in re.findall(r"\d{4}", cells[1])} == instead
    same = {int(code) for code in CloseCode if code >= 4000 and graphql_close_code(code) == code}
    assert same == {*range(4000, 4004), *range(4006, 4010)}
    limits = (
        f"message | {MAX_CLIENT_FRAME_BYTES:,} bytes",
        f"topics per connection | {MAX_TOPICS_PER_CONNECTION},",
        f"id of an operation | {graphql_stream.MAX_ID_CHARS} characters",
        f"messages | {FRAMES_PER_LOOK} ",
        f"document | {graphql_documents.MAX_QUERY_CHARS:,} characters, {graphql_documents.MAX_TOKENS} tokens, "
        f"{graphql_selection.MAX_SELECTIONS} selections, {graphql_selection.MAX_FRAGMENTS} fragments, "
        f"{graphql_selection.MAX_ALIASES} aliases, {graphql_selection.MAX_DEPTH} deep; "
        f"{graphql_selection.MAX_FIELDS} fields",
        f"has not seen | {graphql_documents.NEW_DOCUMENTS_BURST:.0f} at once, "
        f"{graphql_documents.NEW_DOCUMENTS_PER_S:.0f} a second for ever; {graphql_stream.MAX_NEW_DOCUMENTS} of one",
        f"`connection_init` | {PushSettings().authentication_deadline_s:.0f} s",
    )
    for limit in limits:
        assert limit in text
    for name in re.findall(r"`PUSH_([A-Z_]+)`", text):
        assert name.lower() in PushSettings.model_fields


def _rows(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if line.startswith("| "):
            yield [cell.strip() for cell in line.strip("|").split("|")]
