"""Push workers in an installation: found by a router through their leases, and a worker's death between two stages."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import msgspec
import pytest

from contract.tokens import DeviceClaims
from device_sim.audit import audit_fleet, outbox_from_json
from device_sim.device import DeviceOptions
from device_sim.fleet import Fleet, FleetOptions
from loadtest.cluster.ports import reserve_ports
from loadtest.cluster.redis import RedisServer
from loadtest.cluster.service import ProducerMember, PushMember, RouterMember
from stagecue.apart.kv import open_kv
from stagecue.apart.lifecycle import ServiceAddress
from stagecue.keys import load_or_create_keys

pytestmark = [pytest.mark.external_service, pytest.mark.fault, pytest.mark.timeout(150)]

DEVICES = 30
TOPIC = "event:fight"
PATIENCE_S = 40.0


class WorkersMember(PushMember):
    """A push node of two workers, which says where they are."""

    address: ServiceAddress

    async def until_ready(self) -> None:
        self.address = msgspec.json.decode(await self.first_line(), type=ServiceAddress)

    @property
    def workers(self) -> list[int]:
        return [int(word) for word in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]


async def until(condition: Callable[[], Awaitable[object]], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not await condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S} s: {what}"
        await asyncio.sleep(0.1)


async def test_a_worker_dies_between_two_stages_and_nobody_misses_one(tmp_path: Path) -> None:
    """Devices on both workers get the first live; those of the killed one come back and miss nothing."""
    with reserve_ports(5) as ports:
        redis = RedisServer(tmp_path / "redis", port=ports[0])
        data = tmp_path / "data"
        environment = {
            "STAGECUE_KV_URL": redis.url,
            "STAGECUE_WORKER_PORT_BASE": str(ports[4]),
            "PUSH_NODE_ID": "node",
            "PUSH_DRAIN_S": "0.3",
            "PUSH_DRAIN_GUARD_S": "0",
        }
        producer = ProducerMember("producer", tmp_path / "p", data_dir=data, port_base=ports[1])
        router = RouterMember("router", tmp_path / "r", data_dir=data, port_base=ports[2], environment=environment)
        push = WorkersMember(
            "push", tmp_path / "n", data_dir=data, port_base=ports[3], environment=environment,
            options=("--workers", "2"),
        )  # fmt: skip
        async with redis, producer, router, push:
            await play(producer, push, redis)
            assert await push.stop() == 0, push.log_end()
            async with open_kv(redis.url) as kv:
                assert await kv.leases.alive() == [], "leases were given up"


async def judge_metrics(pages: list[str]) -> None:
    """What happened can be read off both workers' metrics; the killed one's began anew."""
    lines = [line.rpartition(" ") for page in pages for line in page.splitlines() if not line.startswith("#")]
    found: dict[str, float] = {}
    for name, _, value in lines:
        found[name.removeprefix("stagecue_push_")] = found.get(name.removeprefix("stagecue_push_"), 0) + float(value)
    assert found["connections"] == found['protocol_connections{protocol="v1"}'] == DEVICES
    assert found['handshakes_total{outcome="accepted"}'] == found['sessions_total{protocol="v1"}'] >= DEVICES
    assert DEVICES <= found['deliveries_total{kind="live"}'] <= 3 * DEVICES
    assert found['sent_bytes_total{kind="live"}'] > 80 * DEVICES
    assert found['sent_bytes_total{kind="answers"}'] > 80 * DEVICES
    assert sum(found[f'verdicts_total{{verdict="{each}"}}'] for each in ("complete", "pending")) >= DEVICES
    assert found["fanouts_total"] >= 2
    assert found["written_lag_seconds_count"] >= 2
    assert found["stall_seconds_count"] > 2
    assert (found["router_links"], found["open_holes"]) == (2, 0)
    assert found["topics"] >= 1, "of the new worker, if any device came back to it"
    assert found["subscriptions"] == DEVICES


async def play(producer: ProducerMember, push: WorkersMember, redis: RedisServer) -> None:
    workers = push.address.workers
    assert [worker.node for worker in workers] == ["node-w0", "node-w1"]
    async with open_kv(redis.url) as kv:
        leases = {lease.node_id: lease.link_address for lease in await kv.leases.alive()}
    assert leases == {worker.node: worker.link for worker in workers}

    headers = {"Authorization": f"Bearer {producer.operator_token}"}
    options = FleetOptions(devices=DEVICES, device=DeviceOptions(reconnect_window_ms=200, fetches_maps=False))
    async with (
        httpx.AsyncClient(base_url=producer.url, headers=headers, timeout=30, trust_env=False) as http,
        Fleet(options) as fleet,
    ):
        stages = [{"key": f"stage_{number}", "anchor": "manual"} for number in range(3)]
        event = {"id": "fight", "title": "The fight", "starts_at": "2035-01-01T00:00:00Z", "stages": stages}
        assert (await http.post("/v1/events", json=event)).status_code == 201

        async def broadcasts() -> list[dict]:
            return sorted((await http.get("/v1/events/fight/broadcasts")).json()["items"], key=lambda b: b["timestamp"])

        async def cue(number: int) -> int:
            answer = await http.post("/v1/events/fight/cue", json={"stage": f"stage_{number}"})
            assert answer.status_code < 300, answer.text
            (found,) = [each for each in await broadcasts() if each["state_key"] == f"stage_{number}"]
            return found["timestamp"]

        async def held() -> list[int]:
            async def of(pages: str) -> int:
                try:
                    return (await http.get(f"{pages}/status")).json()["connections"]
                except httpx.TransportError:
                    return 0

            return [await of(worker.pages) for worker in workers]

        ring = load_or_create_keys(push.data_dir).device
        for number in range(DEVICES):
            claims = DeviceClaims(sub=f"p-{number}", dev=f"d-{number}", exp=int(time.time()) + 3600)
            fleet.add(f"d-{number}", urls=[push.stream_url + "/v1/stream"], token=ring.sign(claims), topics=[TOPIC])
        await fleet.connect_all()
        await fleet.wait_subscribed(timeout_s=PATIENCE_S)
        before = await held()
        assert sum(before) == DEVICES
        assert all(before), f"one worker got everything: {before}"
        await fleet.wait_caught_up({TOPIC: await cue(0)}, timeout_s=PATIENCE_S)

        os.kill(push.workers[0], signal.SIGKILL)
        await fleet.wait_caught_up({TOPIC: await cue(1)}, timeout_s=PATIENCE_S)

        async def all_ready() -> bool:
            try:
                return all([(await http.get(f"{worker.pages}/readyz")).status_code == 200 for worker in workers])
            except httpx.TransportError:
                return False

        await until(all_ready, "the new worker is linked")
        await fleet.wait_caught_up({TOPIC: await cue(2)}, timeout_s=PATIENCE_S)
        assert sum(await held()) == DEVICES
        await judge_metrics([(await http.get(f"{worker.pages}/metrics")).text for worker in workers])
        audit = audit_fleet(outbox_from_json(await broadcasts()), fleet.logs(), fleet.recorded)
    assert (audit.missed, audit.untold, audit.out_of_order, audit.not_newest) == (0, 0, 0, 0), audit
    assert audit.broadcasts[0].delivered_live == DEVICES
