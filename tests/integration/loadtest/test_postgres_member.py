"""PostgreSQL as a cluster member: its data and its address outlive what is done to its processes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest

from loadtest.bench.outcome import CouldNotRun
from loadtest.cluster.postgres import PostgresServer

pytestmark = pytest.mark.external_service


async def rows(url: str, *statements: str) -> list[tuple[object, ...]]:
    def run() -> list[tuple[object, ...]]:
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    return await asyncio.to_thread(run)


async def test_what_was_committed_survives_kill_9_and_a_stop(tmp_path: Path) -> None:
    """Goal: killed whole, with sessions open, it starts again at once on the same port, password and data."""
    server = PostgresServer(tmp_path / "pg")
    await server.start()
    try:
        url = server.url
        await rows(url, "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (1)")
        busy = asyncio.create_task(rows(url, "SELECT pg_sleep(30)"))
        await asyncio.sleep(0.1)
        server.kill()
        assert await server.wait() == -9
        with pytest.raises(psycopg.OperationalError):
            await busy
        assert not server.running
        await server.start()
        assert server.url == url
        assert await rows(url, "SELECT n FROM kept") == [(1,)]
        assert await server.stop() == 0
        await server.start()
        assert await rows(url, "SELECT n FROM kept") == [(1,)]
    finally:
        await server.stop()


async def test_frozen_it_answers_nobody_and_thawed_it_does(tmp_path: Path) -> None:
    async with PostgresServer(tmp_path / "pg") as server:
        server.freeze()
        asked = asyncio.create_task(rows(server.url, "SELECT 1"))
        await asyncio.sleep(0.3)
        assert not asked.done()
        server.thaw()
        assert await asked == [(1,)]


async def test_a_taken_port_is_named_with_the_end_of_the_log(tmp_path: Path) -> None:
    async with PostgresServer(tmp_path / "one") as server:
        with pytest.raises(CouldNotRun, match="Address already in use"):
            await PostgresServer(tmp_path / "two", server.port).start()


async def test_databases_are_made_and_dropped(tmp_path: Path) -> None:
    async with PostgresServer(tmp_path / "pg") as server:
        url = await server.create_database("extra")
        assert await rows(url, "SELECT current_database()") == [("extra",)]
        await server.drop_database("extra")
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            await rows(url, "SELECT 1")
