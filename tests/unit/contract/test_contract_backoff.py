"""Pauses between attempts: doubling, capped, spread, starting over after success."""

from __future__ import annotations

from contract.backoff import Backoff


def test_pauses_double_up_to_the_cap() -> None:
    backoff = Backoff(first_s=0.1, cap_s=0.5, jitter=lambda: 0.999999)
    assert [round(backoff.next_s(), 3) for _ in range(5)] == [0.1, 0.2, 0.4, 0.5, 0.5]


def test_jitter_spreads_over_the_upper_half() -> None:
    backoff = Backoff(first_s=0.1, cap_s=10, jitter=lambda: 0.0)
    assert [round(backoff.next_s(), 3) for _ in range(3)] == [0.05, 0.1, 0.2]


def test_success_starts_over() -> None:
    backoff = Backoff(first_s=0.1, cap_s=10, jitter=lambda: 0.0)
    backoff.next_s()
    backoff.next_s()
    backoff.reset()
    assert backoff.next_s() == 0.05
