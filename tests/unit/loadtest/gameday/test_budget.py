"""Goal: a client with a budget asks no sooner than it is told and no oftener than it may, and spreads out after it."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from loadtest.gameday.clients.budget import RetryBudget

draws = st.floats(0, 1, exclude_max=True)


def test_pauses_double_and_the_last_try_is_followed_by_the_window() -> None:
    budget = RetryBudget(tries=4, refetch_window_ms=10_000)
    found = [budget.failed(0.0, 0.5) for _ in range(4)]
    assert [each.pause_s for each in found] == [0.2, 0.4, 0.8, 10.0]
    assert [each.gave_up for each in found] == [False, False, False, True]


def test_the_window_grows_each_time_the_budget_is_spent() -> None:
    budget = RetryBudget(tries=1, refetch_window_ms=10_000)
    assert [budget.failed(0.0, 0.5).pause_s for _ in range(5)] == [10.0, 20.0, 40.0, 60.0, 60.0]


@given(st.integers(1, 20), st.floats(0, 100), draws)
def test_retry_after_is_kept_to_half_of_it_and_five_seconds(tries: int, retry_after_s: float, draw: float) -> None:
    budget = RetryBudget(tries=tries, refetch_window_ms=10_000)
    for _ in range(tries - 1):
        again = budget.failed(retry_after_s, draw)
        assert not again.gave_up
        assert min(retry_after_s, 5.0) / 2 <= again.pause_s <= 7.5
    assert budget.failed(retry_after_s, draw).gave_up


@given(st.lists(draws, min_size=40, max_size=40), st.integers(2, 6))
def test_nobody_asks_more_often_than_the_budget_allows(chances: list[float], tries: int) -> None:
    """Of forty failures in a row every `tries`th leaves it to the window."""
    budget = RetryBudget(tries=tries, refetch_window_ms=10_000)
    gave_up = [budget.failed(0.0, draw).gave_up for draw in chances]
    assert [number for number, each in enumerate(gave_up, 1) if each] == list(itertools.takewhile(
        lambda number: number <= 40, itertools.count(tries, tries)
    ))  # fmt: skip
