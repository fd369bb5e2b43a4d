"""Titles as JSON, made once per selection and artwork and kept in memory bounded by bytes. Pure.

A table is a dict that fills itself, so that joining an answer is one C loop over its slots. What is evicted is a whole
table's content: folds may keep the empty table, which fills again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from dgs import words
from dgs.artwork import artwork_for
from dgs.catalogs import CatalogInUse
from dgs.model import Artwork, DeviceContext, Title
from dgs.operations.selection import Field, NotPlain, Selection

__all__ = ["FragmentTable", "Fragments", "int32", "json_object", "title_json"]

_ENTRY_BYTES: Final = 112
"""What an entry costs besides its text: 80 for the bytes object and the dict's slot (tracemalloc), 32 for the int."""
_MAX_TABLES: Final = 1_024
_encode: Final = msgspec.json.encode
_SAMPLE: Final = Title(id="sample", name="")
_TITLE: Final[Mapping[str, Callable[[Title], object]]] = {
    "id": lambda title: title.id,
    "name": lambda title: title.name,
    "synopsis": lambda title: title.synopsis,
    "year": lambda title: int32(title.year),
    "maturity": lambda title: title.maturity,
    "genres": lambda title: title.genres,
    "runtimeMinutes": lambda title: int32(title.runtime_minutes),
}
_ARTWORK: Final[Mapping[str, Callable[[Artwork], object]]] = {
    "kind": lambda artwork: artwork.kind.name,
    "url": lambda artwork: artwork.url,
    "width": lambda artwork: int32(artwork.width),
    "height": lambda artwork: int32(artwork.height),
}


class FragmentTable(dict[int, bytes]):
    """Index into the catalog -> bytes; a missing one is made. Raises NotPlain or IndexError where it cannot be."""

    __slots__ = ("_make", "_owner", "held_bytes")

    def __init__(self, owner: Fragments, make: Callable[[int], bytes]) -> None:
        self._owner = owner
        self._make = make
        self.held_bytes = 0

    def __missing__(self, index: int) -> bytes:
        made = self._make(index)
        self._owner.hold(self, len(made) + _ENTRY_BYTES)
        self[index] = made
        return made


class Fragments:
    """The tables over the catalogs in use."""

    def __init__(self, catalogs: CatalogInUse, *, max_bytes: int, base_url: str = "") -> None:
        self._catalogs = catalogs
        self._max_bytes = max_bytes
        self._base_url = base_url
        self._tables: OrderedDict[object, FragmentTable] = OrderedDict()
        self.held_bytes = 0
        """Of everything in the tables; over the bound by one fragment at most."""
        self.made = 0
        self.evicted = 0
        """Tables emptied for want of room."""

    def appearance(self, device: DeviceContext) -> tuple[Artwork, ...]:
        """Equal for devices that are shown the same pictures: those of a title nobody has."""
        return artwork_for(_SAMPLE, device, base_url=self._base_url)

    def titles(self, catalog: str, selection: Selection, device: DeviceContext) -> FragmentTable:
        """Titles as this selection shows them on this device; devices that look alike share one.

        `catalog` is its digest. Raises NotPlain if it is not in use.
        """
        titles = self._titles_of(catalog)
        looks = self.appearance(device) if any(field.name == "artwork" for field in selection.fields) else ()
        return self._table(
            (catalog, selection, looks),
            lambda index: title_json(titles[index], selection, device, base_url=self._base_url),
        )

    def headings(self, catalog: str, language: str) -> FragmentTable:
        """Headings of because-rows, by the watched title."""
        titles = self._titles_of(catalog)
        return self._table((catalog, language), lambda index: _encode(words.because(language, titles[index].name)))

    def hold(self, table: FragmentTable, size: int) -> None:
        """Count `size` bytes more of `table`, emptying the tables that went longest without a new fragment."""
        self.made += 1
        if self.held_bytes + size > self._max_bytes:
            self._evict(self._max_bytes - size)
        table.held_bytes += size
        self.held_bytes += size

    def _titles_of(self, catalog: str) -> Sequence[Title]:
        index = self._catalogs.of(catalog)
        if index is None:
            raise NotPlain("a catalog that is not in use")
        return index.titles

    def _table(self, key: object, make: Callable[[int], bytes]) -> FragmentTable:
        found = self._tables.get(key)
        if found is None:
            if len(self._tables) >= _MAX_TABLES:
                self._empty(self._tables.popitem(last=False)[1])
            found = self._tables[key] = FragmentTable(self, make)
        self._tables.move_to_end(key)
        return found

    def _evict(self, room_for: int) -> None:
        for table in list(self._tables.values()):
            if self.held_bytes <= room_for:
                return
            self._empty(table)

    def _empty(self, table: FragmentTable) -> None:
        if table.held_bytes:
            self.evicted += 1
        self.held_bytes -= table.held_bytes
        table.held_bytes = 0
        table.clear()


def int32(value: int | None) -> int | None:
    """What GraphQL's Int takes; beyond it the field is an error, which is not made here."""
    if value is not None and not -(2**31) <= value < 2**31:
        raise NotPlain("a number beyond 32 bits")
    return value


def title_json(title: Title, selection: Selection, device: DeviceContext, *, base_url: str = "") -> bytes:
    """The JSON object of a title. Raises NotPlain for what GraphQL would refuse, UnicodeEncodeError for a surrogate."""

    def value(field: Field) -> bytes:
        if field.name != "artwork":
            return _encode(_TITLE[field.name](title))
        inner = field.inner
        assert inner is not None
        pictures = artwork_for(title, device, base_url=base_url)
        return b"[%b]" % b",".join(_picture_json(inner, picture) for picture in pictures)

    return json_object(selection, value)


def _picture_json(selection: Selection, picture: Artwork) -> bytes:
    return json_object(selection, lambda field: _encode(_ARTWORK[field.name](picture)))


def json_object(selection: Selection, value: Callable[[Field], bytes]) -> bytes:
    """`{"key":value,...}` with `value` for every field but `__typename`."""
    return b"{%b}" % b",".join(
        b"%b:%b" % (_encode(field.key), _encode(selection.type) if field.name == "__typename" else value(field))
        for field in selection.fields
    )
