"""Goal: an answer's sentence says what was measured: nothing unknown is 0, and only all of it is 100 %."""

from __future__ import annotations

import pytest

from loadtest.gameday.words import in_ms, recovered, share


@pytest.mark.parametrize(
    ("value_ms", "said"), [(None, "an unknown time"), (0.0, "0.0 ms"), (5.64, "5.6 ms"), (1_234.4, "1,234 ms")]
)
def test_a_time(value_ms: float | None, said: str) -> None:
    assert in_ms(value_ms) == said


@pytest.mark.parametrize(
    ("part", "said"),
    [(None, "an unknown part"), (1.0, "100 %"), (0.99999, "less than 100 %"), (0.9991, "99.91 %"), (0.0, "0 %")],
)
def test_a_share(part: float | None, said: str) -> None:
    assert share(part) == said


def test_what_was_not_over_when_watching_ended_is_not_said_to_have_ended_then() -> None:
    assert recovered(0.5, 18.0) == "after 0.5 s"
    assert recovered(18.0, 18.0) == "not within 18.0 s"
