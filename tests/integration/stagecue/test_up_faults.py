"""A full disk and a locked database under the running system: not ready, said clearly, and over by itself."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path

import httpx
import psutil
import pytest
from system_support import FAST, create_fight, fleet_of, follow, now_ms, operator

from device_sim.audit import audit_fleet, outbox_from_json
from device_sim.fleet import Fleet
from loadtest.bench.system import EmbeddedSystem

pytestmark = [pytest.mark.fault, pytest.mark.timeout(60)]

DEVICES = 5
TOPIC = "event:fight"


async def readiness(client: httpx.AsyncClient) -> dict:
    return (await client.get("/readyz")).json()


async def until_ready(client: httpx.AsyncClient, ready: bool, *, within_s: float) -> dict:
    deadline = time.monotonic() + within_s
    while True:
        body = await readiness(client)
        if body["ready"] is ready:
            return body
        assert time.monotonic() < deadline, body
        await asyncio.sleep(0.05)


async def everybody_caught_up(client: httpx.AsyncClient, fleet: Fleet) -> list[dict]:
    """The outbox, once all of it reached every device; nobody missed anything and nobody was cut off."""
    items = (await client.get("/v1/events/fight/broadcasts")).json()["items"]
    await fleet.wait_caught_up({TOPIC: items[-1]["timestamp"]}, timeout_s=5)
    audit = audit_fleet(outbox_from_json(items), fleet.logs())
    assert (audit.missed, audit.out_of_order, audit.unknown_frames) == (0, 0, 0)
    assert fleet.context.stats.handshakes == DEVICES, "the store's trouble cut devices off"
    return items


async def test_a_full_disk_is_said_waited_for_and_over_by_itself(tmp_path: Path) -> None:
    """No write gets through while stages fall due; what became true meanwhile goes out once there is room."""
    async with EmbeddedSystem(tmp_path, environment=FAST) as system, operator(system) as client, fleet_of(5) as fleet:
        due = now_ms() + 1500
        await create_fight(client, due, due + 500)
        follow(fleet, system, TOPIC, DEVICES)
        await fleet.connect_all()
        # A limit on file size refuses every write, the log file's included, as a full disk does.
        server = psutil.Process(system.pid)
        server.rlimit(psutil.RLIMIT_FSIZE, (1, psutil.RLIM_INFINITY))
        body = await until_ready(client, False, within_s=5)
        assert "store" in body["failing"]
        await asyncio.sleep(max(0.0, (due + 1000 - now_ms()) / 1000))
        refused = await client.post("/v1/events/fight/cue", json={"stage": "stage_0"})
        assert refused.status_code == 503, refused.text
        assert refused.json()["code"] == "store_unavailable"
        assert (await client.get("/v1/events/fight/broadcasts")).json()["items"] == [], "reads still answer"
        assert fleet.online == DEVICES
        server.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
        await until_ready(client, True, within_s=10)
        await asyncio.sleep(1.5)
        items = await everybody_caught_up(client, fleet)
        assert [item["state_key"] for item in items] == ["stage_1"], "the one true now goes out, the other is over"


async def test_a_locked_database_is_said_waited_for_and_over_by_itself(tmp_path: Path) -> None:
    """Somebody else's transaction holds the file while a stage falls due."""
    environment = {**FAST, "PRODUCER_BUSY_TIMEOUT_S": "0.3"}
    async with (
        EmbeddedSystem(tmp_path, environment=environment) as system,
        operator(system) as client,
        fleet_of(DEVICES) as fleet,
    ):
        due = now_ms() + 1500
        await create_fight(client, due)
        follow(fleet, system, TOPIC, DEVICES)
        await fleet.connect_all()
        other = sqlite3.connect(system.data_dir / "producer.db", isolation_level=None, timeout=5)
        try:
            other.execute("BEGIN IMMEDIATE")
            body = await until_ready(client, False, within_s=5)
            assert "locked" in body["failing"]["store"]
            await asyncio.sleep(max(0.0, (due + 500 - now_ms()) / 1000))
            other.execute("ROLLBACK")
        finally:
            other.close()
        await until_ready(client, True, within_s=5)
        await asyncio.sleep(1.5)
        items = await everybody_caught_up(client, fleet)
        assert [item["state_key"] for item in items] == ["stage_0"]
        assert items[0]["dispatched_at_ms"] >= due
    lines = [line for line in system.log_path.read_text().splitlines() if '"not_ready"' in line and '"store"' in line]
    assert lines, "nothing in the log says what is wrong"
    assert "locked" in lines[0]
