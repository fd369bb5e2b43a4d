"""Distinct answers: exact while few, close when many, and a budget that is kept."""

from __future__ import annotations

from array import array
from hashlib import blake2b

import pytest

from dgs.distinct import DistinctAnswers, DistinctCount
from dgs.picks import Layout, Picks, RowShape

LAYOUT = Layout((("live", (RowShape(1), RowShape(1, because=True))), ("default", (RowShape(1),))), "c")


def picks(*cells: int, layout: Layout = LAYOUT) -> Picks:
    assert len(cells) == layout.cells
    return Picks(layout, array("I", cells), b"", 0, "catalog")


def hashes(count: int) -> list[int]:
    return [int.from_bytes(blake2b(number.to_bytes(4), digest_size=8).digest()) for number in range(count)]


def test_few_are_counted_exactly() -> None:
    """Repetitions count once, up to the bound."""
    counted = DistinctCount(exact=100)
    for value in hashes(100) * 2:
        counted.add(value)
    assert (counted.count(), counted.is_exact) == (100, True)
    assert counted.knows(hashes(1)[0])


@pytest.mark.parametrize("many", [5_000, 20_000, 60_000])
def test_many_are_estimated(many: int) -> None:
    """Within three standard errors (1.6 % each), repetitions included; nothing is claimed to be known."""
    counted = DistinctCount(exact=1_000)
    values = hashes(many)
    for value in values + values[: many // 2]:
        counted.add(value)
    assert not counted.is_exact
    assert abs(counted.count() - many) <= 3 * 0.0163 * many
    assert not counted.knows(values[0])


def test_stages_are_counted_apart() -> None:
    """Two answers that differ in one stage are one answer in the other; the shape of rows counts, too."""
    answers = DistinctAnswers()
    for each in (picks(1, 2, 3, 9), picks(1, 2, 4, 9), picks(1, 2, 3, 9)):
        assert answers.admit("t", 1, each)
    assert answers.counts("t", 1) == {"live": 2, "default": 1}
    other = Layout((("live", (RowShape(3),)), ("default", (RowShape(1),))), "c")
    answers.admit("t", 1, picks(1, 2, 3, 9, layout=other))
    assert answers.counts("t", 1)["live"] == 3
    assert answers.counts("t", 2) == {}
    answers.admit("u", 1, picks(1, 2, 3, 9))
    assert answers.most_by_stage() == {"live": 3, "default": 1}


def test_a_budget_admits_what_it_knows_and_no_more() -> None:
    """Beyond it a new answer in any stage is refused and not counted, one already given is not."""
    answers = DistinctAnswers(budget=2)
    first, second, third = picks(1, 2, 3, 9), picks(4, 5, 6, 9), picks(7, 8, 9, 9)
    assert [answers.admit("t", 1, each) for each in (first, second, third, first)] == [True, True, False, True]
    assert answers.counts("t", 1) == {"live": 2, "default": 1}
    assert answers.admit("t", 2, third)
    assert answers.stats() == {"most": 2, "budget": 2, "refused": 1, "topics": 2}


def test_a_budget_beyond_exact_counting_is_met_within_the_error() -> None:
    """Estimates end it a few per cent off at most."""
    answers = DistinctAnswers(budget=2_000, exact=100)
    layout = Layout((("live", (RowShape(1),)),), "c")
    admitted = sum(answers.admit("t", 1, picks(number, layout=layout)) for number in range(4_000))
    assert abs(admitted - 2_000) <= 150


def test_topics_are_bounded() -> None:
    """Those asked for longest ago are forgotten."""
    answers = DistinctAnswers(topics=2)
    for topic in ("a", "b", "a", "c"):
        answers.admit(topic, 1, picks(1, 2, 3, 4))
    assert answers.counts("b", 1) == {}
    assert answers.counts("a", 1)
    assert answers.stats()["topics"] == 2
