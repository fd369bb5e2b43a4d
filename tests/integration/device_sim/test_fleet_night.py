"""Goal: a fleet goes through a short night on the whole embedded system, and the judge finds nothing wrong.

Prefetch with artwork, connect, a part offline across a stage, connections dropped.
"""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest

from device_sim.audit import audit_fleet, distinct_map_share, outbox_from_json
from device_sim.client import now_ms
from device_sim.device import DeviceOptions
from device_sim.fleet import Fleet, FleetOptions
from loadtest.bench.operator_api import OperatorApi
from loadtest.bench.system import EmbeddedSystem


def moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")


@pytest.mark.slow
async def test_a_short_night(tmp_path: Path) -> None:
    settings = {"PUSH_RECONNECT_WINDOW_MS": "300", "PUSH_REFETCH_WINDOW_MS": "2000", "PUSH_ACK_ONE_IN": "5"}
    async with (
        EmbeddedSystem(tmp_path, environment=settings) as system,
        aiohttp.ClientSession() as session,
    ):
        api = OperatorApi(session, system.addresses)
        start = now_ms() + 4_500
        stages = [
            {"key": "upcoming", "anchor": "start", "offset": "-PT1H"},
            {"key": "starting_soon", "anchor": "start", "offset": "-PT1S"},
            {"key": "live", "anchor": "start"},
            {"key": "ended", "anchor": "absolute", "at": moment(start + 2_500)},
        ]
        await api.create_event({"id": "night", "title": "Night", "starts_at": moment(start), "stages": stages})
        options = FleetOptions(
            devices=60,
            dgs_url=system.addresses.dgs,
            event_ids=("night",),
            seed=5,
            device=DeviceOptions(reconnect_window_ms=300),
            artwork="edge",
        )
        async with Fleet(options) as fleet:
            await fleet.prefetch_all()
            assert distinct_map_share(fleet.recorded) >= 0.95
            assert all(client.device.artwork_missing("event:night") == 0 for client in fleet.clients)
            await fleet.connect_all(over_s=0.5)
            await fleet.wait_subscribed(timeout_s=5)
            fetched = fleet.context.stats.map_fetches
            await asyncio.sleep(max(0.0, (start - 1_500 - now_ms()) / 1000))
            away = fleet.take_offline(0.2, 2.0)
            assert len(away) == 12
            await asyncio.sleep(max(0.0, (start + 1_500 - now_ms()) / 1000))
            for client in random.Random(1).sample(fleet.clients, 10):
                client.drop()
            await asyncio.sleep(max(0.0, (start + 2_500 - now_ms()) / 1000))
            outbox = await broadcasts(api, 4)
            newest = {each.topic: each.timestamp for each in outbox}
            await fleet.wait_caught_up(newest, timeout_s=5)
            audit = audit_fleet(outbox, fleet.logs(), fleet.recorded)
            assert fleet.context.stats.map_fetches == fetched, "a broadcast made a device ask"
            assert fleet.context.stats.protocol_violations == 0

    by_key = {each.state_key: each for each in audit.broadcasts}
    assert list(by_key) == ["upcoming", "starting_soon", "live", "ended"]
    assert (audit.missed, audit.untold, audit.out_of_order, audit.wrong_renders) == (0, 0, 0, 0)
    assert (audit.unknown_frames, audit.not_newest, audit.unsubscribed) == (0, 0, 0)
    # Connected after "upcoming": it was in everybody's first continuity.
    assert by_key["upcoming"].devices == 0
    assert by_key["starting_soon"].delivered_live == 48
    assert by_key["starting_soon"].replayed == 12
    assert by_key["ended"].delivered_live + by_key["ended"].replayed == 60
    # Those who were away switched by the clock, and were put right when they came back.
    assert audit.provisional_renders >= 12
    assert by_key["live"].last_ms is not None
    assert 0 <= by_key["live"].last_ms < 2_000


async def broadcasts(api: OperatorApi, count: int):
    """The outbox, once it holds `count` broadcasts."""
    async with asyncio.timeout(5):
        while True:
            items = await api.broadcasts("night")
            if len(items) >= count:
                return outbox_from_json(items)
            await asyncio.sleep(0.05)
