"""Judges one VEVENT alone: its properties, its zones, its recurrence rule; says which line broke which rule."""

from __future__ import annotations

import re
import threading
import zoneinfo
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import icalendar
import msgspec
from icalendar.timezone import tzp
from icalendar.timezone.windows_to_olson import WINDOWS_TO_OLSON

from contract.errors import InvalidRequest
from contract.names import check_event_id
from message_producer.feeds.lines import Component, ContentLine
from message_producer.feeds.model import FeedLimits, Rejection

__all__ = ["BadComponent", "VEvent", "calendar_of", "read_vevent", "read_zones", "to_ms"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
_ONE: Final = frozenset(
    {"UID", "DTSTART", "DTEND", "DURATION", "RRULE", "RECURRENCE-ID", "SEQUENCE", "STATUS", "SUMMARY", "X-STAGECUE-ID"}
)
_READ: Final = _ONE | {"RDATE", "EXDATE"}
"""The library is given these alone: a broken ATTACH harms no one."""
_TIMES: Final = ("DTSTART", "DTEND", "RECURRENCE-ID", "RDATE", "EXDATE")
_RULE_PARTS: Final = frozenset(
    {"FREQ", "INTERVAL", "COUNT", "UNTIL", "BYDAY", "BYMONTH", "BYMONTHDAY", "BYSETPOS", "WKST"}
)
_FREQUENCIES: Final = ("DAILY", "WEEKLY", "MONTHLY", "YEARLY")
_COUNTED: Final = re.compile(r"[1-9][0-9]{0,3}")
_TZID: Final = re.compile(r';TZID=(?:"([^"]*)"|([^;:"]*))', re.IGNORECASE)
_MAX_UID: Final = 255
_MAX_TITLE: Final = 200
_icalendar_lock = threading.Lock()
"""icalendar remembers time zones per process: one file's `Custom` would be the next file's."""


class BadComponent(Exception):
    """A component that cannot be taken; carries what is reported of it."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(str(rejection))
        self.rejection = rejection


class VEvent(msgspec.Struct, frozen=True):
    """A VEVENT that passed every rule which needs no other component."""

    component: Component
    uid: str
    slot: int | None
    """RECURRENCE-ID in ms: this one overrides a slot of a series. None: the entry itself."""
    sequence: int
    cancelled: bool
    recurs: bool
    given_id: str | None
    """X-STAGECUE-ID"""
    zone_names: frozenset[str]
    """Zones of its own file that it needs."""


def to_ms(moment: datetime) -> int:
    return (moment - _EPOCH) // _MS


def calendar_of(zones: Mapping[str, Component], *events: Component) -> Any:
    """A calendar of nothing but `zones` and the read properties of `events`. Raises what the library raises."""
    text = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//stagecue//feeds//EN"]
    for zone in zones.values():
        text += ["BEGIN:VTIMEZONE", *(line.text for line in zone.lines), "END:VTIMEZONE"]
    for event in events:
        text += ["BEGIN:VEVENT", *(line.text for line in event.lines if line.name in _READ), "END:VEVENT"]
    text += ["END:VCALENDAR", ""]
    with _icalendar_lock:
        tzp.use_default()
        found = icalendar.Calendar.from_ical("\r\n".join(text))
        # Zones are resolved lazily: everything is parsed before another file may reset the cache.
        found.walk()
        return found


def read_zones(components: tuple[Component, ...]) -> tuple[dict[str, Component], list[Rejection]]:
    """TZID -> its definition, for definitions that work; the others are rejected. The first of a name counts."""
    zones: dict[str, Component] = {}
    rejected: list[Rejection] = []
    for component in components:
        named = component.first("TZID")
        tzid = named.value.strip() if named else ""
        try:
            for zone in calendar_of({tzid: component}).walk("VTIMEZONE"):
                zone.to_tz(lookup_tzid=False).utcoffset(datetime(2025, 1, 1))  # noqa: DTZ001 - a zone's own wall time
        except Exception as exc:  # whatever a broken definition provokes in the library concerns this zone alone
            rejected.append(
                Rejection(
                    line=component.line,
                    field="VTIMEZONE",
                    message=f"{tzid[:80] or 'without TZID'}: {_brief(exc)}",
                    rule="a definition with TZID and STANDARD or DAYLIGHT rules",
                )
            )
            continue
        zones.setdefault(tzid, component)
    return zones, rejected


def read_vevent(component: Component, zones: Mapping[str, Component], limits: FeedLimits) -> VEvent:
    """Judge one component. Raises BadComponent."""
    return _Reader(component, zones, limits).read()


class _Reader:
    def __init__(self, component: Component, zones: Mapping[str, Component], limits: FeedLimits) -> None:
        self._component = component
        self._zones = zones
        self._limits = limits
        named = component.first("UID")
        self._uid: str | None = named.value[:_MAX_UID] if named else None
        self._slot: int | None = None

    def read(self) -> VEvent:
        self._check_lines()
        needed = self._check_zones()
        event = self._parse({name: self._zones[name] for name in needed if name in self._zones})
        self._slot = self._check_slot(event)
        cancelled = str(event.get("STATUS", "")).strip().upper() == "CANCELLED"
        self._check_title(event, cancelled=cancelled)
        self._check_times(event)
        self._check_rule()
        assert self._uid is not None
        return VEvent(
            component=self._component,
            uid=self._uid,
            slot=self._slot,
            sequence=int(event.get("SEQUENCE", 0)),
            cancelled=cancelled,
            recurs="RRULE" in event or "RDATE" in event,
            given_id=self._given_id(event),
            zone_names=frozenset(needed),
        )

    def _bad(self, field: str, message: str, rule: str = "", *, line: int | None = None) -> BadComponent:
        return BadComponent(
            Rejection(
                line=line if line is not None else self._component.line_of(field),
                field=field,
                message=message,
                rule=rule,
                uid=self._uid,
                occurrence=self._slot,
            )
        )

    def _check_lines(self) -> None:
        seen: set[str] = set()
        for line in self._component.lines:
            name = line.name
            if not name:
                raise self._bad("VEVENT", f"{line.text[:60]!r} is no content line", "name:value", line=line.number)
            if name not in _READ:
                continue
            if not line.readable:
                raise self._bad(name, "not UTF-8", "iCalendar files are UTF-8", line=line.number)
            if len(line.text) > self._limits.line_bytes:
                raise self._bad(name, "too long", f"at most {self._limits.line_bytes} characters", line=line.number)
            if name in _ONE and name in seen:
                raise self._bad(name, "given twice", "once per component", line=line.number)
            seen.add(name)
        for name in ("UID", "DTSTART"):
            if name not in seen:
                raise self._bad(name, "missing", "every entry has UID, DTSTART and SUMMARY")
        if not self._uid or not self._uid.strip():
            raise self._bad("UID", "empty", "a UID names the entry across changes")
        if len(self._line("UID").value) > _MAX_UID:
            raise self._bad("UID", "too long", f"at most {_MAX_UID} characters")

    def _line(self, name: str) -> ContentLine:
        found = self._component.first(name)
        assert found is not None
        return found

    def _check_zones(self) -> list[str]:
        """Zone names the component uses. The library would silently make a time of an unknown zone zone-less."""
        needed: list[str] = []
        for line in self._component.lines:
            found = _TZID.search(line.head) if line.name in _TIMES else None
            if found is None:
                continue
            tzid = found.group(1) or found.group(2) or ""
            if tzid not in self._zones and not _known_zone(tzid):
                raise self._bad(
                    line.name,
                    f"time zone {tzid[:80]!r} is unknown",
                    "an IANA name, or a VTIMEZONE of the same file that works",
                    line=line.number,
                )
            needed.append(tzid)
        return needed

    def _parse(self, zones: Mapping[str, Component]) -> Any:
        try:
            (event,) = calendar_of(zones, self._component).walk("VEVENT")
        except Exception as exc:  # any failure of the library on this component is this component's
            raise self._bad("VEVENT", _brief(exc), "a component of RFC 5545") from exc
        for name, message in event.errors:
            if name in _READ or not name:
                raise self._bad(name or "VEVENT", _brief(message), "a value of RFC 5545")
        self._uid = str(event["UID"])
        return event

    def _check_slot(self, event: Any) -> int | None:
        if "RECURRENCE-ID" not in event:
            return None
        prop = event["RECURRENCE-ID"]
        slot = to_ms(self._moment("RECURRENCE-ID", prop.dt))
        if "RANGE" in prop.params:
            self._slot = slot
            raise self._bad("RECURRENCE-ID", "RANGE is not taken", "move each occurrence, or start a new series")
        return slot

    def _check_title(self, event: Any, *, cancelled: bool) -> None:
        title = str(event.get("SUMMARY", "")).strip()
        if not title and not cancelled:
            raise self._bad("SUMMARY", "missing", "every entry has UID, DTSTART and SUMMARY")
        if len(title) > _MAX_TITLE:
            raise self._bad("SUMMARY", "too long", f"at most {_MAX_TITLE} characters")

    def _check_times(self, event: Any) -> None:
        starts_at = self._moment("DTSTART", event["DTSTART"].dt)
        if "DTEND" in event and "DURATION" in event:
            raise self._bad("DURATION", "given beside DTEND", "one of DTEND and DURATION")
        if "DTEND" in event and self._moment("DTEND", event["DTEND"].dt) <= starts_at:
            raise self._bad("DTEND", "not after DTSTART", "an entry ends after it starts")
        if "DURATION" in event and event["DURATION"].dt <= timedelta(0):
            raise self._bad("DURATION", "not positive", "an entry ends after it starts")
        for name in ("RDATE", "EXDATE"):
            values = event.get(name, [])
            for value in values if isinstance(values, list) else [values]:
                for item in value.dts:
                    self._moment(name, item.dt)

    def _moment(self, name: str, value: Any) -> datetime:
        if isinstance(value, tuple):
            raise self._bad(name, "a period", "a date-time; periods are not taken")
        if not isinstance(value, datetime):
            raise self._bad(name, "a day without a time", "a date-time with a zone; an all-day entry has no moment")
        if value.tzinfo is None:
            raise self._bad(name, "a time without a zone", "UTC (…Z), or TZID with a known time zone")
        if not 1970 <= value.year <= 9000:
            raise self._bad(name, f"year {value.year}", "between 1970 and 9000")
        return value

    def _check_rule(self) -> None:
        """Refuse rules that could keep the expansion busy for hours, or never match and never end."""
        line = self._component.first("RRULE")
        if line is None:
            return
        pairs = [part.upper().partition("=")[::2] for part in line.value.strip().split(";") if part]
        parts = dict(pairs)
        if len(parts) < len(pairs):
            raise self._bad("RRULE", "a part is given twice", "each part once")
        unknown = sorted(set(parts) - _RULE_PARTS)
        if unknown:
            raise self._bad("RRULE", f"{unknown[0][:20]} is not taken", f"parts: {', '.join(sorted(_RULE_PARTS))}")
        if parts.get("FREQ") not in _FREQUENCIES:
            raise self._bad("RRULE", f"FREQ={parts.get('FREQ', '')[:20]}", f"one of {', '.join(_FREQUENCIES)}")
        for name in ("INTERVAL", "COUNT"):
            # An interval of zero never leaves its first occurrence, and the library would follow it there.
            if not _COUNTED.fullmatch(parts.get(name, "1")):
                raise self._bad("RRULE", f"{name}={parts[name][:20]}", f"{name} from 1 to 9999")
        days = [abs(int(day)) for day in parts.get("BYMONTHDAY", "").split(",") if day.lstrip("+-").isdigit()]
        months = [int(month) for month in parts.get("BYMONTH", "").split(",") if month.isdigit()]
        longest = max((_days_of(month) for month in months), default=31)
        if days and min(days) > longest:
            raise self._bad("RRULE", "matches no day", "a BYMONTHDAY that its BYMONTH has")
        if "BYSETPOS" in parts and parts["FREQ"] not in ("MONTHLY", "YEARLY"):
            raise self._bad("RRULE", "BYSETPOS without months", "BYSETPOS with FREQ=MONTHLY or YEARLY")

    def _given_id(self, event: Any) -> str | None:
        if "X-STAGECUE-ID" not in event:
            return None
        try:
            return check_event_id(str(event["X-STAGECUE-ID"]).strip(), "X-STAGECUE-ID")
        except InvalidRequest as exc:
            raise self._bad("X-STAGECUE-ID", exc.message, exc.rule or "") from exc


def _known_zone(tzid: str) -> bool:
    if tzid in WINDOWS_TO_OLSON:
        return True
    try:
        zoneinfo.ZoneInfo(tzid)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def _days_of(month: int) -> int:
    return {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}.get(month, 31)


def _brief(problem: object) -> str:
    text = " ".join(str(problem).split())
    return text[:160] or type(problem).__name__
