"""Calendar files: what is taken, what is refused on which line, and that neither disturbs the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.errors import InvalidRequest
from message_producer.feeds.ics import event_id_of, parse_calendar
from message_producer.feeds.lines import cut, unfold
from message_producer.feeds.model import FeedLimits
from message_producer.moments import format_moment, parse_moment

SCHEDULES = Path(__file__).parents[3] / "examples" / "schedules"
FROM = parse_moment("2024-01-01T00:00:00Z", "from")
UNTIL = parse_moment("2026-12-31T00:00:00Z", "until")


def calendar(*components, zones=()):
    parts = ["BEGIN:VCALENDAR", "VERSION:2.0", *zones]
    for component in components:
        parts += ["BEGIN:VEVENT", *component.strip().split("\n"), "END:VEVENT"]
    return "\r\n".join([*parts, "END:VCALENDAR", ""])


def parsed(text, **kwargs):
    return parse_calendar(text, from_ms=FROM, until_ms=UNTIL, **kwargs)


def starts(contents):
    return [format_moment(entry.starts_at, entry.time_zone) for entry in contents.entries]


def test_the_schedule_of_real_events_is_read_in_their_own_zones():
    contents = parsed((SCHEDULES / "live-events.ics").read_bytes())
    assert contents.rejected == ()
    assert [(entry.event_id, format_moment(entry.starts_at, entry.time_zone)) for entry in contents.entries] == [
        ("paul-tyson", "2024-11-15T20:00:00-05:00"),
        ("nfl-2024-chiefs-steelers", "2024-12-25T13:00:00-05:00"),
        ("nfl-2024-ravens-texans", "2024-12-25T15:30:00-06:00"),
        ("canelo-crawford", "2025-09-13T18:00:00-07:00"),
        ("nfl-2025-cowboys-commanders", "2025-12-25T13:00:00-05:00"),
        ("nfl-2025-lions-vikings", "2025-12-25T15:30:00-06:00"),
    ]
    assert contents.entries[3].title == "Canelo Álvarez vs. Terence Crawford"


def test_a_rough_schedule_gives_its_good_entries_and_lists_the_bad_ones_by_line():
    raw = (SCHEDULES / "rough.ics").read_bytes()
    contents = parsed(raw)
    assert [(item.line, item.field) for item in contents.rejected] == [
        (14, "DTSTART"),
        (19, "DTSTART"),
        (25, "DTEND"),
        (30, "DTSTART"),
        (32, "UID"),
        (39, "DTSTART"),
        (60, "RRULE"),
        (69, "END"),
    ]
    lines = raw.decode().splitlines()
    assert lines[14 - 1].startswith("DTSTART;TZID=Mars")
    assert all(item.rule for item in contents.rejected)
    taken = [entry.title for entry in contents.entries if not entry.cancelled]
    assert taken == ["Cup final", "Weekly show", "Weekly show, a day late", "Weekly show", "Season closer"]


@pytest.mark.parametrize(
    ("component", "field", "message"),
    [
        ("UID:a\nSUMMARY:x\nDTSTART;TZID=Mars/Base:20250101T200000", "DTSTART", "is unknown"),
        ("UID:a\nSUMMARY:x\nDTSTART;TZID=/vendor/America/New_York:20250101T200000", "DTSTART", "is unknown"),
        ("UID:a\nSUMMARY:x\nDTSTART:20250101T200000", "DTSTART", "without a zone"),
        ("UID:a\nSUMMARY:x\nDTSTART:20250101T200000Z\nDTEND:20250101T210000", "DTEND", "without a zone"),
        ("UID:a\nSUMMARY:x\nDTSTART;VALUE=DATE:20250101", "DTSTART", "a day without a time"),
        ("UID:a\nSUMMARY:x\nDTSTART:20250101T200000Z\nDTEND:20250101T190000Z", "DTEND", "not after"),
        ("UID:a\nSUMMARY:x\nDTSTART:20250101T200000Z\nDTEND:20250101T200000Z", "DTEND", "not after"),
        ("UID:a\nSUMMARY:x\nDTSTART:20250101T200000Z\nDURATION:-PT1H", "DURATION", "not positive"),
        ("UID:a\nSUMMARY:x\nDTSTART:20250101T200000Z\nDTEND:20250101T210000Z\nDURATION:PT1H", "DURATION", "beside"),
        ("SUMMARY:x\nDTSTART:20250101T200000Z", "UID", "missing"),
        ("UID: \nSUMMARY:x\nDTSTART:20250101T200000Z", "UID", "empty"),
        ("UID:" + "u" * 300 + "\nSUMMARY:x\nDTSTART:20250101T200000Z", "UID", "too long"),
        ("UID:a\nSUMMARY:x", "DTSTART", "missing"),
        ("UID:a\nDTSTART:20250101T200000Z", "SUMMARY", "missing"),
        ("UID:a\nSUMMARY:x\nDTSTART:yesterday", "DTSTART", "Expected"),
        ("UID:a\nSUMMARY:x\nDTSTART:20250101T200000Z\nDTSTART:20250102T200000Z", "DTSTART", "twice"),
        ("UID:a\nSUMMARY:x\nDTSTART:20250101T200000Z\nRRULE:FREQ=SECONDLY", "RRULE", "SECONDLY"),
        ("UID:a\nSUMMARY:x\nDTSTART:20250101T200000Z\nRRULE:FREQ=DAILY;BYSECOND=1", "RRULE", "BYSECOND"),
        ("UID:a\nSUMMARY:x\nDTSTART:20250101T200000Z\nRRULE:FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30", "RRULE", "no day"),
        ("UID:a\nSUMMARY:x\nDTSTART:20250101T200000Z\nRRULE:FREQ=DAILY;BYSETPOS=9", "RRULE", "BYSETPOS"),
        ("UID:a\nSUMMARY:x\nDTSTART:20250101T200000Z\nRRULE:FREQ=DAILY", "RRULE", "occurrences"),
        ("UID:a\nSUMMARY:x\nDTSTART:20250101T200000Z\nRRULE:FREQ=YEARLY;INTERVAL=0", "RRULE", "INTERVAL=0"),
        ("UID:a\nSUMMARY:x\nDTSTART:20250101T200000Z\nRRULE:FREQ=DAILY;COUNT=0", "RRULE", "COUNT=0"),
        ("UID:a\nSUMMARY:x\nDTSTART:20250101T200000Z\nRRULE:FREQ=DAILY;FREQ=WEEKLY", "RRULE", "twice"),
        ("UID:a\nSUMMARY:x\nDTSTART:20250101T200000Z\nEXDATE:20250101", "EXDATE", "a day without a time"),
        ("UID:a\nSUMMARY:x\nDTSTART:20250101T200000Z\nno content line", "VEVENT", "no content line"),
        ("UID:a\nSUMMARY:x\nDTSTART:20250101T200000Z\nX-STAGECUE-ID:Not An Id", "X-STAGECUE-ID", "not a valid name"),
        (
            "UID:a\nSUMMARY:x\nDTSTART:20250102T200000Z\nRECURRENCE-ID;RANGE=THISANDFUTURE:20250101T200000Z",
            "RECURRENCE-ID",
            "RANGE",
        ),
    ],
)
def test_a_bad_component_is_named_by_line_and_field_and_costs_only_itself(component, field, message):
    good = "UID:good\nSUMMARY:Good\nDTSTART:20250301T200000Z"
    contents = parsed(
        calendar(good, component, good.replace("good", "good2")), limits=FeedLimits(occurrences_per_uid=50)
    )
    assert [entry.uid for entry in contents.entries] == ["good", "good2"]
    (rejected,) = contents.rejected
    assert rejected.field == field
    assert message in rejected.message
    assert 8 <= rejected.line <= 8 + component.count("\n") + 1


def test_a_library_that_makes_unknown_zones_zoneless_is_not_trusted():
    """icalendar turns an unresolved TZID into a floating time without a word; here it must be an error."""
    contents = parsed(calendar("UID:a\nSUMMARY:x\nDTSTART:20250101T200000Z\nDTEND;TZID=Nope:20250101T210000"))
    assert contents.entries == ()
    assert "Nope" in contents.rejected[0].message


ZONE = """BEGIN:VTIMEZONE
TZID:Custom
BEGIN:STANDARD
DTSTART:19700101T000000
TZOFFSETFROM:{offset}
TZOFFSETTO:{offset}
END:STANDARD
END:VTIMEZONE"""


def test_a_zone_defined_in_one_file_says_nothing_of_the_next():
    """The library keeps zones per process; a second file's `Custom` must be its own."""
    event = "UID:a\nSUMMARY:x\nDTSTART;TZID=Custom:20250101T200000"
    three = parsed(calendar(event, zones=ZONE.format(offset="+0300").split("\n")))
    four = parsed(calendar(event, zones=ZONE.format(offset="+0400").split("\n")))
    assert starts(three) == ["2025-01-01T17:00:00+00:00"]
    assert starts(four) == ["2025-01-01T16:00:00+00:00"]
    assert "is unknown" in parsed(calendar(event)).rejected[0].message


def test_a_zone_name_may_hold_a_colon_in_quotes():
    """Some calendars name their zones `(UTC+03:00) Moscow`; the first colon is not the value's."""
    name = "(UTC+03:00) Moscow"
    zone = ZONE.format(offset="+0300").replace("Custom", name).split("\n")
    event = f'UID:a\nSUMMARY:x\nDTSTART;TZID="{name}":20250101T200000'
    assert starts(parsed(calendar(event, zones=zone))) == ["2025-01-01T17:00:00+00:00"]


def test_a_broken_zone_definition_costs_only_entries_that_need_it():
    zones = ["BEGIN:VTIMEZONE", "TZID:Custom", "END:VTIMEZONE"]
    contents = parsed(
        calendar("UID:a\nSUMMARY:x\nDTSTART;TZID=Custom:20250101T200000", "UID:b\nSUMMARY:x\nDTSTART:20250101T200000Z",
                 zones=zones)
    )  # fmt: skip
    assert [entry.uid for entry in contents.entries] == ["b"]
    assert [item.field for item in contents.rejected] == ["VTIMEZONE", "DTSTART"]


SERIES = (
    "UID:s\nSUMMARY:Show\nDTSTART;TZID=America/New_York:20250302T200000\nDURATION:PT2H\nRRULE:FREQ=WEEKLY;COUNT=4\n"
    "EXDATE;TZID=America/New_York:20250309T200000"
)
MOVED = (
    "UID:s\nSUMMARY:Show\nRECURRENCE-ID;TZID=America/New_York:20250316T200000\n"
    "DTSTART;TZID=America/New_York:20250317T210000"
)


def test_a_series_follows_its_zones_clock_with_moved_and_struck_out_occurrences():
    contents = parsed(calendar(SERIES, MOVED))
    assert starts(contents) == [
        "2025-03-02T20:00:00-05:00",  # winter
        "2025-03-10T00:00:00+00:00",  # struck out: said as a cancellation of its slot
        "2025-03-17T21:00:00-04:00",  # summer, and a day late
        "2025-03-23T20:00:00-04:00",
    ]
    assert [entry.cancelled for entry in contents.entries] == [False, True, False, False]


def test_a_moved_occurrence_keeps_the_identity_of_its_slot():
    before = {entry.source_uid: entry for entry in parsed(calendar(SERIES)).entries}
    after = {entry.source_uid: entry for entry in parsed(calendar(SERIES, MOVED)).entries}
    assert before.keys() == after.keys()
    moved = [uid for uid in before if before[uid].starts_at != after[uid].starts_at]
    assert len(moved) == 1
    assert before[moved[0]].event_id == after[moved[0]].event_id
    assert after[moved[0]].occurrence == before[moved[0]].starts_at


def test_a_broken_override_leaves_its_slot_alone():
    """Where the feed wanted it is not known, so its old time would be a guess."""
    broken = MOVED.replace("DTSTART;TZID=America/New_York:20250317T210000", "DTSTART:20250317T210000")
    contents = parsed(calendar(SERIES, broken))
    assert "2025-03-16T20:00:00-04:00" not in starts(contents)
    assert contents.rejected[0].occurrence == parse_moment("2025-03-16T20:00:00-04:00", "slot")


def test_cancelled_entries_and_series_say_so():
    one = "UID:a\nSTATUS:CANCELLED\nDTSTART:20250101T200000Z"
    assert [entry.cancelled for entry in parsed(calendar(one, SERIES + "\nSTATUS:CANCELLED")).entries] == [True] * 5


def test_a_second_component_of_one_uid_counts_only_with_a_higher_sequence():
    first = "UID:a\nSUMMARY:First\nDTSTART:20250101T200000Z"
    second = first.replace("First", "Second")
    assert [e.title for e in parsed(calendar(first, second + "\nSEQUENCE:1")).entries] == ["Second"]
    contents = parsed(calendar(first, second))
    assert [entry.title for entry in contents.entries] == ["First"]
    assert "already given at line 4" in contents.rejected[0].message


@pytest.mark.parametrize(
    ("raw", "limits", "rule"),
    [
        (b"hello", FeedLimits(), "iCalendar"),
        (b"", FeedLimits(), "iCalendar"),
        (b"\xff\xfe\x00", FeedLimits(), "iCalendar"),
        (b"BEGIN:VCALENDAR\n" + b"x" * 100, FeedLimits(file_bytes=50), "at most 50 bytes"),
        (calendar("UID:a\nSUMMARY:x", "UID:b\nSUMMARY:x").encode(), FeedLimits(components=1), "at most 1 components"),
    ],
)
def test_what_is_no_calendar_or_too_much_is_refused_whole(raw, limits, rule):
    with pytest.raises(InvalidRequest) as caught:
        parsed(raw, limits=limits)
    assert rule in (caught.value.rule or "")


def test_an_empty_or_endless_horizon_is_refused():
    for until in (FROM, FROM + 6 * 366 * 86_400_000):
        with pytest.raises(InvalidRequest, match="until"):
            parse_calendar(calendar(SERIES), from_ms=FROM, until_ms=until)


def test_entries_beyond_the_horizon_are_counted_not_taken():
    contents = parsed(calendar("UID:a\nSUMMARY:x\nDTSTART:20200101T200000Z", SERIES))
    assert contents.outside == 1
    assert {entry.uid for entry in contents.entries} == {"s"}


def test_a_file_that_takes_too_long_loses_only_what_came_later():
    answers = iter([False, True])
    contents = parsed(calendar("UID:a\nSUMMARY:x\nDTSTART:20250101T200000Z", SERIES), out_of_time=lambda: next(answers))
    assert [entry.uid for entry in contents.entries] == ["a"]
    assert "too long" in contents.rejected[0].message


def test_folds_are_undone_in_bytes_and_lines_keep_their_numbers():
    raw = "BEGIN:X\r\nSUMMARY:Canelo Á\r\n lvarez\r\nUID:a\r\n".encode().replace(b"\xc3\x81\r\n ", b"\xc3\r\n \x81")
    assert [(line.number, line.text) for line in unfold(raw)][:3] == [
        (1, "BEGIN:X"),
        (2, "SUMMARY:Canelo Álvarez"),
        (4, "UID:a"),
    ]


def test_an_alarm_without_its_end_costs_the_alarm_alone():
    cutting = cut(calendar("UID:a\nBEGIN:VALARM\nTRIGGER:nonsense\nSUMMARY:not the event's").encode())
    assert [[line.name for line in event.lines] for event in cutting.events] == [["UID"]]
    assert cutting.rejected == ()


def test_event_ids_are_readable_stable_and_told_apart_by_slot():
    assert event_id_of("Canelo Álvarez vs. Crawford!", "u") == event_id_of("Canelo Álvarez vs. Crawford!", "u")
    assert event_id_of("Canelo Álvarez vs. Crawford!", "u").startswith("canelo-alvarez-vs-crawford-")
    assert event_id_of("x", "u", 0) != event_id_of("x", "u", 86_400_000)
    assert event_id_of("東京", "u").startswith("event-")
    assert event_id_of("x", "u", 0, "my-show") == "my-show-19700101t0000z"
    assert len(event_id_of("x" * 200, "u")) <= 64
    assert len(event_id_of("x", "u", 0, "a" * 64)) <= 64
