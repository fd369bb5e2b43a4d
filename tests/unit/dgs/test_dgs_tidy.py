"""Tidying one row: every rule of dgs.sources.tidy, and the column a broken one names."""

from __future__ import annotations

import pytest

from dgs.sources.tidy import BadCell, Tidied, tidy_row, title_id

COLUMNS = {
    "id": "id",
    "title": "title",
    "release_date": "release_date",
    "genres": "major_genre",
    "director": "director",
    "maturity": "mpaa_rating",
    "runtime_minutes": "running_time_min",
    "rating": "imdb_rating",
    "votes": "imdb_votes",
    "synopsis": "synopsis",
}


def tidy(newest_year: int = 2012, **cells: str) -> Tidied:
    return tidy_row({"title": "Slam", **cells}, COLUMNS, newest_year=newest_year)


def test_a_whole_row() -> None:
    """Every column lands in its field with its type."""
    title = tidy(
        title="12 Angry Men",
        release_date="Apr 13 1957",
        major_genre="Drama",
        director=" Sidney  Lumet ",
        mpaa_rating="PG",
        running_time_min="96.0",
        imdb_rating="8.9",
        imdb_votes="119101",
        synopsis="Twelve men in a room.",
    ).title
    assert (title.name, title.year, title.genres, title.director) == ("12 Angry Men", 1957, ("Drama",), "Sidney Lumet")
    assert (title.maturity, title.runtime_minutes, title.rating, title.votes) == ("PG", 96, 8.9, 119101)
    assert title.synopsis == "Twelve men in a room."
    assert title.id.startswith("12-angry-men-")


def test_empty_means_unknown() -> None:
    """Nothing but a title is a good row; unknown is None, not an empty string or zero."""
    title = tidy(major_genre=" ", running_time_min="", imdb_rating="").title
    assert title.year is title.director is title.maturity is title.runtime_minutes is title.rating is None
    assert (title.genres, title.votes) == ((), 0)


@pytest.mark.parametrize("name", ["1776", "9", "11:14", "Oliver!", "Tora, Tora, Tora", 'A "quoted" one', "<b>&amp;"])
def test_odd_titles_are_left_alone(name: str) -> None:
    """Numbers, punctuation and markup are fine titles."""
    assert tidy(title=name).title.name == name


def test_an_article_after_a_comma_goes_to_the_front() -> None:
    """Library order becomes reading order, is reported, and does not change the id."""
    tidied = tidy(title="Sting, The")
    assert tidied.title.name == "The Sting"
    assert tidied.title.id == title_id("Sting, The", "")
    assert tidied.corrections == (("title", "article moved to the front: The Sting"),)


@pytest.mark.parametrize(
    ("text", "year"),
    [
        ("Jun 12 1998", 1998),
        ("June 12, 1998", 1998),
        ("1998-06-12", 1998),
        ("6/12/1998", 1998),
        ("1998", 1998),
        ("", None),
    ],
)
def test_dates(text: str, year: int | None) -> None:
    """Every accepted form of a date gives its year."""
    assert tidy(release_date=text).title.year == year


def test_a_century_late() -> None:
    """A year after the catalog's newest is moved back 100 years, and said."""
    tidied = tidy(title="Gone with the Wind", release_date="Dec 15 2039")
    assert tidied.title.year == 1939
    assert tidied.corrections == (("release_date", "year 2039 is after 2012: read as 1939"),)
    assert tidy(release_date="2012-01-01").title.year == 2012


def test_genres_are_split_and_unique() -> None:
    """One cell may hold several genres in several notations."""
    assert tidy(major_genre="Thriller/Suspense").title.genres == ("Thriller", "Suspense")
    assert tidy(major_genre="Comedy|Drama, Comedy;").title.genres == ("Comedy", "Drama")


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("title", "  ", "missing"),
        ("title", "x" * 501, "at most 500"),
        ("title", "a\x00b", "control characters"),
        ("release_date", "Foo 12 1998", "not a date"),
        ("release_date", "1998-13-01", "not a date"),
        ("release_date", "yesterday", "write 1998-06-12"),
        ("release_date", "1700", "not between 1888 and 2012"),
        ("release_date", "9999", "not between 1888 and 2012"),
        ("running_time_min", "long", "not a whole number"),
        ("running_time_min", "0", "not between 1 and 2000"),
        ("imdb_rating", "11", "not between 0 and 10"),
        ("imdb_rating", "nan", "not a number"),
        ("imdb_votes", "-1", "not between 0"),
        ("imdb_votes", "1e9", "not a whole number"),
        ("id", "No Spaces", "not an id"),
    ],
)
def test_a_broken_cell_names_its_column(column: str, value: str, why: str) -> None:
    """Malformed is not the same as missing: it is refused, by column and rule."""
    with pytest.raises(BadCell) as refused:
        tidy(**{column: value})
    assert refused.value.column == column
    assert why in refused.value.why


def test_ids_are_stable_and_tell_titles_apart() -> None:
    """The same facts give the same id wherever the row stands; another date gives another."""
    assert title_id("King Kong", "1933") == title_id("King Kong", "1933")
    assert title_id("King Kong", "1933") != title_id("King Kong", "2005")
    assert title_id("Amélie", "2001").startswith("amelie-")
    assert title_id("千と千尋の神隠し", "2001").startswith("title-")
    assert tidy(id="tt0068646").title.id == "tt0068646"
