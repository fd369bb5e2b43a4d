"""How long a connection lives, pure: drawn so that a herd, once it happened, is forgotten at once.

Devices that all connected together form a renewal process: each life's end is the next one's beginning. Its rate is
level from the first moment on only if first lives follow the *residual* distribution of the later ones; and a node
cannot tell a first life from a later one, since a device that comes back after a crash looks like any other. The one
distribution that is its own residual is the exponential one: whoever is still connected has the same chance to leave
in the next second, however long ago it came. A node therefore draws all lives from it, cut at both ends: none shorter
than `min_s` (a connection has its cost), none longer than `max_s`. The cuts leave a ripple of a few per cent. A
uniform life over (0, max] swings by a third around its mean, one over [max / 3, max] between nothing and one and a
half, and a narrow one comes back as a herd again and again: `tests/simulation/test_push_twenty_lifetimes.py`.

Drawing again, rather than ending at `max_s`, matters: a cap would gather everyone who reached it in one moment.
"""

from __future__ import annotations

from math import exp, expm1, log1p
from typing import Final

from push_proxy.due_times import StageGuards

__all__ = ["TAIL", "deferred_end_ms", "draw_lifetime_s", "mean_lifetime_s"]

TAIL: Final = 4.0
"""Length of the range in means of the uncut distribution: one life in 55 would be longer and is drawn within it."""
_KEPT: Final = -expm1(-TAIL)


def draw_lifetime_s(draw: float, *, min_s: float, max_s: float) -> float:
    """A life within [min_s, max_s); `draw` is uniform over [0, 1)."""
    assert 0.0 <= draw < 1.0, "draws lie in [0, 1)"
    assert 0.0 <= min_s <= max_s, "a range of lengths"
    return min_s - (max_s - min_s) / TAIL * log1p(-draw * _KEPT)


def mean_lifetime_s(*, min_s: float, max_s: float) -> float:
    """The mean of what `draw_lifetime_s` draws, about min + 0.23 (max - min); its inverse is a device's rate."""
    return min_s + (max_s - min_s) * (1 / TAIL - exp(-TAIL) / _KEPT)


def deferred_end_ms(at_ms: int, guards: StageGuards, *, draw: float, max_s: float) -> int | None:
    """The end in place of one at `at_ms`, which a due stage is too near; None: nothing is near, end it.

    The life that is left after the stage is drawn anew. For a distribution without memory that is the same as nobody
    ending while a stage is near and everyone being as likely to end afterwards as ever: nothing piles up behind it.
    The new end may itself come near a stage, and is then deferred when its time comes.
    """
    clear_ms = guards.clear_from(at_ms)
    if clear_ms == at_ms:
        return None
    return clear_ms + int(1000 * draw_lifetime_s(draw, min_s=0.0, max_s=max_s))
