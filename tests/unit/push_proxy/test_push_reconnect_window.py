"""The reconnect window: how long, how spread, and when it is told anew."""

from __future__ import annotations

import pytest

from push_proxy.reconnect_window import (
    SIBLING_WINDOW_MS,
    Away,
    ExpectedReturns,
    Fleet,
    Returns,
    ToldWindow,
    WindowRule,
    draw_return_ms,
    refusal_window_ms,
    window_ms,
)
from push_proxy.settings import PushSettings

RULE = WindowRule(min_ms=2_000, max_ms=120_000, accept_share=0.5, margin_ms=1_000)
NODE = Fleet(connections=15_000, waiting=0, accept_per_s=5_000.0)
NOW = 1_700_000_000_000


@pytest.mark.parametrize(
    ("fleet", "window"),
    [
        (NODE, 6_000),
        (Fleet(0, 0, 5_000.0), 2_000),
        (Fleet(10, 0, 5_000.0), 2_000),
        (Fleet(150_000, 0, 50_000.0), 6_000),
        (Fleet(15_000, 15_000, 5_000.0), 12_000),
        (Fleet(15_000, 0, 1_000.0), 30_000),
        (Fleet(1_000_000, 0, 5_000.0), 120_000),
    ],
)
def test_the_fleet_takes_half_its_rate(fleet: Fleet, window: int) -> None:
    """Everyone connected and everyone waiting, over half the accept rate, within the bounds."""
    assert window_ms(fleet, RULE) == window


@pytest.mark.parametrize(
    ("due_in_ms", "window"),
    [
        (None, 6_000),
        (60_000, 6_000),  # back long before it
        (7_000, 6_000),
        (6_000, 5_000),  # 1 s before it, faster than usual
        (4_000, 3_000),  # as fast as the whole rate allows
        (3_900, 6_000),  # not even so: no herd
        (0, 6_000),
        (-1, 6_000),
    ],
)
def test_a_stage_draws_the_window_together_if_the_rate_allows(due_in_ms: int | None, window: int) -> None:
    """Refused shortly before a stage: back in time, or paced as ever."""
    next_due_ms = None if due_in_ms is None else NOW + due_in_ms
    assert refusal_window_ms(NODE, RULE, now_ms=NOW, next_due_ms=next_due_ms) == window


def test_a_sibling_with_room_is_a_second_away() -> None:
    """Whatever is due, and however large the fleet."""
    for next_due_ms in (None, NOW + 4_000):
        window = refusal_window_ms(NODE, RULE, now_ms=NOW, next_due_ms=next_due_ms, sibling_has_room=True)
        assert window == SIBLING_WINDOW_MS


def test_draws_are_uniform_over_the_window() -> None:
    """From at once to just before its end."""
    assert [draw_return_ms(6_000, draw) for draw in (0.0, 0.5, 0.9999)] == [0, 3_000, 5_999]


def test_expected_returns_are_counted_until_their_moment() -> None:
    """By the second; those told the longest window and more are forgotten after it."""
    expected = ExpectedReturns(max_ms=10_000, now_s=100.5)
    for after_ms in (0, 1_000, 5_000, 9_999, 50_000):
        expected.told(after_ms, 100.5)
    assert [expected.waiting(at_s) for at_s in (100.9, 101.0, 102.0, 105.9, 106.0, 111.0, 112.0)] == [
        5,
        4,
        3,
        3,
        2,
        1,
        0,
    ]
    expected.told(9_000, 5_000.0)
    assert expected.waiting(5_008.9) == 1
    assert expected.waiting(9_999.0) == 0


def test_a_window_is_told_anew_only_when_it_matters() -> None:
    """Half as long again, or half as long; not more often than every ten seconds; the band moves along."""
    told = ToldWindow(6_000, quiet_s=10.0)
    assert not told.changed(6_000, 0.0)
    assert not told.changed(8_900, 0.0)
    assert not told.changed(3_100, 0.0)
    assert told.changed(9_000, 1.0)
    assert told.window_ms == 9_000
    assert not told.changed(60_000, 10.9)
    assert told.changed(60_000, 11.0)
    assert told.changed(30_000, 21.0)
    assert not told.changed(59_000, 18.0)


def test_a_window_of_nothing_grows_too() -> None:
    """Tests and demos may ask for no window at all: any other one is told."""
    told = ToldWindow(0)
    assert not told.changed(0, 0.0)
    assert told.changed(100, 0.0)
    assert told.changed(0, 100.0)


def test_a_node_that_refuses_makes_its_window_longer() -> None:
    """Each device sent away counts until it may be back; then the window is short again."""
    returns = Returns(RULE, accept_per_s=1_000.0, now_s=0.0)
    first = returns.away(0, now_s=0.0, now_ms=NOW, next_due_ms=None, draw=0.5)
    assert first == Away(1_000, 2_000)
    for n in range(10_000):
        last = returns.away(0, now_s=0.5, now_ms=NOW, next_due_ms=None, draw=n / 10_000)
    assert 19_000 < last.window_ms <= 20_100
    assert returns.away(0, now_s=60.0, now_ms=NOW, next_due_ms=None, draw=0.0).window_ms == 2_000


def test_what_welcomes_say_follows_the_fleet() -> None:
    """Asked about once a second; the others' connections count, and so does what they accept."""
    returns = Returns(RULE, accept_per_s=5_000.0, now_s=0.0)
    assert (returns.window_ms, returns.changed(100, 0.0)) == (2_000, False)
    assert returns.changed(15_000, 1.0)
    assert returns.window_ms == 6_000
    returns.others = Fleet(45_000, 0, 5_000.0)
    assert returns.fleet(15_000, 12.0) == Fleet(60_000, 0, 10_000.0)
    assert returns.changed(15_000, 12.0)
    assert returns.window_ms == 12_000


def test_settings_and_their_relations() -> None:
    """The rule is the settings'; what contradicts itself is refused by name."""
    assert PushSettings().window_rule() == WindowRule(2_000, 120_000, 0.5, 1_000)
    with pytest.raises(ValueError, match="reconnect_window_max_ms must be at least"):
        PushSettings(reconnect_window_ms=5_000, reconnect_window_max_ms=4_000)
    with pytest.raises(ValueError, match="stage_guard_longest_s"):
        PushSettings(stage_guard_s=600, stage_guard_longest_s=900)
    with pytest.raises(ValueError, match="accept_share"):
        PushSettings(accept_share=0)
