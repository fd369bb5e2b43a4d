"""Automatic persisted operations: documents by hash, the longest unused forgotten first. Pure.

Bounded by entries and by bytes of text. What goes in was validated before: a store of a thousand places cannot be
filled with what is no operation.
"""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["AutomaticOperations"]


class AutomaticOperations:
    """SHA-256 -> document."""

    def __init__(self, *, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, str] = OrderedDict()
        self.held_bytes = 0
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: str) -> str | None:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def peek(self, key: str) -> str | None:
        """The same, without counting as a use."""
        return self._kept.get(key)

    def keep(self, key: str, document: str) -> bool:
        """Remember a valid document under its own hash; False if it does not fit at all."""
        size = len(document.encode())
        if size > self._max_bytes or not self._max_entries:
            return False
        if key in self._kept:
            self._kept.move_to_end(key)
            return True
        while self._kept and (len(self._kept) >= self._max_entries or self.held_bytes + size > self._max_bytes):
            _, forgotten = self._kept.popitem(last=False)
            self.held_bytes -= len(forgotten.encode())
            self.evicted += 1
        self._kept[key] = document
        self.held_bytes += size
        return True
