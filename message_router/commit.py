"""What may be committed, pure: the highest contiguous finished offset of each partition (R12)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

__all__ = ["PartitionProgress", "Work"]


class Work:
    """One entry of the log on its way. Finished once everything that held it let go; held once from birth."""

    __slots__ = ("_holds", "_progress", "offset")

    def __init__(self, progress: PartitionProgress, offset: int) -> None:
        self._progress = progress
        self._holds = 1
        self.offset = offset

    @property
    def finished(self) -> bool:
        return self._holds == 0

    def hold(self) -> None:
        """One more thing must happen before this is finished."""
        assert self._holds > 0, f"offset {self.offset} is finished already"
        self._holds += 1

    def release(self) -> None:
        """One of those things happened, or is no longer waited for."""
        assert self._holds > 0, f"offset {self.offset} released once too often"
        self._holds -= 1
        if self._holds == 0:
            self._progress._settle()


class PartitionProgress:
    """Offsets of one assignment of one partition, begun in rising order, finished in any.

    A revoked partition's progress is simply forgotten: work still under way finishes on an object nobody commits.
    `on_advance` is called when `committable` rose.
    """

    __slots__ = ("_last_begun", "_on_advance", "_open", "committable")

    def __init__(self, next_offset: int, on_advance: Callable[[], None] = lambda: None) -> None:
        self.committable = next_offset
        """Everything below is finished."""
        self._last_begun = next_offset - 1
        self._open: deque[Work] = deque()
        self._on_advance = on_advance

    @property
    def in_flight(self) -> int:
        """Offsets begun that lie at or above `committable`."""
        return len(self._open)

    def begin(self, offset: int) -> Work:
        assert offset > self._last_begun, f"offset {offset} after {self._last_begun}"
        self._last_begun = offset
        work = Work(self, offset)
        self._open.append(work)
        return work

    def _settle(self) -> None:
        before = self.committable
        while self._open and self._open[0].finished:
            self.committable = self._open.popleft().offset + 1
        assert self.committable >= before
        if self.committable > before:
            self._on_advance()
