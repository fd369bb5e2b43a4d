"""A published calendar, moved as a whole so that one of its events happens tonight; pure but for the parser."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from icalendar import Calendar

__all__ = ["move_calendar"]


def move_calendar(text: str, *, uid: str, start: datetime, length: timedelta) -> str:
    """`text` with every event moved by what brings event `uid` to `start`, which then lasts `length`.

    Each event keeps its time zone and its distance to the others. Calendars know whole seconds only, so `start`
    must be one. Raises LookupError when there is no event `uid`.
    """
    assert start.tzinfo is not None, "a start without a zone is nowhere"
    assert start.microsecond == 0, "calendars know whole seconds"
    calendar = Calendar.from_ical(text)
    events = calendar.walk("VEVENT")
    chosen = next((event for event in events if str(event.get("UID")) == uid), None)
    if chosen is None:
        known = ", ".join(str(event.get("UID")) for event in events)
        raise LookupError(f"no event {uid!r} in the calendar; there are {known}")
    by = start - chosen.decoded("DTSTART")
    for event in events:
        begins, ends = event.decoded("DTSTART"), event.decoded("DTEND")
        begins_moved = _moved(begins, by)
        ends_moved = _moved(begins + length, by) if event is chosen else _moved(ends, by)
        for name, moved in (("DTSTART", begins_moved), ("DTEND", ends_moved)):
            del event[name]
            event.add(name, moved)
    text_moved: str = calendar.to_ical().decode()
    return text_moved


def _moved(moment: datetime, by: timedelta) -> datetime:
    # Through UTC: arithmetic on a zoned datetime is wall-clock arithmetic and would slip at a change of offset.
    zone = moment.tzinfo
    return (moment.astimezone(UTC) + by).astimezone(zone)
