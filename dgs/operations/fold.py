"""A selection of a stage map + a schedule + a layout -> one bytes template and its slots. Pure.

Event, times, headlines and plain headings are text of the template: they are the same for every profile of a topic. A
slot is a title or the heading of a because-row (a cell of the picks, looked up in a fragment table), the lifetime, or
the server's clock.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from operator import getitem, itemgetter
from typing import Any, Final, Literal, NamedTuple, TypeVar

import msgspec

from contract.schedule import TopicSchedule
from dgs.model import DeviceContext
from dgs.operations.fragments import Fragments, FragmentTable, int32
from dgs.operations.selection import Field, NotPlain, Selection
from dgs.picks import Layout
from dgs.stage_map import StageHead, stage_heads
from dgs.words import language_of

__all__ = ["WHOLE_ENTRY", "Fold", "check_foldable", "fold_map"]

_Item = TypeVar("_Item")
_encode: Final = msgspec.json.encode

_KNOWN: Final[Mapping[str, frozenset[str]]] = {
    "StageMap": frozenset(
        ("event", "version", "revision", "ttlSeconds", "serverTime", "stages", "byKey", "default", "refreshUrl")
    ),
    "LiveEvent": frozenset(("id", "title", "topic", "startsAt", "endsAt", "cancelled")),
    "StageEntry": frozenset(("key", "order", "startsAt", "headline", "rows")),
    "Row": frozenset(("heading", "titles")),
    "Title": frozenset(("id", "name", "synopsis", "year", "maturity", "genres", "runtimeMinutes", "artwork")),
    "Artwork": frozenset(("kind", "url", "width", "height")),
    "BroadcastChannel": frozenset(("url", "subprotocol", "token", "topics", "connectWindowMs")),
    "ChannelTopic": frozenset(("eventId", "topic", "stateKey", "lastBroadcastAt")),
}
"""Every field written here; one the schema has gained since is the schema's own to answer."""


def _whole(of: str, **inner: Selection) -> Selection:
    order = {
        "StageEntry": ("key", "order", "startsAt", "headline", "rows"),
        "Row": ("heading", "titles"),
        "Title": ("id", "name", "synopsis", "year", "maturity", "genres", "runtimeMinutes", "artwork"),
        "Artwork": ("kind", "url", "width", "height"),
    }
    return Selection(of, tuple(Field(name, name, inner.get(name)) for name in order[of]))


WHOLE_ENTRY: Final = _whole("StageEntry", rows=_whole("Row", titles=_whole("Title", artwork=_whole("Artwork"))))
"""What `byKey` holds of every stage: all fields under their own names."""


class _Cell(NamedTuple):
    position: int
    table: FragmentTable


_Slot = _Cell | Literal["ttl", "now"]


class _PlacedRow(NamedTuple):
    heading: str | None
    seen: int
    """Position of the watched title's cell, where there is no heading."""
    titles: range
    """Positions."""


class _PlacedStage(NamedTuple):
    head: StageHead
    rows: tuple[_PlacedRow, ...]


class Fold:
    """One stage map as a template."""

    __slots__ = ("_numbers", "_order", "_pick", "_tables", "_template", "digest")

    def __init__(self, text: Sequence[bytes], slots: Sequence[_Slot], cells: int, digest: bytes) -> None:
        """`text` has one piece more than there are slots; `cells` is how many the layout has."""
        assert len(text) == len(slots) + 1
        marks = [b"%b" if isinstance(slot, _Cell) else b"%d" for slot in slots] + [b""]
        self._template = b"".join(piece.replace(b"%", b"%%") + mark for piece, mark in zip(text, marks, strict=True))
        found = [slot for slot in slots if isinstance(slot, _Cell)]
        self._tables = tuple(cell.table for cell in found)
        self._pick = _picker([cell.position for cell in found], cells)
        self._numbers = tuple(int(slot == "now") for slot in slots if not isinstance(slot, _Cell))
        self._order: Callable[[tuple[Any, ...]], tuple[Any, ...]] | None = None
        if any(not isinstance(slot, _Cell) for slot in slots[len(self._numbers) :]):
            self._order = itemgetter(*_interleaved(slots, len(self._numbers)))
        self.digest = digest
        """Of everything the text says and the slots mean, but not of their values."""

    def render(self, cells: array[int], ttl_s: int, now_ms: int) -> bytes:
        """The map's JSON. Raises NotPlain where a title cannot be shown, IndexError for cells of another catalog."""
        pair = (ttl_s, now_ms)
        values = (*[pair[number] for number in self._numbers], *map(getitem, self._tables, self._pick(cells)))
        return self._template % (values if self._order is None else self._order(values))


def check_foldable(selection: Selection) -> None:
    """Raises NotPlain for a type or field that is not written here."""
    known = _KNOWN.get(selection.type)
    if known is None:
        raise NotPlain(f"type {selection.type}")
    for field in selection.fields:
        if field.name not in known and field.name != "__typename":
            raise NotPlain(f"field {selection.type}.{field.name}")
        if field.inner is not None:
            check_foldable(field.inner)


def fold_map(
    selection: Selection,
    schedule: TopicSchedule,
    layout: Layout,
    device: DeviceContext,
    fragments: Fragments,
    refresh_url: str | None = None,
) -> Fold:
    """The template of one map on a device that is resolved: its locale is the language worded.

    The layout must fit the schedule. Raises NotPlain for numbers GraphQL would refuse and a catalog not in use.
    """
    language = language_of(device.locale)
    writer = _Writer(schedule, _placed(schedule, layout, language), device, layout.catalog, fragments, refresh_url)
    writer.stage_map(selection)
    digest = blake2b(digest_size=16, person=b"fold")
    digest.update(_encode((schedule, layout)))
    digest.update(repr((selection, fragments.appearance(device), language, refresh_url)).encode())
    return Fold(*writer.finished(), layout.cells, digest.digest())


def _placed(schedule: TopicSchedule, layout: Layout, language: str) -> tuple[_PlacedStage, ...]:
    at = 0
    stages: list[_PlacedStage] = []
    for head, (_, shapes) in zip(stage_heads(schedule, layout, language), layout.stages, strict=True):
        rows: list[_PlacedRow] = []
        for shape, heading in zip(shapes, head.headings, strict=True):
            first = at + shape.because
            rows.append(_PlacedRow(heading, at, range(first, first + shape.titles)))
            at = first + shape.titles
        stages.append(_PlacedStage(head, tuple(rows)))
    return tuple(stages)


class _Writer:
    """Writes text and slots in answer order."""

    def __init__(
        self,
        schedule: TopicSchedule,
        stages: tuple[_PlacedStage, ...],
        device: DeviceContext,
        catalog: str,
        fragments: Fragments,
        refresh_url: str | None,
    ) -> None:
        self._schedule = schedule
        self._stages = stages
        self._device = device
        self._catalog = catalog
        self._fragments = fragments
        self._refresh_url = refresh_url
        self._texts: list[bytes] = []
        self._text: list[bytes] = []
        self._slots: list[_Slot] = []

    def finished(self) -> tuple[list[bytes], list[_Slot]]:
        return [*self._texts, b"".join(self._text)], self._slots

    def stage_map(self, selection: Selection) -> None:
        self._object(selection, self._map_field)

    def _map_field(self, field: Field) -> None:
        schedule = self._schedule
        match field.name:
            case "event":
                assert field.inner is not None
                self._object(field.inner, self._event_field)
            case "version":
                self._value(int32(schedule.version))
            case "revision":
                self._value(int32(schedule.revision))
            case "ttlSeconds":
                self._slot("ttl")
            case "serverTime":
                self._slot("now")
            case "stages":
                self._list(self._stages[:-1], lambda stage: self._entry(field.inner, stage))
            case "default":
                self._entry(field.inner, self._stages[-1])
            case "byKey":
                # As a dict is made of them: of two stages with one key the later one's entry, in the earlier's place.
                by_key = {stage.head.key: stage for stage in self._stages}
                self._members(by_key, lambda key: self._entry(WHOLE_ENTRY, by_key[key]))
            case "refreshUrl":
                self._value(self._refresh_url)
            case _:
                raise NotPlain(f"field StageMap.{field.name}")

    def _event_field(self, field: Field) -> None:
        schedule = self._schedule
        facts: Mapping[str, object] = {
            "id": schedule.event_id,
            "title": schedule.title,
            "topic": schedule.topic,
            "startsAt": schedule.starts_at,
            "endsAt": schedule.ends_at,
            "cancelled": schedule.cancelled,
        }
        self._value(facts[field.name])

    def _entry(self, selection: Selection | None, stage: _PlacedStage) -> None:
        assert selection is not None
        typed = selection is not WHOLE_ENTRY

        def write(field: Field) -> None:
            head = stage.head
            match field.name:
                case "key":
                    self._value(head.key)
                case "order":
                    self._value(int32(head.order) if typed else head.order)
                case "startsAt":
                    self._value(head.starts_at)
                case "headline":
                    self._value(head.headline)
                case "rows":
                    self._list(stage.rows, lambda row: self._row(field.inner, row))
                case _:
                    raise NotPlain(f"field StageEntry.{field.name}")

        self._object(selection, write)

    def _row(self, selection: Selection | None, row: _PlacedRow) -> None:
        assert selection is not None

        def write(field: Field) -> None:
            if field.name == "heading":
                if row.heading is not None:
                    self._value(row.heading)
                else:
                    self._slot(
                        _Cell(row.seen, self._fragments.headings(self._catalog, language_of(self._device.locale)))
                    )
            else:
                assert field.inner is not None
                table = self._fragments.titles(self._catalog, field.inner, self._device)
                self._list(row.titles, lambda position: self._slot(_Cell(position, table)))

        self._object(selection, write)

    def _object(self, selection: Selection, write: Callable[[Field], None]) -> None:
        fields = {field.key: field for field in selection.fields}
        typename = _encode(selection.type)

        def one(key: str) -> None:
            field = fields[key]
            if field.name == "__typename":
                self._text.append(typename)
            else:
                write(field)

        self._members(fields, one)

    def _members(self, keys: Mapping[str, object], write: Callable[[str], None]) -> None:
        before = b"{"
        for key in keys:
            self._text.append(before + _encode(key) + b":")
            write(key)
            before = b","
        self._text.append(b"}" if keys else b"{}")

    def _list(self, items: Sequence[_Item], write: Callable[[_Item], None]) -> None:
        self._text.append(b"[")
        for place, item in enumerate(items):
            if place:
                self._text.append(b",")
            write(item)
        self._text.append(b"]")

    def _value(self, value: object) -> None:
        self._text.append(_encode(value))

    def _slot(self, slot: _Slot) -> None:
        self._texts.append(b"".join(self._text))
        self._text.clear()
        self._slots.append(slot)


def _picker(positions: list[int], cells: int) -> Callable[[array[int]], Sequence[int]]:
    """The cells at these positions, as quickly as their number allows."""
    if positions == list(range(cells)):
        return _all
    if len(positions) > 1:
        return itemgetter(*positions)
    return lambda found: [found[position] for position in positions]


def _all(cells: array[int]) -> Sequence[int]:
    return cells


def _interleaved(slots: Sequence[_Slot], numbers: int) -> list[int]:
    """Where each slot's value lies among the numbers in order and then the cells in order."""
    number, cell = 0, numbers
    order: list[int] = []
    for slot in slots:
        if isinstance(slot, _Cell):
            order.append(cell)
            cell += 1
        else:
            order.append(number)
            number += 1
    return order
