"""Single services without any server: what a person may get wrong is one line that names the setting."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from contract.errors import InvalidRequest, StoreUnavailable
from contract.kv.ports import NodeLease
from contract.runtime.asgi import listen_on
from contract.runtime.runner import Readiness
from message_producer.settings import ProducerSettings
from stagecue.apart.kv import KvWatch, contact, open_kv, shown_address
from stagecue.apart.lease import LeaseRenewal
from stagecue.apart.lifecycle import ReadyLine, ServiceAddress, StoppedEarly, opened_patiently
from stagecue.apart.waiting import answering_meanwhile
from stagecue.cli import cli
from stagecue.store_part import shown_database

ROOT = Path(__file__).parents[3]
NEEDING_KV = ("router", "push", "dgs")


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """One `stagecue` in a process of its own, as a person runs it."""
    return subprocess.run(
        [sys.executable, "-m", "stagecue", *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        cwd=ROOT,
        env={**{k: v for k, v in os.environ.items() if not k.startswith("STAGECUE_")}, **environment},
    )


@contextmanager
def impostor(answer: bytes) -> Iterator[int]:
    """Something that is no Redis: answers the first bytes of every connection with `answer` and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(2)
                    try:
                        connection.recv(4096)
                        connection.sendall(answer)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(3)


@pytest.mark.parametrize("name", NEEDING_KV)
def test_without_a_kv_store_the_setting_is_named(name: str, tmp_path: Path) -> None:
    """Exit 2 before anything is opened or written."""
    arguments = [name, "--data-dir", str(tmp_path / "data")]
    result = CliRunner(env={"STAGECUE_KV_URL": None}).invoke(cli, arguments)
    assert result.exit_code == 2
    assert "--kv" in result.output
    assert "STAGECUE_KV_URL" in result.output
    assert not (tmp_path / "data").exists()


def test_producer_needs_no_kv_store_and_takes_none() -> None:
    result = CliRunner().invoke(cli, ["producer", "--kv", "redis://127.0.0.1:6379"])
    assert result.exit_code == 2
    assert "No such option" in result.output


@pytest.mark.parametrize("url", ["http://127.0.0.1:6379", "redis://127.0.0.1:port", "127.0.0.1:6379"])
async def test_an_address_that_is_none_is_refused(url: str) -> None:
    """Raised before a connection is tried, naming the setting."""
    with pytest.raises(InvalidRequest, match="STAGECUE_KV_URL") as refused:
        async with open_kv(url):
            pytest.fail("opened")
    assert refused.value.field == "kv_url"


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.7\r\n"])
async def test_what_is_not_a_redis_is_refused(answer: bytes) -> None:
    """Waiting for a web server to become a Redis cannot help."""
    with impostor(answer) as port, pytest.raises(InvalidRequest, match="is not a Redis"):
        async with open_kv(f"redis://127.0.0.1:{port}"):
            pytest.fail("opened")


def test_a_redis_that_is_none_ends_the_command_with_one_line(tmp_path: Path) -> None:
    """The whole command: exit 2, one line, the setting in it, the password not."""
    with impostor(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        arguments = ("--data-dir", str(tmp_path), "--port-base", "23410", "--kv", f"redis://:sesame@127.0.0.1:{port}")
        ended = command("router", *arguments)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("stagecue: kv_url: ")
    assert f"127.0.0.1:{port} is not a Redis" in line
    assert "sesame" not in line


def test_a_link_address_nobody_can_connect_to_is_refused() -> None:
    for address in ("0.0.0.0", "push.example.net"):
        result = CliRunner().invoke(cli, ["push", "--kv", "redis://x"], env={"STAGECUE_LINK_HOST": address})
        assert result.exit_code == 2
        assert "link_host: an" in result.output


@pytest.mark.parametrize("told", ["10.0.0.7", "push.example.net:8403", "0.0.0.0:8403", "10.0.0.7:0"])
def test_a_link_address_told_to_routers_is_one_they_can_use(told: str) -> None:
    result = CliRunner().invoke(cli, ["push", "--kv", "redis://x"], env={"STAGECUE_LINK_TOLD": told})
    assert result.exit_code == 2
    assert "link_told: " in result.output


def test_databases_are_shown_without_credentials(tmp_path: Path) -> None:
    given = ProducerSettings(database_url="postgresql+psycopg://me:sesame@db.example:5432/night")
    assert shown_database(given) == "PostgreSQL at db.example:5432/night"
    assert shown_database(ProducerSettings(data_dir=tmp_path)) == f"the SQLite file {tmp_path}/producer.db"
    assert shown_database(ProducerSettings(data_dir=Path("night"))) == "the SQLite file night/producer.db"


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = command("producer", "--data-dir", str(tmp_path), "--port-base", str(port), "--log-level", "ERROR")
    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr


@pytest.mark.parametrize(
    ("name", "foreign"),
    [
        (
            "push",
            {
                "fastapi",
                "starlette",
                "uvicorn",
                "aiokafka",
                "psycopg",
                "sqlalchemy",
                "numpy",
                "strawberry",
                "message_producer",
                "dgs",
            },
        ),
        (
            "dgs",
            {
                "fastapi",
                "aiokafka",
                "psycopg",
                "sqlalchemy",
                "apscheduler",
                "message_producer",
                "message_router",
                "push_proxy",
            },
        ),
        ("router", {"fastapi", "numpy", "strawberry", "dgs", "push_proxy"}),
        ("producer", {"redis", "websockets", "numpy", "dgs", "push_proxy", "message_router"}),
    ],
)
def test_a_service_imports_no_other(name: str, foreign: set[str]) -> None:
    """What a service does not need is not needed to be installed beside it."""
    code = f"import sys, stagecue.apart.{name}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert foreign.isdisjoint(out.split())


def test_addresses_are_shown_without_credentials() -> None:
    assert shown_address("redis://user:sesame@kv.example:7000/3?x=1") == "kv.example:7000"
    assert shown_address("redis://kv.example") == "kv.example:6379"
    assert shown_address("unix:///run/redis.sock?db=2") == "/run/redis.sock"


async def test_the_watch_waits_for_a_store_that_is_not_there_and_stops_when_told() -> None:
    """Unreachable is not fatal: readiness says why, and `stop` needs no answer from the store."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    async with open_kv(f"redis://127.0.0.1:{port}") as kv:
        with pytest.raises(StoreUnavailable, match=str(port)):
            await contact(kv)
        readiness, stop, ready = Readiness(), asyncio.Event(), asyncio.Event()
        watching = asyncio.create_task(KvWatch(kv, readiness).run(ready, stop))
        async with asyncio.timeout(5):
            await ready.wait()
            await asyncio.sleep(0.1)
            assert not readiness.ready
            assert "kv" in readiness.failing()
            stop.set()
            await watching


class Leases:
    """NodeLeases that fail as often as told."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.renewed: list[float] = []
        self.released: list[NodeLease] = []

    async def renew(self, lease: NodeLease, *, lifetime_s: float) -> None:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("away")
        self.renewed.append(asyncio.get_running_loop().time())

    async def release(self, lease: NodeLease) -> None:
        self.released.append(lease)

    async def alive(self) -> list[NodeLease]:
        return []


LEASE = NodeLease(node_id="n", incarnation="i", link_address="127.0.0.1:1")


async def test_a_lease_is_renewed_every_third_of_it_and_given_up_at_the_end() -> None:
    leases, readiness = Leases(), Readiness()
    stop, ready = asyncio.Event(), asyncio.Event()
    renewal = asyncio.create_task(LeaseRenewal(LEASE, leases, readiness, lifetime_s=0.15).run(ready, stop))
    await ready.wait()
    assert readiness.ready
    await asyncio.sleep(0.3)
    stop.set()
    await renewal
    assert len(leases.renewed) >= 4, "a renewal every 50 ms"
    assert leases.released == [LEASE]


async def test_a_lease_that_cannot_be_claimed_is_not_ready_and_recovers() -> None:
    """Routers could not find the node; the first success turns readiness on again."""
    leases, readiness = Leases(failures=2), Readiness()
    stop, ready = asyncio.Event(), asyncio.Event()
    renewal = asyncio.create_task(LeaseRenewal(LEASE, leases, readiness, lifetime_s=0.15).run(ready, stop))
    await ready.wait()
    assert "push.lease" in readiness.failing()
    async with asyncio.timeout(5):
        while not readiness.ready:  # noqa: ASYNC110 - readiness is a flag
            await asyncio.sleep(0.01)
    stop.set()
    await renewal


class Opening:
    """An async context manager that refuses as told before it opens."""

    def __init__(self, *refusals: StoreUnavailable) -> None:
        self.refusals = list(refusals)
        self.closed = False

    async def __aenter__(self) -> Opening:
        if self.refusals:
            raise self.refusals.pop(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closed = True


def patiently(opening: Opening, stop: asyncio.Event | None = None, readiness: Readiness | None = None):
    return opened_patiently(
        lambda: opening,
        stop or asyncio.Event(),
        setting="--it",
        where="it",
        readiness=readiness or Readiness(),
        condition="it",
    )


async def test_a_locked_store_is_tried_again_and_closed_afterwards() -> None:
    """Meanwhile readiness says what is waited for, by the setting's name."""
    readiness, told = Readiness(), []

    class Watched(Opening):
        async def __aenter__(self) -> Opening:
            told.append(readiness.failing().get("it"))
            return await super().__aenter__()

    opening = Watched(StoreUnavailable("locked", retry_after_s=1.0), StoreUnavailable("locked", retry_after_s=1.0))
    async with patiently(opening, readiness=readiness) as opened:
        assert opened is opening
        assert not opening.closed
        assert readiness.ready
    assert opening.closed
    assert told == [None, "--it: locked", "--it: locked"]


async def test_a_store_that_never_opens_for_us_is_told_at_once() -> None:
    opening = Opening(StoreUnavailable("a newer schema"), StoreUnavailable("never asked"))
    with pytest.raises(StoreUnavailable, match="--it: a newer schema"):
        async with patiently(opening):
            pytest.fail("opened")


async def test_a_stop_ends_the_waiting_for_a_store() -> None:
    stop = asyncio.Event()
    stop.set()
    with pytest.raises(StoppedEarly):
        async with patiently(Opening(StoreUnavailable("locked", retry_after_s=1.0)), stop):
            pytest.fail("opened")


async def test_a_service_that_waits_answers_that_it_is_alive_and_why_it_is_not_ready() -> None:
    """On the listener the service takes over afterwards: nobody who connects in between is refused."""
    readiness = Readiness()
    readiness.expect("database", "no PostgreSQL answers")
    with listen_on("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]

        async def get(path: str) -> tuple[int, dict]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            answer = (await reader.read()).partition(b"\r\n\r\n")
            writer.close()
            return int(answer[0].split()[1]), json.loads(answer[2])

        async with asyncio.timeout(5), answering_meanwhile(sock, readiness, "router"):
            assert await get("/healthz") == (200, {"status": "alive"})
            code, body = await get("/readyz?verbose")
            assert (code, body["failing"]) == (503, {"database": "no PostgreSQL answers"})
            assert (await get("/v1/events"))[0] == 503
        late = asyncio.create_task(get("/healthz"))
        served = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            served.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n{}")
            writer.close()

        await asyncio.sleep(0.05)
        async with asyncio.timeout(5), await asyncio.start_server(serve, sock=sock):
            assert await late == (200, {})
        assert len(served) == 1


async def test_the_ready_line_is_said_once_and_only_when_ready() -> None:
    """Not when the process listens: when /readyz would answer 200."""
    readiness, said = Readiness(), []
    readiness.fail("kv", "away")
    address = ServiceAddress(service="dgs", address="http://127.0.0.1:1", data_dir="d")

    async def announce(what: ServiceAddress) -> None:
        said.append(what)

    stop, ready = asyncio.Event(), asyncio.Event()
    line = asyncio.create_task(ReadyLine(readiness, address, announce).run(ready, stop))
    await ready.wait()
    await asyncio.sleep(0.05)
    assert said == []
    readiness.hold("kv")
    await asyncio.sleep(0.1)
    readiness.fail("kv", "away")
    readiness.hold("kv")
    await asyncio.sleep(0.05)
    assert said == [address]
    stop.set()
    await line
