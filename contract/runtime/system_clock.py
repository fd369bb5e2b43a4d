"""The operating system's clocks behind the Clock port.

Tests step the wall clock of running services without touching the machine's: the variable `CLOCK_OFFSET_VARIABLE` names
a file of eight bytes, a signed offset in milliseconds, which every process that was started with it adds from then on.
The monotonic clock never steps, as the real one does not.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["CLOCK_OFFSET_VARIABLE", "SystemClock", "write_clock_offset"]

CLOCK_OFFSET_VARIABLE: Final = "STAGECUE_TESTS_CLOCK_OFFSET_FILE"
_BYTES: Final = 8


class SystemClock:
    """Reads the variable once, when made; without it, which is always but in tests, the clock is the system's alone."""

    __slots__ = ("_offset_ms", "monotonic_s")

    def __init__(self) -> None:
        self.monotonic_s: Callable[[], float] = time.monotonic
        """As it is: every request and every frame asks, some of them several times."""
        path = os.environ.get(CLOCK_OFFSET_VARIABLE)
        self._offset_ms: memoryview | None = None if path is None else _mapped(Path(path))

    def now_ms(self) -> int:
        now = time.time_ns() // 1_000_000
        if self._offset_ms is None:
            return now
        offset: int = self._offset_ms[0]
        return now + offset


def write_clock_offset(path: Path, offset_ms: int) -> None:
    """Step the clocks that follow `path`, at once and all of them; makes the file at the first call."""
    encoded = offset_ms.to_bytes(_BYTES, "little", signed=True)
    if not path.exists():
        path.write_bytes(encoded)
        return
    with path.open("r+b") as file:
        # In place: a file put in its place would leave the processes that mapped the old one behind.
        os.pwrite(file.fileno(), encoded, 0)


def _mapped(path: Path) -> memoryview:
    """The file's offset as a view of one 64-bit integer. Raises OSError or ValueError for a file that is none."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size != _BYTES:
            raise ValueError(f"{CLOCK_OFFSET_VARIABLE}: {path} must hold {_BYTES} bytes")
        return memoryview(mmap.mmap(file.fileno(), _BYTES, access=mmap.ACCESS_READ)).cast("q")
