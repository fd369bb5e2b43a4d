"""The schedule stores a producer can have, as one fixture: what holds on one must hold on the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from message_producer.adapters.sql_engine import Dialect
from message_producer.settings import ProducerSettings
from tests.support.postgres_server import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url", "producer_settings", "time_by_hand"]

STORES = ["sqlite", pytest.param("postgres", marks=pytest.mark.external_service)]


@pytest.fixture(params=STORES)
def producer_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ProducerSettings]:
    """Settings of a producer on an empty store: a SQLite file, and a PostgreSQL database."""
    if request.param == "sqlite":
        yield ProducerSettings(data_dir=tmp_path)
    else:
        yield ProducerSettings(data_dir=tmp_path, database_url=request.getfixturevalue("postgres_url"))


@pytest.fixture
def time_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database's clock is the test's: PostgreSQL would otherwise tell the real time."""
    monkeypatch.setattr(Dialect, "now_ms", lambda self, connection: self._clock.now_ms())
