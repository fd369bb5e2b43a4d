"""Goal: stays add up to the curve that made them, and books to the same whatever the order they are added in.

Method: random curves and random books, against the plain definition.
"""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.users.figures import Book
from loadtest.users.pacing import present_at, stays
from loadtest.users.plan import Crowd, Stretch

stretches = st.lists(
    st.builds(Stretch, st.floats(0.0, 30.0).map(lambda found: round(found, 2)), st.integers(0, 25)),
    min_size=1,
    max_size=6,
)


@settings(deadline=None)
@given(stretches, st.floats(0.0, 0.999), st.floats(0.0, 200.0))
def test_as_many_users_are_there_as_the_curve_says(curve: list[Stretch], draw: float, at_s: float) -> None:
    crowd = Crowd(name="c", kind="browse", users=25, curve=tuple(curve))
    there = 0
    for number in range(crowd.users):
        found = stays(crowd, number, draw)
        for stay, following in itertools.pairwise(found):
            assert stay.until_s is not None
            assert stay.from_s <= stay.until_s <= following.from_s
        there += sum(stay.from_s <= at_s and (stay.until_s is None or at_s < stay.until_s) for stay in found)
    # Within a stretch each user has its own place, so the count is the line to within one; at its ends, on either side.
    near = [present_at(crowd, max(0.0, at_s + by)) for by in (-1e-6, 0.0, 1e-6)]
    assert min(near) - 1.001 <= there <= max(near) + 1.001


operations = st.lists(
    st.tuples(
        st.sampled_from(("count", "bin", "time")),
        st.sampled_from(("a/x", "a/y", "b")),
        st.sampled_from(("sent", "failed")),
        st.integers(0, 40),
    ),
    max_size=40,
)


def book_of(given_operations: list[tuple[str, str, str, int]]) -> Book:
    book = Book()
    for kind, of, what, number in given_operations:
        if kind == "count":
            book.count(of, what, number)
        elif kind == "bin":
            book.count_in(of, what, number)
        else:
            book.time(of, what, float(number))
    return book


@settings(max_examples=30, deadline=None)  # a histogram has 23,000 counters
@given(operations, operations, st.booleans())
def test_books_add_up_in_any_order_even_through_a_report(
    one: list[tuple[str, str, str, int]], other: list[tuple[str, str, str, int]], swapped: bool
) -> None:
    expected = book_of(one + other).report()
    parts = [book_of(one), Book.of_report(book_of(other).report())]
    merged = Book()
    for each in reversed(parts) if swapped else parts:
        merged.add(each)
    found = merged.report()
    assert found.counters == expected.counters
    assert found.bins == expected.bins
    for of, histograms in expected.histograms.items():
        for what in histograms:
            ours, theirs = merged.histograms[of][what], book_of(one + other).histograms[of][what]
            assert ours.summary() == theirs.summary()
            assert ours.count == theirs.count
