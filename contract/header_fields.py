"""What httptools calls back for the header fields of a request, for whoever judges them himself. Pure.

Nearly always no name repeats: then `FirstValues` collects them without any Python code, and how many there are shows
that none was left out. Else the head is read once more, with `JoinedValues`.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["FirstValues", "JoinedValues"]


class FirstValues:
    """Names as they were sent; of a repeated name the first value is kept."""

    __slots__ = ("on_header",)

    def __init__(self, fields: dict[bytes, bytes]) -> None:
        self.on_header = fields.setdefault


class JoinedValues:
    """Names in lower case; values of a repeated one are joined (RFC 9110, 5.3), if they may be."""

    __slots__ = ("_single", "fields", "wrong")

    def __init__(self, single: Mapping[bytes, str]) -> None:
        """`single`: names of which a second one would leave it to chance which is meant, and how people write them."""
        self._single = single
        self.fields: dict[bytes, bytes] = {}
        self.wrong: str | None = None
        """The first name that may not repeat and does, as people write it."""

    def on_header(self, name: bytes, value: bytes) -> None:
        name, value = name.lower(), value.strip(b" \t")
        if name not in self.fields:
            self.fields[name] = value
            return
        self.fields[name] += b", " + value
        if self.wrong is None:
            self.wrong = self._single.get(name)
