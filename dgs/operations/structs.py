"""Values of the use cases as JSON, as a selection shows them: for what is not folded. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import Any, Final

import msgspec

from dgs.operations.fragments import int32, json_object
from dgs.operations.selection import Field, Selection

__all__ = ["object_json"]

_encode: Final = msgspec.json.encode
_INTS: Final[Mapping[str, frozenset[str]]] = {
    "StageMap": frozenset(("version", "revision", "ttlSeconds")),
    "StageEntry": frozenset(("order",)),
    "Title": frozenset(("year", "runtimeMinutes")),
    "Artwork": frozenset(("width", "height")),
    "BroadcastChannel": frozenset(("connectWindowMs",)),
}
"""Fields of type Int; times are Timestamps and take more."""


def object_json(selection: Selection, value: Any) -> bytes:
    """The selected fields of a struct of `dgs.model` or `dgs.prefetch`, by their names there.

    Raises NotPlain for numbers GraphQL would refuse.
    """
    ints = _INTS.get(selection.type, frozenset())

    def field_json(field: Field) -> bytes:
        found = getattr(value, _attribute(field.name))
        if field.inner is None:
            if field.name in ints:
                found = int32(found)
            return _encode(found.name if isinstance(found, Enum) else found)
        if isinstance(found, (list, tuple)):
            inner = field.inner
            return b"[%b]" % b",".join([object_json(inner, each) for each in found])
        return object_json(field.inner, found)

    return json_object(selection, field_json)


@cache
def _attribute(name: str) -> str:
    """`startsAt` -> `starts_at`; names are the schema's, so there are few."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
