"""The demo's calendar moves as a whole and keeps zones, distances and everything else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from icalendar import Calendar

from stagecue.demo.calendar import move_calendar

CALENDAR = """BEGIN:VCALENDAR
VERSION:2.0
PRODID:-//stagecue//test//EN
BEGIN:VEVENT
UID:fight@example
DTSTAMP:20240101T000000Z
SUMMARY:The fight
DTSTART;TZID=America/New_York:20241115T200000
DTEND;TZID=America/New_York:20241116T010000
END:VEVENT
BEGIN:VEVENT
UID:game@example
DTSTAMP:20240101T000000Z
SUMMARY:The game
DTSTART;TZID=America/Chicago:20241225T153000
DTEND;TZID=America/Chicago:20241225T183000
END:VEVENT
END:VCALENDAR
""".replace("\n", "\r\n")


def test_the_calendar_moves_as_a_whole():
    start = datetime(2026, 7, 1, 12, 0, 7, tzinfo=UTC)
    moved = Calendar.from_ical(move_calendar(CALENDAR, uid="fight@example", start=start, length=timedelta(seconds=9)))
    fight, game = moved.walk("VEVENT")
    assert fight.decoded("DTSTART") == start
    assert fight["DTSTART"].params["TZID"] == "America/New_York"
    assert fight.decoded("DTEND") - fight.decoded("DTSTART") == timedelta(seconds=9)
    # 2024-11-15 20:00 -05:00 to 2024-12-25 15:30 -06:00, through the zones' own offsets
    assert game.decoded("DTSTART") - start == timedelta(days=39, hours=20, minutes=30)
    assert game.decoded("DTEND") - game.decoded("DTSTART") == timedelta(hours=3)
    assert str(game["SUMMARY"]) == "The game"


def test_an_unknown_event_is_named_with_those_there_are():
    with pytest.raises(LookupError, match="fight@example, game@example"):
        move_calendar(CALENDAR, uid="opera@example", start=datetime(2026, 1, 1, tzinfo=UTC), length=timedelta(1))
