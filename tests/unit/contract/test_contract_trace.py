"""W3C trace context: made as the recommendation says, read as it says, ignored when it is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.trace import TraceParent, parse_traceparent, trace_of


@given(st.text(), st.binary(min_size=8, max_size=8).filter(any))
def test_what_is_made_can_be_read(subject: str, parent_id: bytes) -> None:
    """The trace hangs on the subject, so that a repeat belongs to it."""
    made = trace_of(subject, parent_id=parent_id)
    assert parse_traceparent(made.header()) == made
    assert made.trace_id == trace_of(subject, parent_id=b"12345678").trace_id


def test_the_recommendations_own_example() -> None:
    """Version 00, sampled."""
    header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    parsed = parse_traceparent(header)
    assert parsed == TraceParent("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", sampled=True)
    assert parsed.header() == header


def test_a_later_version_may_say_more() -> None:
    """What follows the flags of another version is not ours to read."""
    assert parse_traceparent("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-more") == TraceParent(
        "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", sampled=False
    )


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
    ],
)
def test_what_is_none_is_ignored(header: str) -> None:
    """Never an error: a trace is no reason to refuse a broadcast."""
    assert parse_traceparent(header) is None
