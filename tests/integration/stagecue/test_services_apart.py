"""Four services and a Redis, a process each: the night, and what it survives.

Real processes started through the command line, real sockets, a real Redis with an append-only file.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from contract.errors import BroadcastSystemError, InvalidRequest
from contract.runtime.runner import ABORT_EXIT_CODE
from device_sim.audit import FleetAudit, audit_fleet, outbox_from_json
from device_sim.device import DeviceOptions
from device_sim.fleet import Fleet, FleetOptions
from loadtest.bench.system import free_port_base
from stagecue.apart.kv import open_kv

pytestmark = [pytest.mark.external_service, pytest.mark.fault, pytest.mark.timeout(90)]

SERVICES = ("producer", "router", "push", "dgs")
DEVICES = 20
TOPIC = "event:fight"
RECONNECT_MS = 200
ENVIRONMENT = {
    "PUSH_RECONNECT_WINDOW_MS": str(RECONNECT_MS),
    "PUSH_DRAIN_S": "0.5",
    "PUSH_DRAIN_GUARD_S": "0",
    "PUSH_ACK_ONE_IN": "1",
    "PUSH_ACK_WITHIN_MS": "50",
    "DGS_CONNECT_WINDOW_MS": "0",
}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Redis:
    """A redis-server of our own, keeping what it acknowledged."""

    def __init__(self, folder: Path, *, mode: str = "standalone") -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            pytest.fail("redis-server is not on PATH")
        self._binary, self._folder, self._mode = binary, folder, mode
        self.port = _free_port()
        self._process: Process | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        if self._mode == "sentinel":
            (self._folder / "sentinel.conf").touch()
            arguments = [str(self._folder / "sentinel.conf"), "--sentinel", *arguments]
        else:
            arguments += ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        if self._mode == "cluster":
            # Its own choice, port + 10,000, does not exist above port 55,535.
            arguments += ["--cluster-enabled", "yes", "--cluster-port", str(_free_port())]
        self._process = await asyncio.create_subprocess_exec(self._binary, *arguments, stdout=DEVNULL)
        await eventually(self._listens, "redis-server listens")

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def lose_everything(self) -> None:
        await self.kill()
        shutil.rmtree(self._folder)

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True


class Service:
    """One `stagecue <name>`, which may die and be started again on the same ports and data."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path) -> None:
        self.name = name
        self.ready: dict[str, str] = {}
        self.ready_after_s = 0.0
        self.environment: dict[str, str] = {}
        self._arguments = arguments
        self._log = log
        self._process: Process | None = None

    async def launch(self) -> None:
        self._started_s = time.monotonic()
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "stagecue", self.name, "--ready-json", "--log-format", "json"),
                *self._arguments,
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=log,
                env={**os.environ, **ENVIRONMENT, **self.environment},
            )

    async def wait_ready(self, within_s: float = 15.0) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(within_s):
                line = await self._process.stdout.readline()
        except TimeoutError:
            pytest.fail(f"{self.name} was not ready after {within_s} s:\n{self.log_end()}")
        if not line:
            pytest.fail(f"{self.name} ended before it was ready:\n{self.log_end()}")
        self.ready = json.loads(line)
        self.ready_after_s = time.monotonic() - self._started_s
        assert self.ready["ready"] is True
        assert self.ready["service"] == self.name

    async def start(self) -> None:
        await self.launch()
        await self.wait_ready()

    async def kill(self) -> None:
        """`kill -9`."""
        assert self._process is not None
        self._process.kill()
        assert await self._process.wait() == -9

    async def ask_to_stop(self) -> None:
        """SIGTERM, once."""
        assert self._process is not None
        self._process.terminate()

    async def stop(self) -> int | None:
        """SIGTERM, and its exit code; killed if it does not end."""
        if self._process is None:
            return None
        if self._process.returncode is None:
            self._process.terminate()
        try:
            async with asyncio.timeout(10):
                return await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
            pytest.fail(f"{self.name} did not end within 10 s of SIGTERM:\n{self.log_end()}")

    def log_end(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])


class Installation:
    """Redis and one of each service, on loopback ports of their own."""

    def __init__(self, folder: Path) -> None:
        self.redis = Redis(folder / "redis")
        self.base = free_port_base()
        shared = ("--data-dir", str(folder / "data"), "--port-base", str(self.base))
        kv = ("--kv", self.redis.url)
        self.services = {
            name: Service(name, shared if name == "producer" else (*shared, *kv), folder / f"{name}.log")
            for name in SERVICES
        }
        self.http = httpx.AsyncClient(trust_env=False, timeout=5.0)

    def __getitem__(self, name: str) -> Service:
        return self.services[name]

    async def start(self) -> None:
        await self.redis.start()
        for service in self.services.values():
            await service.launch()
        for service in self.services.values():
            await service.wait_ready()

    async def stop(self) -> dict[str, int | None]:
        codes = {name: await service.stop() for name, service in self.services.items()}
        await self.http.aclose()
        await self.redis.kill()
        return codes

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.base + {'producer': 0, 'dgs': 1, 'push': 2, 'router': 4}[name]}"

    async def readiness(self, name: str) -> int | None:
        """The answer of /readyz; None while nobody listens."""
        try:
            return (await self.http.get(self.url(name) + "/readyz")).status_code
        except httpx.TransportError:
            return None

    async def post(self, path: str, body: dict) -> dict:
        answer = await self.http.post(self.url("producer") + path, json=body, headers=self._auth())
        assert answer.status_code < 300, answer.text
        return answer.json()

    async def items(self, what: str) -> list[dict]:
        answer = await self.http.get(f"{self.url('producer')}/v1/events/fight/{what}", headers=self._auth())
        return sorted(answer.json()["items"], key=lambda item: item["timestamp"])

    async def newest(self, state_key: str) -> int:
        """The timestamp of the stage's broadcast, once it is published."""
        found: list[int] = []

        async def published() -> bool:
            found[:] = [
                item["timestamp"]
                for item in await self.items("broadcasts")
                if item["state_key"] == state_key and item["published_at"] is not None
            ]
            return bool(found)

        await eventually(published, f"{state_key} is published")
        return found[0]

    def _auth(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self['producer'].ready['operator_token']}"}


async def eventually(condition, what: str, within_s: float = 15.0) -> None:
    deadline = time.monotonic() + within_s
    while not await condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.05)


@pytest.fixture
async def installation(tmp_path: Path) -> AsyncIterator[Installation]:
    system = Installation(tmp_path)
    try:
        yield system
    finally:
        await system.stop()


@asynccontextmanager
async def audience(installation: Installation) -> AsyncIterator[Fleet]:
    """Devices that prefetched through the DGS and are subscribed where it told them."""
    options = FleetOptions(
        devices=DEVICES,
        dgs_url=installation.url("dgs"),
        event_ids=("fight",),
        artwork="none",
        device=DeviceOptions(reconnect_window_ms=RECONNECT_MS, fetches_maps=False),
    )
    async with Fleet(options) as fleet:

        async def prefetched() -> bool:
            try:
                await fleet.prefetch_all()
            except BroadcastSystemError:
                return False  # the router has not put the event into the view yet
            return True

        await eventually(prefetched, "the DGS knows the event")
        await fleet.connect_all()
        await fleet.wait_subscribed(timeout_s=10)
        yield fleet


def rfc3339(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def judged(installation: Installation, fleet: Fleet) -> FleetAudit:
    audit = audit_fleet(outbox_from_json(await installation.items("broadcasts")), fleet.logs(), fleet.recorded)
    assert (audit.missed, audit.untold, audit.out_of_order) == (0, 0, 0), audit
    assert (audit.unknown_frames, audit.not_newest, audit.unsubscribed, audit.wrong_renders) == (0, 0, 0, 0), audit
    return audit


async def test_four_processes_play_a_night_and_end_cleanly(installation: Installation) -> None:
    """Started together, in any order: every device gets every stage live, reach comes back, SIGTERM exits 0."""
    await installation.start()
    first_ms = now_ms() + 3_000
    stages = [
        {"key": f"stage_{number}", "anchor": "absolute", "at": rfc3339(first_ms + number * 400)} for number in range(3)
    ]
    await installation.post(
        "/v1/events", {"id": "fight", "title": "The fight", "starts_at": rfc3339(first_ms), "stages": stages}
    )
    async with audience(installation) as fleet:
        assert now_ms() < first_ms, "too slow to be connected before the first stage"
        await fleet.wait_caught_up({TOPIC: await installation.newest("stage_2")}, timeout_s=10)
        audit = await judged(installation, fleet)
        assert [each.delivered_live for each in audit.broadcasts] == [DEVICES] * 3

        async def reach_is_known() -> bool:
            return [item["acked"] for item in await installation.items("reach")] == [DEVICES] * 3

        await eventually(reach_is_known, "every acknowledgement is in the producer's store")
    assert await installation.stop() == dict.fromkeys(SERVICES, 0)


async def test_router_and_push_node_die_between_stages(installation: Installation) -> None:
    """A stage is announced while the router is dead, the next while the push node is: nothing is missed."""
    await installation.start()
    stages = [{"key": f"stage_{number}", "anchor": "manual"} for number in range(4)]
    starts_at = rfc3339(now_ms() + 60_000)
    await installation.post(
        "/v1/events", {"id": "fight", "title": "The fight", "starts_at": starts_at, "stages": stages}
    )

    async def cue(number: int) -> int:
        await installation.post("/v1/events/fight/cue", {"stage": f"stage_{number}"})
        return await installation.newest(f"stage_{number}")

    async with audience(installation) as fleet:
        await fleet.wait_caught_up({TOPIC: await cue(0)}, timeout_s=10)

        await installation["router"].kill()
        while_routerless = await cue(1)
        await installation["router"].start()
        await fleet.wait_caught_up({TOPIC: while_routerless}, timeout_s=10)

        await installation["push"].kill()
        while_nodeless = await cue(2)
        await installation["push"].start()
        await fleet.wait_caught_up({TOPIC: while_nodeless}, timeout_s=15)

        await fleet.wait_caught_up({TOPIC: await cue(3)}, timeout_s=10)
        audit = await judged(installation, fleet)
    live = [each.delivered_live for each in audit.broadcasts]
    assert (live[0], live[1], live[3]) == (DEVICES, DEVICES, DEVICES), "only the stage without a node may be replayed"
    assert audit.broadcasts[2].replayed + audit.broadcasts[2].delivered_live + audit.broadcasts[2].skipped == DEVICES


async def test_redis_dies_and_comes_back_empty(installation: Installation) -> None:
    """Devices are told without it (R11); what it lost is made again from the log (R10); then a new node replays it."""
    await installation.start()
    stages = [{"key": f"stage_{number}", "anchor": "manual"} for number in range(3)]
    starts_at = rfc3339(now_ms() + 60_000)
    await installation.post(
        "/v1/events", {"id": "fight", "title": "The fight", "starts_at": starts_at, "stages": stages}
    )

    async def cue(number: int) -> int:
        await installation.post("/v1/events/fight/cue", {"stage": f"stage_{number}"})
        return await installation.newest(f"stage_{number}")

    async with audience(installation) as fleet:
        await fleet.wait_caught_up({TOPIC: await cue(0)}, timeout_s=10)
        await installation.redis.lose_everything()
        await fleet.wait_caught_up({TOPIC: await cue(1)}, timeout_s=5)
        await installation.redis.start()

        async def router_is_whole() -> bool:
            return await installation.readiness("router") == 200

        await eventually(router_is_whole, "the router has rebuilt the store")
        # A device whose network was away asks a node that knows the topic from the rebuilt store alone.
        away = fleet.take_offline(0.25, 3.0)
        assert away
        newest = await cue(2)
        await installation["push"].kill()
        await installation["push"].start()
        await fleet.wait_caught_up({TOPIC: newest}, timeout_s=15)
        audit = await judged(installation, fleet)
    assert [each.delivered_live for each in audit.broadcasts[:2]] == [DEVICES, DEVICES]
    assert audit.broadcasts[2].replayed > 0, "nobody needed the rebuilt store"


async def test_services_wait_for_redis_and_outlive_it(installation: Installation) -> None:
    """Without Redis they run and say they are not ready; once it is there they are; after its death, they are again."""
    for service in installation.services.values():
        await service.launch()
    await installation["producer"].wait_ready()
    needing = ("router", "push", "dgs")

    async def all_say(code: int) -> bool:
        return [await installation.readiness(name) for name in needing] == [code] * 3

    await eventually(lambda: all_say(503), "all are alive and not ready")
    await installation.redis.start()
    for name in needing:
        await installation[name].wait_ready()
    assert await all_say(200)
    await installation.redis.kill()

    async def dgs_and_router_say(code: int) -> bool:
        return [await installation.readiness(name) for name in ("router", "dgs")] == [code] * 2

    await eventually(lambda: dgs_and_router_say(503), "the loss is noticed")
    await installation.redis.start()
    await eventually(lambda: all_say(200), "all are ready again")
    assert await installation.stop() == dict.fromkeys(SERVICES, 0)


async def test_a_service_asked_to_stop_before_it_is_ready_ends_at_once(installation: Installation) -> None:
    """No Redis, no router: SIGTERM is still a clean end."""
    await installation["push"].launch()

    async def alive() -> bool:
        return await installation.readiness("push") == 503

    await eventually(alive, "the push node listens")
    assert await installation["push"].stop() == 0


async def test_the_second_signal_aborts_a_drain(installation: Installation) -> None:
    """The first spreads the devices' departure over the drain; the second does not wait for it."""
    installation["push"].environment = {"PUSH_DRAIN_S": "8"}
    await installation.start()
    await installation.post(
        "/v1/events",
        {
            "id": "fight",
            "title": "The fight",
            "starts_at": rfc3339(now_ms() + 60_000),
            "stages": [{"key": "live", "anchor": "manual"}],
        },
    )
    async with audience(installation) as fleet:
        await installation["push"].ask_to_stop()

        async def some_left() -> bool:
            return fleet.context.stats.open < DEVICES

        await eventually(some_left, "the drain began", within_s=5)
        assert fleet.context.stats.open > 0, "all were sent away at once"
        asked_s = time.monotonic()
        assert await installation["push"].stop() == ABORT_EXIT_CODE
        assert time.monotonic() - asked_s < 2


@pytest.mark.parametrize("mode", ["cluster", "sentinel"])
async def test_a_redis_in_another_mode_is_refused(mode: str, tmp_path: Path) -> None:
    """It would answer a PING for ever and no command after it."""
    redis = Redis(tmp_path / "redis", mode=mode)
    await redis.start()
    try:
        with pytest.raises(InvalidRequest, match=f"in mode {mode}"):
            async with open_kv(redis.url):
                pytest.fail("opened")
    finally:
        await redis.kill()
