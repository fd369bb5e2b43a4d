"""The catalog from a real PostgreSQL: its own types, a server that goes away, and a query that would write."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, text

from contract.clock import ManualClock
from contract.errors import InvalidRequest
from dgs.sources.reload import CatalogReload
from dgs.sources.sql import SqlCatalog
from tests.support.postgres_server import OwnPostgres, postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]

pytestmark = pytest.mark.external_service

QUERY = "SELECT * FROM films"


def run(url: str, *statements: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


@pytest.fixture
def films(postgres_url: str) -> str:
    run(
        postgres_url,
        "CREATE TABLE films (id text, title text, year date, genres text[], rating numeric(3, 1), votes bigint)",
        "INSERT INTO films VALUES ('b', 'Slam', '1998-10-09', '{Drama,Crime}', 7.0, 12)",
        "INSERT INTO films VALUES ('a', 'Alien', NULL, '{}', 8.5, 9)",
        "INSERT INTO films SELECT 'x' || n, 'Film ' || n FROM generate_series(1, 2500) AS n",
    )
    return postgres_url


def test_types_of_its_own_and_many_rows(films: str) -> None:
    """Dates, arrays and decimals are read as a CSV would have them; rows come in chunks."""
    catalog = SqlCatalog(films, QUERY).load()
    assert len(catalog.titles) == 2502
    assert catalog.rejected == ()
    slam, alien = catalog.by_id["b"], catalog.by_id["a"]
    assert (slam.year, slam.genres, slam.rating, slam.votes) == (1998, ("Drama", "Crime"), 7.0, 12)
    assert (alien.year, alien.genres, alien.rating) == (None, (), 8.5)


def test_a_column_of_another_type_is_named(films: str) -> None:
    """A truth value where a number belongs: the row by number, the column by name."""
    query = "SELECT title, votes > 10 AS votes FROM films WHERE id IN ('a', 'b') ORDER BY id"
    with pytest.raises(InvalidRequest, match="row 1, column votes: a truth value"):
        SqlCatalog(films, query, strict=True).load()


def test_nothing_is_written(films: str) -> None:
    """The session is read-only: a query that would write is refused by the server."""
    run(films, "CREATE SEQUENCE numbers")
    with pytest.raises(InvalidRequest, match="read-only"):
        SqlCatalog(films, "SELECT nextval('numbers') AS title").load()
    with pytest.raises(InvalidRequest, match="DELETE"):
        SqlCatalog(films, "DELETE FROM films RETURNING title").load()
    assert len(SqlCatalog(films, QUERY).load().titles) == 2502


async def test_a_server_that_dies_costs_nothing(films: str, postgres_server: OwnPostgres) -> None:
    """The old catalog is served meanwhile, and why is said without the URL's password; back again, so are changes."""
    reload = CatalogReload(SqlCatalog(films, QUERY), every_s=0, clock=ManualClock(), jitter=lambda: 0.5)
    postgres_server.kill()
    assert not await reload.look()
    assert len(reload.current().titles) == 2502
    assert "films" not in str(reload.status()["error"])
    assert reload.status()["error"]
    postgres_server.start()
    assert not await reload.look()
    assert reload.status()["error"] is None
    run(films, "DELETE FROM films WHERE id LIKE 'x%'")
    assert await reload.look()
    assert len(reload.current().titles) == 2
