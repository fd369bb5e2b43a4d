"""A night on Kafka, PostgreSQL and Redis: eleven processes, from an event's creation to its reach."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from contract.errors import BroadcastSystemError
from device_sim.audit import audit_fleet, outbox_from_json
from device_sim.device import DeviceOptions
from device_sim.fleet import Fleet, FleetOptions
from loadtest.cluster.cluster import LocalCluster

pytestmark = [pytest.mark.external_service, pytest.mark.timeout(240)]

DEVICES = 60
TOPIC = "event:fight"
ENVIRONMENT = {
    "PUSH_ACK_ONE_IN": "1",
    "PUSH_ACK_WITHIN_MS": "50",
    "PUSH_DRAIN_S": "0.5",
    "PUSH_DRAIN_GUARD_S": "0",
    "DGS_CONNECT_WINDOW_MS": "0",
}


def rfc3339(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")


async def eventually(condition: Callable[[], Awaitable[bool]], what: str, within_s: float = 15.0) -> None:
    deadline = time.monotonic() + within_s
    while not await condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.1)


async def test_an_event_reaches_every_device_through_every_server_and_is_counted(tmp_path: Path) -> None:
    """Created at the producer that stands by, prefetched from either DGS, shown live by devices of both nodes.

    Afterwards each broadcast has every device's acknowledgement in the database, asked at either producer.
    """
    async with LocalCluster(tmp_path, nodes=2, environment=ENVIRONMENT) as cluster:
        status = await cluster.status()
        assert status.problems == ()
        leader = await cluster.leader()
        standby = next(one for one in cluster.producers if one is not leader)
        headers = {"Authorization": f"Bearer {cluster.operator_token}"}
        async with httpx.AsyncClient(trust_env=False, timeout=10.0, headers=headers) as http:

            async def items(url: str, what: str) -> list[dict]:
                answer = await http.get(f"{url}/v1/events/fight/{what}")
                assert answer.status_code == 200, answer.text
                return sorted(answer.json()["items"], key=lambda item: item["timestamp"])

            first_ms = time.time_ns() // 1_000_000 + 8_000
            stages = [{"key": f"stage_{n}", "anchor": "absolute", "at": rfc3339(first_ms + n * 300)} for n in range(4)]
            event = {"id": "fight", "title": "The fight", "starts_at": rfc3339(first_ms), "stages": stages}
            answer = await http.post(f"{standby.url}/v1/events", json=event)
            assert answer.status_code == 201, answer.text

            options = FleetOptions(
                devices=DEVICES,
                dgs_url=cluster.dgs_urls[1],
                event_ids=("fight",),
                artwork="none",
                device=DeviceOptions(reconnect_window_ms=200, fetches_maps=False),
            )
            async with Fleet(options) as fleet:

                async def prefetched() -> bool:
                    try:
                        await fleet.prefetch_all()
                    except BroadcastSystemError:
                        return False  # the schedule is not in Redis yet
                    return True

                await eventually(prefetched, "the DGS knows the event")
                await fleet.connect_all()
                await fleet.wait_subscribed(timeout_s=10)
                assert time.time_ns() // 1_000_000 < first_ms, "too slow to be connected before the first stage"
                nodes = [one.detail for one in (await cluster.status()).of("push")]
                assert sum(node["connections"] for node in nodes) == DEVICES
                assert all(node["connections"] >= DEVICES // 3 for node in nodes), "the DGS spreads devices over nodes"

                async def published() -> bool:
                    outbox = await items(leader.url, "broadcasts")
                    return [one["published_at"] is not None for one in outbox] == [True] * 4

                await eventually(published, "four broadcasts are in Kafka", within_s=20)
                outbox = await items(leader.url, "broadcasts")
                await fleet.wait_caught_up({TOPIC: outbox[-1]["timestamp"]}, timeout_s=10)
                audit = audit_fleet(outbox_from_json(outbox), fleet.logs(), fleet.recorded)

                async def counted() -> bool:
                    reach = await items(standby.url, "reach")
                    return [(one["written"], one["acked"]) for one in reach] == [(DEVICES, DEVICES)] * 4

                await eventually(counted, "every device's acknowledgement is in PostgreSQL")
            assert (audit.missed, audit.untold, audit.out_of_order, audit.not_newest) == (0, 0, 0, 0), audit
            assert [each.delivered_live for each in audit.broadcasts] == [DEVICES] * 4
            assert [entry["state_key"] for entry in outbox] == [f"stage_{n}" for n in range(4)]
