"""Bounded logs: a million lines of one kind make a handful, with a count of what was left out.

`KindLimit` decides, by a clock it is given; ask it before building a line where there may be very many (refusals).
`LogRateLimit` bounds whatever reaches structlog, and is what other loggers are bounded with (`kafka.py`).
`LogByteLimit` bounds what is written in the end: many kinds, or long lines, fill a disk as well as one kind does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, MutableMapping
from typing import Any, Final, NamedTuple

import structlog

__all__ = ["MAX_KINDS", "ByteLimit", "KindLimit", "Line", "LogByteLimit", "LogRateLimit"]

MAX_KINDS: Final = 1_000
"""Kinds told apart; kinds are names in the code, so that more are a mistake: they share one allowance."""
_OTHERS: Final = "(too many kinds)"


class Line(NamedTuple):
    """One line that may be written."""

    hidden: int
    """Lines of this kind left out since the last one that was written."""


class _Kind:
    __slots__ = ("hidden", "left", "until_s")

    def __init__(self, left: int, until_s: float) -> None:
        self.left = left
        self.until_s = until_s
        self.hidden = 0


class KindLimit:
    """At most `burst` lines of a kind per `window_s`; a window begins with the first line after the former one."""

    __slots__ = ("_burst", "_kinds", "_max_kinds", "_window_s")

    def __init__(self, *, burst: int, window_s: float, max_kinds: int = MAX_KINDS) -> None:
        assert burst >= 1, "a limit that lets nothing through tells nobody why"
        assert window_s > 0
        self._burst = burst
        self._window_s = window_s
        self._max_kinds = max_kinds
        self._kinds: dict[str, _Kind] = {}

    def admit(self, kind: str, now_s: float) -> Line | None:
        """Whether one more line may be written; None: it was counted, leave it out."""
        entry = self._kinds.get(kind)
        if entry is None and len(self._kinds) >= self._max_kinds:
            kind = _OTHERS
            entry = self._kinds.get(kind)
        if entry is None:
            entry = self._kinds[kind] = _Kind(self._burst, now_s + self._window_s)
        elif now_s >= entry.until_s:
            entry.left = self._burst
            entry.until_s = now_s + self._window_s
        if entry.left == 0:
            entry.hidden += 1
            return None
        entry.left -= 1
        hidden, entry.hidden = entry.hidden, 0
        return Line(hidden)

    def overdue(self, now_s: float) -> dict[str, int]:
        """Counts nobody would otherwise hear of: of kinds that went quiet after lines were left out. Told once.

        A kind without anything left out whose window has passed is forgotten.
        """
        passed = [(kind, entry.hidden) for kind, entry in self._kinds.items() if now_s >= entry.until_s]
        for kind, _ in passed:
            del self._kinds[kind]
        return {kind: hidden for kind, hidden in passed if hidden}


class LogRateLimit:
    """A structlog processor: at most `burst` lines of one event name per `window_s`.

    The next line that gets through says how many it hid (`suppressed_before`). A kind that went quiet meanwhile is told
    of by whatever line comes next (`suppressed_elsewhere`), so that no count is lost with the flood's end.
    """

    def __init__(
        self,
        *,
        burst: int = 20,
        window_s: float = 10.0,
        bounded_elsewhere: Collection[str] = (),
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`bounded_elsewhere`: kinds whose writers keep a rate of their own; they pass."""
        self._bounded_elsewhere = frozenset(bounded_elsewhere)
        self._limit = KindLimit(burst=burst, window_s=window_s)
        self._window_s = window_s
        self._monotonic_s = monotonic_s
        self._look_at_s = monotonic_s() + window_s

    def __call__(self, logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        kind = str(event.get("event", ""))
        if kind in self._bounded_elsewhere:
            return event
        now_s = self._monotonic_s()
        line = self._limit.admit(kind, now_s)
        if line is None:
            raise structlog.DropEvent
        if line.hidden:
            event["suppressed_before"] = line.hidden
        if now_s >= self._look_at_s:
            self._look_at_s = now_s + self._window_s
            quiet = self._limit.overdue(now_s)
            if quiet:
                event["suppressed_elsewhere"] = quiet
        return event


class ByteLimit:
    """At most `bytes_per_s` on average, after a burst of `burst_s` seconds' worth; a quarter of it is for errors."""

    __slots__ = ("_at_s", "_burst", "_bytes_per_s", "_left", "hidden_bytes", "hidden_lines")

    def __init__(self, *, bytes_per_s: float, burst_s: float, now_s: float) -> None:
        assert bytes_per_s > 0
        assert burst_s > 0
        self._bytes_per_s = bytes_per_s
        self._burst = self._left = bytes_per_s * burst_s
        self._at_s = now_s
        self.hidden_lines = 0
        """Left out since the last line that was written."""
        self.hidden_bytes = 0

    def admit(self, size_bytes: int, now_s: float, *, error: bool = False) -> bool:
        """Whether a line of so many bytes may be written; False: it was counted, leave it out."""
        self._left = min(self._burst, self._left + (now_s - self._at_s) * self._bytes_per_s)
        self._at_s = now_s
        if self._left - size_bytes < (0 if error else self._burst / 4):
            self.hidden_lines += 1
            self.hidden_bytes += size_bytes
            return False
        self._left -= size_bytes
        return True


class LogByteLimit:
    """A structlog processor for after the renderer: bounds the bytes written.

    The next line that gets through is followed by one that says how many lines and bytes were left out. Those are
    always said: the note is one line at most per line that was written, and counted like it.
    """

    def __init__(
        self,
        *,
        bytes_per_s: float,
        burst_s: float = 10.0,
        form: Callable[[int, int], str] | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`form` writes the note from lines and bytes left out; JSON unless given."""
        self._limit = ByteLimit(bytes_per_s=bytes_per_s, burst_s=burst_s, now_s=monotonic_s())
        self._form = form or _note
        self._monotonic_s = monotonic_s
        self.hidden_lines = 0
        """All that were ever left out; only rises."""

    def __call__(self, logger: object, method: str, line: str) -> str:
        limit = self._limit
        note = "\n" + self._form(limit.hidden_lines, limit.hidden_bytes) if limit.hidden_lines else ""
        size_bytes = len(line.encode("utf-8", "replace")) + len(note) + 1
        if not limit.admit(size_bytes, self._monotonic_s(), error=method in ("error", "critical", "exception")):
            self.hidden_lines += 1
            raise structlog.DropEvent
        limit.hidden_lines = limit.hidden_bytes = 0
        return line + note


def _note(lines: int, size_bytes: int) -> str:
    return f'{{"event": "log_lines_left_out", "level": "warning", "lines": {lines}, "bytes": {size_bytes}}}'
