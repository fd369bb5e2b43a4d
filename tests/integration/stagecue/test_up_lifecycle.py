"""`stagecue up` as a process: how it starts, refuses to start, drains and ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import websockets
from system_support import FAST, create_fight, device_token, now_ms, operator

from contract.runtime.runner import ABORT_EXIT_CODE
from loadtest.bench.system import EmbeddedSystem, free_port_base

pytestmark = pytest.mark.timeout(60)


async def welcomed(system: EmbeddedSystem) -> websockets.ClientConnection:
    """A device of the `websockets` library, subscribed to the fight."""
    device = await websockets.connect(
        system.addresses.push + "/v1/stream",
        subprotocols=[websockets.Subprotocol("stagecue.v1")],
        additional_headers={"Authorization": f"Bearer {device_token(system)}"},
        compression=None,
        proxy=None,
    )
    assert json.loads(await device.recv())["type"] == "welcome"
    while True:
        await device.send('{"type":"subscribe","topics":{"event:fight":null}}')
        frame = json.loads(await device.recv())
        if frame["type"] == "continuity":
            return device
        assert frame["code"] == "unknown_topic", "the node may learn of the event a moment later than its operator"
        await asyncio.sleep(0.3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_devices_and_ends_with_0(tmp_path: Path, number: signal.Signals) -> None:
    """Devices get a goaway with their own moment to return, then a close code that says come back."""
    async with EmbeddedSystem(tmp_path, environment=FAST) as system, operator(system) as client:
        await create_fight(client, now_ms() + 3_600_000)
        device = await welcomed(system)
        os.kill(system.pid, number)
        frames = []
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                frames.append(json.loads(await device.recv()))
        assert frames[-1]["type"] == "goaway"
        assert frames[-1]["reconnect_after_ms"] <= frames[-1]["window_ms"]
        assert device.close_code is not None
        assert 4000 <= device.close_code < 4500
        assert await system.wait() == 0


async def test_the_second_signal_aborts(tmp_path: Path) -> None:
    """A drain somebody does not want to wait for ends at once."""
    async with (
        EmbeddedSystem(tmp_path, environment={**FAST, "PUSH_DRAIN_S": "15"}) as system,
        operator(system) as client,
    ):
        await create_fight(client, now_ms() + 3_600_000)
        device = await welcomed(system)
        os.kill(system.pid, signal.SIGTERM)
        async with asyncio.timeout(5):
            while json.loads(await device.recv())["type"] != "goaway":
                pass
        os.kill(system.pid, signal.SIGTERM)
        async with asyncio.timeout(2):
            assert await system.wait() == ABORT_EXIT_CODE


def refused(data_dir: Path, *options: str, port_base: int | None = None, **env: str) -> str:
    """Standard error of an `up` that does not start: a line or two, no traceback, exit code 2."""
    done = subprocess.run(
        [sys.executable, "-m", "stagecue", "up", "--data-dir", str(data_dir), "--log-format", "json",
         "--log-level", "ERROR", "--port-base", str(port_base or free_port_base()), *options],
        capture_output=True, text=True, timeout=30, env={**os.environ, **env}, check=False,
    )  # fmt: skip
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) <= 4, done.stderr
    return done.stderr


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    base = free_port_base()
    with socket.create_server(("127.0.0.1", base + 1)):
        assert f"cannot listen on 127.0.0.1:{base + 1}" in refused(tmp_path / "d", port_base=base)


def test_a_data_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("not a directory")
    assert f"the data directory {tmp_path / 'd'} cannot be used: it is a file" in refused(tmp_path / "d")


def test_broken_keys_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{")
    assert "keys.json" in refused(tmp_path)
    assert "backup" in refused(tmp_path)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "producer.db").write_bytes(b"this is not a database, it is a letter to a friend" * 100)
    assert "database" in refused(tmp_path)


async def test_a_newer_database_is_left_alone(tmp_path: Path) -> None:
    """A downgrade by mistake says so instead of writing into a schema it does not know."""
    async with EmbeddedSystem(tmp_path, environment=FAST) as system:
        data_dir = system.data_dir
    with contextlib.closing(sqlite3.connect(data_dir / "producer.db", isolation_level=None)) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    said = await asyncio.to_thread(refused, data_dir)
    assert "schema 9999, which this version does not know" in said
    assert "backup" in said


def test_a_setting_out_of_bounds_names_the_setting(tmp_path: Path) -> None:
    assert "ping_s" in refused(tmp_path, PUSH_PING_S="-1").lower()
    assert "stop_deadline_s" in refused(tmp_path, STAGECUE_STOP_DEADLINE_S="soon").lower()


def test_a_broken_catalog_and_template_are_named(tmp_path: Path) -> None:
    catalog, template = tmp_path / "films.csv", tmp_path / "stages.toml"
    catalog.write_text("colour,size\nred,9\n")
    template.write_text('[[stages]]\nkey = "live"\nanchor = "moon"\n')
    assert "title" in refused(tmp_path / "a", "--catalog", str(catalog))
    assert "stages[0].anchor" in refused(tmp_path / "b", "--stage-template", str(template))


async def test_a_second_system_on_the_same_data_is_refused(tmp_path: Path) -> None:
    """Two producers on one SQLite file would both believe they lead."""
    async with EmbeddedSystem(tmp_path, environment=FAST) as system:
        said = await asyncio.to_thread(refused, system.data_dir, PRODUCER_LOCK_WAIT_S="0.2")
        assert f"process {system.pid} already produces from" in said
        async with operator(system) as client:
            assert (await client.get("/readyz")).json() == {"ready": True, "failing": {}}
            status = (await client.get(system.addresses.dgs + "/status")).json()
            assert {"catalog", "overload", "ruleset"} <= status.keys(), "as of `stagecue dgs`"
