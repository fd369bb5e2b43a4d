"""A catalog from a CSV or JSON file: good rows become titles, the others are listed by line and column.

Strict mode refuses the whole file at its first bad row; lenient mode keeps the good ones and reports the rest.
`parse_catalog` is pure; `load_catalog` reads the file, blocking; `collect_titles` does it for rows from elsewhere.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from heapq import nsmallest
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from contract.errors import InvalidRequest
from dgs.model import Title
from dgs.sources.tidy import COLUMNS, BadCell, Tidied, tidy_row

__all__ = [
    "DEMO_CATALOG",
    "DEMO_OPTIONS",
    "MAX_FILE_BYTES",
    "MAX_ROWS",
    "Catalog",
    "CatalogOptions",
    "RawRow",
    "RejectedRow",
    "collect_titles",
    "demo_options",
    "is_demo",
    "load_catalog",
    "match_columns",
    "parse_catalog",
]

MAX_FILE_BYTES: Final = 256 * 1024 * 1024
MAX_ROWS: Final = 1_000_000
POPULAR_TITLES: Final = 500
DEMO_CATALOG: Final = Path(__file__).parent.parent / "catalog_demo" / "films.csv"


class CatalogOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What cannot be read off a file itself."""

    newest_year: int = 2035
    """Later years are taken for two-digit years in the wrong century. Set it to the catalog's own newest year."""
    repair: Literal["none", "mac-roman"] = "none"
    """`mac-roman`: text was Windows-1252 read as Mac Roman before it was saved (`LÈon` for `Léon`); undo that."""


DEMO_OPTIONS: Final = CatalogOptions(newest_year=2012, repair="mac-roman")


def demo_options(path: Path) -> CatalogOptions:
    """The demo catalog's own options if `path` is that file, else the defaults."""
    return DEMO_OPTIONS if is_demo(path) else CatalogOptions()


def is_demo(path: Path) -> bool:
    """Whether it is the catalog that ships."""
    return path.resolve() == DEMO_CATALOG.resolve()


class RejectedRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """A row that was left out."""

    line: int
    """Line of the file on which the row starts, or number of the row, counted from 1."""
    column: str
    why: str
    place: Literal["line", "row"] = "line"
    row: int = 0
    """Number of the row, counted from 1, where lines do not tell rows apart; 0: they do."""

    def __str__(self) -> str:
        return f"{_place(self.place, self.line, self.row)}, column {self.column}: {self.why}"


class Catalog(msgspec.Struct, frozen=True, dict=True):
    """Titles in file order; ids are unique."""

    titles: tuple[Title, ...]
    rejected: tuple[RejectedRow, ...] = ()
    corrected: tuple[RejectedRow, ...] = ()
    """Rows kept after something was put right, with what."""

    @cached_property
    def by_id(self) -> Mapping[str, Title]:
        return {title.id: title for title in self.titles}

    @cached_property
    def popular(self) -> tuple[Title, ...]:
        """The most voted titles, most first: what everybody is shown for whom nobody could choose."""
        return tuple(nsmallest(POPULAR_TITLES, self.titles, key=lambda title: (-title.votes, title.id)))


def load_catalog(path: Path, *, strict: bool = False, options: CatalogOptions | None = None) -> Catalog:
    """Read and parse `path` (`.json` is JSON, anything else CSV), blocking.

    Raises InvalidRequest that names file, line and column: unreadable, too large, not UTF-8, no title column,
    no usable row; in strict mode also the first bad row. Without `options` the demo catalog gets its own.
    """
    options = options or demo_options(path)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _refusal(path.name, f"larger than {MAX_FILE_BYTES // 1024 // 1024} MiB")
        raw = path.read_bytes()
    except OSError as exc:
        raise _refusal(str(path), f"cannot be read: {exc.strerror}") from exc
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        column = exc.start - (raw.rfind(b"\n", 0, exc.start) + 1) + 1
        raise _refusal(
            path.name, f"line {line}, byte {column}: not UTF-8 (0x{raw[exc.start]:02x})", "save the file as UTF-8"
        ) from exc
    form: Literal["csv", "json"] = "json" if path.suffix.lower() == ".json" else "csv"
    return parse_catalog(text, form, source=path.name, strict=strict, options=options)


def parse_catalog(
    text: str,
    form: Literal["csv", "json"],
    *,
    source: str = "catalog",
    strict: bool = False,
    options: CatalogOptions | None = None,
) -> Catalog:
    """Titles of `text`; errors as `load_catalog`, naming `source`."""
    rows = _csv_rows(text, source) if form == "csv" else _json_rows(text, source)
    return collect_titles(rows, source=source, strict=strict, options=options)


class RawRow(NamedTuple):
    """A row as its source gives it."""

    line: int
    cells: Mapping[str, str] | BadCell
    """Text by the source's column names, or what made the row unreadable."""
    columns: Mapping[str, str]
    """Our name of a column -> the source's; see `match_columns`."""
    number: int = 0
    """Counted from 1, where several rows may start on a line; else 0."""


def collect_titles(
    rows: Iterable[RawRow],
    *,
    source: str,
    strict: bool = False,
    options: CatalogOptions | None = None,
    place: Literal["line", "row"] = "line",
) -> Catalog:
    """Tidy every row, once and in order; errors as `load_catalog`, naming `source` and each row by its `place`."""
    options = options or CatalogOptions()
    titles: list[Title] = []
    rejected: list[RejectedRow] = []
    corrected: list[RejectedRow] = []
    seen: dict[str, tuple[int, int]] = {}
    for line, row, columns, number in rows:
        if len(titles) + len(rejected) >= MAX_ROWS:
            raise _refusal(source, f"more than {MAX_ROWS} rows")
        try:
            tidied = _tidied(row, columns, options)
            first = seen.setdefault(tidied.title.id, (line, number))
            _check_first(first == (line, number), columns, f"same id {tidied.title.id} as {_place(place, *first)}")
        except BadCell as exc:
            bad = RejectedRow(line, exc.column, exc.why, place, number)
            if strict:
                raise _refusal(
                    source, str(bad), "fix the row, or keep the good ones with DGS_CATALOG_STRICT=false"
                ) from exc
            rejected.append(bad)
        else:
            titles.append(tidied.title)
            corrected.extend(RejectedRow(line, column, what, place, number) for column, what in tidied.corrections)
    if not titles:
        why = f"no usable row; the first of {len(rejected)} bad ones: {rejected[0]}" if rejected else "no rows"
        raise _refusal(source, why)
    return Catalog(tuple(titles), tuple(rejected), tuple(corrected))


def _tidied(row: Mapping[str, str] | BadCell, columns: Mapping[str, str], options: CatalogOptions) -> Tidied:
    if isinstance(row, BadCell):
        raise row
    if options.repair == "mac-roman":
        row = {name: _repair_mac_roman(value) for name, value in row.items()}
    return tidy_row(row, columns, newest_year=options.newest_year)


def _check_first(is_first: bool, columns: Mapping[str, str], why: str) -> None:
    if not is_first:
        raise BadCell(columns.get("id", columns["title"]), why)


def _csv_rows(text: str, source: str) -> Iterator[RawRow]:
    """(line, cells or what is wrong, our column -> the file's) of every row that is not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as exc:
        raise _refusal(source, f"line 1: {exc}") from exc
    columns = match_columns(header, f"{source}: line 1")
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            why = "a quote opens and never closes" if "end of data" in str(exc) else str(exc)
            lost = f"; everything up to line {reader.line_num} is lost" if reader.line_num > line else ""
            yield RawRow(line, BadCell("(quotes)", why + lost), columns)
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) < len(header):
            why = f"missing; the row has {len(cells)} of {len(header)} columns"
            yield RawRow(line, BadCell(header[len(cells)], why), columns)
        elif len(cells) > len(header):
            why = f"the row has {len(cells)} columns, the header {len(header)}"
            yield RawRow(line, BadCell(f"#{len(header) + 1}", why), columns)
        else:
            yield RawRow(line, dict(zip(header, cells, strict=True)), columns)


def _json_rows(text: str, source: str) -> Iterator[RawRow]:
    """The same for an array of objects, each told by the line it starts on and its place in the array."""
    decoder = json.JSONDecoder()
    at = _skip(text, 0)
    line, counted, number = 1, 0, 0
    if text[at : at + 1] != "[":
        raise _refusal(source, f"line {_line(text, at)}: not a JSON array of objects")
    at = _skip(text, at + 1)
    while text[at : at + 1] != "]":
        start = at
        try:
            item, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as exc:
            raise _refusal(source, f"line {exc.lineno}, column {exc.colno}: {exc.msg}") from exc
        except RecursionError as exc:
            raise _refusal(source, f"line {_line(text, start)}: nested too deeply") from exc
        line, counted, number = line + text.count("\n", counted, start), start, number + 1
        yield _json_row(item, line, number)
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            raise _refusal(source, f"line {_line(text, at)}: expected , or ] after an object")


def _json_row(item: object, line: int, number: int) -> RawRow:
    columns = {"title": "title"}
    if not isinstance(item, dict):
        return RawRow(line, BadCell("(row)", "not an object"), columns, number)
    columns = _present(item)
    columns.setdefault("title", "title")
    cells: dict[str, str] = {}
    for name in columns.values():
        value: object = item.get(name)
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            cells[name] = "|".join(value)
            continue
        if isinstance(value, bool) or not isinstance(value, str | int | float | None):
            return RawRow(line, BadCell(name, "neither text nor a number"), columns, number)
        cells[name] = "" if value is None else str(value)
    return RawRow(line, cells, columns, number)


def match_columns(header: Sequence[str], where: str) -> dict[str, str]:
    """Our name of a column -> the header's. Raises InvalidRequest beginning with `where`: one twice, or no title."""
    for index, name in enumerate(header):
        if name and name in header[:index]:
            raise InvalidRequest(f"{where}, column {index + 1}: {name} appears twice", field="catalog")
    found = _present(header)
    if "title" not in found:
        among = ", ".join(header)[:200] or "nothing"
        raise InvalidRequest(f"{where}: no column title among {among}", field="catalog")
    return found


def _present(names: Sequence[str] | Mapping[str, object]) -> dict[str, str]:
    """Our column -> the first of its names that the file has."""
    return {ours: known for ours, all_known in COLUMNS.items() for known in reversed(all_known) if known in names}


def _repair_mac_roman(text: str) -> str:
    """Undo one wrong decoding; text that it cannot have produced stays as it is."""
    if text.isascii():
        return text
    try:
        return text.encode("mac_roman").decode("cp1252")
    except UnicodeError:
        return text


def _place(place: str, line: int, row: int) -> str:
    return f"{place} {line}, row {row}" if row else f"{place} {line}"


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _refusal(source: str, why: str, rule: str | None = None) -> InvalidRequest:
    return InvalidRequest(f"{source}: {why}", field="catalog", rule=rule)
