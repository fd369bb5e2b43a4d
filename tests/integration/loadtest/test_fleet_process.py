"""Goal: a fleet in its own process follows its topics on the real system, and its record satisfies the judge."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import aiohttp
import numpy as np
import pytest

from contract.tokens import new_key_ring
from device_sim.audit import audit_fleet, outbox_from_json
from device_sim.client import ConnectionStep
from device_sim.device import DeviceOptions
from loadtest.bench.event_plan import EventPlan
from loadtest.bench.fleet_plan import FleetPlan, PrefetchPlan
from loadtest.bench.fleet_process import FleetProcess
from loadtest.bench.operator_api import OperatorApi
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.system import EmbeddedSystem
from loadtest.installation_keys import device_ring


@pytest.mark.slow
async def test_what_it_records_is_what_was_broadcast(tmp_path: Path) -> None:
    """Two dead addresses among three: every device ends on the living one; a drop in the middle is replayed."""
    events = EventPlan(events=3, stages=12, span_s=4.0, seed=1)
    async with (
        EmbeddedSystem(tmp_path / "system", environment={"PUSH_RECONNECT_WINDOW_MS": "100"}) as system,
        aiohttp.ClientSession() as session,
    ):
        api = OperatorApi(session, system.addresses)
        first_due_s = time.time() + 4.0
        for event in events.requests(first_due_ms=int(first_due_s * 1000)):
            await api.create_event(event)
        topics = events.topics
        plan = FleetPlan(
            devices=30,
            push_urls=("ws://127.0.0.1:1/", system.addresses.push + "/v1/stream", "ws://127.0.0.1:1/x"),
            topics=topics,
            topics_per_device=2,
            sources=("127.9.0.1", "127.9.0.2"),
            device=DeviceOptions(fetches_maps=False, keeps_renders=False, reconnect_window_ms=100, window_cap_ms=200),
        )
        async with FleetProcess(tmp_path / "fleet", plan, device_ring=device_ring(system.data_dir)) as fleet:
            await fleet.connect(over_s=0.2)
            ready = await fleet.subscribed(timeout_s=10)
            assert (ready.connected, ready.devices, ready.broadcasts) == (30, 30, 0)
            await fleet.watch()
            await asyncio.sleep(first_due_s + 2.0 - time.time())
            await fleet.drop()
            await asyncio.sleep(first_due_s + 5.0 - time.time())
            outbox = [item for event_id in events.event_ids for item in await api.broadcasts(event_id)]
            record = await fleet.finish()
    audit = audit_fleet(outbox_from_json(outbox), record.logs)
    assert len(outbox) == 12
    assert (audit.devices, audit.missed, audit.out_of_order, audit.unknown_frames) == (30, 0, 0, 0)
    assert (audit.unsubscribed, audit.not_newest, audit.wrong_renders) == (0, 0, 0)
    arrivals = record.arrivals
    assert set(np.unique(arrivals["timestamp"])) == {item["timestamp"] for item in outbox}
    got = {(row["device"], topics[row["topic"]], int(row["timestamp"])) for row in arrivals}
    assert got == {
        (number, item["topic"], item["timestamp"])
        for number in range(30)
        for item in outbox
        if item["topic"] in plan.topics_of(number)
    }
    assert (np.diff(arrivals["at_s"]) >= 0).all()
    steps = record.connections
    welcomed = steps[steps["step"] == ConnectionStep.WELCOMED]
    assert set(welcomed["address"]) == {1}
    assert len(welcomed) == 60
    assert record.generator is not None
    assert {end.online for end in record.devices} == {True}


@pytest.mark.slow
async def test_a_light_record_says_whom_each_stage_reached(tmp_path: Path) -> None:
    """Maps from the real DGS, a wave of connects, every fault between two stages: nobody misses one."""
    events = EventPlan(events=1, stages=2, span_s=4.0, seed=3)
    async with EmbeddedSystem(tmp_path / "system") as system, aiohttp.ClientSession() as session:
        api = OperatorApi(session, system.addresses)
        first_due_s = time.time() + 4.0
        for event in events.requests(first_due_ms=int(first_due_s * 1000)):
            await api.create_event(event)
        maps = PrefetchPlan(dgs_url=system.addresses.dgs, event_ids=events.event_ids, profiles=7, first_profile=70)
        plan = FleetPlan(
            devices=60, push_urls=(system.addresses.push + "/v1/stream",), topics=events.topics, record="light",
            prefetch=maps, sources=("127.9.0.3",),
            device=DeviceOptions(fetches_maps=False, keeps_renders=False, reconnect_window_ms=100),
        )  # fmt: skip
        async with FleetProcess(tmp_path / "fleet", plan, device_ring=device_ring(system.data_dir)) as fleet:
            held = await fleet.prefetch()
            assert (held.done, held.operations, held.over) == (7, 7, True)
            assert held.distinct_maps > 1
            await fleet.connect(over_s=0.5, shape="wave")
            ready = await fleet.subscribed(timeout_s=10)
            assert (ready.connected, ready.subscribed) == (60, 60)
            with pytest.raises(CouldNotRun, match="records lightly"):
                await fleet.finish()
            await asyncio.sleep(first_due_s + 1.0 - time.time())
            assert await fleet.half_open(share=0.1, seconds=1.0) == 6
            assert 0 < await fleet.freeze(share=0.2, seconds=1.0) <= 12
            assert 0 < await fleet.churn(share=0.2, away_s=1.0) <= 12
            assert 0 < await fleet.churn(share=0.2, over_s=0.5) <= 12
            assert 0 < await fleet.slow_down(share=0.5, seconds=1.0) <= 30
            assert 0 < await fleet.offline(share=0.1, seconds=1.0) <= 6
            await asyncio.sleep(first_due_s + 4.0 - time.time())
            outbox = [item for event_id in events.event_ids for item in await api.broadcasts(event_id)]
            due = {(item["topic"], item["timestamp"]): item["timestamp"] - 250.0 for item in outbox}
            deadline = time.monotonic() + 10
            while True:
                reach = await fleet.stage_reach(due)
                if sum(each.behind for each in reach) == 0 and (await fleet.snapshot()).connected == 60:
                    break
                assert time.monotonic() < deadline, reach
                await asyncio.sleep(0.2)
    assert [each.timestamp for each in reach] == [item["timestamp"] for item in outbox]
    assert len(reach) == 2
    before, after = reach
    assert (before.live, before.devices, before.missed) == (60, 60, 0)
    assert (after.missed, after.behind) == (0, 0)
    assert after.live + after.replayed + after.told == after.devices <= 60
    assert before.histogram.count == 60
    assert (before.histogram.min_ms or 0) >= 250, "counted from the origin that was given"


async def test_a_fleet_that_cannot_connect_says_how_far_it_came(tmp_path: Path) -> None:
    plan = FleetPlan(devices=3, push_urls=("ws://127.0.0.1:1/",), topics=("event:a",))
    async with FleetProcess(tmp_path, plan, device_ring=new_key_ring("stagecue.device")) as fleet:
        await fleet.connect()
        with pytest.raises(CouldNotRun, match="0 of 3 devices subscribed"):
            await fleet.subscribed(timeout_s=0.5)


async def test_a_fleet_that_dies_is_noticed(tmp_path: Path) -> None:
    plan = FleetPlan(devices=3, push_urls=("ws://127.0.0.1:1/",), topics=("event:a",))
    async with FleetProcess(tmp_path, plan, device_ring=new_key_ring("stagecue.device")) as fleet:
        assert fleet._process is not None
        fleet._process.kill()
        with pytest.raises(CouldNotRun, match="ended"):
            await fleet.snapshot()
