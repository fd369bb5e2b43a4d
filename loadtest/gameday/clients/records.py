"""What the naive clients of a run did, moment by moment: rows of fixed size in memory, a file at the end.

kind u1 (Step), status u2, device u4, at_s f8 (CLOCK_MONOTONIC)
"""

from __future__ import annotations

import struct
import time
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["ROW", "Rows", "Step", "moments", "read_rows"]

Table = npt.NDArray[np.void]
ROW: Final = np.dtype([("kind", "u1"), ("pad", "u1"), ("status", "<u2"), ("device", "<u4"), ("at_s", "<f8")])
_PACK: Final = struct.Struct("<BxHId").pack


class Step(IntEnum):
    OPENING = 0
    """A connection to the push node is opened: one handshake attempt."""
    WELCOMED = 1
    REFUSED = 2
    """`status` is what the handshake was answered with; 0: it ended without an answer."""
    BROKEN = 3
    """A welcomed connection ended."""
    BROADCAST = 4
    """A broadcast arrived; `status` counts the broadcasts of this device."""
    WANTED = 5
    """An answer of the DGS is wanted from now on."""
    ASKED = 6
    """A request was sent for it."""
    ANSWERED = 7
    """It is there; `status` is 200."""
    DENIED = 8
    """Refused with `status`; 0: no answer in time, or the connection ended without one."""
    GIVEN_UP = 9
    """Its client waits for its refetch window."""


class Rows:
    """Appends; `save` once."""

    def __init__(self) -> None:
        self._rows = bytearray()

    def add(self, step: Step, device: int, status: int = 0) -> None:
        self._rows += _PACK(step, status, device, time.monotonic())

    def save(self, path: Path) -> None:
        path.write_bytes(self._rows)


def read_rows(path: Path) -> Table:
    """Oldest first. Raises OSError, ValueError for a file that ends inside a row."""
    if path.stat().st_size % ROW.itemsize:
        raise ValueError(f"{path.name} ends inside a row")
    return np.fromfile(path, ROW)


def moments(rows: Table, step: Step, *, status: int | None = None) -> Any:
    """When `step` happened, ascending."""
    chosen = rows["kind"] == step
    if status is not None:
        chosen &= rows["status"] == status
    return np.ascontiguousarray(rows["at_s"][chosen])
