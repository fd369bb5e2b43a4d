"""Members of a local cluster: what they lose and keep, and that none outlives whoever started it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Sequence
from pathlib import Path

import pytest
from redis.asyncio import Redis

from loadtest.bench.outcome import CouldNotRun
from loadtest.cluster.member import Member
from loadtest.cluster.ports import PortBlocks, reserve_ports
from loadtest.cluster.redis import RedisServer


class Sleeper(Member):
    """Two processes that do nothing: a shell and its child."""

    role = "sleeper"
    ready_within_s = 5.0
    stop_within_s = 1.0

    def __init__(self, directory: Path, script: str = "sleep 60 & wait") -> None:
        super().__init__("sleeper", directory)
        self._script = script

    def command(self) -> Sequence[str]:
        return ["sh", "-c", self._script]

    async def until_ready(self) -> None:
        while not self.children():  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(0.01)

    def children(self) -> list[int]:
        try:
            return [int(word) for word in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        except FileNotFoundError:
            return []  # it has ended already


def state(pid: int) -> str:
    """One letter, as in /proc: T for a stopped process, Z for one that only waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "-"


async def until(pid: int, states: str, within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while state(pid) not in states:
        assert time.monotonic() < deadline, f"{pid} is {state(pid)!r}, not one of {states!r}"
        await asyncio.sleep(0.01)


async def test_a_frozen_member_stands_with_its_children_and_goes_on(tmp_path: Path) -> None:
    async with Sleeper(tmp_path) as member:
        (child,) = member.children()
        member.freeze()
        for pid in (member.pid, child):
            await until(pid, "T")
        assert member.frozen
        member.thaw()
        for pid in (member.pid, child):
            await until(pid, "S")
        assert not member.frozen


async def test_a_kill_takes_the_children_and_a_frozen_member_can_be_stopped(tmp_path: Path) -> None:
    member = Sleeper(tmp_path)
    await member.start()
    (child,) = member.children()
    member.kill()
    assert await member.wait() == -signal.SIGKILL
    await until(child, "Z-")
    await member.start()
    member.freeze()
    assert await member.stop() == -signal.SIGTERM
    assert not member.running
    assert member.kills == 1


async def test_a_member_that_ends_or_does_not_serve_is_told_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(CouldNotRun, match="ended with code 3 before it was ready; its log ends:\nno such luck"):
        await Sleeper(tmp_path / "one", "echo no such luck >&2; exit 3").start()
    slow = Sleeper(tmp_path / "two", "exec sleep 60")
    with pytest.raises(CouldNotRun, match="was not ready within 0 s"):
        await slow.start(within_s=0.2)
    assert not slow.running


async def test_members_die_with_the_process_that_started_them(tmp_path: Path) -> None:
    """kill -9 of it leaves nothing: the kernel tells its children."""
    code = (
        "import asyncio, pathlib, sys\n"
        "from tests.integration.loadtest.test_cluster_members import Sleeper\n"
        "async def main():\n"
        f"    member = Sleeper(pathlib.Path({str(tmp_path)!r}), 'sleep 60 & echo $! >&2; wait')\n"
        "    await member.start()\n"
        "    print(member.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    starter = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdin=DEVNULL, stdout=PIPE, cwd=Path(__file__).parents[3]
    )
    assert starter.stdout is not None
    async with asyncio.timeout(20):
        pid = int(await starter.stdout.readline())
    assert state(pid) == "S"
    os.kill(starter.pid, signal.SIGKILL)
    await starter.wait()
    await until(pid, "Z-")


def test_reserved_ports_are_nobody_elses_until_given_up() -> None:
    with reserve_ports(2) as mine:
        assert mine[1] == mine.base + 10
        with pytest.raises(CouldNotRun, match=str(mine.base + 9)):
            PortBlocks(mine.base, 1)
        with pytest.raises(IndexError):
            mine[2]
    PortBlocks(mine.base, 2).close()


@pytest.mark.external_service
async def test_a_redis_loses_its_last_second_or_everything_and_nothing_else(tmp_path: Path) -> None:
    """Written once a tenth of a second for four seconds: what is older than the time lost, and a little, is there."""
    with reserve_ports(1) as ports:
        async with RedisServer(tmp_path / "redis", port=ports[0]) as server:

            async def kept(count: int) -> list[bool]:
                async with Redis.from_url(server.url) as client:
                    return [await client.get(str(number)) is not None for number in range(count)]

            acknowledged_s: list[float] = []
            async with Redis.from_url(server.url) as client:
                for number in range(40):
                    await client.set(str(number), "x")
                    acknowledged_s.append(time.time())
                    await asyncio.sleep(0.1)
            lost_s = time.time()
            await server.lose_last(1.0)
            assert not server.running
            await server.start()
            there = await kept(40)
            for at_s, known in zip(acknowledged_s, there, strict=True):
                if at_s > lost_s - 1.0:
                    assert not known, "acknowledged in the last second"
                if at_s < lost_s - 3.5:
                    assert known, "long before it"
            assert any(there)
            server.kill()
            await server.wait()
            await server.start()
            assert await kept(40) == there, "kill -9 takes nothing"
            await server.lose_everything()
            await server.start()
            assert not any(await kept(40))
