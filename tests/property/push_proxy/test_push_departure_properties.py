"""Departures and returns: everyone leaves once, nothing ends near a stage, windows follow the fleet."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from push_proxy.drain import drain_begins_ms, plan_drain
from push_proxy.due_times import DueTimes, StageGuards
from push_proxy.lifetimes import deferred_end_ms, draw_lifetime_s
from push_proxy.origins import parse_origins
from push_proxy.reconnect_window import ExpectedReturns, Fleet, WindowRule, refusal_window_ms, window_ms
from push_proxy.renewal import close_at_ms, draw_life_s, draw_renew_lead_s

_DRAWS = st.floats(0, 1, exclude_max=True)
_DUE = st.lists(st.integers(0, 2_000_000), max_size=20)
_RULE = WindowRule(min_ms=2_000, max_ms=120_000)
_FLEETS = st.builds(Fleet, st.integers(0, 10**7), st.integers(0, 10**6), st.floats(1, 10**6))


@settings(deadline=None)
@given(count=st.integers(0, 500), drain_s=st.floats(0, 60))
def test_a_drain_covers_everybody_once(count: int, drain_s: float) -> None:
    """In order, in time, in slices that differ by one at most."""
    plan = plan_drain(range(count), drain_s=drain_s)
    assert [connection for part in plan for connection in part.leaving] == list(range(count))
    sizes = [len(part.leaving) for part in plan]
    assert not sizes or max(sizes) - min(sizes) <= 1
    moments = [part.at_s for part in plan]
    assert moments == sorted(moments)
    assert all(0 <= moment <= drain_s for moment in moments)


@settings(deadline=None)
@given(times=_DUE, now=st.integers(0, 2_000_000), defer=st.integers(0, 400_000))
def test_a_drain_begins_clear_or_at_its_bound(times: list[int], now: int, defer: int) -> None:
    """Never before it was asked for, never after its bound; near a stage only if every moment until then is."""
    due, guard, away = DueTimes(times), 30_000, 10_000
    begins = drain_begins_ms(now, due, guard_ms=guard, away_ms=away, defer_max_ms=defer)
    assert now <= begins <= now + defer

    def near(moment: int) -> bool:
        return any(moment - guard <= at <= moment + away + guard for at in times)

    if near(begins):
        edges = [now, now + defer, *(at + guard + 1 for at in times)]
        assert all(near(moment) for moment in edges if now <= moment <= now + defer)
    else:
        assert not any(not near(moment) for moment in range(now, begins, 997))


@settings(deadline=None)
@given(times=_DUE, moments=st.lists(st.integers(-100_000, 2_200_000), max_size=20), before=st.integers(0, 90_000))
def test_guards_are_what_they_say(times: list[int], moments: list[int], before: int) -> None:
    """Against the definition: near is within reach of any stage; clear is the first moment that is not near."""
    guards = StageGuards(times, before_ms=before, after_ms=60_000)
    for moment in moments:
        near = any(at - before <= moment <= at + 60_000 for at in times)
        assert guards.covers(moment) is near
        clear = guards.clear_from(moment)
        assert not guards.covers(clear)
        assert (clear == moment) is not near
        assert clear == moment or guards.covers(clear - 1)


@settings(deadline=None)
@given(times=_DUE, end=st.integers(0, 2_000_000), draw=_DRAWS)
def test_no_life_ends_in_a_guard(times: list[int], end: int, draw: float) -> None:
    """Its end is clear of stages, or it is put off, and by no more than one more life."""
    guards = StageGuards(times, before_ms=60_000, after_ms=60_000)
    later = deferred_end_ms(end, guards, draw=draw, max_s=14_400.0)
    if later is None:
        assert not guards.covers(end)
    else:
        assert guards.covers(end)
        assert guards.clear_from(end) <= later <= guards.clear_from(end) + 14_400_000


@settings(deadline=None)
@given(draw=_DRAWS, low=st.floats(0, 1_000), width=st.floats(0, 100_000))
def test_lives_stay_in_range(draw: float, low: float, width: float) -> None:
    """Whatever the range."""
    life_s = draw_lifetime_s(draw, min_s=low, max_s=low + width)
    assert low <= life_s <= low + width * (1 + 1e-9)


@settings(deadline=None)
@given(times=_DUE, expires=st.integers(0, 2_000_000), late=st.integers(0, 60_000), bound=st.integers(0, 4_000_000))
def test_an_expired_token_closes_clear_of_stages_or_at_its_bound(
    times: list[int], expires: int, late: int, bound: int
) -> None:
    """Never before its end, never after the bound (but for its own lateness), near a stage only because of it."""
    guards = StageGuards(times, before_ms=60_000, after_ms=60_000)
    closes = close_at_ms(expires, late, guards, defer_max_ms=bound)
    latest = expires + max(late, bound - late)
    assert expires + late <= closes <= latest
    assert not guards.covers(closes) or closes == latest


@settings(deadline=None)
@given(draw=_DRAWS, before=st.floats(0, 40_000), life=st.floats(1, 100_000), left=st.floats(0, 100_000))
def test_renewals_come_in_time_and_gain_life(draw: float, before: float, life: float, left: float) -> None:
    """Within the window; the new token outlives the old one."""
    assert 0.2 * before - 1e-6 <= draw_renew_lead_s(draw, before_s=before) <= before
    assert draw_life_s(draw, life_s=life, left_s=left) >= left


@settings(deadline=None)
@given(fleet=_FLEETS, more=st.integers(0, 10**6), faster=st.floats(1, 10))
def test_windows_follow_the_fleet(fleet: Fleet, more: int, faster: float) -> None:
    """Never shorter for a larger fleet or a longer queue, never longer for a faster one; always within the bounds."""
    usual = window_ms(fleet, _RULE)
    assert _RULE.min_ms <= usual <= _RULE.max_ms
    assert window_ms(fleet._replace(connections=fleet.connections + more), _RULE) >= usual
    assert window_ms(fleet._replace(waiting=fleet.waiting + more), _RULE) >= usual
    assert window_ms(fleet._replace(accept_per_s=fleet.accept_per_s * faster), _RULE) <= usual


@settings(deadline=None)
@given(fleet=_FLEETS, due_in=st.one_of(st.none(), st.integers(-10_000, 200_000)))
def test_a_near_stage_never_asks_more_than_the_accept_rate(fleet: Fleet, due_in: int | None) -> None:
    """A window drawn together is shorter than the usual one, ends before the stage, and the whole rate suffices."""
    now = 1_700_000_000_000
    usual = window_ms(fleet, _RULE)
    window = refusal_window_ms(fleet, _RULE, now_ms=now, next_due_ms=None if due_in is None else now + due_in)
    if window != usual:
        assert due_in is not None
        assert window < usual
        assert 0 < window <= max(100, due_in - _RULE.margin_ms)
        assert (fleet.connections + fleet.waiting) / fleet.accept_per_s * 1000 <= window + 100


@settings(deadline=None)
@given(told=st.lists(st.tuples(st.floats(0, 3), st.integers(0, 40_000)), max_size=60))
def test_expected_returns_equal_a_plain_list(told: list[tuple[float, int]]) -> None:
    """To the second; the count never falls below none."""
    now_s, plain = 50.0, []
    expected = ExpectedReturns(max_ms=30_000, now_s=now_s)
    for pause_s, after_ms in told:
        now_s += pause_s
        expected.told(after_ms, now_s)
        plain.append(min(int(now_s + after_ms / 1000), int(now_s) + 31))
        assert expected.waiting(now_s) == sum(second >= int(now_s) for second in plain)
    assert expected.waiting(now_s + 33) == 0


@settings(deadline=None)
@given(
    host=st.from_regex(r"[a-z]{1,8}(\.[a-z]{1,8}){0,3}", fullmatch=True),
    prefix=st.from_regex(r"[a-z0-9.-]{0,12}", fullmatch=True),
)
def test_a_wildcard_needs_a_whole_label(host: str, prefix: str) -> None:
    """`*.example.com` allows exactly the names that end in a dot and `example.com`, of proper labels."""
    rules = parse_origins("https://*.example.com")
    labels = prefix.split(".")
    proper = all(label and not label.startswith("-") and not label.endswith("-") for label in labels[:-1])
    allowed = rules.allows(f"https://{prefix}example.com")
    assert allowed is (prefix.endswith(".") and len(labels) > 1 and proper)
    assert rules.allows(f"https://{host}") is (host.endswith(".example.com"))
