"""Bad input through every door of the running system: a clear error in that door's own form, and nothing changed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from system_support import FAST, create_fight, device_token, now_ms, operator, operator_token, rfc3339

from contract.tokens import DeviceClaims, OperatorClaims, new_key_ring
from loadtest.bench.system import EmbeddedSystem

pytestmark = pytest.mark.timeout(60)

ROUGH = Path(__file__).parents[3] / "examples" / "schedules" / "rough.ics"
START = 4_000_000_000_000
STAGES = [{"key": "soon", "offset": "-PT15M"}, {"key": "live"}]
GOOD: dict[str, Any] = {"id": "opera", "title": "The opera", "starts_at": rfc3339(START), "stages": STAGES}

# (what, change of the good event, field, a word of the answer)
BAD_EVENTS = [
    ("an unknown field", {"colour": "red"}, "colour", ""),
    ("stages out of order", {"stages": STAGES[::-1]}, "stages[1]", "before"),
    ("twice the same key", {"stages": [*STAGES, STAGES[1]]}, "stages[2].key", "unique"),
    ("a negative threshold", {"coverage_threshold": -0.5}, "coverage_threshold", "0"),
    ("an end before the start", {"ends_at": rfc3339(START - 1)}, "ends_at", "start"),
    ("a time without a zone", {"starts_at": "2096-10-02T07:06:40"}, "starts_at", "zone"),
    ("no title", {"title": None}, "title", ""),
]


async def snapshot(client: httpx.AsyncClient) -> tuple[Any, Any]:
    """Everything a wrong call could have changed."""
    events = (await client.get("/v1/events")).json()
    return events, (await client.get("/v1/events/fight/broadcasts")).json()


async def test_the_operator_api_names_field_and_rule(tmp_path: Path) -> None:
    async with EmbeddedSystem(tmp_path, environment=FAST) as system, operator(system) as client:
        await create_fight(client, now_ms() + 3_600_000)
        before = await snapshot(client)
        for what, change, field, word in BAD_EVENTS:
            answer = await client.post("/v1/events", json={**GOOD, **change})
            body = answer.json()
            assert answer.status_code == 400, (what, body)
            assert answer.headers["content-type"] == "application/problem+json"
            assert body["field"].startswith(field), (what, body)
            assert word in json.dumps(body), (what, body)
        stale = await client.patch("/v1/events/fight", json={"title": "X"}, headers={"If-Match": '"99"'})
        assert (stale.status_code, stale.json()["code"]) == (412, "revision_conflict")
        unknown = [
            await client.get("/v1/events/nobody"),
            await client.post("/v1/events/nobody/shift", json={"by": "PT1M"}),
            await client.post("/v1/events/nobody/cue", json={"stage": "live"}),
        ]
        assert [answer.status_code for answer in unknown] == [404, 404, 404]
        stage = await client.post("/v1/events/fight/cue", json={"stage": "overtime"})
        assert (stage.status_code, stage.json()["code"]) == (400, "unknown_stage")
        assert "stage_0" in stage.text, "those there are"
        await _tokens_are_refused(system)
        assert await snapshot(client) == before


async def _tokens_are_refused(system: EmbeddedSystem) -> None:
    forged = new_key_ring("stagecue.operator").sign(OperatorClaims(sub="x", exp=int(time.time()) + 60, role="operator"))
    cases = [
        ({}, 401),
        ({"Authorization": "Bearer nonsense"}, 401),
        ({"Authorization": f"Bearer {forged}"}, 401),
        ({"Authorization": f"Bearer {operator_token(system, lives_s=-60)}"}, 401),
        ({"Authorization": f"Bearer {device_token(system)}"}, 401),
        ({"Authorization": f"Bearer {operator_token(system, role='viewer')}"}, 403),
    ]
    async with httpx.AsyncClient(base_url=system.addresses.producer, trust_env=False) as client:
        for headers, status in cases:
            answer = await client.post("/v1/events/fight/cancel", headers=headers)
            assert answer.status_code == status, (headers, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"
        assert (await client.get("/v1/events", headers=cases[-1][0])).status_code == 200, "a viewer may look"


async def test_devices_get_error_frames_and_neighbours_notice_nothing(tmp_path: Path) -> None:
    """Each frame is answered by an error that names field and rule; the same connection goes on."""
    async with EmbeddedSystem(tmp_path, environment=FAST) as system, operator(system) as client:
        await create_fight(client, now_ms() + 3_600_000)
        await asyncio.sleep(0.5)
        future = now_ms() + 3_600_000
        cases = [
            ("not json", "malformed_frame", "JSON"),
            ('{"type":"dance"}', "malformed_frame", "subscribe, unsubscribe, ack, auth, hole"),
            ('{"type":"subscribe","topics":{"event:fight":"yesterday"}}', "malformed_frame", "int"),
            (f'{{"type":"subscribe","topics":{{"event:fight":{future}}}}}', "cursor_in_future", "future"),
            ('{"type":"subscribe","topics":{"event:opera":null}}', "unknown_topic", "no such topic"),
            (
                json.dumps({"type": "subscribe", "topics": {f"event:{n}": None for n in range(65)}}),
                "too_many_topics",
                "64",
            ),
        ]
        async with _device(system) as neighbour, _device(system) as device:
            await neighbour.send('{"type":"subscribe","topics":{"event:fight":null}}')
            for sent, code, word in cases:
                await device.send(sent)
                frame = await _next(device, "error")
                assert frame["code"] == code, frame
                assert word in frame["message"], frame
            await device.send('{"type":"subscribe","topics":{"event:fight":null}}')
            assert (await _next(device, "continuity"))["verdict"] == "complete"
            await device.send(json.dumps({"type": "subscribe", "topics": {f"event:{n}": None for n in range(10_000)}}))
            async with asyncio.timeout(5):
                await device.wait_closed()
            assert device.close_code == 1009
            await client.post("/v1/events/fight/cue", json={"stage": "stage_0"})
            assert (await _next(neighbour, "broadcast"))["state_key"] == "stage_0"


async def test_devices_without_a_good_token_are_refused(tmp_path: Path) -> None:
    async with EmbeddedSystem(tmp_path, environment=FAST) as system:
        claims = DeviceClaims(sub="p", dev="d", exp=int(time.time()) + 60)
        # Expired beyond any grace: within it a device is let in and renewed.
        expired = device_token(system, lives_s=-30 * 24 * 3600)
        for token in ("", "nonsense", new_key_ring("stagecue.device").sign(claims), expired):
            with pytest.raises(websockets.InvalidStatus) as refused:
                await _connect(system, token)
            assert refused.value.response.status_code == 401
            assert b"token" in refused.value.response.body
            assert token == "" or token.encode() not in refused.value.response.body


async def test_prefetch_says_what_it_does_not_know(tmp_path: Path) -> None:
    """GraphQL's own form: errors with a code, no data."""
    async with EmbeddedSystem(tmp_path, environment=FAST) as system, httpx.AsyncClient(trust_env=False) as client:

        async def ask(query: str) -> dict[str, Any]:
            answer = await client.post(system.addresses.dgs + "/graphql", json={"query": query})
            return answer.json()["errors"][0]

        event = await ask('{ prefetchEvent(eventId: "opera", profileId: "p-1") { version } }')
        assert event["extensions"]["code"] == "not_found"
        assert "opera" in event["message"]
        field = await ask('{ prefetchEvent(eventId: "opera", profileId: "p-1") { colour } }')
        assert "colour" in field["message"]
        kind = await ask('{ prefetchEvent(eventId: "o", profileId: "p", device: {kind: TOASTER}) { version } }')
        assert "TOASTER" in kind["message"]


async def test_the_command_line_says_it_on_standard_error(tmp_path: Path) -> None:
    """Exit code 1 for what the API refuses, 2 for usage; nothing on standard output."""
    async with EmbeddedSystem(tmp_path, environment=FAST) as system:

        def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
            here = {"STAGECUE_URL": system.addresses.producer, "STAGECUE_DATA_DIR": str(system.data_dir)}
            command = [sys.executable, "-m", "stagecue", "event", *words]
            return subprocess.run(
                command, capture_output=True, text=True, timeout=30, env={**os.environ, **here, **env}, check=False
            )

        cases = [
            (("show", "nobody"), {}, 1, "nobody"),
            (("shift", "nobody", "ten minutes"), {}, 1, "by"),
            (("add", "--id", "a", "--title", "A", "--starts", "2096-01-01T00:00:00"), {}, 1, "zone"),
            (("dance",), {}, 2, "dance"),
            (("list",), {"STAGECUE_TOKEN": "nonsense"}, 1, "token"),
            (("list",), {"STAGECUE_URL": "http://127.0.0.1:9"}, 1, "stagecue up"),
        ]
        for words, env, code, said in cases:
            done = await asyncio.to_thread(run, *words, **env)
            assert done.returncode == code, (words, done.stderr)
            assert said in done.stderr, (words, done.stderr)
            assert done.stdout == "", words
        imported = await asyncio.to_thread(run, "import", str(ROUGH), "--from", "2024-01-01T00:00:00Z", "--json")
        report = json.loads(imported.stdout)
        assert len(report["created"]) >= 1, "the good entries are taken"
        assert {14, 19, 25} <= {item["line"] for item in report["rejected"]}, "the bad ones are listed by line"


def _connect(system: EmbeddedSystem, token: str) -> websockets.connect:
    return websockets.connect(
        system.addresses.push + "/v1/stream",
        subprotocols=[websockets.Subprotocol("stagecue.v1")],
        additional_headers={"Authorization": f"Bearer {token}"} if token else {},
        compression=None,
        proxy=None,
    )


def _device(system: EmbeddedSystem) -> websockets.connect:
    return _connect(system, device_token(system))


async def _next(device: websockets.ClientConnection, kind: str) -> dict[str, Any]:
    """The next frame of a kind, within the test's patience."""
    async with asyncio.timeout(5):
        while True:
            frame: dict[str, Any] = json.loads(await device.recv())
            if frame["type"] == kind:
                return frame
