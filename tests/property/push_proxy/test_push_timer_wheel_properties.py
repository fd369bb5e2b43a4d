"""TimerWheel against a dictionary: never early, never lost, late by at most a bucket and a share of the time ahead."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from push_proxy.timer_wheel import LATE_SHARE, NOT_SET, TimerWheel

_GRAIN = 0.05
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 5), st.floats(-1, 3) | st.floats(3, 3_000)),
        st.tuples(st.just("cancel"), st.integers(0, 5), st.just(0.0)),
        st.tuples(st.just("advance"), st.just(0), st.floats(0, 2) | st.floats(2, 2_000)),
    ),
    max_size=40,
)


class Key:
    def __init__(self) -> None:
        self.due_bucket = NOT_SET


@given(_STEPS)
@settings(max_examples=300, deadline=None)
def test_deadlines(steps: list[tuple[str, int, float]]) -> None:
    """Whatever is set, moved or cancelled: what is due is reported once, in time, to who looks only when it must."""
    now_s, hurried = 100.0, [False]
    wheel: TimerWheel[Key] = TimerWheel(_GRAIN, now_s=now_s, sooner=lambda: hurried.__setitem__(0, True))
    keys = [Key() for _ in range(6)]
    model: dict[Key, tuple[float, float]] = {}
    look_s = wheel.look_again_s(now_s + 50)
    for kind, number, value in steps:
        key = keys[number]
        if kind == "set":
            ahead_s = max(0.0, value)
            wheel.set(key, now_s + value)
            model[key] = now_s + ahead_s, now_s + ahead_s + ahead_s * LATE_SHARE + 2 * _GRAIN
            assert hurried[0] or model[key][1] >= look_s - _GRAIN, "whoever sleeps for longer is woken"
        elif kind == "cancel":
            wheel.cancel(key)
            model.pop(key, None)
        else:
            end_s = now_s + value
            while now_s < end_s:
                now_s = min(now_s if hurried[0] else max(look_s, now_s), end_s)
                due = wheel.due(now_s)
                assert len(due) == len(set(due))
                for found in due:
                    assert model.pop(found)[0] <= now_s, "never early"
                assert all(latest_s >= now_s for _, latest_s in model.values()), "never late"
                hurried[0] = False
                look_s = max(wheel.look_again_s(now_s + 50), now_s + _GRAIN)
        assert len(wheel) == len(model)
    assert set(wheel.due(now_s + 10_000)) == set(model)
    assert all(key.due_bucket == NOT_SET for key in keys)


def test_far_deadlines_come_together() -> None:
    """Pings of thousands of devices, spread over 25 s, are due some hundred times and not in each of 500 ticks."""
    wheel: TimerWheel[Key] = TimerWheel(_GRAIN, now_s=0.0, sooner=lambda: None)
    keys = [Key() for _ in range(5_000)]
    for number, key in enumerate(keys):
        wheel.set(key, 25 + 25 * number / 5_000)
    looks, now_s = 0, 0.0
    while len(wheel):
        now_s = max(wheel.look_again_s(now_s + 1_000), now_s + _GRAIN)
        looks += bool(wheel.due(now_s))
    assert looks <= 130
