"""Keys of a running system are rotated and retired from outside: nothing restarts, and nobody else notices."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import websockets
from system_support import FAST, create_fight, device_token, now_ms, operator

from loadtest.bench.system import EmbeddedSystem

pytestmark = pytest.mark.timeout(120)

PATIENCE_S = 30.0


async def keys(system: EmbeddedSystem, *words: str) -> None:
    """`stagecue keys ...`, as a person types it."""
    command = [sys.executable, "-m", "stagecue", "keys", *words, "--data-dir", str(system.data_dir)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


async def knocks(system: EmbeddedSystem, token: str) -> int:
    """The HTTP status a device with this token gets: 101, or a refusal."""
    try:
        async with websockets.connect(
            system.addresses.push + "/v1/stream",
            subprotocols=[websockets.Subprotocol("stagecue.v1")],
            additional_headers={"Authorization": f"Bearer {token}"},
            compression=None,
            proxy=None,
        ):
            return 101
    except websockets.InvalidStatus as refused:
        return refused.response.status_code


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while not await condition():
        assert time.monotonic() < give_up_s, f"in {PATIENCE_S:g} s: not {what}"
        await asyncio.sleep(0.1)


async def test_a_device_key_is_rotated_and_retired_under_a_running_system(tmp_path: Path) -> None:
    """Both keys are good after the rotation, only the new one after the retirement; a session that was open stays so.

    Then the file is destroyed as a half-written one: the system serves on, and follows it again once it is whole.
    """
    async with EmbeddedSystem(tmp_path, environment=FAST) as system, operator(system) as client:
        await create_fight(client, now_ms() + 3_600_000)
        old = device_token(system)
        async with websockets.connect(
            system.addresses.push + "/v1/stream",
            subprotocols=[websockets.Subprotocol("stagecue.v1")],
            additional_headers={"Authorization": f"Bearer {old}"},
            compression=None,
            proxy=None,
        ) as device:
            await device.recv()
            await keys(system, "rotate", "device", "--lead", "0")
            new = device_token(system)

            async def new_is_good() -> bool:
                return await knocks(system, new) == 101

            await until(new_is_good, "reading tokens of the new key")
            assert await knocks(system, old) == 101, "what the old key signed is still good"

            await keys(system, "retire", "device", "k1")

            async def old_is_refused() -> bool:
                return await knocks(system, old) == 401

            await until(old_is_refused, "refusing tokens of the retired key")
            assert await knocks(system, new) == 101
            await device.send('{"type":"subscribe","topics":{"event:fight":null}}')
            assert await asyncio.wait_for(device.recv(), PATIENCE_S)

        path = system.data_dir / "keys.json"
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        for _ in range(15):
            assert await knocks(system, new) == 101, "half a file changes nothing"
            await asyncio.sleep(0.1)
        path.write_bytes(whole)
        await keys(system, "rotate", "device", "--lead", "0", "--kid", "k3")
        newest = device_token(system)

        async def newest_is_good() -> bool:
            return await knocks(system, newest) == 101

        await until(newest_is_good, "following the file again")


async def test_operators_notice_nothing_of_a_rotation(tmp_path: Path) -> None:
    """Whoever reads operator.token for each command, as `stagecue event` does, goes on when the old key is gone."""
    async with EmbeddedSystem(tmp_path, environment=FAST) as system:
        file = system.data_dir / "operator.token"
        old = file.read_text().strip()

        async def status(token: str) -> int:
            async with operator(system, token=token) as client:
                return (await client.get("/v1/events")).status_code

        await keys(system, "rotate", "operator", "--lead", "0")
        await keys(system, "retire", "operator", "k1")

        async def replaced() -> bool:
            return file.read_text().strip() != old

        await until(replaced, "writing a new operator.token")
        assert await status(file.read_text().strip()) == 200

        async def old_is_refused() -> bool:
            return await status(old) == 401

        await until(old_is_refused, "refusing tokens of the retired key")
        assert await status(file.read_text().strip()) == 200
