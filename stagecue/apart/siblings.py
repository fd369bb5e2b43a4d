"""Siblings in shared memory: one slot per worker of `stagecue push --workers`, written by it, read by all.

A slot holds when it was written (the machine's monotonic clock), connections and capacity. Nothing is locked: a slot
read while it is written is at worst wrong for a second about how full a worker is.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable
from typing import Final

__all__ = ["SharedRoom"]

_SLOT: Final = struct.Struct("=QII")
_FRESH_MS: Final = 3_000
"""Three publications missed: it is frozen, or busy enough to count as full."""
_MOST: Final = 2**32 - 1


class SharedRoom:
    """The slots of `workers` workers in the memory file `fd`; worker `index` is this one (None: the supervisor).

    A `Siblings` for a worker. Owns a mapping until `close`; the file itself stays the caller's.
    """

    def __init__(self, fd: int, *, workers: int, index: int | None, monotonic_s: Callable[[], float]) -> None:
        assert workers >= 1
        assert index is None or 0 <= index < workers
        self._slots = mmap.mmap(fd, workers * _SLOT.size)
        self._index = index
        self._others = tuple(other for other in range(workers) if other != index)
        self._monotonic_s = monotonic_s

    @staticmethod
    def create_file(workers: int) -> int:
        """The descriptor of an empty memory file for so many; only who inherits it can reach it."""
        fd = os.memfd_create("stagecue-push-workers")
        os.ftruncate(fd, workers * _SLOT.size)
        return fd

    def room(self) -> bool:
        """Siblings.room."""
        oldest_ms = int(self._monotonic_s() * 1000) - _FRESH_MS
        for other in self._others:
            written_ms, connections, capacity = _SLOT.unpack_from(self._slots, other * _SLOT.size)
            if connections < capacity and written_ms >= oldest_ms:
                return True
        return False

    def publish(self, connections: int, capacity: int) -> None:
        """Siblings.publish."""
        assert self._index is not None, "the supervisor has no connections"
        now_ms = int(self._monotonic_s() * 1000)
        _SLOT.pack_into(
            self._slots, self._index * _SLOT.size, now_ms, min(connections, _MOST), min(max(capacity, 0), _MOST)
        )

    def clear(self, index: int) -> None:
        """Worker `index` ended: it has no room."""
        _SLOT.pack_into(self._slots, index * _SLOT.size, 0, 0, 0)

    def close(self) -> None:
        self._slots.close()
