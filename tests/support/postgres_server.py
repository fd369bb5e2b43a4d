"""Fixtures for tests on a real PostgreSQL: one server per process, one database per test.

Import `postgres_url` (or `postgres_server`, to kill it) into the test module and mark what uses it `external_service`.
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
import shutil
import tempfile
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from loadtest.cluster.postgres import PostgresServer

__all__ = ["OwnPostgres", "postgres_server", "postgres_url"]

T = TypeVar("T")
_WITHIN_S = 40.0


class OwnPostgres:
    """A PostgresServer on an event loop of its own thread, so that tests on any loop, or on none, can use it."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="stagecue-postgres-"))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="own-postgres", daemon=True)
        self._thread.start()
        self._server = PostgresServer(self._directory / "postgres")
        self._numbers = itertools.count(1)
        atexit.register(self.close)
        self.start()

    @property
    def port(self) -> int:
        return self._server.port

    def start(self) -> None:
        """Back on the data it had, if it was killed. Raises CouldNotRun."""
        if not self._server.running:
            self._run(self._server.start())

    def kill(self) -> None:
        """SIGKILL the whole server, and return when nothing of it is left."""
        self._server.kill()
        self._run(self._server.wait())

    def new_database(self) -> str:
        """The URL of an empty database."""
        self.start()
        return self._run(self._server.create_database(f"test_{next(self._numbers)}"))

    def drop(self, url: str) -> None:
        """Remove a database `new_database` made."""
        self.start()
        self._run(self._server.drop_database(url.rpartition("/")[2]))

    def close(self) -> None:
        self._run(self._server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_WITHIN_S)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_WITHIN_S)


_own: OwnPostgres | None = None


@pytest.fixture
def postgres_server() -> OwnPostgres:
    """The server of this test process, running; a test may kill it."""
    global _own  # one for all modules that import the fixture
    if _own is None:
        _own = OwnPostgres()
    _own.start()
    return _own


@pytest.fixture
def postgres_url(postgres_server: OwnPostgres) -> Iterator[str]:
    """An empty database of the test's own; gone afterwards, with whoever is still connected."""
    url = postgres_server.new_database()
    yield url
    postgres_server.drop(url)
