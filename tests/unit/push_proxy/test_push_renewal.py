"""Tokens: when one is renewed, and when its connection is closed after all."""

from __future__ import annotations

import pytest

from push_proxy.due_times import NOTHING_DUE, DueTimes
from push_proxy.renewal import close_at_ms, draw_life_s, draw_renew_lead_s
from push_proxy.settings import PushSettings

ALMOST_ONE = 1.0 - 2**-53
CLEAR = NOTHING_DUE.guards(before_ms=0, after_ms=0)


def test_no_grace_where_nothing_renews() -> None:
    """Letting an expired token in without renewing it would only put the end off."""
    assert PushSettings().grace_s == 21_600.0
    assert PushSettings(token_renew_before_s=0).grace_s == 0.0


def test_renewals_are_spread_and_leave_time_for_another_try() -> None:
    """Over the window before the end, not in its last fifth; switched off stays off."""
    assert draw_renew_lead_s(0.0, before_s=1800.0) == 1800.0
    assert draw_renew_lead_s(ALMOST_ONE, before_s=1800.0) == pytest.approx(360.0)
    assert draw_renew_lead_s(0.5, before_s=0.0) == 0.0


def test_a_renewed_token_never_lives_shorter_than_the_old_one() -> None:
    """A tenth more or less than set; what is left already is not taken away."""
    assert draw_life_s(0.0, life_s=1000.0, left_s=10.0) == pytest.approx(900.0)
    assert draw_life_s(ALMOST_ONE, life_s=1000.0, left_s=10.0) == pytest.approx(1100.0)
    assert draw_life_s(0.0, life_s=1000.0, left_s=5000.0) == 5000.0


def test_closes_are_spread_after_the_end() -> None:
    """Each at its own moment, at its end at the earliest."""
    assert close_at_ms(1_000, 0, CLEAR, defer_max_ms=10_000) == 1_000
    assert close_at_ms(1_000, 250, CLEAR, defer_max_ms=10_000) == 1_250
    assert close_at_ms(1_000, 250, CLEAR, defer_max_ms=0) == 1_250


def test_closes_wait_for_a_stage_and_stay_spread() -> None:
    """Those of one expiry in a guard leave after it, as far apart as they would have been."""
    guards = DueTimes([1_000_000]).guards(before_ms=60_000, after_ms=60_000)
    closes = [close_at_ms(1_000_000, late_ms, guards, defer_max_ms=3_600_000) for late_ms in (0, 1_000, 59_000)]
    assert closes == [1_060_001, 1_061_001, 1_119_001]


def test_closes_go_on_past_several_stages() -> None:
    """A moment that comes near the next stage is put off again."""
    guards = DueTimes([1_000_000, 1_150_000]).guards(before_ms=60_000, after_ms=60_000)
    assert guards.spans == ((940_000, 1_060_000), (1_090_000, 1_210_000))
    assert close_at_ms(1_000_000, 10_000, guards, defer_max_ms=3_600_000) == 1_070_001
    assert close_at_ms(1_000_000, 40_000, guards, defer_max_ms=3_600_000) == 1_250_001


def test_closes_are_not_put_off_for_ever() -> None:
    """Stages without end: closed within the bound all the same, and spread there, too."""
    guards = DueTimes(range(0, 100_000_000, 60_000)).guards(before_ms=60_000, after_ms=60_000)
    closes = [close_at_ms(1_000_000, late_ms, guards, defer_max_ms=600_000) for late_ms in (0, 20_000, 40_000)]
    assert closes == [1_600_000, 1_580_000, 1_560_000]
