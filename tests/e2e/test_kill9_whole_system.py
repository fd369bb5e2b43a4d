"""`kill -9` of the whole system, at every failpoint and at random instants, judged from outside.

Devices stay, the server dies and comes back on the same data. However it died: no device misses a broadcast, no
broadcast has two timestamps, and the last stage is on every screen.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from datetime import UTC, datetime

import httpx
import pytest

from contract.runtime.failpoints import FAILPOINTS
from contract.tokens import DeviceClaims
from device_sim.audit import audit_fleet, outbox_from_json
from device_sim.device import DeviceOptions
from device_sim.fleet import Fleet, FleetOptions
from loadtest.bench.system import EmbeddedSystem
from stagecue.keys import load_or_create_keys

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]

STAGES = 6
SPACING_MS = 250
LEAD_MS = 1200
DEVICES = 5
RANDOM_KILLS = int(os.environ.get("STAGECUE_KILLS", "4"))
AT_ONCE = 3
"""Nights played side by side: each mostly sleeps."""
CATALOG = "title\n" + "".join(f"Film {number}\n" for number in range(40))
"""Nobody prefetches: reading the demo's titles would be an eighth of every life of the server."""


def rfc3339(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")


def event_body(first_due_ms: int) -> dict:
    return {
        "id": "fight",
        "title": "The fight",
        "starts_at": rfc3339(first_due_ms),
        "stages": [
            {"key": f"stage_{number}", "anchor": "absolute", "at": rfc3339(first_due_ms + number * SPACING_MS)}
            for number in range(STAGES)
        ],
    }


class Night:
    """One short event on one server that dies once."""

    def __init__(self, tmp_path, *, failpoint: str | None = None, skip: int = 0, kill_after_s: float | None = None):
        self.name = failpoint or f"after {kill_after_s} s"
        self.kill_after_s = kill_after_s
        catalog = tmp_path / "films.csv"
        catalog.parent.mkdir(parents=True, exist_ok=True)
        catalog.write_text(CATALOG)
        env = {
            "PUSH_RECONNECT_WINDOW_MS": "100",
            "PUSH_ACK_ONE_IN": "1",
            "PUSH_ACK_WITHIN_MS": "50",
            "DGS_CATALOG_PATH": str(catalog),
        }
        self.calm = env
        self.deadly = (
            {**env, "STAGECUE_FAILPOINT": failpoint, "STAGECUE_FAILPOINT_SKIP": str(skip)} if failpoint else env
        )
        self.server = EmbeddedSystem(tmp_path, environment=self.deadly)
        self.client = httpx.AsyncClient(trust_env=False, timeout=5.0)

    async def play(self) -> None:
        try:
            await self._play()
        finally:
            await self.client.aclose()
            await self.server.stop()

    async def _play(self) -> None:
        await self.server.start()
        first_due_ms = time.time_ns() // 1_000_000 + LEAD_MS
        killer = asyncio.create_task(self._kill())
        created = await self._create(first_due_ms)
        keys = load_or_create_keys(self.server.data_dir)
        options = FleetOptions(devices=DEVICES, device=DeviceOptions(reconnect_window_ms=100, fetches_maps=False))
        async with Fleet(options) as fleet:
            for number in range(DEVICES):
                claims = DeviceClaims(sub=f"p-{number}", dev=f"d-{number}", exp=int(time.time()) + 3600)
                fleet.add(
                    f"d-{number}",
                    urls=[self.server.addresses.push + "/v1/stream"],
                    token=keys.device.sign(claims),
                    topics=["event:fight"],
                )
            for client in fleet.clients if created else ():
                client.start()
            code = await self._death(created, fleet)
            assert code == -9, f"{self.name}: the server was to be killed, it ended with {code}"
            await killer
            self.server.environment = self.calm
            await self.server.start()
            if not created:
                # The call that saw no answer is repeated under its idempotency key.
                assert await self._create(first_due_ms)
                for client in fleet.clients:
                    client.start()
            await asyncio.sleep(max(0.0, (first_due_ms + STAGES * SPACING_MS) / 1000 - time.time()))
            items = await self._settled()
            await fleet.wait_caught_up({"event:fight": items[-1]["timestamp"]}, timeout_s=10)
            self._judge(items, fleet)

    async def _death(self, created: bool, fleet: Fleet) -> int | None:
        try:
            async with asyncio.timeout(15):
                return await self.server.wait()
        except TimeoutError:
            raise AssertionError(
                f"{self.name}: passed too rarely to die; created {created}, {fleet.context.stats}"
            ) from None

    async def _kill(self) -> None:
        if self.kill_after_s is not None:
            await asyncio.sleep(self.kill_after_s)
            self.server.kill()

    async def _create(self, first_due_ms: int) -> bool:
        """Whether the server answered; a server that died meanwhile did not."""
        try:
            answer = await self.client.post(
                self.server.addresses.producer + "/v1/events",
                json=event_body(first_due_ms),
                headers={**self._auth(), "Idempotency-Key": "the-fight"},
            )
        except httpx.TransportError:
            return False
        assert answer.status_code in (200, 201), answer.text
        return True

    async def _settled(self) -> list[dict]:
        """The event's broadcasts once the last stage is published."""
        deadline = time.monotonic() + 10
        while True:
            answer = await self.client.get(
                self.server.addresses.producer + "/v1/events/fight/broadcasts", headers=self._auth()
            )
            items = sorted(answer.json()["items"], key=lambda item: item["timestamp"])
            if items and items[-1]["state_key"] == f"stage_{STAGES - 1}" and items[-1]["published_at"] is not None:
                return items
            assert time.monotonic() < deadline, f"the last stage never came: {items}"
            await asyncio.sleep(0.1)

    def _auth(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.server.addresses.operator_token}"}

    def _judge(self, items: list[dict], fleet: Fleet) -> None:
        keys = [item["state_key"] for item in items]
        assert len(set(keys)) == len(keys), f"a stage was dispatched twice: {keys}"
        assert keys == sorted(keys)
        assert all(item["published_at"] is not None for item in items), "dispatched, never published"
        assert all(item["dispatched_at_ms"] >= item["due_at_ms"] for item in items), "dispatched early"
        prev = 0
        for item in items:
            assert item["prev"] == prev, "the chain is broken"
            prev = item["timestamp"]
        audit = audit_fleet(outbox_from_json(items), fleet.logs())
        assert audit.unknown_frames == 0, "a device was told what the outbox does not say"
        assert (audit.missed, audit.out_of_order, audit.not_newest, audit.unsubscribed) == (0, 0, 0, 0), audit


async def play_all(nights: list[Night]) -> None:
    """Side by side, `AT_ONCE` at a time; the first failure is raised with the rest cancelled."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(night: Night) -> None:
        async with places:
            await night.play()

    async with asyncio.TaskGroup() as group:
        for night in nights:
            group.create_task(one(night))


SKIPS = {"producer.schedule.before_commit": 0, "producer.schedule.after_commit": 0}
"""The schedule is stored once; everything else happens again and again, and dies in the middle."""


@pytest.mark.slow
async def test_death_at_every_failpoint_loses_nothing(tmp_path):
    """Before and after every commit, publication, delivery and acknowledgement."""
    await play_all([Night(tmp_path / name, failpoint=name, skip=SKIPS.get(name, 1)) for name in sorted(FAILPOINTS)])


@pytest.mark.slow
async def test_death_at_random_instants_loses_nothing(tmp_path):
    """Seeded instants over the whole event, from its creation to its last stage."""
    chance = random.Random(7)
    span_s = (LEAD_MS + STAGES * SPACING_MS) / 1000
    await play_all(
        [Night(tmp_path / str(number), kill_after_s=chance.uniform(0, span_s)) for number in range(RANDOM_KILLS)]
    )
