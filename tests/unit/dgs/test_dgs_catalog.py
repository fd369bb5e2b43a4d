"""Catalog files: the real one, and every way a file can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from contract.errors import InvalidRequest
from dgs.sources.catalog import (
    DEMO_CATALOG,
    DEMO_OPTIONS,
    Catalog,
    CatalogOptions,
    load_catalog,
    parse_catalog,
)

HEADER = "title,release_date,major_genre,imdb_votes\n"


def refusal(text: str, form: str = "csv", *, strict: bool = False) -> str:
    with pytest.raises(InvalidRequest) as refused:
        parse_catalog(text, form, source="mine", strict=strict)  # type: ignore[arg-type]
    assert refused.value.field == "catalog"
    return refused.value.message


def test_the_demo_catalog(demo_catalog: Catalog) -> None:
    """3,201 rows: one has no title and is named by line; 22 dates are a century late; accents are repaired."""
    assert len(demo_catalog.titles) == 3200
    assert [(row.line, row.column, row.why) for row in demo_catalog.rejected] == [(3055, "title", "missing")]
    assert sum(row.column == "release_date" for row in demo_catalog.corrected) == 22
    names = {title.name: title for title in demo_catalog.titles}
    assert names["Gone with the Wind"].year == 1939
    assert {"Le Fabuleux destin d'Amélie Poulain", "The Naked Gun 2½: The Smell of Fear", "1776", "Alien³"} <= set(
        names
    )
    assert len(demo_catalog.by_id) == 3200
    assert {title.year // 10 for title in demo_catalog.titles if title.year} <= set(range(191, 202))


def test_strict_refuses_the_demo_catalog() -> None:
    """Strict mode names line and column of the first bad row, and loads nothing."""
    with pytest.raises(InvalidRequest, match=r"films\.csv: line 3055, column title: missing"):
        load_catalog(DEMO_CATALOG, strict=True)


def test_the_same_file_from_elsewhere_needs_the_options_said(tmp_path: Path) -> None:
    """Only the demo file itself brings its own options."""
    copy = tmp_path / "films.csv"
    copy.write_bytes(DEMO_CATALOG.read_bytes())
    assert "Caché" in {title.name for title in load_catalog(copy, options=DEMO_OPTIONS).titles}
    assert "Caché" not in {title.name for title in load_catalog(copy).titles}


def test_a_right_file_is_not_repaired() -> None:
    """Without the option text stays as it is; with it, text the wrong decoding cannot have produced does too."""
    text = HEADER + "Amélie,,,\n千と千尋の神隠し,,,\n"
    assert [title.name for title in parse_catalog(text, "csv").titles] == ["Amélie", "千と千尋の神隠し"]
    repaired = parse_catalog(text, "csv", options=CatalogOptions(repair="mac-roman"))
    assert repaired.titles[1].name == "千と千尋の神隠し"


def test_lenient_keeps_the_good_rows() -> None:
    """Every kind of bad row is listed with the line it starts on; a title over two lines does not confuse the count."""
    text = (
        HEADER
        + 'Good,1998,Drama,5\n"Two\nlines",1999,,\n,2000,,\nShort,2000\nLong,2000,Drama,1,extra\n'
        + 'Bad votes,2000,Drama,many\n"open"x,2000,,\n\n   ,,,\nGood,1998,Drama,7\nLast,2001,,\n'
    )
    catalog = parse_catalog(text, "csv")
    assert [title.name for title in catalog.titles] == ["Good", "Two lines", "Last"]
    assert [(row.line, row.column) for row in catalog.rejected] == [
        (5, "title"),
        (6, "major_genre"),
        (7, "#5"),
        (8, "imdb_votes"),
        (9, "(quotes)"),
        (12, "title"),
    ]
    assert catalog.rejected[-1].why.endswith("as line 2")


def test_an_open_quote_says_how_far_it_reached() -> None:
    """A quote that never closes swallows the rest of the file: the row says so."""
    catalog = parse_catalog(HEADER + 'Good,,,\n"Open,,,\nLost,,,\nLost too,,,\n', "csv")
    assert [title.name for title in catalog.titles] == ["Good"]
    assert (catalog.rejected[0].line, "up to line 5" in catalog.rejected[0].why) == (3, True)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no column title among nothing"),
        ("name of film,year\nSlam,1998\n", "line 1: no column title among name of film, year"),
        ("title,year,title\n", "line 1, column 3: title appears twice"),
        (HEADER, "no rows"),
        (HEADER + ",,,\n", "no rows"),
        (HEADER + ",1998,,\n", "no usable row; the first of 1 bad ones: line 2, column title: missing"),
    ],
)
def test_files_that_cannot_be_used(text: str, why: str) -> None:
    """What is wrong with the file as a whole is refused in lenient mode too."""
    assert why in refusal(text)


def test_strict_refuses_duplicates_by_line() -> None:
    """A repeated id names both lines."""
    assert "line 3, column id: same id a as line 2" in refusal("id,title\na,One\na,Two\n", strict=True)


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    """The wrong encoding is told by line and byte, with what to do."""
    path = tmp_path / "latin.csv"
    path.write_bytes(b"title\nSlam\nAm\xe9lie\n")
    with pytest.raises(
        InvalidRequest, match=r"latin\.csv: line 3, byte 3: not UTF-8 \(0xe9\) \(save the file as UTF-8"
    ):
        load_catalog(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file and a directory are told, not a traceback."""
    with pytest.raises(InvalidRequest, match="No such file"):
        load_catalog(tmp_path / "none.csv")
    with pytest.raises(InvalidRequest, match="cannot be read"):
        load_catalog(tmp_path)


def test_a_byte_order_mark_and_other_names_of_columns(tmp_path: Path) -> None:
    """A spreadsheet's export works: BOM, CRLF, `name`, `year`, `genre`."""
    path = tmp_path / "mine.csv"
    path.write_bytes("\ufeffname,year,genre\r\nSlam,1998,Drama\r\n".encode())
    (title,) = load_catalog(path).titles
    assert (title.name, title.year, title.genres) == ("Slam", 1998, ("Drama",))


def test_json(tmp_path: Path) -> None:
    """The same rules for an array of objects; bad ones by the line they start on."""
    path = tmp_path / "mine.json"
    rows = [
        {"title": "Slam", "year": 1998, "genres": ["Drama", "Crime"], "rating": 3.4, "votes": None},
        {"title": None},
        {"title": "Odd", "genres": {"a": 1}},
        {"title": 1776, "unknown": [1]},
        7,
    ]
    path.write_text(json.dumps(rows, indent=1))
    catalog = load_catalog(path)
    assert [(title.name, title.year, title.genres) for title in catalog.titles] == [
        ("Slam", 1998, ("Drama", "Crime")),
        ("1776", None, ()),
    ]
    assert [(row.line, row.column) for row in catalog.rejected] == [(12, "title"), (15, "genres"), (27, "(row)")]


def test_json_on_one_line_names_the_row() -> None:
    """As machines write it: the line alone would say nothing."""
    text = '[{"id": "a", "title": "Slam"}, {"title": ""}, {"id": "a", "title": "Two"}]'
    catalog = parse_catalog(text, "json")
    assert [str(row) for row in catalog.rejected] == [
        "line 1, row 2, column title: missing",
        "line 1, row 3, column id: same id a as line 1, row 1",
    ]
    assert "mine: line 1, row 2, column title: missing" in refusal(text, "json", strict=True)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"title": "Slam"}', "line 1: not a JSON array of objects"),
        ("", "not a JSON array"),
        ('[\n {"title": "Slam",}\n]', "line 2, column"),
        ('[\n {"title": "Slam"}\n {"title": "Two"}]', "line 3: expected , or ]"),
        ('[\n {"title": "Slam"}', "expected , or ]"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "no rows"),
    ],
)
def test_json_that_cannot_be_used(text: str, why: str) -> None:
    """Broken JSON is refused whole, naming the line."""
    assert why in refusal(text, "json")
