"""Catalogs from a database: the same rules as files, bad rows by number and column."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from contract.errors import InvalidRequest
from dgs.sources.catalog import RejectedRow
from dgs.sources.sql import SqlCatalog

QUERY = "SELECT * FROM titles"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "titles.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(
            """
            CREATE TABLE titles (id TEXT, title TEXT, year, genres TEXT, rating, votes, note BLOB);
            INSERT INTO titles VALUES ('b', 'Slam', 1998, 'Drama|Crime', 7.5, 12, x'00ff');
            INSERT INTO titles VALUES ('a', 'Sting, The', '1973-12-25', NULL, NULL, NULL, NULL);
            """
        )
    connection.close()
    return path


def insert(path: Path, *values: object) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(f"INSERT INTO titles VALUES ({', '.join('?' * 7)})", [*values, *[None] * (7 - len(values))])
    connection.close()


def catalog(path: Path, query: str = QUERY, **more: object) -> SqlCatalog:
    return SqlCatalog(f"sqlite:///{path}", query, **more)  # type: ignore[arg-type]


def refusal(source: SqlCatalog) -> str:
    with pytest.raises(InvalidRequest) as refused:
        source.load()
    return str(refused.value)


def test_rows_become_titles_in_order_of_ids(database: Path) -> None:
    """Typed cells are read as text would be, columns nobody knows are not looked at, NULL is unknown."""
    first, second = catalog(database).load().titles
    assert (first.id, first.name, first.year, first.rating, first.votes) == ("a", "The Sting", 1973, None, 0)
    assert (second.id, second.year, second.genres, second.rating, second.votes) == (
        "b", 1998, ("Drama", "Crime"), 7.5, 12,
    )  # fmt: skip


def test_bad_rows_are_named_by_row_and_column(database: Path) -> None:
    """A missing title, a year that is none, bytes, a second row with an id: left out, each with its number."""
    insert(database, "c", None)
    insert(database, "d", "Odd", "someday")
    insert(database, "e", b"\x00\x01")
    insert(database, "b", "Slam again")
    insert(database, "Not An Id!", "Odd")
    insert(database, "f", "Fine", 2001)
    loaded = catalog(database).load()
    assert [title.id for title in loaded.titles] == ["a", "b", "f"]
    assert [str(row).partition(":")[0] for row in loaded.rejected] == [
        "row 3, column title", "row 4, column year", "row 5, column title", "row 6, column id", "row 7, column id",
    ]  # fmt: skip
    assert loaded.rejected[3] == RejectedRow(6, "id", "same id b as row 1", "row")
    assert loaded.corrected[0].place == "row"


def test_strict_refuses_the_first_bad_row(database: Path) -> None:
    """Good rows are kept only if asked: strict mode loads nothing, and names row and column."""
    insert(database, "d", "Odd", "someday")
    assert "titles.db: row 3, column year: 'someday' is not a date" in refusal(catalog(database, strict=True))


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("SELECT id, year FROM titles", "the query: no column title among id, year"),
        ("SELECT title, id AS title FROM titles", "the query, column 2: title appears twice"),
        ("SELECT title FROM films", "no such table: films"),
        ("SELEC", "syntax error"),
        ("SELECT title FROM titles WHERE 0", "no rows"),
        ("SELECT NULL AS title", "no usable row; the first of 1 bad ones: row 1, column title: missing"),
        ("DELETE FROM titles", "the query returns no rows"),
    ],
)
def test_queries_that_cannot_be_used(database: Path, query: str, why: str) -> None:
    """What is wrong with the whole is refused in lenient mode too, and nothing is written."""
    assert why in refusal(catalog(database, query))
    assert len(catalog(database).load().titles) == 2


def test_text_in_another_encoding_is_named(database: Path) -> None:
    """Bytes that claim to be text and are not UTF-8 are told, with the database's name."""
    connection = sqlite3.connect(database)
    with connection:
        connection.execute("INSERT INTO titles (id, title) VALUES ('l', CAST(x'416de96c6965' AS TEXT))")
    connection.close()
    assert "titles.db" in refusal(catalog(database))
    assert "UTF-8" in refusal(catalog(database)) or "utf-8" in refusal(catalog(database))


def test_databases_that_cannot_be_reached(tmp_path: Path) -> None:
    """A file that is not there is not made; a URL is never repeated with its password."""
    missing = tmp_path / "none.db"
    assert "No such file" in refusal(catalog(missing))
    assert not missing.exists()
    (tmp_path / "text.db").write_text("this is no database, however long the text is\n" * 40)
    assert "not a database" in refusal(catalog(tmp_path / "text.db"))
    unreachable = SqlCatalog("postgresql+psycopg://me:secret@127.0.0.1:1/db", QUERY)
    assert "secret" not in refusal(unreachable)
    with pytest.raises(InvalidRequest, match="DGS_CATALOG_URL: not set"):
        SqlCatalog("", QUERY)
    with pytest.raises(InvalidRequest) as refused:
        SqlCatalog("me:secret@host", QUERY)
    assert "secret" not in str(refused.value)
    with pytest.raises(InvalidRequest, match="no such database or driver"):
        SqlCatalog("nonesuch://host/db", QUERY)


def test_the_stamp_changes_with_what_is_there(database: Path) -> None:
    """Of all rows, whatever their order, unless a query tells it more cheaply."""
    source = catalog(database)
    cheap = catalog(database, stamp_query="SELECT COUNT(*), MAX(votes) FROM titles")
    before, cheap_before = source.stamp(), cheap.stamp()
    assert source.stamp() == before
    assert catalog(database, "SELECT * FROM titles ORDER BY title DESC").stamp() == before
    insert(database, "c", "Third", 2000)
    assert source.stamp() != before
    assert cheap.stamp() != cheap_before == "(2, 12)"
    assert catalog(database, stamp_query="SELECT 1 WHERE 0").stamp() == "()"


def test_many_rows_are_streamed(tmp_path: Path) -> None:
    """More rows than one chunk arrive whole, with numbers that name the right one."""
    path = tmp_path / "many.db"
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("CREATE TABLE titles (id TEXT, title TEXT)")
        rows = [(f"t{number:05d}", "" if number == 2_345 else f"Title {number}") for number in range(1, 3_001)]
        connection.executemany("INSERT INTO titles VALUES (?, ?)", rows)
    connection.close()
    loaded = catalog(path).load()
    assert len(loaded.titles) == 2_999
    assert [row.line for row in loaded.rejected] == [2_345]
