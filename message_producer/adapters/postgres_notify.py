"""LISTEN: commits of other producers, heard at once. A hint on top of looking every so often."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa
import structlog

from contract.backoff import Backoff
from message_producer.adapters.sql_engine import CHANNEL

__all__ = ["follow_notifications"]

_RETRY_FIRST_S: Final = 0.05
_RETRY_CAP_S: Final = 1.0
_PROVE_EVERY_S: Final = 5.0
"""A connection that only listens never notices that the other end is gone; asking it something does."""
_ANSWER_WITHIN_S: Final = 3.0

_log = structlog.get_logger(__name__)


async def follow_notifications(url: sa.URL, changed: Callable[[], None]) -> None:
    """Call `changed` at every notification, and after every time that none could be heard; runs until cancelled."""
    import psycopg

    backoff = Backoff(first_s=_RETRY_FIRST_S, cap_s=_RETRY_CAP_S, jitter=random.random)
    heard = True
    while True:
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                connection = await psycopg.AsyncConnection.connect(autocommit=True, **_parameters(url))
        except (psycopg.Error, TimeoutError, OSError) as exc:
            if heard:
                _log.warning("not_listening", why=str(exc).splitlines()[0] if str(exc) else type(exc).__name__)
            heard = False
            await asyncio.sleep(backoff.next_s())
            continue
        try:
            await _listen(connection, changed, backoff)
        except (psycopg.Error, TimeoutError, OSError):
            heard = False
        finally:
            await connection.close()
        await asyncio.sleep(backoff.next_s())


async def _listen(connection: Any, changed: Callable[[], None], backoff: Backoff) -> None:
    async with asyncio.timeout(_ANSWER_WITHIN_S):
        await connection.execute(f"LISTEN {CHANNEL}")
    backoff.reset()
    changed()
    while True:
        async for _ in connection.notifies(timeout=_PROVE_EVERY_S):
            changed()
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            await connection.execute("SELECT 1")


def _parameters(url: sa.URL) -> dict[str, Any]:
    """The URL as psycopg takes it, query parameters included."""
    named = {
        "host": url.host,
        "port": url.port,
        "user": url.username,
        "password": url.password,
        "dbname": url.database,
        "application_name": "stagecue-producer-listen",
    }
    return {name: value for name, value in {**url.query, **named}.items() if value is not None}
