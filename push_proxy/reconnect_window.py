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
    "ExpectedReturns",
    "Fleet",
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
    sibling_room: int = 0
    """Connections that workers behind the same port could still take."""


class WindowRule(NamedTuple):
    """How windows are made; from the settings."""

    min_ms: int
    max_ms: int
    accept_share: float = 0.5
    """Share of the accept rate that a return may use: the rest of the core belongs to broadcasts."""
    margin_ms: int = 1_000
    """How long before a due stage a device should be back: it has to subscribe, too."""


def window_ms(fleet: Fleet, rule: WindowRule) -> int:
    """The window for welcomes and `window` frames: rises with the fleet's size, falls with its accept rate."""
    return _bounded(_length_ms(fleet, rule.accept_share), rule)


def refusal_window_ms(fleet: Fleet, rule: WindowRule, *, now_ms: int, next_due_ms: int | None, full: bool) -> int:
    """The window for devices refused or sent away now.

    `full`: refused only because this worker has no room; then 1 s, if its siblings have room for all who wait. Else,
    with a stage due before the usual window is over, the time left until then, if the whole accept rate can take them
    in that; if it cannot, the usual window: nobody gains from a herd that is refused again.
    """
    if full and fleet.sibling_room > fleet.waiting:
        return SIBLING_WINDOW_MS
    usual_ms = window_ms(fleet, rule)
    if next_due_ms is None:
        return usual_ms
    left_ms = next_due_ms - now_ms - rule.margin_ms
    if not 0 < left_ms < usual_ms or left_ms < _length_ms(fleet, 1.0):
        return usual_ms
    return max(_STEP_MS, left_ms // _STEP_MS * _STEP_MS)


def draw_return_ms(window_ms: int, draw: float) -> int:
    """One device's own `reconnect_after_ms`: uniform over the window; `draw` is uniform over [0, 1)."""
    assert 0.0 <= draw < 1.0, "draws lie in [0, 1)"
    return int(draw * window_ms)


def _length_ms(fleet: Fleet, share: float) -> float:
    assert fleet.accept_per_s > 0, "a fleet that accepts nobody has no window"
    assert 0 < share <= 1, "a share of the accept rate"
    return 1000 * (fleet.connections + fleet.waiting) / (fleet.accept_per_s * share)


def _bounded(length_ms: float, rule: WindowRule) -> int:
    assert 0 <= rule.min_ms <= rule.max_ms, "bounds of a window"
    return min(rule.max_ms, max(rule.min_ms, ceil(length_ms / _STEP_MS) * _STEP_MS))


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
        self._advance(now_s)
        second = min(int(now_s + after_ms / 1000) - self._first, len(self._bins) - 1)
        self._bins[(self._first + second) % len(self._bins)] += 1
        self._total += 1

    def waiting(self, now_s: float) -> int:
        """Devices whose moment has not come."""
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
        if window_ms == self.window_ms or inside or now_s < self._told_at_s + self._quiet_s:
            return False
        self.window_ms = window_ms
        self._told_at_s = now_s
        return True
