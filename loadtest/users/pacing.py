"""When users come and go, think, and refresh. Pure: every choice of chance comes in as a draw.

Times are seconds since the beginning of the run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from loadtest.users.plan import Crowd

__all__ = ["Stay", "present_at", "refresh_after_s", "stays", "think_s"]


class Stay(msgspec.Struct, frozen=True):
    """One presence of a user."""

    from_s: float
    until_s: float | None
    """None: to the end of the run."""


def stays(crowd: Crowd, number: int, draw: float) -> Sequence[Stay]:
    """When user `number` of a crowd is there; `draw` in [0, 1) is its place within its turn.

    While a curve rises from `a` to `b` users, number `a` comes first; while it falls, who came last goes first. So the
    curve is the sum of all stays, and arrivals within a stretch are spread evenly, not one after another on a grid.
    """
    assert 0 <= number < crowd.users, "a user of this crowd"
    assert 0.0 <= draw < 1.0, "draws lie in [0, 1)"
    if not crowd.curve:
        return (Stay(draw if crowd.spawn_per_s is None else (number + draw) / crowd.spawn_per_s, None),)
    found: list[Stay] = []
    at_s, users, since_s = 0.0, 0, None
    for stretch in crowd.curve:
        target = stretch.users
        if users <= number < target:
            since_s = at_s + (number - users + draw) / (target - users) * stretch.over_s
        elif target <= number < users:
            assert since_s is not None, "who goes has come"
            found.append(Stay(since_s, at_s + (users - 1 - number + draw) / (users - target) * stretch.over_s))
            since_s = None
        at_s, users = at_s + stretch.over_s, target
    if since_s is not None:
        found.append(Stay(since_s, None))
    return found


def present_at(crowd: Crowd, at_s: float) -> float:
    """How many users the crowd is to have then: the line its stays follow."""
    if not crowd.curve:
        rate = crowd.users if crowd.spawn_per_s is None else crowd.spawn_per_s
        return min(float(crowd.users), max(0.0, at_s) * rate)
    began_s, users = 0.0, 0.0
    for stretch in crowd.curve:
        if at_s < began_s + stretch.over_s:
            return users + (stretch.users - users) * (at_s - began_s) / stretch.over_s
        began_s, users = began_s + stretch.over_s, float(stretch.users)
    return users


def think_s(crowd: Crowd, normal: float, *, compression: float) -> float:
    """Seconds until the next screen; `normal` is a draw from the standard normal distribution.

    Log-normal: people mostly move on soon and sometimes put the remote control down, so the mean lies above the median
    (by a factor of e^(sigma^2 / 2), which is 1.5 at 0.9).
    """
    return crowd.think_median_s * math.exp(crowd.think_sigma * normal) / compression


def refresh_after_s(crowd: Crowd, ttl_s: float, draw: float, *, compression: float) -> float:
    """Seconds until a map that lives `ttl_s` is refreshed: a random moment of its last part."""
    assert 0.0 <= draw < 1.0, "draws lie in [0, 1)"
    return ttl_s * (1.0 - crowd.ttl_spread * draw) / compression
