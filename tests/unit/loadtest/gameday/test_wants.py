"""Goal: who was answered when, and when that is recovery, follows from the clients' records alone."""

from __future__ import annotations

import numpy as np

from loadtest.gameday.clients.records import ROW, Rows, Step, moments, read_rows
from loadtest.gameday.wants import amplification, recovery_s, wants_of


def rows(*each: tuple[Step, int, float]) -> np.ndarray:
    return np.array([(step, 0, 200, number, at_s) for step, number, at_s in each], ROW)


def test_each_want_has_its_answer_or_none() -> None:
    found = wants_of(rows((Step.WANTED, 0, 1.0), (Step.WANTED, 1, 2.0), (Step.ASKED, 1, 2.0), (Step.ANSWERED, 0, 1.5)))
    assert found.wanted_s.tolist() == [1.0, 2.0]
    assert found.answered_s[0] == 1.5
    assert np.isnan(found.answered_s[1])
    assert found.answered_share == 0.5


def test_recovery_is_the_end_of_the_last_half_second_that_was_not_served() -> None:
    late = [(number, 10.0 + number / 10, 3.0) for number in range(6)]
    quick = [(number, 10.0 + number / 10, 0.1) for number in range(6, 40)]
    wanted = [(Step.WANTED, number, at_s) for number, at_s, _ in (*late, *quick)]
    answered = [(Step.ANSWERED, number, at_s + took_s) for number, at_s, took_s in (*late, *quick)]
    found = wants_of(rows(*wanted, *answered))
    assert recovery_s(found, 10.0, 13.5, timeout_s=1.0) == 1.0
    assert recovery_s(found, 11.0, 13.5, timeout_s=1.0) == 0.0


def test_requests_are_counted_for_what_was_wanted_then_whenever_they_come() -> None:
    wanted = [(Step.WANTED, number, float(number)) for number in range(4)]
    asked = [
        (Step.ASKED, 0, 0.0),
        (Step.ASKED, 1, 1.0),
        (Step.ASKED, 1, 9.0),
        (Step.ASKED, 2, 2.0),
        (Step.ASKED, 2, 50.0),
    ]
    assert amplification(rows(*wanted, *asked), 1.0, 3.0) == 2.0
    assert amplification(rows(*wanted, *asked), 3.0, 4.0) == 0.0
    assert amplification(rows(*wanted, *asked), 7.0, 8.0) is None


def test_who_is_never_answered_never_recovers() -> None:
    found = wants_of(rows(*((Step.WANTED, number, number / 10) for number in range(20))))
    assert recovery_s(found, 0.0, 2.0, timeout_s=1.0) == 2.0
    assert found.answered_share == 0.0


def test_records_are_read_back_as_they_were_added(tmp_path) -> None:  # type: ignore[no-untyped-def]
    kept = Rows()
    kept.add(Step.OPENING, 7)
    kept.add(Step.REFUSED, 7, 503)
    kept.add(Step.OPENING, 8)
    kept.save(tmp_path / "rows.bin")
    found = read_rows(tmp_path / "rows.bin")
    assert found["kind"].tolist() == [Step.OPENING, Step.REFUSED, Step.OPENING]
    assert found["device"].tolist() == [7, 7, 8]
    assert len(moments(found, Step.OPENING)) == 2
    assert len(moments(found, Step.REFUSED, status=503)) == 1
    assert len(moments(found, Step.REFUSED, status=429)) == 0
