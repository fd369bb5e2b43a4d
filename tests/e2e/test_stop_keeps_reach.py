"""An ordinary stop forgets nothing: what a node counted since its last report is reported over the link, and stored."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from contract.tokens import DeviceClaims
from device_sim.device import DeviceOptions
from device_sim.fleet import Fleet, FleetOptions
from loadtest.bench.system import EmbeddedSystem
from stagecue.keys import load_or_create_keys

pytestmark = pytest.mark.timeout(60)

DEVICES = 5
NEVER_S = "3600"


async def test_reach_counted_since_the_last_report_survives_sigterm(tmp_path: Path) -> None:
    """Method: reports are an hour apart, so only the one made while stopping can bring the counts."""
    server = EmbeddedSystem(
        tmp_path,
        environment={
            "PUSH_REACH_REPORT_S": NEVER_S,
            "PUSH_DRAIN_S": "0.2",
            "PUSH_DRAIN_GUARD_S": "0",
            "PUSH_RECONNECT_WINDOW_MS": "100",
        },
    )
    await server.start()
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=5.0) as client:
            auth = {"Authorization": f"Bearer {server.addresses.operator_token}"}
            starts_at = datetime.now(UTC).isoformat(timespec="milliseconds")
            event = {"id": "fight", "title": "The fight", "starts_at": starts_at}
            event["stages"] = [{"key": "live", "anchor": "manual"}]  # type: ignore[assignment]
            answer = await client.post(server.addresses.producer + "/v1/events", json=event, headers=auth)
            assert answer.status_code == 201, answer.text
            keys = load_or_create_keys(server.data_dir)
            options = FleetOptions(devices=DEVICES, device=DeviceOptions(reconnect_window_ms=100, fetches_maps=False))
            async with Fleet(options) as fleet:
                for number in range(DEVICES):
                    claims = DeviceClaims(sub=f"p-{number}", dev=f"d-{number}", exp=int(time.time()) + 3600)
                    token, url = keys.device.sign(claims), server.addresses.push + "/v1/stream"
                    fleet.add(f"d-{number}", urls=[url], token=token, topics=["event:fight"])
                for device in fleet.clients:
                    device.start()
                async with asyncio.timeout(10):
                    while any(device.device.topics["event:fight"].cursor is None for device in fleet.clients):  # noqa: ASYNC110 - bounded
                        await asyncio.sleep(0.02)
                url = server.addresses.producer + "/v1/events/fight/cue"
                answer = await client.post(url, json={"stage": "live"}, headers=auth)
                assert answer.status_code == 200, answer.text
                latest = answer.json()["broadcasts"][0]["timestamp"]
                await fleet.wait_caught_up({"event:fight": latest}, timeout_s=10)
                assert await server.stop() == 0
            await server.start()
            auth = {"Authorization": f"Bearer {server.addresses.operator_token}"}
            reach = await client.get(server.addresses.producer + "/v1/events/fight/reach", headers=auth)
            (item,) = reach.json()["items"]
            assert (item["subscribers"], item["written"]) == (DEVICES, DEVICES), item
    finally:
        await server.stop()
