"""The router on a real Redis that is killed and comes back empty (R10, R11)."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from router_world import TOPIC, FakeLog, FakeNode, FakeReach, eventually, night, schedule

from contract.kv.redis import RedisReplayLog, RedisScheduleView, connect_redis
from contract.runtime.channel import channel_pair
from contract.runtime.runner import Readiness
from contract.runtime.system_clock import SystemClock
from message_router.app import build_router
from message_router.settings import RouterSettings

pytestmark = pytest.mark.external_service


class RedisServer:
    """A redis-server without persistence, on one port for all its lives."""

    def __init__(self, folder: Path) -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            pytest.fail("redis-server is not on PATH")
        self._binary = binary
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            self._binary,
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--save", ""),
            stdout=asyncio.subprocess.DEVNULL,
        )
        for _ in range(300):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                await writer.wait_closed()
                return
        pytest.fail("redis-server did not start")

    async def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        await self._process.wait()


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    server = RedisServer(tmp_path)
    await server.start()
    yield server
    await server.kill()


async def test_killed_and_back_empty_nothing_is_lost_and_nobody_waited(redis: RedisServer) -> None:
    """Broadcasts go on while Redis is dead; once it is back everything is in it again, committed and ready."""
    log, readiness = FakeLog(), Readiness()
    client = connect_redis(f"redis://127.0.0.1:{redis.port}/0", timeout_s=0.5)
    replay_log, view = RedisReplayLog(client), RedisScheduleView(client)
    router = build_router(
        RouterSettings(retry_first_s=0.01, retry_cap_s=0.1, tail_check_interval_s=0.1, commit_interval_s=0.02),
        log=log,
        replay_log=replay_log,
        schedule_view=view,
        reports=FakeReach(),
        clock=SystemClock(),
        readiness=readiness,
    )
    ours, theirs = channel_pair()
    router.attach(ours)
    node = FakeNode(theirs, "n1", TOPIC)
    await node.accepted.wait()
    ready, stop = asyncio.Event(), asyncio.Event()
    log.assign(0)
    running = asyncio.create_task(router.service.run(ready, stop))
    await ready.wait()
    broadcasts = night(6)
    log.publish_schedule(schedule(4))
    log.publish(*broadcasts[:3])
    await eventually(lambda: log.committed.get(0) == log.end())
    assert (await replay_log.read(TOPIC)).entries == tuple(broadcasts[:3])

    await redis.kill()
    log.publish(*broadcasts[3:])
    await eventually(lambda: node.broadcasts == broadcasts, within_s=1.0, what="delivered without the store")
    await eventually(lambda: "router.kv" in readiness.failing())
    assert log.committed[0] < log.end()

    await redis.start()
    await eventually(lambda: log.committed.get(0) == log.end(), within_s=5.0)
    await eventually(lambda: readiness.ready, within_s=5.0)
    assert (await replay_log.read(TOPIC)).entries == tuple(broadcasts)
    assert (await view.schedules([TOPIC]))[TOPIC].revision == 4

    stop.set()
    await running
    await node.stop()
    await client.aclose()
