"""Cuts an iCalendar file into components and keeps where each line stands; judges nothing else.

Libraries parse a calendar as a whole: one bad component fails the file, and errors carry no line. So the file is cut
here first, and every later step sees one component at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from contract.errors import InvalidRequest
from message_producer.feeds.model import DEFAULT_LIMITS, FeedLimits, Rejection

__all__ = ["Component", "ContentLine", "CutFile", "cut", "unfold"]

_CONTENT_LINE: Final = re.compile(r"([A-Za-z0-9-]+)[;:]")
_CUT: Final = frozenset({"VEVENT", "VTIMEZONE"})
_TOP_LEVEL: Final = _CUT | {"VTODO", "VJOURNAL", "VFREEBUSY", "VCALENDAR", "VAVAILABILITY"}
"""Components that never nest in another: one that begins inside a VEVENT shows that its END is missing."""


class ContentLine(msgspec.Struct, frozen=True):
    """One unfolded line and the number of its first physical line, from 1."""

    number: int
    text: str
    readable: bool = True
    """False: not UTF-8; `text` then holds replacement characters."""

    @property
    def name(self) -> str:
        """Upper-case property name, empty when the line has no `name:value` form."""
        found = _CONTENT_LINE.match(self.text)
        return found.group(1).upper() if found else ""

    @property
    def value(self) -> str:
        """What follows the first colon outside quotes."""
        return self.text[self._colon() + 1 :]

    @property
    def head(self) -> str:
        """Name and parameters: what stands before that colon."""
        return self.text[: self._colon()]

    def _colon(self) -> int:
        quoted = False
        for index, char in enumerate(self.text):
            if char == '"':
                quoted = not quoted
            elif char == ":" and not quoted:
                return index
        return len(self.text)


class Component(msgspec.Struct, frozen=True):
    """A VEVENT (its own lines, without alarms) or a VTIMEZONE (whole), BEGIN and END left out."""

    name: str
    line: int
    lines: tuple[ContentLine, ...]

    def first(self, name: str) -> ContentLine | None:
        return next((line for line in self.lines if line.name == name), None)

    def line_of(self, name: str) -> int:
        """Line of the first property of that name, or where the component begins."""
        found = self.first(name)
        return found.number if found else self.line


class CutFile(msgspec.Struct, frozen=True):
    events: tuple[Component, ...]
    time_zones: tuple[Component, ...]
    rejected: tuple[Rejection, ...]


def unfold(raw: bytes) -> Iterator[ContentLine]:
    """Content lines of a file. Unfolds bytes, not text: a fold may split a character (RFC 5545, section 3.1)."""
    start, parts = 0, list[bytes]()
    for number, physical in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        stripped = physical.rstrip(b"\r")
        if stripped[:1] in (b" ", b"\t") and parts:
            parts.append(stripped[1:])
            continue
        if parts:
            yield _content_line(start, b"".join(parts))
        start, parts = number, [stripped]
    if parts:
        yield _content_line(start, b"".join(parts))


def _content_line(number: int, raw: bytes) -> ContentLine:
    try:
        return ContentLine(number, raw.decode())
    except UnicodeDecodeError:
        return ContentLine(number, raw.decode(errors="replace"), readable=False)


def cut(raw: bytes, limits: FeedLimits = DEFAULT_LIMITS) -> CutFile:
    """The VEVENTs and VTIMEZONEs of a file, and every place where its structure is broken.

    Raises InvalidRequest for what is no calendar at all or exceeds a limit. A component whose END is missing is
    rejected alone: the next BEGIN of a component that cannot nest ends it.
    """
    if len(raw) > limits.file_bytes:
        raise InvalidRequest(
            f"{len(raw)} bytes", field="calendar", rule=f"at most {limits.file_bytes} bytes in a calendar file"
        )
    cutter = _Cutter(limits)
    for line in unfold(raw):
        cutter.take(line)
    return cutter.finish()


class _Cutter:
    def __init__(self, limits: FeedLimits) -> None:
        self._limits = limits
        self._calendars = 0
        self._open: list[str] = []
        """Names begun and not ended, below VCALENDAR."""
        self._begun_at = 0
        self._lines: list[ContentLine] = []
        self._events: list[Component] = []
        self._zones: list[Component] = []
        self._rejected: list[Rejection] = []

    def take(self, line: ContentLine) -> None:
        if not line.text.strip():
            return
        name = line.name
        if name == "BEGIN":
            self._begin(line)
        elif name == "END":
            self._end(line)
        elif self._open and (len(self._open) == 1 or self._open[0] == "VTIMEZONE"):
            self._lines.append(line)

    def finish(self) -> CutFile:
        self._break_off("the file ends")
        if self._calendars == 0:
            raise InvalidRequest("no BEGIN:VCALENDAR", field="calendar", rule="an iCalendar file (RFC 5545)")
        return CutFile(tuple(self._events), tuple(self._zones), tuple(self._rejected))

    def _begin(self, line: ContentLine) -> None:
        kind = line.value.strip().upper()
        if kind in _TOP_LEVEL:
            self._break_off(f"BEGIN:{kind} follows at line {line.number}")
        if kind == "VCALENDAR":
            self._calendars += 1
            return
        if not self._open:
            self._begun_at, self._lines = line.number, []
        elif self._open[0] == "VTIMEZONE":
            self._lines.append(line)
        self._open.append(kind)

    def _end(self, line: ContentLine) -> None:
        kind = line.value.strip().upper()
        if kind == "VCALENDAR":
            self._break_off(f"END:VCALENDAR follows at line {line.number}")
            return
        if kind not in self._open:
            self._reject(line.number, "END", f"END:{kind[:40]} without its BEGIN", "BEGIN and END come in pairs")
            return
        # An END closes what was left open inside it: an alarm without its END costs the alarm, not the event.
        while self._open[-1] != kind:
            self._open.pop()
        self._open.pop()
        if self._open:
            if self._open[0] == "VTIMEZONE":
                self._lines.append(line)
            return
        if kind in _CUT:
            self._keep(Component(kind, self._begun_at, tuple(self._lines)))

    def _keep(self, component: Component) -> None:
        (self._events if component.name == "VEVENT" else self._zones).append(component)
        if len(self._events) + len(self._zones) > self._limits.components:
            raise InvalidRequest(
                "too many components", field="calendar", rule=f"at most {self._limits.components} components"
            )

    def _break_off(self, why: str) -> None:
        if self._open and self._open[0] in _CUT:
            kind = self._open[0]
            broken = Component(kind, self._begun_at, tuple(self._lines))
            uid = broken.first("UID")
            self._reject(self._begun_at, "END", f"END:{kind} is missing: {why}", "BEGIN and END come in pairs", uid=uid)
        self._open = []

    def _reject(self, line: int, field: str, message: str, rule: str, *, uid: ContentLine | None = None) -> None:
        named = uid.value[:255] if uid else None
        self._rejected.append(Rejection(line=line, field=field, message=message, rule=rule, uid=named))
