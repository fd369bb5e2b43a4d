"""Wrong addresses, credentials and topics: within ten seconds a message that names the setting and what to do."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from contract.errors import BroadcastSystemError, InvalidRequest, LogUnavailable
from contract.runtime.kafka_connect import ensure_topics
from contract.runtime.kafka_settings import KafkaSettings
from contract.runtime.runner import Readiness
from contract.runtime.system_clock import SystemClock
from message_router.adapters.kafka_log import open_kafka_log
from tests.integration.kafka.kafka_world import broadcast, polled, publisher
from tests.support.kafka_server import SASL_PASSWORD, SASL_USER, OwnKafka, kafka, kafka_group, kafka_server

__all__ = ["kafka", "kafka_group", "kafka_server"]

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
LOGIN: dict[str, Any] = {
    "security_protocol": "SASL_PLAINTEXT",
    "sasl_mechanism": "PLAIN",
    "sasl_username": SASL_USER,
    "sasl_password": SecretStr(SASL_PASSWORD),
}


async def refusal(settings: KafkaSettings, kind: type[BroadcastSystemError]) -> BroadcastSystemError:
    """What both services say at a start with these settings; in time."""
    begun_s = time.monotonic()
    with pytest.raises(kind) as told:
        await ensure_topics(settings)
    assert time.monotonic() - begun_s < 10
    error = told.value
    assert error.field
    assert error.rule
    assert (error.retry_after_s is not None) == isinstance(error, LogUnavailable)
    return error


@asynccontextmanager
async def listener(answer: Answer) -> AsyncIterator[str]:
    """Something that is no Kafka; yields its host:port."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_nobody_there(kafka_free_port: int) -> None:
    """A port nobody listens at, a name nobody knows: waiting can help."""
    for server in (f"127.0.0.1:{kafka_free_port}", "no-such-host.invalid:9092"):
        error = await refusal(KafkaSettings(bootstrap_servers=server), LogUnavailable)
        assert server in str(error)
        assert "--kafka" in str(error)
        assert "KAFKA_BOOTSTRAP_SERVERS" in str(error)


@pytest.fixture
def kafka_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_something_that_is_not_kafka() -> None:
    """A web server there is a mistake; who says nothing or hangs up may yet become a broker."""

    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await reader.read()
        writer.close()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    for answer, kind in ((web, InvalidRequest), (silent, LogUnavailable), (hangs_up, LogUnavailable)):
        async with listener(answer) as server:
            error = await refusal(KafkaSettings(bootstrap_servers=server, connect_timeout_s=1), kind)
            assert server in str(error)
            assert "--kafka" in str(error)
    async with listener(web) as server:
        error = await refusal(KafkaSettings(bootstrap_servers=server, security_protocol="SSL"), InvalidRequest)
        assert "KAFKA_SECURITY_PROTOCOL" in str(error)


async def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    """Certificates and keys that are not there, or none."""
    empty = tmp_path / "empty.pem"
    empty.touch()
    server = {"bootstrap_servers": "127.0.0.1:1", "security_protocol": "SSL"}

    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with listener(answering) as address:
        server["bootstrap_servers"] = address
        for wrong in (tmp_path / "missing.pem", empty):
            error = await refusal(KafkaSettings(**server, ca_file=wrong), InvalidRequest)
            assert error.field == "KAFKA_CA_FILE"
            error = await refusal(KafkaSettings(**server, certificate_file=wrong), InvalidRequest)
            assert error.field == "KAFKA_CERTIFICATE_FILE"


@pytest.mark.external_service
async def test_logging_in(kafka: KafkaSettings, kafka_group: str, kafka_server: OwnKafka) -> None:
    """With the right password everything works over SASL."""
    settings = kafka_server.settings(bootstrap_servers=kafka_server.sasl_servers, **LOGIN)
    async with publisher(settings) as log, polled(settings, kafka_group) as router:
        await log.publish_broadcast(broadcast("e0", 1))
        await router.until(lambda: len(router.broadcasts) == 1)
        assert (await router.log.schedules()) == ()


@pytest.mark.external_service
async def test_credentials_and_listeners_that_do_not_fit(kafka_server: OwnKafka) -> None:
    """A wrong password, a mechanism the broker does not take, each protocol at the other's listener."""
    sasl, plain = kafka_server.sasl_servers, kafka_server.bootstrap_servers
    wrong = {**LOGIN, "sasl_password": SecretStr("wrong")}
    for settings, named in (
        ({"bootstrap_servers": sasl, **wrong}, "KAFKA_SASL_PASSWORD"),
        ({"bootstrap_servers": sasl, **LOGIN, "sasl_mechanism": "SCRAM-SHA-256"}, "KAFKA_SASL_MECHANISM"),
        ({"bootstrap_servers": plain, **LOGIN}, "KAFKA_SECURITY_PROTOCOL"),
        ({"bootstrap_servers": sasl}, "KAFKA_SECURITY_PROTOCOL"),
        ({"bootstrap_servers": plain, "security_protocol": "SSL"}, "KAFKA_SECURITY_PROTOCOL"),
    ):
        error = await refusal(kafka_server.settings(**settings), InvalidRequest)
        assert named in str(error)
        assert "wrong" not in str(error)  # no password in a message


@pytest.mark.external_service
async def test_one_good_broker_is_enough(kafka: KafkaSettings) -> None:
    """Of several brokers named, those that are gone do not matter."""
    await ensure_topics(kafka.model_copy(update={"bootstrap_servers": f"127.0.0.1:1,{kafka.bootstrap_servers}"}))


@pytest.mark.external_service
async def test_topics_that_are_not_as_declared(kafka: KafkaSettings) -> None:
    """Another number of partitions, a shorter retention: said, not lived with; a longer retention is fine."""
    await ensure_topics(kafka)
    await ensure_topics(kafka)
    error = await refusal(kafka.model_copy(update={"partitions": 4}), InvalidRequest)
    assert "stage.broadcasts has 3 partitions, 4 are declared (KAFKA_PARTITIONS)" in str(error)
    error = await refusal(kafka.model_copy(update={"broadcast_retention_s": 1e7}), InvalidRequest)
    assert "KAFKA_BROADCAST_RETENTION_S" in str(error)
    await ensure_topics(kafka.model_copy(update={"broadcast_retention_s": 100_000.0}))


@pytest.mark.external_service
async def test_more_copies_than_brokers(kafka: KafkaSettings) -> None:
    """The other brokers may still be starting."""
    error = await refusal(kafka.model_copy(update={"replication_factor": 3}), LogUnavailable)
    assert error.field == "KAFKA_REPLICATION_FACTOR"


async def test_a_retention_shorter_than_the_replay_window() -> None:
    """What the router promises to replay must be there."""
    settings = KafkaSettings(bootstrap_servers="127.0.0.1:1", broadcast_retention_s=3600)
    opening = open_kafka_log(settings, readiness=Readiness(), clock=SystemClock(), replay_window_s=86_400)
    with pytest.raises(InvalidRequest) as told:
        await opening.__aenter__()
    assert told.value.field == "KAFKA_BROADCAST_RETENTION_S"
    assert "ROUTER_REPLAY_WINDOW_S" in str(told.value)
