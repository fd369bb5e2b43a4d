"""Moments: an offset, or a local time that its zone shows exactly once."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest

from contract.errors import InvalidRequest
from message_producer.moments import check_time_zone, format_moment, parse_moment

NEW_YORK = ZoneInfo("America/New_York")


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("2024-11-15T20:00:00-05:00", None, 1_731_718_800_000),
        ("2024-11-16T01:00:00Z", None, 1_731_718_800_000),
        ("2024-11-16t01:00:00.250z", None, 1_731_718_800_250),
        ("2024-11-15T20:00:00", NEW_YORK, 1_731_718_800_000),
        ("2024-11-15T20:00", NEW_YORK, 1_731_718_800_000),
        ("2024-07-15T20:00:00", NEW_YORK, 1_721_088_000_000),
    ],
)
def test_a_moment_is_read_with_its_offset_or_in_its_zone(text, zone, expected):
    assert parse_moment(text, "starts_at", zone=zone) == expected


@pytest.mark.parametrize(
    ("text", "zone", "message"),
    [
        ("2024-11-15T20:00:00", None, "has no time zone"),
        ("2024-03-10T02:30:00", NEW_YORK, "is skipped by"),
        ("2024-11-03T01:30:00", NEW_YORK, "is shown twice by"),
        ("2024-02-30T20:00:00Z", None, "is no time"),
        ("2024-11-15T23:59:60Z", None, "is no time"),
        ("2024-11-15", None, "is no time"),
        ("tomorrow", None, "is no time"),
        ("1969-12-31T23:00:00Z", None, "year 1969"),
        ("1970-01-01T00:00:00+01:00", None, "before 1970"),
        ("9999-12-31T23:00:00Z", None, "year 9999"),
    ],
)
def test_a_moment_nobody_can_place_is_refused_by_field(text, zone, message):
    with pytest.raises(InvalidRequest, match="starts_at") as caught:
        parse_moment(text, "starts_at", zone=zone)
    assert message in caught.value.message


@pytest.mark.parametrize("name", ["Mars/Olympus_Mons", "../etc/passwd", "", "a" * 5000, "America"])
def test_an_unknown_zone_is_refused(name):
    with pytest.raises(InvalidRequest, match="time_zone"):
        check_time_zone(name)


def test_moments_are_shown_in_their_zone_and_in_utc_when_it_is_unknown():
    assert format_moment(1_731_718_800_000, "America/New_York") == "2024-11-15T20:00:00-05:00"
    assert format_moment(1_731_718_800_250) == "2024-11-16T01:00:00.250+00:00"
    assert format_moment(0, "Nowhere/Atall") == "1970-01-01T00:00:00+00:00"
