"""What the tests of the running system share: an operator, devices that follow a topic, and moments."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import httpx

from contract.tokens import DeviceClaims, OperatorClaims, OperatorRole
from device_sim.device import DeviceOptions
from device_sim.fleet import Fleet, FleetOptions
from loadtest.bench.system import EmbeddedSystem
from stagecue.keys import load_or_create_keys

FAST = {
    "PUSH_RECONNECT_WINDOW_MS": "100",
    "PUSH_DRAIN_S": "0.3",
    "PUSH_DRAIN_GUARD_S": "0",
    "DGS_CONNECT_WINDOW_MS": "0",
}
"""Settings that make waiting short and change nothing else."""


def rfc3339(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def operator(system: EmbeddedSystem, *, token: str | None = None) -> httpx.AsyncClient:
    """An HTTP client of the operator API; `token` replaces the installation's own."""
    return httpx.AsyncClient(
        base_url=system.addresses.producer,
        headers={"Authorization": f"Bearer {token or system.addresses.operator_token}"},
        timeout=10.0,
        trust_env=False,
    )


def operator_token(system: EmbeddedSystem, *, role: OperatorRole = "operator", lives_s: int = 3600) -> str:
    keys = load_or_create_keys(system.data_dir)
    return keys.operator.sign(OperatorClaims(sub="somebody", exp=int(time.time()) + lives_s, role=role))


def device_token(system: EmbeddedSystem, number: int = 0, *, lives_s: int = 3600, **claims: Any) -> str:
    keys = load_or_create_keys(system.data_dir)
    return keys.device.sign(
        DeviceClaims(sub=f"p-{number}", dev=f"d-{number}", exp=int(time.time()) + lives_s, **claims)
    )


def follow(fleet: Fleet, system: EmbeddedSystem, topic: str, devices: int) -> None:
    """Add devices that follow one topic without a map."""
    for number in range(devices):
        fleet.add(
            f"d-{number}",
            urls=[system.addresses.push + "/v1/stream"],
            token=device_token(system, number),
            topics=[topic],
        )


def fleet_of(devices: int) -> Fleet:
    return Fleet(FleetOptions(devices=devices, device=DeviceOptions(reconnect_window_ms=100, fetches_maps=False)))


async def create_fight(client: httpx.AsyncClient, *due_ms: int) -> None:
    """Event `fight` with stages stage_0.. at those moments."""
    answer = await client.post(
        "/v1/events",
        json={
            "id": "fight",
            "title": "The fight",
            "starts_at": rfc3339(due_ms[0]),
            "stages": [
                {"key": f"stage_{number}", "anchor": "absolute", "at": rfc3339(at)} for number, at in enumerate(due_ms)
            ],
        },
    )
    assert answer.status_code == 201, answer.text
