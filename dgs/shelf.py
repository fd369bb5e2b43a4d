"""Which title stands where: a topic's stages and a profile's recommendations become picks, picks a stage map. Pure.

Every stage gets rows of its own: plain rows take the next slice of the ranking, "because you watched" rows the titles
nearest to one the profile has seen, and no title appears twice in a map while there are others. All of it happens on
indexes into the catalog, so that what is ranked, kept and compared per profile is a few hundred bytes.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from operator import attrgetter
from typing import Final, cast

import msgspec

from contract.schedule import TopicSchedule
from dgs import words
from dgs.model import Row, ShownTitle, StageContent, StageEntry, Title
from dgs.picks import Layout, Picks, RowShape
from dgs.stage_map import BECAUSE_STAGES, Recommendations, stage_heads, stage_keys

__all__ = [
    "MAX_TITLES_PER_ROW",
    "MIN_TITLES_PER_ROW",
    "catalog_digest",
    "fits",
    "index_picks",
    "layout_of",
    "make_picks",
    "stage_content",
]

MIN_TITLES_PER_ROW: Final = 4
MAX_TITLES_PER_ROW: Final = 6
_id_of: Final = attrgetter("id")


def catalog_digest(titles: Sequence[Title]) -> str:
    """16 hex digits of everything the catalog says, in its order: what indexes and rendered titles are valid with."""
    return blake2b(msgspec.msgpack.encode(titles), digest_size=8, person=b"catalog").hexdigest()


def layout_of(keys: tuple[str, ...], *, ranked: int, because: int, per_row: int, catalog: str) -> Layout:
    """The layout of stages for a ranking of `ranked` titles when `because` because-rows could be filled.

    Equal layouts are the same object, while at most a few hundred are in use.
    """
    return _layout(keys, min(per_row, ranked), because, per_row, catalog)


@lru_cache(maxsize=512)
def _layout(keys: tuple[str, ...], width: int, because: int, per_row: int, catalog: str) -> Layout:
    stages: list[tuple[str, tuple[RowShape, ...]]] = []
    for key in keys:
        rows = [RowShape(width)]
        if key in BECAUSE_STAGES and because:
            because -= 1
            rows.append(RowShape(per_row, because=True))
        stages.append((key, tuple(rows)))
    return Layout(tuple(stages), catalog)


def fits(picks: Picks, schedule: TopicSchedule, catalog: str) -> bool:
    """Whether picks that were kept can still be shown: same stages in the same order, same catalog."""
    layout = picks.layout
    return layout.catalog == catalog and tuple(key for key, _ in layout.stages) == stage_keys(schedule)


def make_picks(
    schedule: TopicSchedule,
    recommendations: Recommendations,
    *,
    index_of: Mapping[str, int],
    per_row: int,
    catalog: str,
    now_ms: int,
    source: str,
    degraded: bool = False,
    why: str = "",
) -> Picks:
    """What this profile sees of the topic. `index_of`: title id -> its place in the catalog; others are left out."""
    ranked = _indexes(recommendations.ranked, index_of)
    because = (
        (index_of[seen.id], _indexes(near, index_of)) for seen, near in recommendations.because if seen.id in index_of
    )
    return index_picks(
        stage_keys(schedule),
        ranked,
        because,
        per_row=per_row,
        catalog=catalog,
        now_ms=now_ms,
        source=source,
        degraded=degraded,
        why=why,
    )


def _indexes(titles: Iterable[Title], index_of: Mapping[str, int]) -> list[int]:
    found = dict.fromkeys(map(index_of.get, map(_id_of, titles)))
    found.pop(None, None)
    return cast(list[int], list(found))


def index_picks(
    keys: tuple[str, ...],
    ranked: Sequence[int],
    because: Iterable[tuple[int, Sequence[int]]],
    *,
    per_row: int,
    catalog: str,
    now_ms: int,
    source: str,
    degraded: bool = False,
    why: str = "",
) -> Picks:
    """The same from indexes, no index twice in one list; `because` is read only as far as rows need it."""
    assert MIN_TITLES_PER_ROW <= per_row <= MAX_TITLES_PER_ROW
    shelf = _Shelf(ranked, because, per_row)
    cells: list[int] = []
    filled = 0
    for key in keys:
        cells += shelf.next()
        if key in BECAUSE_STAGES:
            row = shelf.because()
            filled += bool(row)
            cells += row
    layout = layout_of(keys, ranked=len(ranked), because=filled, per_row=per_row, catalog=catalog)
    packed = array("I", cells)
    return Picks(layout, packed, _digest(layout, packed), now_ms, source, degraded, why)


def _digest(layout: Layout, cells: array[int]) -> bytes:
    if sys.byteorder == "big":
        cells = array("I", cells)
        cells.byteswap()
    return blake2b(_layout_digest(layout) + cells.tobytes(), digest_size=8).digest()


@lru_cache(maxsize=512)
def _layout_digest(layout: Layout) -> bytes:
    return blake2b(msgspec.msgpack.encode(layout), digest_size=16, person=b"layout").digest()


class _Shelf:
    """Hands out titles, each once, and starts over when the ranking is shorter than the map."""

    __slots__ = ("_at", "_because", "_per_row", "_ranked", "_used")

    def __init__(self, ranked: Sequence[int], because: Iterable[tuple[int, Sequence[int]]], per_row: int) -> None:
        self._ranked = ranked
        self._at = 0
        self._because = iter(because)
        self._per_row = per_row
        self._used: set[int] = set()

    def next(self) -> list[int]:
        """The next slice of the ranking; fewer than a row only where the ranking has fewer titles."""
        ranked, used, at = self._ranked, self._used, self._at
        size = len(ranked)
        wanted = min(self._per_row, size)
        row: list[int] = []
        for _ in range(2 * size):
            if len(row) == wanted:
                break
            cell = ranked[at]
            at = at + 1 if at + 1 < size else 0
            if cell not in used and cell not in row:
                row.append(cell)
                used.add(cell)
            if len(used) >= size:
                used.clear()
        self._at = at
        return row

    def because(self) -> list[int]:
        """The next watched title with enough unused neighbours, then those; empty if there is none."""
        used, per_row = self._used, self._per_row
        for seen, near in self._because:
            row = [seen]
            for cell in near:
                if cell not in used:
                    row.append(cell)
                    if len(row) > per_row:
                        used.update(row[1:])
                        return row
        return []


def stage_content(
    schedule: TopicSchedule,
    picks: Picks,
    show: Callable[[int], ShownTitle],
    *,
    name_of: Callable[[int], str],
    language: str = "en",
) -> StageContent:
    """Every stage of the schedule in order, `cancelled` after them, and `default`.

    `show` dresses the title at an index for the device (artwork, locale), `name_of` names a watched one.
    """
    cells = iter(picks.cells)
    entries = [
        StageEntry(
            key=head.key,
            order=head.order,
            starts_at=head.starts_at,
            headline=head.headline,
            rows=tuple(
                _row(shape, heading, cells, show, name_of, language)
                for shape, heading in zip(rows, head.headings, strict=True)
            ),
        )
        for head, (_, rows) in zip(stage_heads(schedule, picks.layout, language), picks.layout.stages, strict=True)
    ]
    return StageContent(stages=tuple(entries[:-1]), default=entries[-1])


def _row(
    shape: RowShape,
    heading: str | None,
    cells: Iterator[int],
    show: Callable[[int], ShownTitle],
    name_of: Callable[[int], str],
    language: str,
) -> Row:
    if heading is None:
        heading = words.because(language, name_of(next(cells)))
    return Row(heading=heading, titles=tuple(show(next(cells)) for _ in range(shape.titles)))
