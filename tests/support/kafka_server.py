"""Fixtures for tests on a real Kafka broker: one per test process, empty Kafka topics per test.

Import `kafka` (settings on an empty log) or `kafka_server` (to kill it) into the test module and mark what uses it
`external_service`.
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
import shutil
import tempfile
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from contract.runtime.kafka_settings import KafkaSettings
from loadtest.cluster.kafka import KafkaBroker
from loadtest.cluster.ports import reserve_ports

__all__ = ["SASL_PASSWORD", "SASL_USER", "OwnKafka", "kafka", "kafka_group", "kafka_server"]

T = TypeVar("T")
SASL_USER, SASL_PASSWORD = "stagecue", "right"
_WITHIN_S = 90.0
_GONE_WITHIN_S = 20.0
_LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule"


class OwnKafka:
    """A KafkaBroker on an event loop of its own thread, with a second listener that wants a login."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="stagecue-kafka-"))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="own-kafka", daemon=True)
        self._thread.start()
        with reserve_ports(1) as ports:
            port = ports[0]
        plain, sasl = f"PLAINTEXT://127.0.0.1:{port}", f"SASL_PLAINTEXT://127.0.0.1:{port + 2}"
        self.sasl_servers = f"127.0.0.1:{port + 2}"
        self.broker = KafkaBroker(
            self._directory / "kafka",
            port,
            properties=(
                f"listeners={plain},{sasl},CONTROLLER://127.0.0.1:{port + 1}",
                f"advertised.listeners={plain},{sasl}",
                "sasl.enabled.mechanisms=PLAIN",
                "listener.name.sasl_plaintext.plain.sasl.jaas.config="
                f'{_LOGIN} required user_{SASL_USER}="{SASL_PASSWORD}";',
            ),
        )
        self._numbers = itertools.count(1)
        atexit.register(self.close)
        self.start()

    @property
    def bootstrap_servers(self) -> str:
        return self.broker.bootstrap_servers

    def start(self) -> None:
        """Back on the data it had, if it was killed, and awake. Raises CouldNotRun."""
        self.broker.thaw()
        if not self.broker.running:
            self._run(self.broker.start())

    async def started(self) -> None:
        """`start` without blocking the caller's event loop."""
        await asyncio.to_thread(self.start)

    def kill(self) -> None:
        """SIGKILL the broker, and return when it is gone."""
        self.broker.kill()
        self._run(self.broker.wait())

    def new_group(self) -> str:
        return f"group-{next(self._numbers)}"

    def settings(self, **more: Any) -> KafkaSettings:
        return KafkaSettings(**{"bootstrap_servers": self.bootstrap_servers, "partitions": 3, **more})

    def forget_topics(self) -> None:
        """Delete our Kafka topics, and return when they are gone."""
        self.start()
        self._run(_forget_topics(self.settings()))

    def close(self) -> None:
        self.broker.thaw()
        self.broker.kill()  # what it holds is of no use to anybody
        self._run(self.broker.wait())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_WITHIN_S)
        self._loop.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_WITHIN_S)


async def _forget_topics(settings: KafkaSettings) -> None:
    names = {topic.name for topic in settings.topics}
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    await admin.start()
    try:
        deadline_s = time.monotonic() + _GONE_WITHIN_S
        while left := names & set(await admin.list_topics()):
            assert time.monotonic() < deadline_s, f"{left} could not be deleted"
            await admin.delete_topics(list(left))
            await asyncio.sleep(0.05)
    finally:
        await admin.close()


_own: OwnKafka | None = None


@pytest.fixture
def kafka_server() -> OwnKafka:
    """The broker of this test process, running; a test may kill or freeze it."""
    global _own  # one for all modules that import the fixture
    if _own is None:
        _own = OwnKafka()
    _own.start()
    return _own


@pytest.fixture
def kafka(kafka_server: OwnKafka) -> KafkaSettings:
    """Settings of a log that holds nothing yet; three partitions."""
    kafka_server.forget_topics()
    return kafka_server.settings()


@pytest.fixture
def kafka_group(kafka_server: OwnKafka) -> str:
    """A group of routers nobody else is in."""
    return kafka_server.new_group()
