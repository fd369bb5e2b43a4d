"""The reconnect window, pure: over how long devices spread their return, so that whoever is left can take them (R21).

The window of a welcome must hold for the worst that may happen, everyone coming back at once, so it is the fleet's
size over a share of the rate at which the fleet accepts. A refusal or a goaway happens at a known moment, and may be
shorter if a stage is due before the window is over and the accept rate allows it.
"""

from __future__ import annotations

from math import ceil
from typing import Final, NamedTuple

__all__ = [
    "SIBLING_WINDOW_MS",
    "Away",
    "ExpectedReturns",
    "Fleet",
    "Returns",
    "ToldWindow",
    "WindowRule",
    "draw_return_ms",
    "refusal_window_ms",
    "window_ms",
]

SIBLING_WINDOW_MS: Final = 1_000
"""A worker that is full sends devices to its siblings behind the same port: another connect, another worker."""
_STEP_MS: Final = 100


class Fleet(NamedTuple):
    """What this node knows of itself and of the nodes that would take its devices, itself included."""

    connections: int
    """Devices connected."""
    waiting: int
    """Devices refused or sent away that were told to return and are not back yet (`ExpectedReturns`)."""
    accept_per_s: float
    """Connects the whole fleet takes per second: each node's handshake rate, or what was measured."""

    def plus(self, other: Fleet) -> Fleet:
        return Fleet(
            self.connections + other.connections,
            self.waiting + other.waiting,
            self.accept_per_s + other.accept_per_s,
        )


class WindowRule(NamedTuple):
    """How windows are made; from the settings. 0 < accept_share <= 1, min_ms <= max_ms."""

    min_ms: int
    max_ms: int
    accept_share: float = 0.5
    """Share of the accept rate that a return may use: the rest of the core belongs to broadcasts."""
    margin_ms: int = 1_000
    """How long before a due stage a device should be back: it has to subscribe, too."""


def window_ms(fleet: Fleet, rule: WindowRule) -> int:
    """The window for welcomes and `window` frames: rises with the fleet's size, falls with its accept rate."""
    return _usual_ms(_least_ms(fleet.connections + fleet.waiting, fleet.accept_per_s), rule)


def refusal_window_ms(
    fleet: Fleet, rule: WindowRule, *, now_ms: int, next_due_ms: int | None, sibling_has_room: bool = False
) -> int:
    """The window for devices refused or sent away now.

    `sibling_has_room`: another worker behind the same port would take them; then 1 s. Else, with a stage due before
    the usual window is over, the time left until then, if the whole accept rate can take them in that; if it cannot,
    the usual window: nobody gains from a herd that is refused again.
    """
    if sibling_has_room:
        return SIBLING_WINDOW_MS
    least_ms = _least_ms(fleet.connections + fleet.waiting, fleet.accept_per_s)
    return _before_stage_ms(least_ms, rule, now_ms, next_due_ms)


def draw_return_ms(window_ms: int, draw: float) -> int:
    """One device's own `reconnect_after_ms`: uniform over the window; `draw` is uniform over [0, 1)."""
    assert 0.0 <= draw < 1.0, "draws lie in [0, 1)"
    return int(draw * window_ms)


def _least_ms(devices: int, accept_per_s: float) -> float:
    """How long the whole accept rate takes for them."""
    assert accept_per_s > 0, "a fleet that accepts nobody has no window"
    return 1000 * devices / accept_per_s


def _usual_ms(least_ms: float, rule: WindowRule) -> int:
    length_ms = ceil(least_ms / rule.accept_share / _STEP_MS) * _STEP_MS
    return min(rule.max_ms, max(rule.min_ms, length_ms))


def _before_stage_ms(least_ms: float, rule: WindowRule, now_ms: int, next_due_ms: int | None) -> int:
    usual_ms = _usual_ms(least_ms, rule)
    if next_due_ms is None:
        return usual_ms
    left_ms = next_due_ms - now_ms - rule.margin_ms
    if not 0 < left_ms < usual_ms or left_ms < least_ms:
        return usual_ms
    return max(_STEP_MS, left_ms // _STEP_MS * _STEP_MS)


class ExpectedReturns:
    """How many devices were told to return and are still to come, by the second; bounded by the longest window.

    An estimate: they may go to other nodes, and others may come here. It makes windows grow while a herd is refused.
    """

    __slots__ = ("_bins", "_first", "_total")

    def __init__(self, *, max_ms: int, now_s: float) -> None:
        self._bins = [0] * (max_ms // 1000 + 2)
        self._first = int(now_s)
        self._total = 0

    def told(self, after_ms: int, now_s: float) -> None:
        """A device was told to come back in `after_ms`; what lies beyond the longest window counts at its end."""
        if int(now_s) != self._first:
            self._advance(now_s)
        second = min(int(now_s + after_ms / 1000) - self._first, len(self._bins) - 1)
        self._bins[(self._first + second) % len(self._bins)] += 1
        self._total += 1

    def waiting(self, now_s: float) -> int:
        """Devices whose moment has not come."""
        if int(now_s) != self._first:
            self._advance(now_s)
        return self._total

    def _advance(self, now_s: float) -> None:
        passed = int(now_s) - self._first
        for second in range(self._first, self._first + min(passed, len(self._bins))):
            at = second % len(self._bins)
            self._total -= self._bins[at]
            self._bins[at] = 0
        if passed > 0:
            self._first += passed


class ToldWindow:
    """The window devices were told, and whether another one is worth telling all of them (hysteresis).

    Welcomes say the told one too, so that every device of the node has the same. A window is told anew when it should
    be half as long again or half as long, and not more often than every `quiet_s`: a `window` frame to everybody
    costs as much as a broadcast.
    """

    __slots__ = ("_grow", "_quiet_s", "_shrink", "_told_at_s", "window_ms")

    def __init__(self, window_ms: int, *, grow: float = 1.5, shrink: float = 0.5, quiet_s: float = 10.0) -> None:
        assert shrink < 1 < grow, "a band around the window told"
        self.window_ms = window_ms
        self._grow = grow
        self._shrink = shrink
        self._quiet_s = quiet_s
        self._told_at_s = float("-inf")

    def changed(self, window_ms: int, now_s: float) -> bool:
        """Take `window_ms` if it differs enough; True: tell every connection."""
        inside = self.window_ms * self._shrink < window_ms < self.window_ms * self._grow
        if inside or window_ms == self.window_ms or now_s < self._told_at_s + self._quiet_s:
            return False
        self.window_ms = window_ms
        self._told_at_s = now_s
        return True


class Away(NamedTuple):
    """What a goaway, a Retry-After or a `retry:` says to one device."""

    reconnect_after_ms: int
    window_ms: int


class Returns:
    """One node's windows: what it tells devices when it welcomes them, and when it sends them away."""

    __slots__ = ("_accept_per_s", "_expected", "_rule", "_told", "others")

    def __init__(self, rule: WindowRule, *, accept_per_s: float, now_s: float) -> None:
        self._rule = rule
        self._accept_per_s = accept_per_s
        self._expected = ExpectedReturns(max_ms=rule.max_ms, now_s=now_s)
        self._told = ToldWindow(rule.min_ms)
        self.others = Fleet(0, 0, 0.0)
        """The other nodes of the fleet, as far as this one knows them."""

    @property
    def window_ms(self) -> int:
        """What welcomes say."""
        return self._told.window_ms

    def fleet(self, connections: int, now_s: float) -> Fleet:
        return Fleet(connections, self._expected.waiting(now_s), self._accept_per_s).plus(self.others)

    def changed(self, connections: int, now_s: float) -> bool:
        """Ask about once a second: True if `window_ms` is another one now, to be told to every connection."""
        return self._told.changed(window_ms(self.fleet(connections, now_s), self._rule), now_s)

    def away(
        self,
        connections: int,
        *,
        now_s: float,
        now_ms: int,
        next_due_ms: int | None,
        draw: float,
        sibling_has_room: bool = False,
    ) -> Away:
        """Send one device away. Cheap: a few divisions; it counts the device as one that will be back."""
        if sibling_has_room:
            length_ms = SIBLING_WINDOW_MS
        else:
            others = self.others  # no Fleet is made of both: this is every refusal's way
            devices = connections + self._expected.waiting(now_s) + others.connections + others.waiting
            least_ms = _least_ms(devices, self._accept_per_s + others.accept_per_s)
            length_ms = _before_stage_ms(least_ms, self._rule, now_ms, next_due_ms)
        after_ms = draw_return_ms(length_ms, draw)
        self._expected.told(after_ms, now_s)
        return Away(after_ms, length_ms)
