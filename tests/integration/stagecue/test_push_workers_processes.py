"""`stagecue push --workers 2` as a person runs it: real nodes behind one port, killed, stopped, misled.

Without a Redis: nodes then serve devices all the same and tell them that they are stale (R17).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import websockets
from websockets.asyncio.client import ClientConnection

from contract.frames import SUBPROTOCOL
from contract.runtime.runner import ABORT_EXIT_CODE
from contract.tokens import DeviceClaims
from loadtest.cluster.ports import reserve_ports
from stagecue.keys import load_or_create_keys

pytestmark = [pytest.mark.fault, pytest.mark.timeout(120)]

WORKERS = 2
DEVICES = 24
PATIENCE_S = 30.0
ENVIRONMENT = {
    "PUSH_SUBSCRIBE_DEADLINE_S": "120",
    "PUSH_DRAIN_S": "0.3",
    "PUSH_NODE_ID": "node",
    "STAGECUE_LOG_FORMAT": "json",
}


async def until(condition: Callable[[], object | Awaitable[object]], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = condition()
        if await found if isinstance(found, Awaitable) else found:
            return
        assert time.monotonic() < deadline, f"not within {PATIENCE_S} s: {what}"
        await asyncio.sleep(0.05)


async def get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body; 0 while nobody answers."""
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            writer.close()
            return int(head.split()[1]), body
    except (OSError, TimeoutError, IndexError):
        return 0, b""


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class PushWorkers:
    """The command, in a process group of its own, and devices that come back when they are sent away."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self._ports = reserve_ports(2)
        self.base, self.worker_base = self._ports[0], self._ports[1]
        self.log = folder / "push.log"
        self.data_dir = folder / "data"
        self.environment = {**ENVIRONMENT, "STAGECUE_WORKER_PORT_BASE": str(self.worker_base), **environment}
        self.devices: list[ClientConnection] = []
        self.pids: set[int] = set()
        self.closed: Counter[int | None] = Counter()
        self._process: Process | None = None

    @property
    def port(self) -> int:
        return self.base + 2

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    async def launch(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            nobody = probe.getsockname()[1]
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "stagecue", "push", "--workers", str(WORKERS), "--ready-json"),
                *("--data-dir", str(self.data_dir), "--port-base", str(self.base)),
                *("--kv", f"redis://127.0.0.1:{nobody}"),
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=log,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    async def start(self) -> None:
        """Until every worker answers."""
        await self.launch()
        for index in range(WORKERS):
            await until(lambda index=index: self.status(index), f"worker {index} answers")

    async def status(self, index: int) -> dict[str, object]:
        """What a worker says of itself; empty while it does not answer."""
        code, body = await get(self.worker_base + 2 * index, "/status")
        self.pids |= set(self.workers())
        return json.loads(body) if code == 200 else {}

    def workers(self) -> list[int]:
        """Processes of the workers now, in the order they were started."""
        pid = self.process.pid
        try:
            return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:
            return []

    async def held(self) -> list[int]:
        """Connections per worker, as they say."""
        return [int(str((await self.status(index)).get("connections", 0))) for index in range(WORKERS)]

    async def connect(self, count: int = DEVICES) -> None:
        ring = load_or_create_keys(self.data_dir).device
        for number in range(count):
            token = ring.sign(DeviceClaims(sub=f"p-{number}", dev=f"d-{number}", exp=int(time.time()) + 3600))
            self.devices.append(
                await websockets.connect(
                    f"ws://127.0.0.1:{self.port}/v1/stream",
                    subprotocols=[websockets.Subprotocol(SUBPROTOCOL)],
                    additional_headers={"Authorization": f"Bearer {token}"},
                    compression=None,
                    proxy=None,
                    ping_interval=None,
                    open_timeout=PATIENCE_S,
                )
            )

    async def come_back(self) -> int:
        """Every device that was cut off connects again; how many that were."""
        for device in self.devices:
            with contextlib.suppress(websockets.ConnectionClosed, TimeoutError):
                while True:
                    await asyncio.wait_for(device.recv(), 0.05)
        gone = [device for device in self.devices if device.close_code is not None]
        self.devices = [device for device in self.devices if device.close_code is None]
        self.closed.update(device.close_code for device in gone)
        await self.connect(len(gone))
        return len(gone)

    async def wait(self) -> int:
        async with asyncio.timeout(PATIENCE_S):
            return await self.process.wait()

    async def close(self) -> None:
        for device in self.devices:
            device.transport.abort()
            await device.wait_closed()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()
        self._ports.close()

    def events(self, name: str) -> list[dict[str, object]]:
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [event for event in map(json.loads, lines) if event["event"] == name]


@pytest.fixture
async def push(tmp_path: Path) -> AsyncIterator[PushWorkers]:
    workers = PushWorkers(tmp_path)
    try:
        yield workers
    finally:
        await workers.close()


async def test_devices_are_spread_a_dead_worker_is_replaced_and_a_stop_drains_all(push: PushWorkers) -> None:
    """Two nodes, each with its own id, pages and metrics; kill -9 costs one worker's devices a reconnect."""
    await push.start()
    before = [await push.status(index) for index in range(WORKERS)]
    assert [status["node"] for status in before] == ["node-w0", "node-w1"]
    await push.connect()
    held = await push.held()
    assert sum(held) == DEVICES
    assert all(held), f"one worker got everything: {held}"
    for index, count in enumerate(held):
        code, text = await get(push.worker_base + 2 * index, "/metrics")
        assert code == 200
        assert f"stagecue_push_connections {count}.0" in text.decode()
    assert {(await get(push.port, "/healthz"))[0] for _ in range(8)} == {200}
    assert (await get(push.worker_base, "/v1/stream"))[0] == 404

    first = push.workers()
    os.kill(first[0], signal.SIGKILL)
    await until(lambda: len(push.events("worker_started")) == WORKERS + 1, "it is started again")
    (ended,) = push.events("worker_ended")
    dead = int(str(ended["worker"]))
    assert ended["how"] == "was killed by signal 9"
    assert await push.come_back() == held[dead]
    await until(lambda: push.status(dead), "the new one answers")
    now = [await push.status(index) for index in range(WORKERS)]
    assert [status["node"] for status in now] == ["node-w0", "node-w1"]
    assert now[dead]["incarnation"] != before[dead]["incarnation"]
    assert now[1 - dead]["incarnation"] == before[1 - dead]["incarnation"]
    assert len(set(push.workers()) & set(first)) == WORKERS - 1

    async def new_ones_reach_it() -> bool:
        await push.connect(4)
        return (await push.held())[dead] > 0

    await until(new_ones_reach_it, "the new worker gets its share")
    assert sum(await push.held()) == len(push.devices)

    push.process.terminate()
    assert await push.wait() == 0
    for device in push.devices:
        await device.wait_closed()
    assert {device.close_code for device in push.devices} == {4000}, "all were sent away, none cut off"
    assert not any(map(running, push.pids))


async def test_a_worker_asked_to_stop_alone_drains_and_is_replaced(push: PushWorkers) -> None:
    """As after a change of settings, one by one; the other serves meanwhile."""
    await push.start()
    await push.connect()
    held = await push.held()
    os.kill(push.workers()[0], signal.SIGTERM)
    await until(lambda: push.events("worker_ended"), "it has ended")
    (ended,) = push.events("worker_ended")
    assert ended["how"] == "ended with code 0"
    assert await push.come_back() == held[int(str(ended["worker"]))]
    assert set(push.closed) == {4000}
    await until(lambda: push.status(int(str(ended["worker"]))), "it is replaced")


async def test_no_worker_outlives_a_supervisor_that_was_killed(push: PushWorkers) -> None:
    """They hear of it at once, drain as for a stop, and free their ports."""
    await push.start()
    await push.connect()
    orphans = push.workers()
    assert len(orphans) == WORKERS
    push.process.kill()
    assert await push.wait() == -9
    await until(lambda: not any(map(running, orphans)), "the orphans have ended")
    for device in push.devices:
        await device.wait_closed()
    assert {device.close_code for device in push.devices} == {4000}
    assert len(push.events("supervisor_gone")) == WORKERS
    for port in (push.port, push.worker_base, push.worker_base + 3):
        with socket.create_server(("127.0.0.1", port)):
            pass


async def test_a_signal_to_the_whole_group_is_one_stop(push: PushWorkers) -> None:
    """A terminal's Ctrl-C and a service manager reach supervisor and workers alike: nobody is asked twice."""
    await push.start()
    await push.connect()
    os.killpg(push.process.pid, signal.SIGINT)
    assert await push.wait() == 0
    for device in push.devices:
        await device.wait_closed()
    assert {device.close_code for device in push.devices} == {4000}


async def test_the_second_signal_ends_all_at_once(push: PushWorkers) -> None:
    """A drain of a minute is cut short, in every worker."""
    push.environment |= {"PUSH_DRAIN_S": "60", "STAGECUE_STOP_DEADLINE_S": "90"}
    await push.start()
    await push.connect()
    push.process.terminate()

    async def some_left() -> bool:
        return sum(await push.held()) < DEVICES

    await until(some_left, "the drain began")
    pids = push.workers()
    push.process.terminate()
    assert await push.wait() == ABORT_EXIT_CODE
    await until(lambda: not any(map(running, pids)), "no worker is left")


async def test_a_full_worker_sends_devices_to_one_with_room_and_then_away(push: PushWorkers) -> None:
    """While a sibling has room: again in a second, behind the same port. Once all are full: the reconnect window."""
    push.environment |= {"PUSH_MAX_CONNECTIONS": "3"}
    await push.start()
    while_room: Counter[tuple[int, str]] = Counter()

    async def all_places_taken() -> bool:
        try:
            await push.connect(1)
        except websockets.InvalidStatus as refused:
            while_room[refused.response.status_code, refused.response.headers["Retry-After"]] += 1
        return len(push.devices) == 3 * WORKERS

    await until(all_places_taken, "every place of both workers is taken")
    assert await push.held() == [3, 3]

    async def sent_away() -> bool:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await push.connect(1)
        return int(refused.value.response.headers["Retry-After"]) > 1

    await until(sent_away, "it is known that nobody has room")
    # Not all: one that the machine held up for seconds counts as full. And chance may have refused nobody.
    assert not while_room or while_room[503, "1"], while_room


async def run_to_end(push: PushWorkers) -> tuple[int, list[str]]:
    """Exit code, and what a person reads: the lines that are no log."""
    await push.launch()
    code = await push.wait()
    return code, [line for line in push.log.read_text().splitlines() if not line.startswith("{")]


async def test_a_wrong_setting_of_the_nodes_is_one_line_and_no_loop(push: PushWorkers) -> None:
    """Exit code 2, as with one node; the supervisor does not know these settings."""
    push.environment |= {"PUSH_PONG_DEADLINE_S": "60"}
    code, lines = await run_to_end(push)
    assert code == 2
    assert len(lines) == 1, lines
    assert "pong_deadline_s must be below ping_s" in lines[0]
    assert push.events("worker_ended") == []


async def test_a_taken_port_of_one_worker_is_one_line_and_no_loop(push: PushWorkers) -> None:
    """A second installation on the same ports is found out by it, though the device port could be shared."""
    taken = push.worker_base + 2
    with socket.create_server(("127.0.0.1", taken)):
        code, lines = await run_to_end(push)
    assert (code, len(lines)) == (2, 1), lines
    assert lines[0].startswith("stagecue: ")
    assert f"cannot listen on 127.0.0.1:{taken}" in lines[0]
