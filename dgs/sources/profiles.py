"""Profiles with viewing histories: generated from a seed over the catalog, or the user's CSV.

A generated profile is a function of (seed, profile id, catalog) alone: it likes a few genres, directors and decades
and watched 8 to 25 titles that mostly fit, popular ones more often. Nothing is stored, so any number of profiles
costs nothing.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Final

from contract.errors import InvalidRequest, NotFound
from dgs.model import Profile, Title, Viewing
from dgs.ports import Place
from dgs.sources.catalog import Catalog

__all__ = [
    "MAX_PROFILE_ID",
    "CsvProfiles",
    "SeededProfiles",
    "check_profile_id",
    "load_profiles",
    "parse_profiles",
]

MAX_PROFILE_ID: Final = 128
MAX_HISTORY: Final = 1_000
_REGION = re.compile(r"[A-Z]{2}")
_PROFILE_ID = re.compile(rf"[\x21-\x7e]{{1,{MAX_PROFILE_ID}}}")
# Shares of a service sold in many countries; the locale is the region's commonest.
_REGIONS: Final = (
    ("US", "en-US", 30), ("GB", "en-GB", 10), ("CA", "en-CA", 7), ("AU", "en-AU", 5), ("IN", "en-IN", 8),
    ("DE", "de-DE", 8), ("FR", "fr-FR", 7), ("ES", "es-ES", 5), ("MX", "es-MX", 8),
    ("BR", "pt-BR", 8), ("JP", "ja-JP", 4),
)  # fmt: skip
_PLACES: Final = tuple(Place(region, locale) for region, locale, _ in _REGIONS)
_CUMULATED: Final = tuple(accumulate(share for _, _, share in _REGIONS))
_MIN_TITLES: Final = 8
_MAX_TITLES: Final = 25


def check_profile_id(value: str, field: str = "profileId") -> str:
    """Return `value`, or raise InvalidRequest naming `field`."""
    if not _PROFILE_ID.fullmatch(value):
        raise InvalidRequest(
            f"{value[:40]!r} is not a profile id", field=field, rule=f"1-{MAX_PROFILE_ID} printable ASCII, no spaces"
        )
    return value


class SeededProfiles:
    """Every well-formed id names a profile, always the same one for the same seed and catalog."""

    def __init__(self, catalog: Catalog, seed: int = 1) -> None:
        self._seed = seed
        by_popularity = sorted(catalog.titles, key=lambda title: (-title.votes, title.id))
        self._all: Sequence[Title] = by_popularity
        self._pools: tuple[tuple[Sequence[Title], ...], ...] = tuple(
            tuple(pool for pool in pools.values() if len(pool) >= least)
            for pools, least in (
                (_pools(by_popularity, lambda title: title.genres), 3),
                (_pools(by_popularity, lambda title: (title.director,) if title.director else ()), 2),
                (_pools(by_popularity, lambda title: (title.year // 10,) if title.year else ()), 3),
            )
        )

    def profile(self, profile_id: str) -> Profile:
        draw = self._draw(profile_id)
        region, locale = _draw_place(draw)
        return Profile(id=profile_id, region=region, locale=locale, history=self._history(draw))

    def place(self, profile_id: str) -> Place:
        """Region and locale of `profile`, for a fifth of its cost."""
        return _draw_place(self._draw(profile_id))

    def _draw(self, profile_id: str) -> Random:
        check_profile_id(profile_id)
        digest = blake2b(f"{self._seed}:{profile_id}".encode(), digest_size=16).digest()
        return Random(int.from_bytes(digest))  # noqa: S311 - a reproducible draw, no secret

    def _history(self, draw: Random) -> tuple[Viewing, ...]:
        genres, directors, decades = self._pools
        tastes = [
            *draw.choices(genres, k=draw.randint(1, 3) if genres else 0),
            *draw.choices(directors, k=draw.randint(1, 3) if directors else 0),
            *draw.choices(decades, k=1 if decades else 0),
        ]
        wanted = min(draw.randint(_MIN_TITLES, _MAX_TITLES), len(self._all))
        uniform = draw.random  # a tenth of what `choice` and `randrange` cost, and there are five draws to a title
        seen: dict[str, Viewing] = {}
        for _ in range(4 * wanted):
            if len(seen) == wanted:
                break
            # One title in eight is watched for no reason a taste explains.
            pool = tastes[int(uniform() * len(tastes))] if tastes and uniform() > 0.125 else self._all
            # The lower of two draws: the popular half of a pool is watched three times as often.
            first, second = uniform(), uniform()
            title = pool[int(len(pool) * (first if first < second else second))]
            if title.id not in seen:
                seen[title.id] = Viewing(title.id, round(0.2 + 0.8 * uniform(), 2))
        return tuple(seen.values())


class CsvProfiles:
    """Profiles read once from the user's file; others do not exist."""

    def __init__(self, profiles: Mapping[str, Profile]) -> None:
        self._profiles = dict(profiles)

    def __len__(self) -> int:
        return len(self._profiles)

    def ids(self) -> Iterator[str]:
        """All of them, in the order of their first rows."""
        return iter(self._profiles)

    def profile(self, profile_id: str) -> Profile:
        check_profile_id(profile_id)
        found = self._profiles.get(profile_id)
        if found is None:
            raise NotFound(f"no profile {profile_id!r}", field="profileId")
        return found


def load_profiles(path: Path, catalog: Catalog, *, default_region: str = "US") -> CsvProfiles:
    """Read `profile_id,title_id[,region]`, blocking. Raises InvalidRequest naming line and column."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as exc:
        raise _refusal(str(path), f"cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise _refusal(path.name, f"byte {exc.start}: not UTF-8") from exc
    return parse_profiles(text, catalog, source=path.name, default_region=default_region)


def parse_profiles(text: str, catalog: Catalog, *, source: str, default_region: str = "US") -> CsvProfiles:
    """One viewing per row, newest last; a profile's region is the last one given for it."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        missing = [name for name in ("profile_id", "title_id") if name not in (reader.fieldnames or ())]
        if missing:
            raise _refusal(source, f"line 1: no column {missing[0]}")
        regions: dict[str, str] = {}
        histories: dict[str, dict[str, Viewing]] = {}
        for row in reader:
            profile_id, title_id, region = (
                (row.get(name) or "").strip() for name in ("profile_id", "title_id", "region")
            )
            where = f"line {reader.line_num}, column"
            if not _PROFILE_ID.fullmatch(profile_id):
                raise _refusal(source, f"{where} profile_id: {profile_id[:40]!r} is not a profile id")
            if title_id not in catalog.by_id:
                raise _refusal(source, f"{where} title_id: the catalog has no {title_id[:80]!r}")
            if region and not _REGION.fullmatch(region):
                raise _refusal(source, f"{where} region: {region[:10]!r} is not two capital letters (ISO 3166-1)")
            if region:
                regions[profile_id] = region
            history = histories.setdefault(profile_id, {})
            history.pop(title_id, None)
            history[title_id] = Viewing(title_id)
    except csv.Error as exc:
        raise _refusal(source, f"line {reader.reader.line_num}: {exc}") from exc
    return CsvProfiles(
        {
            profile_id: Profile(
                id=profile_id,
                region=regions.get(profile_id, default_region),
                history=tuple(reversed(history.values()))[:MAX_HISTORY],
            )
            for profile_id, history in histories.items()
        }
    )


def _draw_place(draw: Random) -> Place:
    return draw.choices(_PLACES, cum_weights=_CUMULATED)[0]


def _pools(titles: Sequence[Title], facets: Callable[[Title], Sequence[Hashable]]) -> dict[Hashable, list[Title]]:
    pools: dict[Hashable, list[Title]] = {}
    for title in titles:
        for facet in facets(title):
            pools.setdefault(facet, []).append(title)
    return pools


def _refusal(source: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{source}: {why}", field="profiles")
