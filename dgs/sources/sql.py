"""Catalog source `sql`: the rows of one query, by any database SQLAlchemy speaks to.

Columns are named as in a CSV catalog and go through the same rules; a bad row is named by its number and column. Rows
are streamed, nothing is written, and what a query might write is rolled back. Titles are put in order of their ids,
since rows come in any: every process must number them alike.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, NullPool, Row, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from contract.errors import InvalidRequest
from dgs.sources.catalog import (
    MAX_FILE_BYTES,
    MAX_ROWS,
    Catalog,
    CatalogOptions,
    RawRow,
    collect_titles,
    match_columns,
)
from dgs.sources.tidy import BadCell

__all__ = ["SqlCatalog"]

_ROWS_AT_ONCE: Final = 1_000
_CONNECT_S: Final = 10
_STATEMENT_MS: Final = 60_000


class SqlCatalog:
    """CatalogSource over a query; each look has a connection of its own. Raises InvalidRequest for an unusable URL."""

    def __init__(
        self,
        url: str,
        query: str,
        *,
        stamp_query: str = "",
        strict: bool = False,
        options: CatalogOptions | None = None,
    ) -> None:
        self._url = _parse(url)
        self._shown = self._url.render_as_string(hide_password=True)
        self._query = query
        self._stamp_query = stamp_query
        self._strict = strict
        self._options = options
        try:
            self._engine = create_engine(self._url, poolclass=NullPool, connect_args=_bounds(self._url))
        except (NoSuchModuleError, ArgumentError) as exc:
            raise _refusal(self._shown, f"no such database or driver: {exc}") from exc
        except ImportError as exc:
            raise _refusal(self._shown, f"its driver is not installed: {exc}") from exc

    def load(self) -> Catalog:
        """Blocking. Raises InvalidRequest: the database cannot be read, the query fails, and as `load_catalog`."""
        with self._rows(self._query) as (names, rows):
            columns = match_columns(names, f"{self._shown}: the query")
            raw = (RawRow(number, cells, columns) for number, cells in self._cells(names, columns, rows))
            found = collect_titles(raw, source=self._shown, strict=self._strict, options=self._options, place="row")
        return Catalog(tuple(sorted(found.titles, key=lambda title: title.id)), found.rejected, found.corrected)

    def stamp(self) -> str:
        """Blocking; the first row of the stamp query, or else a digest of all rows in whatever order they come."""
        if self._stamp_query:
            with self._rows(self._stamp_query) as (_, rows):
                return repr(tuple(next(rows, ())))
        whole = number = 0
        with self._rows(self._query) as (names, rows):
            for number, row in enumerate(rows, start=1):
                if number > MAX_ROWS:
                    raise _refusal(self._shown, f"more than {MAX_ROWS} rows")
                # A sum, so that the order in which the database hands rows out makes no difference.
                whole += int.from_bytes(blake2b(repr(tuple(row)).encode(), digest_size=16).digest())
        return f"{number}-{whole % 2**128:032x}-{blake2b(repr(names).encode(), digest_size=4).hexdigest()}"

    @contextmanager
    def _rows(self, query: str) -> Iterator[tuple[list[str], Iterator[Row[Any]]]]:
        """Names of the columns, and rows as they come; database errors become InvalidRequest while they are read."""
        if self._url.get_backend_name() == "sqlite" and _missing_file(self._url.database):
            # SQLite would make an empty one.
            raise _refusal(self._shown, "cannot be read: No such file or directory")
        try:
            # Closed as soon as a bad row ends the reading: a server-side cursor is otherwise left behind.
            with self._connected() as connection, connection.execute(text(query)) as result:
                if not result.returns_rows:
                    raise _refusal(self._shown, "the query returns no rows", "a SELECT")
                yield list(result.keys()), iter(result)
        except SQLAlchemyError as exc:
            cause = getattr(exc, "orig", None) or exc
            raise _refusal(self._shown, f"{type(cause).__name__}: {str(cause).strip().splitlines()[0][:300]}") from exc
        except UnicodeDecodeError as exc:
            raise _refusal(self._shown, f"text that is not {exc.encoding}: byte 0x{exc.object[exc.start]:02x}") from exc

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        with self._engine.connect() as connection:
            yield connection.execution_options(stream_results=True, yield_per=_ROWS_AT_ONCE)

    def _cells(
        self, names: Sequence[str], columns: Mapping[str, str], rows: Iterator[Row[Any]]
    ) -> Iterator[tuple[int, Mapping[str, str] | BadCell]]:
        """Every row numbered from 1, the columns we know as text; others are not looked at."""
        places = [(name, names.index(name)) for name in columns.values()]
        size = 0
        for number, row in enumerate(rows, start=1):
            cells: dict[str, str] = {}
            try:
                for name, place in places:
                    cells[name] = _as_text(row[place], name)
            except BadCell as bad:
                yield number, bad
                continue
            size += sum(map(len, cells.values()))
            if size > MAX_FILE_BYTES:
                raise _refusal(self._shown, f"more than {MAX_FILE_BYTES // 1024 // 1024} MiB of text")
            yield number, cells


def _as_text(value: object, column: str) -> str:
    """A cell as a CSV would have it. Raises BadCell for what a CSV cannot have."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        raise BadCell(column, "a truth value, neither text nor a number")
    if isinstance(value, int | float | Decimal):
        return format(value, "f").rstrip("0").rstrip(".") if isinstance(value, Decimal) and value % 1 else str(value)
    if isinstance(value, datetime.datetime):
        return value.date().isoformat()
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return "|".join(value)
    raise BadCell(column, f"{type(value).__name__}, neither text nor a number")


def _parse(url: str) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError) as exc:
        # Not repeated: it may hold a password.
        rule = "an SQLAlchemy URL, e.g. sqlite:////srv/titles.db"
        raise InvalidRequest("not a usable URL" if url else "not set", field="DGS_CATALOG_URL", rule=rule) from exc


def _bounds(url: URL) -> dict[str, Any]:
    """Time limits of drivers known to have them, unless the URL sets its own."""
    if url.get_backend_name() == "sqlite":
        return {} if "timeout" in url.query else {"timeout": _CONNECT_S}
    if url.get_driver_name() not in ("psycopg", "psycopg2"):
        return {}
    bounds: dict[str, Any] = {} if "connect_timeout" in url.query else {"connect_timeout": _CONNECT_S}
    if "options" not in url.query:
        bounds["options"] = f"-c statement_timeout={_STATEMENT_MS} -c default_transaction_read_only=on"
    return bounds


def _missing_file(database: str | None) -> bool:
    if not database or database == ":memory:" or database.startswith("file:"):
        return False
    return not Path(database).exists()


def _refusal(source: str, why: str, rule: str | None = None) -> InvalidRequest:
    return InvalidRequest(f"{source}: {why}", field="catalog", rule=rule)
