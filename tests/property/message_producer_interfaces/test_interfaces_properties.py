"""Properties of the feed reader and the duration parser."""

from __future__ import annotations

import string

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from contract.durations import MAX_DURATION_MS, format_duration, parse_duration
from contract.errors import InvalidRequest
from message_producer.feeds.ics import parse_calendar
from message_producer.moments import format_moment, parse_moment

FROM, UNTIL = 1_735_689_600_000, 1_767_225_600_000  # the year 2025


def outcome(call):
    """What `call` returns, or the refusal it raises; anything else breaks the test."""
    try:
        return call()
    except InvalidRequest as exc:
        return exc


@given(st.integers(-MAX_DURATION_MS, MAX_DURATION_MS))
def test_every_duration_reads_back_as_written(duration_ms):
    assert parse_duration(format_duration(duration_ms)) == duration_ms


@given(st.one_of(st.text(), st.text(alphabet="PTDHMSWY0123456789+-.,", max_size=12)))
def test_any_text_is_a_bounded_duration_or_a_named_refusal(text):
    found = outcome(lambda: parse_duration(text, "by"))
    if isinstance(found, InvalidRequest):
        assert found.field == "by"
        assert found.rule
    else:
        assert abs(found) <= MAX_DURATION_MS
        assert parse_duration(format_duration(found)) == found


@given(
    # Before 1972 some zones had offsets with seconds, which RFC 3339 cannot say.
    st.integers(126_230_400_000, 200_000_000_000_000),
    st.sampled_from(["UTC", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Apia"]),
)
def test_every_moment_reads_back_as_written_in_any_zone(at_ms, zone):
    assert parse_moment(format_moment(at_ms, zone), "at") == at_ms


@given(st.text(max_size=40))
def test_any_text_is_a_moment_or_a_named_refusal(text):
    found = outcome(lambda: parse_moment(text, "at"))
    assert found.field == "at" if isinstance(found, InvalidRequest) else found >= 0


GOOD = [
    f"BEGIN:VEVENT\r\nUID:good{number}\r\nSUMMARY:Good\r\nDTSTART;TZID=Europe/London:2025060{number}T200000\r\n"
    f"DURATION:PT2H\r\nEND:VEVENT\r\n"
    for number in range(1, 4)
]
EXPECTED = parse_calendar("BEGIN:VCALENDAR\r\n" + "".join(GOOD) + "END:VCALENDAR\r\n", from_ms=FROM, until_ms=UNTIL)

names = st.sampled_from(
    ["UID", "SUMMARY", "DTSTART", "DTEND", "DURATION", "RRULE", "RDATE", "EXDATE", "RECURRENCE-ID", "SEQUENCE",
     "STATUS", "DESCRIPTION", "X-STAGECUE-ID", "TRIGGER", "TZID", "TZOFFSETTO"]
)  # fmt: skip
params = st.sampled_from(["", ";TZID=Nope", ";TZID=Europe/Paris", ";VALUE=DATE", ";RANGE=THISANDFUTURE", ';X="a:b'])
values = st.one_of(
    st.sampled_from(
        [
            "bad",
            "20250601T200000Z",
            "20250601T200000",
            "20250601",
            "20259999T000000Z",
            "PT1H",
            "-PT1H",
            "CANCELLED",
            "FREQ=SECONDLY",
            "FREQ=WEEKLY;COUNT=3",
            "FREQ=WEEKLY;UNTIL=2025",
            "FREQ=YEARLY;INTERVAL=0",
            "1",
            "-1",
            "",
        ]
    ),
    st.text(alphabet=string.printable.replace("\n", "").replace("\r", ""), max_size=20),
)
content_lines = st.builds("{}{}:{}\r\n".format, names, params, values)
garbage = st.text(alphabet=string.printable.replace("\n", "").replace("\r", ""), max_size=20).map(lambda t: f"?{t}\r\n")
inner = st.sampled_from(["BEGIN:VALARM\r\n", "END:VALARM\r\n", "END:NOTHING\r\n"])
bodies = st.lists(st.one_of(content_lines, content_lines, garbage, inner), max_size=8).map("".join)
kinds = st.sampled_from(["VEVENT", "VEVENT", "VEVENT", "VTIMEZONE", "VTODO", "X-OTHER"])


@st.composite
def broken_components(draw):
    """A component of random lines under a UID of its own, possibly without its END."""
    kind, body = draw(kinds), draw(bodies)
    assume("good" not in body)
    # X-OTHER may hold anything, so without its END it would rightly swallow what follows up to a known component.
    ended = kind == "X-OTHER" or draw(st.booleans())
    return f"BEGIN:{kind}\r\n{body}" + (f"END:{kind}\r\n" if ended else "")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(st.lists(broken_components(), min_size=4, max_size=4))
def test_broken_components_never_affect_good_ones(broken):
    """Whatever stands between them, the good entries come out the same, and nothing else breaks out."""
    text = "BEGIN:VCALENDAR\r\n"
    for position, component in enumerate(broken):
        text += component + (GOOD[position] if position < len(GOOD) else "")
    contents = parse_calendar(text + "END:VCALENDAR\r\n", from_ms=FROM, until_ms=UNTIL)
    found = {entry.uid: (entry.starts_at, entry.ends_at, entry.event_id) for entry in contents.entries}
    for entry in EXPECTED.entries:
        assert found.get(entry.uid) == (entry.starts_at, entry.ends_at, entry.event_id)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(raw):
    found = outcome(lambda: parse_calendar(b"BEGIN:VCALENDAR\n" + raw, from_ms=FROM, until_ms=UNTIL))
    if isinstance(found, InvalidRequest):
        assert found.field == "calendar"
    else:
        assert all(item.line >= 1 for item in found.rejected)
