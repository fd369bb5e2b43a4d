"""`stagecue cluster up` and `status` as a person runs them: real processes, real servers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from loadtest.cluster.ports import reserve_ports

pytestmark = [pytest.mark.external_service, pytest.mark.fault, pytest.mark.timeout(300)]

SMALL = ("--nodes", "1", "--producers", "2", "--routers", "1", "--dgs", "1")


class Up:
    """One `stagecue cluster up --ready-json`."""

    def __init__(self, directory: Path, port_base: int) -> None:
        self.directory = directory
        self.port_base = port_base
        self.ready: dict[str, Any] = {}
        self._log = directory.with_name(f"{directory.name}.up.log")
        self.process: Process | None = None

    async def start(self, *, within_s: float = 100.0) -> None:
        with self._log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "stagecue", "cluster", "up", "--directory", str(self.directory)),
                *("--port-base", str(self.port_base), "--ready-json", *SMALL),
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=log,
                env={**os.environ, "PUSH_DRAIN_S": "0.5"},
            )
        assert self.process.stdout is not None
        async with asyncio.timeout(within_s):
            line = await self.process.stdout.readline()
        assert line, self.said()
        self.ready = json.loads(line)
        assert self.ready["ready"] is True

    def pids(self) -> dict[str, int]:
        return {name: member["pid"] for name, member in self.ready["members"].items()}

    def said(self) -> str:
        return self._log.read_text()

    async def ended(self, number: signal.Signals, *, within_s: float = 30.0) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        async with asyncio.timeout(within_s):
            return await self.process.wait()

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


async def stagecue(*arguments: str) -> tuple[int, str]:
    """Exit code and everything said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stagecue", *arguments), stdin=DEVNULL, stdout=PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(60):
        said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


def alive(pid: int) -> bool:
    """Whether the process does anything still; who reaps it is not our matter."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except OSError:
        return False


async def healthy(directory: Path, within_s: float = 30.0) -> dict[str, Any]:
    """What `cluster status --json` says once all is well; a loaded machine may take a moment."""
    deadline = time.monotonic() + within_s
    while True:
        code, said = await stagecue("cluster", "status", "--directory", str(directory), "--json")
        status = json.loads(said)
        assert (code == 0) is status["healthy"] is (status["problems"] == [])
        if code == 0:
            return status
        assert time.monotonic() < deadline, status["problems"]


async def eventually(condition: Callable[[], bool], what: str, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.05)


async def test_a_cluster_is_watched_over_stopped_in_order_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Members that die come back; Ctrl-C and kill -9 end all of them; what was stored is there the next time."""
    with reserve_ports(10) as ports:
        base = ports.base
    directory = tmp_path / "night"
    where = ("--directory", str(directory))
    up = Up(directory, base)
    try:
        await up.start()
        status = await healthy(directory)
        assert status["leader"] in ("producer-0", "producer-1")
        detail = {member["name"]: member["detail"] for member in status["members"]}
        assert len(detail) == 8
        assert detail["router-0"]["links"] == 1
        assert detail["push-0"]["routers"] == 1

        code, said = await stagecue("cluster", "up", *where, "--port-base", str(base), *SMALL)
        assert code == 2
        assert f"runs in {directory} already (process {up.process.pid})" in said

        async with httpx.AsyncClient(trust_env=False, timeout=10.0) as http:
            url, auth = up.ready["producer_urls"][0], {"Authorization": f"Bearer {up.ready['operator_token']}"}
            event = {"id": "fight", "title": "The fight", "starts_at": "2030-01-01T00:00:00Z"}
            assert (await http.post(f"{url}/v1/events", json=event, headers=auth)).status_code == 201

            os.kill(up.pids()["push-0"], signal.SIGKILL)
            await eventually(lambda: "push-0 was killed by signal 9" in up.said(), "its death is said", 5)
            await eventually(lambda: "push-0 is ready again" in up.said(), "it is back", 20)
            await healthy(directory)

            pids = up.pids()
            assert await up.ended(signal.SIGINT) == 0, up.said()
            assert not [name for name, pid in pids.items() if alive(pid)]
            code, said = await stagecue("cluster", "status", *where, "--json")
            assert code == 1
            assert len(json.loads(said)["problems"]) == 9, "eight members are silent, and nobody leads"

            await up.start()
            assert (await http.get(f"{url}/v1/events/fight", headers=auth)).status_code == 200

        os.kill(up.process.pid, signal.SIGKILL)
        await up.process.wait()
        pids = up.pids()
        await eventually(lambda: not any(alive(pid) for pid in pids.values()), "all died with it", 5)
        await up.start()
        assert await up.ended(signal.SIGTERM) == 0, up.said()
    finally:
        await up.kill()
