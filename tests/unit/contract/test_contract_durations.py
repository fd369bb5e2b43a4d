"""Durations: strict reading, canonical writing."""

from __future__ import annotations

import pytest

from contract.durations import format_duration, parse_duration
from contract.errors import InvalidRequest


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        ("PT15M", 900_000),
        ("-PT30S", -30_000),
        ("+PT1.5S", 1_500),
        ("P1DT12H", 129_600_000),
        ("P2W", 1_209_600_000),
        ("PT0S", 0),
        ("PT90M", 5_400_000),
        ("P366D", 366 * 86_400_000),
    ],
)
def test_a_duration_is_read_to_the_millisecond(text, expected_ms):
    assert parse_duration(text) == expected_ms


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("P1M", "days, hours, minutes and seconds alone"),
        ("P1Y2D", "days, hours, minutes and seconds alone"),
        ("P", "ISO 8601"),
        ("PT", "ISO 8601"),
        ("P1DT", "ISO 8601"),
        ("", "ISO 8601"),
        ("15 minutes", "ISO 8601"),
        ("PT1.5M", "ISO 8601"),
        ("PT1.2345S", "ISO 8601"),
        ("P1W2D", "ISO 8601"),
        ("pt1m", "ISO 8601"),
        (" PT1M", "ISO 8601"),
        ("PT1M\n", "ISO 8601"),
        ("PT١M", "ISO 8601"),
        ("P367D", "at most 366 days"),
    ],
)
def test_anything_else_is_refused_by_field_and_rule(text, rule):
    with pytest.raises(InvalidRequest) as caught:
        parse_duration(text, "stages[2].offset")
    assert caught.value.field == "stages[2].offset"
    assert rule in (caught.value.rule or "")


@pytest.mark.parametrize(
    ("duration_ms", "text"),
    [(0, "PT0S"), (-900_000, "-PT15M"), (86_400_000, "P1D"), (1_500, "PT1.5S"), (50, "PT0.05S")],
)
def test_the_written_form_is_the_shortest(duration_ms, text):
    assert format_duration(duration_ms) == text
