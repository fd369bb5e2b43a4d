"""TimerWheel against a dictionary: never early, never lost, late by at most one bucket."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from push_proxy.timer_wheel import NOT_SET, TimerWheel

_GRAIN = 0.05
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 5), st.floats(-1, 3)),
        st.tuples(st.just("cancel"), st.integers(0, 5), st.just(0.0)),
        st.tuples(st.just("advance"), st.just(0), st.floats(0, 2)),
    ),
    max_size=40,
)


class Key:
    def __init__(self) -> None:
        self.due_bucket = NOT_SET


@given(_STEPS)
@settings(max_examples=200, deadline=None)
def test_deadlines(steps: list[tuple[str, int, float]]) -> None:
    """Whatever is set, moved or cancelled: what is due is reported once, in time."""
    now_s = 100.0
    wheel: TimerWheel[Key] = TimerWheel(_GRAIN, now_s=now_s)
    keys = [Key() for _ in range(6)]
    model: dict[Key, float] = {}
    for kind, number, value in steps:
        key = keys[number]
        if kind == "set":
            wheel.set(key, now_s + value)
            model[key] = now_s + max(0.0, value)
        elif kind == "cancel":
            wheel.cancel(key)
            model.pop(key, None)
        else:
            now_s += value
            due = wheel.due(now_s)
            assert len(due) == len(set(due))
            for found in due:
                assert model.pop(found) <= now_s, "never early"
            assert all(at > now_s - 2 * _GRAIN for at in model.values()), "never later than a bucket and a turn"
        assert len(wheel) == len(model)
    assert set(wheel.due(now_s + 10)) == set(model)
    assert all(key.due_bucket == NOT_SET for key in keys)
