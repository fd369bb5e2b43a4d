"""What a person may get wrong about servers, against real ones: said within ten seconds, with what to do.

A mistake ends the command: one line, exit code 2. What may yet come is waited for: alive, not ready, and why.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psycopg
import pytest
from redis.asyncio import Redis

from contract.names import KV_SCHEMA, kv_schema
from loadtest.cluster.kafka import KafkaBroker
from loadtest.cluster.ports import PortBlocks, reserve_ports
from loadtest.cluster.postgres import PostgresServer
from loadtest.cluster.redis import RedisServer

pytestmark = [pytest.mark.external_service, pytest.mark.timeout(240)]

WITHIN_S = 40.0
AT_ONCE = 2
"""Rows tried side by side: as many as a small machine has cores, for each is a start of Python."""
HTTP_PORT = {"producer": 0, "dgs": 1, "push": 2, "router": 4}


@dataclass
class Servers:
    """Real ones, each with something that is not as a service expects."""

    kafka: str
    database: str
    no_database: str
    newer_database: str
    redis: str
    guarded_redis: str
    other_redis: str
    nobody: str
    """host:port where nothing listens."""


@dataclass(frozen=True)
class Row:
    """A service's start with something wrong, and what must be said."""

    name: str
    service: str
    options: Sequence[str]
    words: Sequence[str]
    ends: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)


def with_password(url: str, password: str) -> str:
    return re.sub(r"(?<=//)([^:]+):[^@]*@", rf"\1:{password}@", url)


def with_database(url: str, database: str) -> str:
    return f"{url.rpartition('/')[0]}/{database}"


def address(url: str) -> str:
    """host:port of a URL."""
    return url.partition("://")[2].rpartition("@")[2].partition("/")[0]


def rows(s: Servers) -> list[Row]:
    start_it = "start"
    on_redis = ("--kv", s.redis)
    sasl = {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KAFKA_SASL_MECHANISM": "PLAIN"}
    login = {"KAFKA_SASL_USERNAME": "me", "KAFKA_SASL_PASSWORD": "sesame"}
    wrong_password = with_password(s.database, "sesame")
    kafka, database, redis = "KAFKA_BOOTSTRAP_SERVERS", "PRODUCER_DATABASE_URL", "STAGECUE_KV_URL"
    return [
        Row("no broker", "producer", ["--kafka", s.nobody], [kafka, s.nobody, start_it], ends=False),
        Row("none for a router", "router", [*on_redis, "--kafka", s.nobody], [kafka, s.nobody, start_it], ends=False),
        Row(
            "a broker that is a Redis",
            "producer",
            ["--kafka", address(s.redis)],
            [kafka, address(s.redis), "broker's listener"],
            ends=False,
        ),
        Row("no host and port", "producer", ["--kafka", "kafka.example"], ["bootstrap_servers", "host:port"]),
        Row(
            "no password for a broker",
            "producer",
            ["--kafka", s.kafka],
            ["sasl_username", "sasl_password"],
            environment=sasl,
        ),
        Row(
            "a login nobody asks for",
            "producer",
            ["--kafka", s.kafka],
            ["KAFKA_SECURITY_PROTOCOL", s.kafka],
            environment=sasl | login,
        ),
        Row(
            "other topics than declared",
            "router",
            [*on_redis, "--kafka", s.kafka],
            ["stage.broadcasts", "KAFKA_PARTITIONS"],
            environment={"KAFKA_PARTITIONS": "7"},
        ),
        Row(
            "no PostgreSQL",
            "producer",
            ["--database", f"postgresql+psycopg://me:sesame@{s.nobody}/stagecue"],
            [database, s.nobody, "start PostgreSQL"],
            ends=False,
        ),
        Row("a wrong password", "producer", ["--database", wrong_password], [database, "password", "PostgreSQL"]),
        Row(
            "a wrong password for a router",
            "router",
            [*on_redis, "--kafka", s.kafka, "--database", wrong_password],
            [database, "password", "PostgreSQL"],
        ),
        Row("a missing database", "producer", ["--database", s.no_database], [database, "no_such_night", "createdb"]),
        Row("a newer schema", "producer", ["--database", s.newer_database], [database, "schema 9999", "restore"]),
        Row(
            "a database that is a broker",
            "producer",
            ["--database", f"postgresql+psycopg://me:sesame@{s.kafka}/stagecue"],
            [database, s.kafka, "PostgreSQL"],
            ends=False,
        ),
        Row("no database URL", "producer", ["--database", "a friend's"], [database, "postgresql"]),
        Row("no Redis", "dgs", ["--kv", f"redis://:sesame@{s.nobody}"], ["--kv", redis, s.nobody, "start"], ends=False),
        Row("a password wanted", "push", ["--kv", s.guarded_redis], ["kv_url", redis, address(s.guarded_redis)]),
        Row(
            "a Redis that refuses the password",
            "router",
            ["--kv", s.guarded_redis.replace("://", "://:sesame@")],
            ["kv_url", redis, address(s.guarded_redis)],
        ),
        Row("a Redis of another version", "dgs", ["--kv", s.other_redis], ["kv_url", redis, "schema", "FLUSHDB"]),
        Row("no Redis named", "push", [], ["kv_url", "--kv", redis]),
    ]


@asynccontextmanager
async def real_servers(folder: Path, ports: PortBlocks) -> AsyncIterator[Servers]:
    kafka = KafkaBroker(folder / "kafka", ports[0])
    postgres = PostgresServer(folder / "postgres", ports[1])
    redis = RedisServer(folder / "redis", port=ports[2])
    guarded = RedisServer(folder / "guarded", port=ports[3], name="guarded", options=("--requirepass", "right"))
    async with AsyncExitStack() as stack:
        for one in (kafka, postgres, redis, guarded):
            stack.push_async_callback(one.stop)
        await asyncio.gather(*(one.start() for one in (kafka, postgres, redis, guarded)))
        newer = await postgres.create_database("newer")
        with psycopg.connect(newer.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute("CREATE TABLE alembic_version (version_num varchar(32) NOT NULL)")
            connection.execute("INSERT INTO alembic_version VALUES ('9999')")
        other = f"{redis.url}/1"
        client = Redis.from_url(other)
        await client.set(kv_schema(), KV_SCHEMA + 1)
        await client.aclose()
        # The Kafka topics as they should be: one service that starts well makes them.
        made = await started(folder / "first", ports[4], "producer", ["--kafka", kafka.bootstrap_servers], {})
        assert await said_when_ready(made, ports[4]) == {}
        await ended(made)
        yield Servers(
            kafka=kafka.bootstrap_servers,
            database=postgres.url,
            no_database=with_database(postgres.url, "no_such_night"),
            newer_database=newer,
            redis=redis.url,
            guarded_redis=guarded.url,
            other_redis=other,
            nobody=f"127.0.0.1:{ports[5]}",
        )


async def started(
    folder: Path, base: int, service: str, options: Sequence[str], environment: Mapping[str, str]
) -> asyncio.subprocess.Process:
    ours = ("STAGECUE_", "KAFKA_", "PRODUCER_", "ROUTER_", "PUSH_", "DGS_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "stagecue", service, "--data-dir", str(folder), "--port-base", str(base),
        "--log-format", "json", "--log-level", "WARNING", *options,
        stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE, env={**inherited, **environment},
    )  # fmt: skip


async def ended(process: asyncio.subprocess.Process) -> int:
    if process.returncode is None:
        process.terminate()
    async with asyncio.timeout(WITHIN_S):
        await process.communicate()
    assert process.returncode is not None
    return process.returncode


async def said_when_ready(process: asyncio.subprocess.Process, port: int, words: Sequence[str] = ()) -> dict[str, str]:
    """What keeps the service at `port` from being ready, once it says all `words`, or in time; empty when it is."""
    failing: dict[str, str] = {}
    deadline_s = time.monotonic() + WITHIN_S
    async with httpx.AsyncClient(trust_env=False, timeout=2.0) as http:
        while time.monotonic() < deadline_s and process.returncode is None:
            try:
                answer = await http.get(f"http://127.0.0.1:{port}/readyz")
            except httpx.TransportError:
                await asyncio.sleep(0.1)
                continue
            failing = answer.json()["failing"]
            if answer.status_code == 200 or (words and all(word in json.dumps(failing) for word in words)):
                assert (await http.get(f"http://127.0.0.1:{port}/healthz")).status_code == 200
                return failing
            await asyncio.sleep(0.1)
    assert failing, f"said nothing within {WITHIN_S} s"
    return failing


async def trouble_with(row: Row, folder: Path, base: int) -> str | None:
    """What is wrong with what the row's service said; None: nothing."""
    process = await started(folder, base, row.service, row.options, row.environment)
    try:
        if row.ends:
            async with asyncio.timeout(WITHIN_S):
                _, errors = await process.communicate()
            lines = [line for line in errors.decode().splitlines() if not line.startswith("{")]
            said, code = " ".join(lines), process.returncode
            if code != 2:
                return f"exit code {code}: {said[-300:]}"
            if "Traceback" in said:
                return f"a traceback: {said[-300:]}"
        else:
            said = json.dumps(await said_when_ready(process, base + HTTP_PORT[row.service], row.words))
    except (AssertionError, TimeoutError) as exc:
        return f"{type(exc).__name__}: {exc}"
    finally:
        code = await ended(process)
    if not row.ends and code != 0:
        return f"SIGTERM while waiting ended it with {code}"
    if "sesame" in said:
        return f"repeats a password: {said}"
    missing = [word for word in row.words if word not in said]
    return f"does not say {missing} but: {said}" if missing else None


async def test_every_mistake_is_named_with_its_setting_and_what_to_do(tmp_path: Path) -> None:
    with reserve_ports(6 + AT_ONCE) as ports:
        async with real_servers(tmp_path, ports) as servers:
            waiting = list(enumerate(rows(servers)))
            troubles: dict[str, str] = {}

            async def try_rows(base: int) -> None:
                while waiting:
                    number, row = waiting.pop()
                    if trouble := await trouble_with(row, tmp_path / str(number), base):
                        troubles[row.name] = trouble

            async with asyncio.TaskGroup() as group:
                for worker in range(AT_ONCE):
                    group.create_task(try_rows(ports[6 + worker]))
    assert troubles == {}


async def test_a_full_disk_under_kafka_is_waited_for(tmp_path: Path) -> None:
    """The broker may write no more: it ends. A producer that starts then says which host to look at, and waits."""
    with reserve_ports(2) as ports:
        async with KafkaBroker(tmp_path / "kafka", ports[0]) as broker:
            resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, (100, 100))
            servers = broker.bootstrap_servers
            words = ["KAFKA_BOOTSTRAP_SERVERS", servers, "disk"]
            row = Row("full", "producer", ["--kafka", servers], words, ends=False)
            assert await trouble_with(row, tmp_path / "data", ports[1]) is None
