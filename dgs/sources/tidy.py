"""One raw catalog row becomes a Title or a reason why not. Pure.

Rules, in order:

1. Values are stripped and inner white space collapsed; an empty value means "unknown".
2. `title` is required. A number is a fine title (*1776*, *9*). An article after a comma goes to the front
   (`Sting, The` -> *The Sting*); nothing else of a title is changed.
3. Dates are `Jun 12 1998`, `1998-06-12`, `12/31/1998` or a bare year. A year after `newest_year` is taken for a
   two-digit year written into the wrong century and moved back 100 years; before 1888 (the first film) is refused.
4. Genres are split at `/`, `|`, `;` and `,`; duplicates go, order stays.
5. Numbers must be numbers within their range; an unknown number is None, zero votes is 0.
6. The id is the file's own `id`, or slug + short hash of title and date: stable when rows are added or reordered.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Final, TypeVar

import msgspec

from dgs.model import Title

__all__ = ["COLUMNS", "FIRST_FILM_YEAR", "BadCell", "tidy_row", "title_id"]

FIRST_FILM_YEAR: Final = 1888
MAX_TEXT: Final = 500
MAX_GENRES: Final = 8
COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "id": ("id",),
    "title": ("title", "name"),
    "release_date": ("release_date", "release_year", "year"),
    "genres": ("genres", "major_genre", "genre"),
    "director": ("director",),
    "maturity": ("maturity", "mpaa_rating"),
    "runtime_minutes": ("runtime_minutes", "running_time_min"),
    "rating": ("rating", "imdb_rating"),
    "votes": ("votes", "imdb_votes"),
    "synopsis": ("synopsis",),
}
"""Our name of a column -> names it may have in a file, the first present wins."""

_ID = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,78}[a-z0-9])?")
_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), start=1
    )
}
_ARTICLE_LAST = re.compile(r"(?P<rest>.+), (?P<article>The|An|A)")
_DATE_FORMS: Final = (
    re.compile(r"(?P<month>[A-Za-z]{3})[a-z]* (?P<day>\d{1,2}),? (?P<year>\d{4})"),
    re.compile(r"(?P<year>\d{4})-(?P<month>\d{2})-(?P<day>\d{2})"),
    re.compile(r"(?P<month>\d{1,2})/(?P<day>\d{1,2})/(?P<year>\d{4})"),
    re.compile(r"(?P<year>\d{4})"),
)
_T = TypeVar("_T")


class BadCell(Exception):
    """A cell that breaks a rule; the loader adds the line."""

    def __init__(self, column: str, why: str) -> None:
        super().__init__(f"{column}: {why}")
        self.column = column
        self.why = why


class Tidied(msgspec.Struct, frozen=True):
    """A good row, and what was put right in it."""

    title: Title
    corrections: tuple[tuple[str, str], ...] = ()
    """(column, what was done)."""


def tidy_row(raw: Mapping[str, str], columns: Mapping[str, str], *, newest_year: int) -> Tidied:
    """Apply the rules to one row.

    `columns` maps our column names to the file's (see `COLUMNS`). Raises BadCell naming the file's column.
    """

    def cell(name: str) -> str | None:
        text = " ".join(raw.get(columns.get(name, ""), "").split())
        return text or None

    def read(name: str, convert: Callable[[str], _T]) -> _T | None:
        text = cell(name)
        if text is None:
            return None
        try:
            return convert(text)
        except ValueError as exc:
            raise BadCell(columns[name], str(exc)) from exc

    name = read("title", _text)
    if name is None:
        raise BadCell(columns["title"], "missing")
    corrections: list[tuple[str, str]] = []
    shown = _ARTICLE_LAST.sub(r"\g<article> \g<rest>", name) if _ARTICLE_LAST.fullmatch(name) else name
    if shown != name:
        corrections.append((columns["title"], f"article moved to the front: {shown}"))
    date = read("release_date", lambda text: _year(text, newest_year))
    year, correction = date or (None, None)
    if correction is not None:
        corrections.append((columns["release_date"], correction))
    title = Title(
        id=read("id", _id) or title_id(name, cell("release_date") or ""),
        name=shown,
        synopsis=read("synopsis", _long_text),
        year=year,
        maturity=read("maturity", _text),
        genres=read("genres", _genres) or (),
        runtime_minutes=read("runtime_minutes", lambda text: _whole(text, 1, 2_000)),
        director=read("director", _text),
        rating=read("rating", _rating),
        votes=read("votes", lambda text: _whole(text, 0, 10**9)) or 0,
    )
    return Tidied(title, tuple(corrections))


def title_id(name: str, date: str) -> str:
    """`the-land-girls-5f0c1e`: readable, safe in a URL, the same wherever the row stands."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", ascii_name.replace("'", "")).strip("-")[:48].rstrip("-") or "title"
    digest = blake2b(f"{name}\x00{date}".encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{slug}-{digest}"


def _text(text: str) -> str:
    if len(text) > MAX_TEXT:
        raise ValueError(f"{len(text)} characters, at most {MAX_TEXT} are allowed")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise ValueError("control characters")
    return text


def _long_text(text: str) -> str:
    if len(text) > 4 * MAX_TEXT:
        raise ValueError(f"{len(text)} characters, at most {4 * MAX_TEXT} are allowed")
    return text


def _id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not an id: 1-80 of a-z 0-9 . _ -, with a letter or digit at both ends")
    return text


def _genres(text: str) -> tuple[str, ...]:
    parts = (_text(part.strip()) for part in re.split(r"[/|;,]", text))
    return tuple(dict.fromkeys(part for part in parts if part))[:MAX_GENRES]


def _year(text: str, newest_year: int) -> tuple[int, str | None]:
    """The year and, if the century was put right, a note that says so."""
    for form in _DATE_FORMS:
        match = form.fullmatch(text)
        if match is None:
            continue
        parts = match.groupdict()
        year = int(parts["year"])
        if "month" in parts and not (1 <= _month(parts["month"]) <= 12 and 1 <= int(parts["day"]) <= 31):
            raise ValueError(f"{text[:40]!r} is not a date")
        note = None
        if year > newest_year:
            note = f"year {year} is after {newest_year}: read as {year - 100}"
            year -= 100
        if not FIRST_FILM_YEAR <= year <= newest_year:
            raise ValueError(f"year {parts['year']} is not between {FIRST_FILM_YEAR} and {newest_year}")
        return year, note
    raise ValueError(f"{text[:40]!r} is not a date; write 1998-06-12 or Jun 12 1998")


def _month(text: str) -> int:
    return int(text) if text.isdigit() else _MONTHS.get(text.lower(), 0)


def _whole(text: str, low: int, high: int) -> int:
    """A whole number; `95.0` counts as one, because spreadsheets write it."""
    if not re.fullmatch(r"[+-]?\d{1,12}(\.0+)?", text, re.ASCII):
        raise ValueError(f"{text[:40]!r} is not a whole number")
    number = int(text.partition(".")[0])
    if not low <= number <= high:
        raise ValueError(f"{number} is not between {low} and {high}")
    return number


def _rating(text: str) -> float:
    if not re.fullmatch(r"\d{1,3}(\.\d{1,6})?", text, re.ASCII):
        raise ValueError(f"{text[:40]!r} is not a number")
    number = float(text)
    if not 0 <= number <= 10:
        raise ValueError(f"{text[:40]} is not between 0 and 10")
    return number
