"""Coverage from a device's subscribe to an operator's cue: real sockets, a real store, several routers and nodes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import pytest
from coverage_world import ME, CoverageWorld, coverage_world
from system_support import FAST, operator, rfc3339

from contract.errors import Conflict, InvalidRequest
from device_sim.device import DeviceOptions
from device_sim.fleet import Fleet, FleetOptions
from loadtest.bench.system import EmbeddedSystem
from message_producer.settings import ProducerSettings
from tests.support.postgres_server import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]
pytestmark = pytest.mark.timeout(120)

STORES = ["sqlite", pytest.param("postgres", marks=pytest.mark.external_service)]


@pytest.fixture(params=STORES)
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> ProducerSettings:
    """A producer's settings on each store, where the share of a silent node counts for 5 s."""
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    return ProducerSettings(data_dir=tmp_path, database_url=url, coverage_fresh_s=5.0)


async def cue(world: CoverageWorld) -> str:
    (sent,) = await world.producer.operations.cue("night", "encore", ME)
    return sent.state_key


async def test_a_late_stage_is_cued_once_enough_devices_hold_it(settings: ProducerSettings) -> None:
    """Refused while too few said so, also without any; passes as soon as enough fetched the newer map."""
    async with coverage_world(settings) as world:
        await world.late_stage(threshold=0.6)
        with pytest.raises(Conflict, match="no device of event:night is connected"):
            await cue(world)
        nodes = [await world.add_node("n0"), await world.add_node("n1")]
        devices = [await nodes[number % 2].device(held) for number, held in enumerate((1, 1, 1, 1, None))]
        await world.until_held({1: 4, 0: 1})
        with pytest.raises(Conflict, match="0% of 5 connected devices"):
            await cue(world)
        for device in devices[:2]:
            await device.subscribe(2)
        await world.until_held({2: 2, 1: 2, 0: 1})
        with pytest.raises(Conflict, match="40% of 5 connected devices"):
            await cue(world)
        await devices[4].subscribe(2)
        await world.until_held({2: 3, 1: 2})
        assert await cue(world) == "encore"
        for device in devices:
            assert (await device.until("broadcast"))["state_key"] == "encore"
        await devices[0].unsubscribe()
        await devices[1].close()
        await world.until_held({2: 1, 1: 2})
        for device in devices[2:]:
            await device.close()
        await world.until_held({})
        for device in devices:
            await device.close()


async def test_the_share_of_a_killed_node_ages_out(settings: ProducerSettings) -> None:
    """Nothing takes it back; the same node begun anew, and its devices on another, count like any."""
    async with coverage_world(settings) as world:
        await world.late_stage(threshold=0.9)
        doomed, other = await world.add_node("n0"), await world.add_node("n1")
        stale = [await doomed.device(1) for _ in range(3)]
        held = [await other.device(2) for _ in range(2)]
        await world.until_held({1: 3, 2: 2})
        await doomed.kill()
        await world.until_held({2: 2})
        assert await cue(world) == "encore"
        returned = [await other.device(2) for _ in range(3)]
        await world.until_held({2: 5})
        again = await world.add_node("n0")
        fresh = await again.device(2)
        await world.until_held({2: 6})
        for device in (*stale, *held, *returned, fresh):
            await device.close()


async def test_whichever_router_hears_a_node_its_devices_count_once(settings: ProducerSettings) -> None:
    """Links end one after the other: what may be lost with one is told over the next, and adds nothing."""
    async with coverage_world(settings, routers=3) as world:
        await world.late_stage(threshold=0.9)
        node = await world.add_node("n0")
        devices = [await node.device(2) for _ in range(3)]
        await world.until_held({2: 3})
        for link in node.links[:2]:
            link.close()
            devices.append(await node.device(2))
            await world.until_held({2: len(devices)})
        await devices.pop().close()
        await world.until_held({2: 4})
        for device in devices:
            await device.close()
        await world.until_held({})


async def test_event_streams_and_graphql_tell_what_they_hold(settings: ProducerSettings) -> None:
    """One device in each protocol counts alike; one that says nothing holds no map."""
    async with coverage_world(settings) as world:
        await world.late_stage(threshold=0.9)
        node = await world.add_node("n0")
        async with node.events(held=2) as _, node.events(held=None) as _, node.graphql(held=2) as _:
            await world.until_held({2: 2, 0: 1})
            device = await node.device(2)
            await world.until_held({2: 3, 0: 1})
            await device.close()
        await world.until_held({})


async def test_devices_that_refetch_bring_the_share_up(tmp_path: Path) -> None:
    """The whole system: a stage is added, each device fetches the newer map at its moment and says so, the cue goes."""
    environment = FAST | {"PUSH_REFETCH_WINDOW_MS": "300"}
    async with EmbeddedSystem(tmp_path, environment=environment) as system, operator(system) as client:
        stages = [{"key": "live"}]
        night = {"id": "night", "title": "Night", "starts_at": rfc3339(int(time.time() * 1000) + 3_600_000)}
        created = await client.post("/v1/events", json=night | {"coverage_threshold": 1.0, "stages": stages})
        assert created.status_code == 201, created.text
        options = FleetOptions(
            devices=4,
            dgs_url=system.addresses.dgs,
            event_ids=("night",),
            device=DeviceOptions(reconnect_window_ms=100, refetch_window_ms=300),
        )
        async with Fleet(options) as fleet:
            await known_to_the_dgs(fleet)
            await fleet.connect_all()
            assert await held(client) == [{"version": 1, "subscribers": 4}]
            stages.append({"key": "encore", "anchor": "manual"})
            changed = await client.patch("/v1/events/night", json={"stages": stages}, headers={"If-Match": "*"})
            assert changed.status_code == 200, changed.text
            assert await held(client, version=2) == [{"version": 2, "subscribers": 4}]
            cued = await client.post("/v1/events/night/cue", json={"stage": "encore"})
            assert cued.status_code == 200, cued.text
            await fleet.wait_caught_up({"event:night": cued.json()["broadcasts"][0]["timestamp"]}, timeout_s=20)


async def known_to_the_dgs(fleet: Fleet) -> None:
    """The event was just created; the schedule view has it a moment later."""
    async with asyncio.timeout(20):
        while True:
            try:
                await fleet.prefetch_all()
            except InvalidRequest:
                await asyncio.sleep(0.05)
            else:
                return


async def held(client: httpx.AsyncClient, *, version: int = 1) -> list[dict[str, int]]:
    """What operators see, once every one of four devices holds `version`, or as it is after half a minute."""
    deadline_s = time.monotonic() + 30
    while True:
        (topic,) = (await client.get("/v1/events/night/coverage")).json()["items"]
        found: list[dict[str, int]] = topic["held"]
        if found == [{"version": version, "subscribers": 4}] or time.monotonic() > deadline_s:
            return found
        await asyncio.sleep(0.1)
